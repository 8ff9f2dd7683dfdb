// Opening a FUSE connection: device, mount, FUSE_INIT, further channels. Serving it is another file
// (fuse_session.h), because the descriptors may be held by one process and served by another: a
// supervisor opens, a daemon serves, and when the daemon dies the next one adopts the same
// descriptors. A server therefore never sees FUSE_INIT.
#pragma once

#include <string>
#include <vector>

#include "async_call.h"
#include "unique_fd.h"

namespace regrow {

struct FuseConnection {
  // channels[0] is the mounted device, the rest are clones: each has its own list of requests in
  // work, and a reply must be written to the channel its request was read from.
  std::vector<UniqueFd> channels;
  uint32_t kernel_minor = 0;
  // Features in use: what regrow wants and the kernel offered.
  uint64_t flags = 0;
};

struct FuseMountOptions {
  std::string mountpoint;
  std::string source;           // shown in mount tables
  int namespace_fd = -1;        // mount namespace to mount in; negative: the current one
  unsigned channel_count = 1;   // at least 1
  uint16_t max_background = 0;  // asynchronous requests the kernel hands out at once
};

// Control worker. Mounts and answers FUSE_INIT. On failure nothing stays mounted or open.
Outcome open_fuse_connection(const FuseMountOptions& options, FuseConnection& connection);

// Control worker. Detaches the topmost mount at `mountpoint`. `force` ends the connection first
// and detaches even if files are open.
Outcome unmount_fuse(const std::string& mountpoint, int namespace_fd, bool force);

// Any thread. Asks the kernel to send again whatever was read from any channel of the connection
// and not answered. Before any thread reads, or requests run twice at once.
Outcome request_resend(int fd);

}  // namespace regrow
