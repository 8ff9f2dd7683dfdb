// The little file system a volume shows: one directory with a few fixed files.
//
//     nodeid 1   .        the directory
//     nodeid 2   disk     the volume's bytes; one writer at a time
//     nodeid 3   status   text made at each read
//
// Which files there are is data (FuseFile), given when the session starts. Everything answered
// here is metadata and needs no JavaScript. Node ids, sizes and modes are fixed and handles mean
// nothing but "writer or not", so a process that takes a connection over needs to know nothing
// about what the kernel remembers: any node id, handle or forget is acceptable. The kernel holds
// requests back to root (no allow_other), so permissions are not looked at again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "fuse_protocol.h"

namespace regrow {

struct FuseFile {
  uint64_t node = 0;      // above 1
  std::string name;       // at most 32 bytes
  uint32_t mode = 0;      // permission bits; a file without write bits is never opened for writing
  uint64_t size = 0;      // bytes; of a text 0
  bool is_text = false;   // a text is read as it is at that moment and has no size
  bool is_held = false;   // opened for writing by a user of an adopted connection
};

// What to send back. `length` bytes of `body` count only if error is 0.
struct FuseAnswer {
  bool is_silent = false;  // the kernel expects no reply to this request
  int error = 0;           // 0 or a negative errno
  size_t length = 0;
  alignas(8) uint8_t body[512];

  template <class T>
  void put(const T& value) {
    static_assert(sizeof value <= sizeof body);
    memcpy(body, &value, sizeof value);
    length = sizeof value;
  }
};

class FuseTree {
 public:
  static constexpr size_t files_max = 6;  // their directory entries fit in one answer

  explicit FuseTree(std::vector<FuseFile> files);

  // Any thread. Answers a metadata request; `args` are the bytes after the header.
  void answer(const fuse_in_header& header, const uint8_t* args, size_t length, FuseAnswer& out);

  // Any thread. The file of a node, or nullptr.
  const FuseFile* find(uint64_t node) const;

 private:
  void look_up(uint64_t parent, const char* name, size_t length, FuseAnswer& out) const;
  void get_attributes(uint64_t node, FuseAnswer& out) const;
  void set_attributes(uint64_t node, const fuse_setattr_in& in, FuseAnswer& out) const;
  void open_file(uint64_t node, const fuse_open_in& in, FuseAnswer& out);
  void release_file(uint64_t node, const fuse_release_in& in);
  void list(const fuse_read_in& in, FuseAnswer& out) const;
  void describe_file_system(FuseAnswer& out) const;
  fuse_attr attributes(const FuseFile* file) const;

  const std::vector<FuseFile> files_;
  const uint64_t created_;  // seconds since 1970; every time stamp of every node
  std::mutex mutex_;
  std::vector<bool> has_writer_;  // by index in files_; guarded by mutex_
  uint64_t next_reader_ = 1;      // guarded by mutex_
};

}  // namespace regrow
