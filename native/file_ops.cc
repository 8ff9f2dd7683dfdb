#include "file_ops.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace regrow {
namespace {

// The unit in which zeroes are written where nothing better works.
constexpr size_t kZeroPiece = 256 * 1024;
// BLKZEROOUT takes whole logical blocks; no disk has larger ones.
constexpr uint64_t kDeviceAlignment = 4096;

alignas(4096) constexpr uint8_t kZeroes[kZeroPiece] = {};

int write_zeroes(int fd, uint64_t offset, uint64_t length) {
  while (length > 0) {
    const size_t piece = std::min<uint64_t>(length, kZeroPiece);
    if (const int error = write_whole(fd, kZeroes, piece, offset)) return error;
    offset += piece;
    length -= piece;
  }
  return 0;
}

bool is_unsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL;
}

int zero_file(int fd, uint64_t offset, uint64_t length) {
  for (const int mode : {FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE}) {
    int result;
    do {
      result = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    if (result == 0) return 0;
    if (!is_unsupported(errno)) return errno;
  }
  return write_zeroes(fd, offset, length);
}

// Head and tail that are not whole device blocks are written; the aligned body is zeroed by the
// device.
int zero_device(int fd, uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t body = (offset + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
  const uint64_t tail = end / kDeviceAlignment * kDeviceAlignment;
  if (body >= tail) return write_zeroes(fd, offset, length);
  if (const int error = write_zeroes(fd, offset, body - offset)) return error;
  uint64_t range[2] = {body, tail - body};
  if (ioctl(fd, BLKZEROOUT, range) != 0) {
    if (!is_unsupported(errno)) return errno;
    if (const int error = write_zeroes(fd, body, tail - body)) return error;
  }
  return write_zeroes(fd, tail, end - tail);
}

}  // namespace

int read_whole(int fd, uint8_t* bytes, size_t length, uint64_t offset) {
  while (length > 0) {
    const ssize_t count = pread(fd, bytes, length, static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (count == 0) return kEndedEarly;
    bytes += count;
    length -= count;
    offset += count;
  }
  return 0;
}

int write_whole(int fd, const uint8_t* bytes, size_t length, uint64_t offset) {
  while (length > 0) {
    const ssize_t count = pwrite(fd, bytes, length, static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (count == 0) return ENOSPC;  // Only the end of a block device answers this.
    bytes += count;
    length -= count;
    offset += count;
  }
  return 0;
}

int zero_range(int fd, bool is_block_device, uint64_t offset, uint64_t length) {
  if (length == 0) return 0;
  return is_block_device ? zero_device(fd, offset, length) : zero_file(fd, offset, length);
}

int data_extents(int fd, uint64_t offset, uint64_t length, size_t max_pairs,
                 std::vector<uint64_t>& pairs, uint64_t& covered) {
  const uint64_t end = offset + length;
  uint64_t at = offset;
  while (at < end && pairs.size() < 2 * max_pairs) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return errno;
    // ENXIO: nothing but a hole from here to the end of the file.
    if (data < 0 || static_cast<uint64_t>(data) >= end) {
      at = end;
      break;
    }
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return errno;
    at = std::min<uint64_t>(end, static_cast<uint64_t>(hole));
    pairs.push_back(static_cast<uint64_t>(data));
    pairs.push_back(at);
  }
  covered = at;
  return 0;
}

int describe_fd(int fd, FileFacts& facts) {
  struct stat status;
  if (fstat(fd, &status) != 0) return errno;
  facts.is_regular = S_ISREG(status.st_mode);
  facts.is_block_device = S_ISBLK(status.st_mode);
  facts.size = static_cast<uint64_t>(status.st_size);
  if (facts.is_block_device && ioctl(fd, BLKGETSIZE64, &facts.size) != 0) return errno;
  return 0;
}

}  // namespace regrow
