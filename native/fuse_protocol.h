// The FUSE kernel protocol as regrow speaks it, whatever headers the build machine has.
//
// linux/fuse.h of the build machine gives the structures, which never change once published. What a
// newer kernel added and regrow uses is declared here, each with the protocol version that brought
// it (7.40 = Linux 6.9); the running kernel's FUSE_INIT flags say whether it may be used.
#pragma once

#include <cstddef>
#include <cstdint>

#include <linux/fuse.h>
#include <sys/ioctl.h>

namespace regrow::fuse {

// 7.36: flags above bit 31 travel in flags2.
constexpr uint64_t init_ext = 1ull << 30;
// 7.40: the kernel can send again what was read but not answered (notify_resend).
constexpr uint64_t has_resend = 1ull << 39;
// 7.40: notification code, sent as `error` of an out header with unique 0.
constexpr int32_t notify_resend = 7;
// 7.40: set in `unique` of a request that is sent again. The reply must carry it too.
constexpr uint64_t unique_resend = 1ull << 63;
// 7.35: closing a file asks nothing. A process that closes one while nobody serves the connection
// (on exec, say, of the next server) would wait for that answer for ever.
constexpr uint32_t open_no_flush = 1u << 5;
// 7.38: direct writes to one file need not wait for each other.
constexpr uint32_t open_parallel_direct_writes = 1u << 6;

// The largest READ or WRITE: max_pages of 4 KiB.
constexpr uint16_t pages_max = 256;
constexpr uint32_t payload_max = pages_max * 4096u;

// Bytes before the payload of a WRITE. Every other request that regrow knows is shorter than this
// plus payload_max, so one buffer shape takes them all.
constexpr uint32_t request_head = sizeof(fuse_in_header) + sizeof(fuse_write_in);

// The kernel refuses a read into less than this.
constexpr uint32_t request_max = request_head + payload_max;
static_assert(request_max >= FUSE_MIN_READ_BUFFER);

static_assert(sizeof(fuse_in_header) == 40 && sizeof(fuse_out_header) == 16);
static_assert(sizeof(fuse_init_in) == 64 && sizeof(fuse_init_out) == 64);
static_assert(sizeof(fuse_read_in) == 40 && sizeof(fuse_write_in) == 40);
static_assert(sizeof(fuse_entry_out) == 128 && sizeof(fuse_attr_out) == 104);
static_assert(sizeof(fuse_fallocate_in) == 32 && sizeof(fuse_setattr_in) == 88);

}  // namespace regrow::fuse
