// What is done to an open file or block device, each as one blocking call that either does the
// whole range or says which errno stopped it. Knows nothing of JavaScript.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace regrow {

// A file ended before the range that was to be read: Linux has no errno for it.
constexpr int kEndedEarly = -1;

// Each returns 0, a positive errno, or (read_whole only) kEndedEarly. Any thread.
int read_whole(int fd, uint8_t* bytes, size_t length, uint64_t offset);
int write_whole(int fd, const uint8_t* bytes, size_t length, uint64_t offset);

// Makes the range read zeroes: holes where the file system has them, BLKZEROOUT on a block device,
// else by writing zeroes. The file keeps its size. Needs no alignment; a caller bounds the length.
int zero_range(int fd, bool is_block_device, uint64_t offset, uint64_t length);

// The data extents of a range as (start, end) pairs in order, at most max_pairs of them; `covered`
// is where knowledge ends: the end of the range, or of the last pair if there may be more.
int data_extents(int fd, uint64_t offset, uint64_t length, size_t max_pairs,
                 std::vector<uint64_t>& pairs, uint64_t& covered);

struct FileFacts {
  uint64_t size = 0;  // bytes; of a block device its capacity
  bool is_regular = false;
  bool is_block_device = false;
};

// 0 or a positive errno. Any thread; may block on a sick device.
int describe_fd(int fd, FileFacts& facts);

}  // namespace regrow
