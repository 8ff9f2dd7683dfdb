#include "fuse_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace regrow {
namespace {

// The nodes never change, so the kernel need not ask again for an hour.
constexpr uint64_t valid_seconds = 3600;
// What statfs reports; the loop driver takes it as discard granularity.
constexpr uint32_t io_block = 4096;
// Handle of the one writer of a file; readers count up from 1.
constexpr uint64_t writer_handle = 1ull << 32;

// The arguments of a request, zero-filled where an older kernel sends fewer bytes.
template <class T>
T arguments(const uint8_t* args, size_t length) {
  T value{};
  memcpy(&value, args, std::min(length, sizeof value));
  return value;
}

}  // namespace

FuseTree::FuseTree(std::vector<FuseFile> files)
    : files_(std::move(files)), created_(static_cast<uint64_t>(time(nullptr))) {
  for (const FuseFile& file : files_) has_writer_.push_back(file.is_held);
}

const FuseFile* FuseTree::find(uint64_t node) const {
  for (const FuseFile& file : files_) {
    if (file.node == node) return &file;
  }
  return nullptr;
}

void FuseTree::answer(const fuse_in_header& header, const uint8_t* args, size_t length,
                      FuseAnswer& out) {
  const uint64_t node = header.nodeid;
  switch (header.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:  // every request ends by itself, and of its own accord
      out.is_silent = true;
      return;
    case FUSE_LOOKUP:
      return look_up(node, reinterpret_cast<const char*>(args), length, out);
    case FUSE_GETATTR:
      return get_attributes(node, out);
    case FUSE_SETATTR:
      return set_attributes(node, arguments<fuse_setattr_in>(args, length), out);
    case FUSE_OPEN:
      return open_file(node, arguments<fuse_open_in>(args, length), out);
    case FUSE_RELEASE:
      return release_file(node, arguments<fuse_release_in>(args, length));
    case FUSE_OPENDIR:
      return out.put(fuse_open_out{});
    case FUSE_READDIR:
      return list(arguments<fuse_read_in>(args, length), out);
    case FUSE_STATFS:
      return describe_file_system(out);
    case FUSE_ACCESS:
    case FUSE_FLUSH:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_FSYNC:  // of a text; the disk's goes to JavaScript
    case FUSE_DESTROY:
      return;
    case FUSE_CREATE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
      out.error = -EPERM;
      return;
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FALLOCATE:  // of a node that has no bytes
      out.error = -EBADF;
      return;
    default:
      out.error = -ENOSYS;
  }
}

fuse_attr FuseTree::attributes(const FuseFile* file) const {
  fuse_attr attr{};
  attr.ino = file == nullptr ? FUSE_ROOT_ID : file->node;
  attr.size = file == nullptr ? 0 : file->size;
  attr.blocks = attr.size / 512;
  attr.atime = attr.mtime = attr.ctime = created_;
  attr.mode = file == nullptr ? (S_IFDIR | 0700) : (S_IFREG | file->mode);
  attr.nlink = file == nullptr ? 2 : 1;
  attr.uid = geteuid();
  attr.gid = getegid();
  attr.blksize = io_block;
  return attr;
}

void FuseTree::look_up(uint64_t parent, const char* name, size_t length, FuseAnswer& out) const {
  const std::string wanted(name, strnlen(name, length));
  out.error = -ENOENT;
  if (parent != FUSE_ROOT_ID) return;
  for (const FuseFile& file : files_) {
    if (file.name != wanted) continue;
    fuse_entry_out entry{};
    entry.nodeid = file.node;
    entry.entry_valid = entry.attr_valid = valid_seconds;
    entry.attr = attributes(&file);
    out.error = 0;
    out.put(entry);
    return;
  }
}

void FuseTree::get_attributes(uint64_t node, FuseAnswer& out) const {
  const FuseFile* file = find(node);
  if (file == nullptr && node != FUSE_ROOT_ID) {
    out.error = -ENOENT;
    return;
  }
  fuse_attr_out attr{};
  attr.attr_valid = valid_seconds;
  attr.attr = attributes(file);
  out.put(attr);
}

void FuseTree::set_attributes(uint64_t node, const fuse_setattr_in& in, FuseAnswer& out) const {
  const FuseFile* file = find(node);
  const bool resizes = (in.valid & FATTR_SIZE) != 0 && file != nullptr && in.size != file->size;
  if (resizes || (in.valid & (FATTR_MODE | FATTR_UID | FATTR_GID)) != 0) {
    out.error = -EPERM;
    return;
  }
  get_attributes(node, out);
}

void FuseTree::open_file(uint64_t node, const fuse_open_in& in, FuseAnswer& out) {
  const FuseFile* file = find(node);
  if (file == nullptr) {
    out.error = -ENOENT;
    return;
  }
  fuse_open_out opened{};
  // No page cache between us and the reader, hence no shared mmap and always fresh text.
  opened.open_flags =
      FOPEN_DIRECT_IO | fuse::open_parallel_direct_writes | fuse::open_no_flush;
  std::lock_guard<std::mutex> lock(mutex_);
  if ((in.flags & O_ACCMODE) == O_RDONLY) {
    opened.fh = next_reader_;
    next_reader_ = next_reader_ % (writer_handle - 1) + 1;
  } else {
    const size_t index = static_cast<size_t>(file - files_.data());
    if ((file->mode & 0222) == 0) {
      out.error = -EROFS;
    } else if (has_writer_[index]) {
      out.error = -EBUSY;
    }
    if (out.error != 0) return;
    has_writer_[index] = true;
    opened.fh = writer_handle;
  }
  out.put(opened);
}

void FuseTree::release_file(uint64_t node, const fuse_release_in& in) {
  const FuseFile* file = find(node);
  if (file == nullptr || in.fh != writer_handle) return;
  std::lock_guard<std::mutex> lock(mutex_);
  has_writer_[static_cast<size_t>(file - files_.data())] = false;
}

void FuseTree::list(const fuse_read_in& in, FuseAnswer& out) const {
  const size_t room = std::min<size_t>(in.size, sizeof out.body);
  for (uint64_t position = in.offset; position < files_.size() + 2; position++) {
    const FuseFile* file = position < 2 ? nullptr : &files_[position - 2];
    const std::string name = file != nullptr ? file->name : position == 0 ? "." : "..";
    fuse_dirent entry{};
    entry.ino = file == nullptr ? FUSE_ROOT_ID : file->node;
    entry.off = position + 1;
    entry.namelen = static_cast<uint32_t>(name.size());
    entry.type = file == nullptr ? DT_DIR : DT_REG;
    const size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name.size());
    if (out.length + size > room) return;
    memset(out.body + out.length, 0, size);
    memcpy(out.body + out.length, &entry, FUSE_NAME_OFFSET);
    memcpy(out.body + out.length + FUSE_NAME_OFFSET, name.data(), name.size());
    out.length += size;
  }
}

void FuseTree::describe_file_system(FuseAnswer& out) const {
  fuse_statfs_out stat{};
  for (const FuseFile& file : files_) stat.st.blocks += file.size / io_block;
  stat.st.files = files_.size() + 1;
  stat.st.bsize = stat.st.frsize = io_block;
  stat.st.namelen = 255;
  out.put(stat);
}

}  // namespace regrow
