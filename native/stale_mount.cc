// Finds and removes what a daemon that died left behind: a mount whose connection is dead (every
// call answers ENOTCONN) and the loop devices bound to its disk. Exactly those: type fuse.regrow,
// this mountpoint, this mountpoint's disk. A mount that answers belongs to a living daemon.
#include <sys/mount.h>
#include <sys/statfs.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "loop_device.h"
#include "mount_namespace.h"

namespace regrow {
namespace {

// Mount tables write blanks, tabs, line ends and backslashes as \ooo.
std::string unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// How many mounts of ours lie upon each other at the mountpoint.
uint32_t count_mounts(const std::string& mountpoint) {
  uint32_t count = 0;
  std::ifstream table("/proc/thread-self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string skip, point, field, type;
    fields >> skip >> skip >> skip >> skip >> point;
    while (fields >> field && field != "-") continue;
    fields >> type;
    if (type == "fuse.regrow" && unescape(point) == mountpoint) count++;
  }
  return count;
}

// Asks the server; the answer is never cached.
bool is_dead(const std::string& mountpoint) {
  struct statfs stat {};
  return statfs(mountpoint.c_str(), &stat) != 0 && errno == ENOTCONN;
}

}  // namespace

Outcome sweep_stale(const std::string& mountpoint, int namespace_fd, bool remove,
                    StaleRemains& remains) {
  const std::string backing = mountpoint + "/disk";
  return in_mount_namespace(namespace_fd, [&]() -> Outcome {
    const uint32_t mounts = count_mounts(mountpoint);
    if (mounts > 0 && !is_dead(mountpoint)) {
      remains.live_mounts = mounts;
      return Outcome::ok();
    }
    std::vector<LoopEntry> ours;
    for (const LoopEntry& loop : list_loops()) {
      if (loop.backing != backing) continue;
      ours.push_back(loop);
      remains.loops.push_back(loop.number);
      if (!remove) continue;
      // Already in the right namespace: a second visit would only cost a thread.
      if (Outcome gone = detach_loop(loop.number, loop.sequence, -1, true); !gone) return gone;
    }
    remains.mounts = mounts;
    for (uint32_t i = 0; remove && i < mounts && is_dead(mountpoint); i++) {
      if (umount2(mountpoint.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
        return Outcome::failed("umount", mountpoint);
      }
    }
    // By sequence: the backing file of a detached mount has no path any more.
    for (const LoopEntry& loop : list_loops()) {
      const bool is_ours = std::any_of(ours.begin(), ours.end(), [&](const LoopEntry& mine) {
        return mine.number == loop.number && mine.sequence == loop.sequence;
      });
      if (is_ours) remains.loops_in_use.push_back(loop.number);
    }
    return Outcome::ok();
  });
}

}  // namespace regrow
