#include "loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "fuse_protocol.h"
#include "mount_namespace.h"
#include "own_process.h"
#include "unique_fd.h"

namespace regrow {
namespace {

using std::chrono::milliseconds;

// Others may take the free number first; more losses in a row than this mean something is wrong.
constexpr int attach_attempts = 64;
// A device that is being let go of (a probe by udev, say) is gone well within this.
constexpr milliseconds release_wait{3000};
constexpr milliseconds release_poll{2};

std::string sysfs_path(uint32_t number, const char* name) {
  return "/sys/block/loop" + std::to_string(number) + "/" + name;
}

// The file's first line, or nothing.
std::string read_line(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t length = fd ? read(fd.get(), text, sizeof text) : 0;
  if (length <= 0) return {};
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find('\n'));
}

uint64_t read_number(const std::string& path) {
  return strtoull(read_line(path).c_str(), nullptr, 10);
}

Outcome write_text(const std::string& path, const std::string& text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || write(fd.get(), text.data(), text.size()) < 0) return Outcome::failed("write", path);
  return Outcome::ok();
}

std::string backing_of(uint32_t number) {
  return read_line(sysfs_path(number, "loop/backing_file"));
}

uint64_t sequence_of(uint32_t number) { return read_number(sysfs_path(number, "diskseq")); }

Outcome open_loop(uint32_t number, int flags, UniqueFd& fd) {
  fd.reset(open(loop_path(number).c_str(), flags | O_CLOEXEC));
  return fd ? Outcome::ok() : Outcome::failed("open", loop_path(number));
}

// Finds a free device and binds the file to it in one step, so that no half-configured device is
// ever visible. Partition scanning comes later: asked for here, udev's own scan may race with it.
Outcome configure(const LoopSettings& settings, int file, uint32_t& number, UniqueFd& device) {
  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) return Outcome::failed("open", "/dev/loop-control");
  loop_config config{};
  config.fd = static_cast<uint32_t>(file);
  config.block_size = settings.sector_size;
  config.info.lo_flags = LO_FLAGS_DIRECT_IO;
  if (settings.read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  settings.label.copy(reinterpret_cast<char*>(config.info.lo_file_name), LO_NAME_SIZE - 1);
  for (int attempt = 0; attempt < attach_attempts; attempt++) {
    const int free_number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (free_number < 0) return Outcome::failed("ioctl", "asking for a free loop device");
    number = static_cast<uint32_t>(free_number);
    const int mode = settings.read_only ? O_RDONLY : O_RDWR;
    if (Outcome opened = open_loop(number, mode, device); !opened) return opened;
    if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return Outcome::ok();
    if (errno != EBUSY) return Outcome::failed("ioctl", "binding " + loop_path(number));
  }
  return {EBUSY, "ioctl", "every free loop device was taken by someone else"};
}

Outcome enable_partition_scan(int device) {
  loop_info64 info{};
  if (ioctl(device, LOOP_GET_STATUS64, &info) != 0) return Outcome::failed("ioctl", "loop status");
  info.lo_flags |= LO_FLAGS_PARTSCAN;
  if (ioctl(device, LOOP_SET_STATUS64, &info) != 0) {
    return Outcome::failed("ioctl", "enabling the partition scan");
  }
  return Outcome::ok();
}

// What a bound device must be before anyone sees it.
Outcome tune(const LoopSettings& settings, int device, LoopState& state) {
  const uint32_t number = state.number;
  state.sequence = sequence_of(number);
  if (read_line(sysfs_path(number, "loop/dio")) != "1") {
    return {ENOTSUP, "loop", loop_path(number) + " does not use direct I/O"};
  }
  // Larger requests would be split into one of 1 MiB and a small rest.
  const std::string kib = std::to_string(fuse::payload_max / 1024);
  if (Outcome set = write_text(sysfs_path(number, "queue/max_sectors_kb"), kib); !set) return set;
  state.discard_bytes_max = read_number(sysfs_path(number, "queue/discard_max_bytes"));
  state.zeroes_bytes_max = read_number(sysfs_path(number, "queue/write_zeroes_max_bytes"));
  return settings.scan_partitions ? enable_partition_scan(device) : Outcome::ok();
}

bool is_gone(uint32_t number, uint64_t sequence) {
  return backing_of(number).empty() || sequence_of(number) != sequence;
}

bool wait_until_gone(uint32_t number, uint64_t sequence) {
  for (milliseconds waited{0}; waited < release_wait; waited += release_poll) {
    if (is_gone(number, sequence)) return true;
    std::this_thread::sleep_for(release_poll);
  }
  return is_gone(number, sequence);
}

// Takes back LOOP_CLR_FD on a device that turned out to be in use.
void keep_bound(uint32_t number) {
  UniqueFd device;
  loop_info64 info{};
  if (!open_loop(number, O_RDONLY, device)) return;
  if (ioctl(device.get(), LOOP_GET_STATUS64, &info) != 0) return;
  info.lo_flags &= ~static_cast<uint32_t>(LO_FLAGS_AUTOCLEAR);
  ioctl(device.get(), LOOP_SET_STATUS64, &info);
}

