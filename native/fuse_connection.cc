#include "fuse_connection.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/uio.h>

#include <algorithm>

#include "fuse_protocol.h"
#include "mount_namespace.h"

namespace regrow {
namespace {

// Wanted where offered. No writeback cache: a write must be with us before it is acknowledged.
constexpr uint64_t wanted_flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO |
                                  FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | fuse::init_ext |
                                  fuse::has_resend;

// Without these a request could not be as large or as parallel as the buffers assume.
constexpr uint64_t required_flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO;

Outcome open_device(UniqueFd& fd) {
  fd.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  return fd ? Outcome::ok() : Outcome::failed("open", "/dev/fuse");
}

Outcome mount_device(int fd, const FuseMountOptions& options) {
  const std::string data = "fd=" + std::to_string(fd) + ",rootmode=40000,user_id=" +
                           std::to_string(geteuid()) + ",group_id=" + std::to_string(getegid());
  const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME;
  const char* target = options.mountpoint.c_str();
  if (mount(options.source.c_str(), target, "fuse.regrow", flags, data.c_str()) != 0) {
    return Outcome::failed("mount", options.mountpoint);
  }
  return Outcome::ok();
}

Outcome refuse_init(int error, const char* why) { return {error, "fuse_init", why}; }

// Reads FUSE_INIT, which the kernel has queued by the time mount() returned, and answers it.
Outcome answer_init(const FuseMountOptions& options, FuseConnection& connection) {
  const int fd = connection.channels[0].get();
  alignas(8) char request[FUSE_MIN_READ_BUFFER * 2];
  const ssize_t got = read(fd, request, sizeof request);
  if (got < 0) return Outcome::failed("read", "FUSE_INIT");
  if (static_cast<size_t>(got) < sizeof(fuse_in_header) + 16) return refuse_init(EPROTO, "short");
  fuse_in_header header;
  memcpy(&header, request, sizeof header);
  fuse_init_in in{};
  memcpy(&in, request + sizeof header, std::min(got - sizeof header, sizeof in));
  if (header.opcode != FUSE_INIT || in.major != FUSE_KERNEL_VERSION) {
    return refuse_init(EPROTO, "the kernel speaks another protocol");
  }
  uint64_t offered = in.flags;
  if ((offered & fuse::init_ext) != 0) offered |= static_cast<uint64_t>(in.flags2) << 32;
  if ((offered & required_flags) != required_flags) {
    return refuse_init(EPROTO, "the kernel is too old: no large or no asynchronous requests");
  }
  connection.kernel_minor = in.minor;
  connection.flags = offered & wanted_flags;

  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  // The lower of both minors is what counts; 40 is the newest whose layouts are known here.
  out.minor = std::min<uint32_t>(in.minor, 40);
  out.max_readahead = in.max_readahead;
  out.flags = static_cast<uint32_t>(connection.flags);
  out.flags2 = static_cast<uint32_t>(connection.flags >> 32);
  out.max_background = options.max_background;
  out.congestion_threshold = static_cast<uint16_t>(options.max_background * 3 / 4);
  out.max_write = fuse::payload_max;
  out.time_gran = 1;
  out.max_pages = fuse::pages_max;
  fuse_out_header reply{sizeof(fuse_out_header) + sizeof out, 0, header.unique};
  const iovec parts[] = {{&reply, sizeof reply}, {&out, sizeof out}};
  if (writev(fd, parts, 2) < 0) return Outcome::failed("writev", "answering FUSE_INIT");
  return Outcome::ok();
}

Outcome clone_channels(unsigned count, std::vector<UniqueFd>& channels) {
  while (channels.size() < count) {
    UniqueFd clone;
    if (Outcome opened = open_device(clone); !opened) return opened;
    uint32_t source = static_cast<uint32_t>(channels[0].get());
    if (ioctl(clone.get(), FUSE_DEV_IOC_CLONE, &source) != 0) {
      return Outcome::failed("ioctl", "cloning a FUSE channel");
    }
    channels.push_back(std::move(clone));
  }
  return Outcome::ok();
}

}  // namespace

Outcome open_fuse_connection(const FuseMountOptions& options, FuseConnection& connection) {
  Outcome outcome = in_mount_namespace(options.namespace_fd, [&]() -> Outcome {
    UniqueFd device;
    if (Outcome opened = open_device(device); !opened) return opened;
    if (Outcome mounted = mount_device(device.get(), options); !mounted) return mounted;
    connection.channels.push_back(std::move(device));
    return Outcome::ok();
  });
  if (!outcome) return outcome;
  outcome = answer_init(options, connection);
  if (outcome) outcome = clone_channels(options.channel_count, connection.channels);
  if (!outcome) {
    unmount_fuse(options.mountpoint, options.namespace_fd, true);
    connection.channels.clear();
  }
  return outcome;
}

Outcome unmount_fuse(const std::string& mountpoint, int namespace_fd, bool force) {
  return in_mount_namespace(namespace_fd, [&]() -> Outcome {
    const int flags = UMOUNT_NOFOLLOW | (force ? MNT_FORCE | MNT_DETACH : 0);
    if (umount2(mountpoint.c_str(), flags) != 0) return Outcome::failed("umount", mountpoint);
    return Outcome::ok();
  });
}

Outcome request_resend(int fd) {
  fuse_out_header notification{sizeof(fuse_out_header), fuse::notify_resend, 0};
  if (write(fd, &notification, sizeof notification) < 0) {
    return Outcome::failed("write", "asking the kernel to send requests again");
  }
  return Outcome::ok();
}

}  // namespace regrow
