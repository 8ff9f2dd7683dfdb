// The kernel's loop driver: turns the file `disk` of a FUSE mount into /dev/loopN.
//
// Everything here sends requests to that file (its size, its partition table, a last flush) which
// only our own service threads and JavaScript can answer, so all of it runs on the control pool,
// never on the JavaScript thread.
//
// Ours or not: loop numbers are reused by whoever asks first, so a device is known by its disk
// sequence number too, which the kernel never gives twice. A device that a dead process left is
// found by its backing file, which sysfs names by path for as long as its mount has a place.
#pragma once

#include <string>
#include <vector>

#include "async_call.h"

namespace regrow {

struct LoopSettings {
  std::string backing;          // path of the file
  std::string label;            // lo_file_name, shown by losetup; cut at 63 bytes
  int namespace_fd = -1;        // mount namespace of `backing` and /dev; negative: the current one
  uint32_t sector_size = 512;   // 512 or 4096
  bool read_only = false;
  bool scan_partitions = false;
};

struct LoopState {
  uint32_t number = 0;
  uint64_t sequence = 0;           // of the kernel's (diskseq); changes with every use of a number
  uint64_t discard_bytes_max = 0;  // largest discard and write-zeroes the kernel sends as one
  uint64_t zeroes_bytes_max = 0;
};

struct LoopEntry {
  uint32_t number;
  uint64_t sequence;
  std::string backing;  // as sysfs says; " (deleted)" appended where the kernel does
};

// Who has a loop device open. `claim`: mounted, swap, or part of a device mapper or RAID device.
struct LoopUsers {
  bool has_claim = false;
  std::vector<int> processes;
};

// What a dead daemon left at a mountpoint.
struct StaleRemains {
  uint32_t live_mounts = 0;            // of a daemon that lives: nothing is touched then
  uint32_t mounts = 0;                 // dead ones
  std::vector<uint32_t> loops;         // backed by the mountpoint's disk
  std::vector<uint32_t> loops_in_use;  // of these, told to go when their last user does
};

std::string loop_path(uint32_t number);

// Control worker, all of them.
Outcome attach_loop(const LoopSettings& settings, LoopState& state);
// EBUSY if someone uses the device and not `force`; with force it goes when its last user does. A
// number that is unbound or bound to something else by now counts as detached.
Outcome detach_loop(uint32_t number, uint64_t sequence, int namespace_fd, bool force);
Outcome find_loop_users(uint32_t number, int namespace_fd, LoopUsers& users);
std::vector<LoopEntry> list_loops();
// Looks, and if `remove` is set takes away, what find finds: loops first, then mounts.
Outcome sweep_stale(const std::string& mountpoint, int namespace_fd, bool remove,
                    StaleRemains& remains);

}  // namespace regrow