bool is_number(const char* text) {
  return *text != '\0' && std::all_of(text, text + strlen(text), [](char c) {
    return c >= '0' && c <= '9';
  });
}

template <class Visit>
void each_entry(const std::string& path, Visit visit) {
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return;
  while (const dirent* entry = readdir(directory)) visit(entry->d_name);
  closedir(directory);
}

// Processes that have the device or a partition of it open. Reads links only: to look at an open
// file itself could send a request to us.
std::vector<int> processes_with(const std::string& device) {
  std::vector<int> found;
  each_entry("/proc", [&](const char* pid) {
    if (!is_number(pid)) return;
    const std::string fds = std::string("/proc/") + pid + "/fd";
    bool has_it = false;
    each_entry(fds, [&](const char* fd) {
      char target[64];
      const ssize_t length = readlink((fds + "/" + fd).c_str(), target, sizeof target);
      const std::string name(target, static_cast<size_t>(std::max<ssize_t>(length, 0)));
      has_it = has_it || name == device || name.starts_with(device + "p");
    });
    if (has_it) found.push_back(atoi(pid));
  });
  return found;
}

Outcome busy(uint32_t number, const std::vector<int>& processes) {
  std::string detail = loop_path(number) + " is in use";
  if (!processes.empty()) detail += " by process " + std::to_string(processes.front());
  return {EBUSY, "detach", detail};
}

// The claim is kept until the device is cleared, so that nobody mounts it in between.
Outcome claim_unused(uint32_t number, UniqueFd& device) {
  const std::vector<int> processes = processes_with(loop_path(number));
  if (!processes.empty()) return busy(number, processes);
  Outcome claimed = open_loop(number, O_RDONLY | O_EXCL, device);
  return claimed.error == EBUSY ? busy(number, {}) : claimed;
}

}  // namespace

std::string loop_path(uint32_t number) { return "/dev/loop" + std::to_string(number); }

Outcome attach_loop(const LoopSettings& settings, LoopState& state) {
  return in_mount_namespace(settings.namespace_fd, [&]() -> Outcome {
    return in_own_process("loop attach", state, [&](LoopState& bound) -> Outcome {
      const int mode = settings.read_only ? O_RDONLY : O_RDWR;
      UniqueFd file(open(settings.backing.c_str(), mode | O_CLOEXEC));
      if (!file) return Outcome::failed("open", settings.backing);
      UniqueFd device;
      Outcome outcome = configure(settings, file.get(), bound.number, device);
      if (!outcome) return outcome;
      outcome = tune(settings, device.get(), bound);
      if (!outcome) ioctl(device.get(), LOOP_CLR_FD);
      return outcome;
    });
  });
}

namespace {

Outcome detach_here(uint32_t number, uint64_t sequence, bool force) {
  if (is_gone(number, sequence)) return Outcome::ok();
  UniqueFd device;
  const Outcome opened = force ? open_loop(number, O_RDONLY, device) : claim_unused(number, device);
  if (!opened) return opened;
  if (ioctl(device.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
    return Outcome::failed("ioctl", "releasing " + loop_path(number));
  }
  device.reset();
  if (force || wait_until_gone(number, sequence)) return Outcome::ok();
  keep_bound(number);
  return busy(number, processes_with(loop_path(number)));
}

}  // namespace

Outcome detach_loop(uint32_t number, uint64_t sequence, int namespace_fd, bool force) {
  return in_mount_namespace(namespace_fd, [&]() -> Outcome {
    bool nothing = false;
    return in_own_process("loop detach", nothing, [&](bool&) -> Outcome {
      return detach_here(number, sequence, force);
    });
  });
}

Outcome find_loop_users(uint32_t number, int namespace_fd, LoopUsers& users) {
  return in_mount_namespace(namespace_fd, [&]() -> Outcome {
    users.processes = processes_with(loop_path(number));
    return in_own_process("loop look", users.has_claim, [&](bool& has_claim) -> Outcome {
      UniqueFd device;
      const Outcome claimed = open_loop(number, O_RDONLY | O_EXCL, device);
      has_claim = claimed.error == EBUSY;
      return has_claim ? Outcome::ok() : claimed;
    });
  });
}

std::vector<LoopEntry> list_loops() {
  std::vector<LoopEntry> loops;
  each_entry("/sys/block", [&](const char* name) {
    if (strncmp(name, "loop", 4) != 0 || !is_number(name + 4)) return;
    const auto number = static_cast<uint32_t>(strtoul(name + 4, nullptr, 10));
    if (std::string backing = backing_of(number); !backing.empty()) {
      loops.push_back({number, sequence_of(number), std::move(backing)});
    }
  });
  return loops;
}

}  // namespace regrow
