#include "fuse_session.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include <linux/falloc.h>

namespace regrow {
namespace {

// Interrupts a service thread's read. Ignored by default, so nobody else depends on it.
constexpr int kick_signal = SIGURG;
// How long to wait before a thread is kicked again: a kick that comes just before read() is lost.
constexpr std::chrono::milliseconds kick_interval{1};

size_t align_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

// A handler that does nothing, without SA_RESTART: the signal's only effect is EINTR.
void prepare_kick_signal() {
  struct sigaction current {};
  if (sigaction(kick_signal, nullptr, &current) != 0) return;
  if (current.sa_handler != SIG_DFL && current.sa_handler != SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(kick_signal, &action, nullptr);
}

void prepare_service_thread(uint32_t channel) {
  sigset_t blocked;
  sigfillset(&blocked);
  sigdelset(&blocked, kick_signal);
  pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
  const std::string name = "regrow-fuse-" + std::to_string(channel);
  pthread_setname_np(pthread_self(), name.c_str());
}

template <class T>
T arguments(const uint8_t* args) {
  T value;
  memcpy(&value, args, sizeof value);
  return value;
}

}  // namespace

Slab::Slab(size_t size) : size_(size) {
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  base_ = mapped == MAP_FAILED ? nullptr : static_cast<uint8_t*>(mapped);
  // A huge page would cost 2 MiB for a 4 KiB request.
  if (base_ == nullptr) return;
  madvise(base_, size_, MADV_NOHUGEPAGE);
  // A fork would make its pages copy-on-write, and thus faults of the next reads into them.
  madvise(base_, size_, MADV_DONTFORK);
}

Slab::~Slab() {
  if (base_ != nullptr) munmap(base_, size_);
}

FuseSession::FuseSession(std::vector<UniqueFd> channels, uint32_t tag_count,
                         std::vector<FuseFile> files)
    : channels_(std::move(channels)),
      tree_(std::move(files)),
      batch_offset_(tag_count * sizeof(FuseRequest)),
      buffers_offset_(align_up(batch_offset_ + tag_count * sizeof(uint32_t), page)),
      slab_(std::make_shared<Slab>(buffers_offset_ + static_cast<size_t>(tag_count) * stride)),
      tags_(tag_count) {
  for (uint32_t tag = tag_count; tag > 0; tag--) free_.push_back(tag - 1);
}

FuseSession::~FuseSession() { stop(); }

void FuseSession::start(std::function<void()> wake, std::function<void(int)> ended) {
  wake_ = std::move(wake);
  ended_ = std::move(ended);
  prepare_kick_signal();
  running_ = static_cast<uint32_t>(channels_.size());
  services_.resize(channels_.size());
  for (uint32_t channel = 0; channel < channels_.size(); channel++) {
    services_[channel].thread = std::thread([this, channel] { serve(channel); });
  }
}

// Service thread.
void FuseSession::serve(uint32_t channel) {
  prepare_service_thread(channel);
  const int error = serve_until_error(channel);
  bool is_last;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_last = --running_ == 0;
  }
  if (is_last) ended_(error);
  std::lock_guard<std::mutex> lock(mutex_);
  services_[channel].has_ended = true;
  changed_.notify_all();
}

// Service thread. 0 if told to stop, else the errno that ended the connection (ENODEV: unmounted).
int FuseSession::serve_until_error(uint32_t channel) {
  const int fd = channels_[channel].get();
  uint32_t tag;
  if (!acquire(tag)) return 0;
  for (;;) {
    uint8_t* request = payload(tag) - fuse::request_head;
    const ssize_t length = stopping_ ? -1 : read(fd, request, fuse::request_max);
    if (length < 0) {
      const int error = errno;
      // ENOENT: the request was taken back before it was read.
      if (!stopping_ && (error == EINTR || error == ENOENT || error == EAGAIN)) continue;
      give_back(tag);
      return stopping_ ? 0 : error;
    }
    if (dispatch(channel, tag, static_cast<size_t>(length)) && !acquire(tag)) return 0;
  }
}

// Service thread. True if the tag now belongs to JavaScript.
bool FuseSession::dispatch(uint32_t channel, uint32_t tag, size_t length) {
  const uint8_t* bytes = payload(tag) - fuse::request_head;
  const auto header = arguments<fuse_in_header>(bytes);
  const uint8_t* args = bytes + sizeof header;
  FuseRequest request{};
  FuseAnswer answer;
  const FuseFile* file = tree_.find(header.nodeid);
  switch (file == nullptr ? Route::metadata : route(*file, header.opcode, args, request, answer)) {
    case Route::javascript:
      hand_over(channel, tag, header, request);
      return true;
    case Route::metadata:
      tree_.answer(header, args, length - sizeof header, answer);
      break;
    case Route::answered:
      break;
  }
  counters_.metadata++;
  if (answer.is_silent) return false;
  if (answer.error != 0) answer.length = 0;
  const auto total = static_cast<uint32_t>(sizeof(fuse_out_header) + answer.length);
  const fuse_out_header out{total, answer.error, header.unique};
  const iovec parts[] = {{const_cast<fuse_out_header*>(&out), sizeof out},
                         {answer.body, answer.length}};
  if (writev(channels_[channel].get(), parts, 2) < 0) counters_.refused++;
  return false;
}

// Service thread. Decides who answers a request to a file, and describes it if JavaScript does.
// Ranges are checked here, so that JavaScript sees none outside the disk.
FuseSession::Route FuseSession::route(const FuseFile& file, uint32_t opcode, const uint8_t* args,
                                      FuseRequest& request, FuseAnswer& answer) const {
  request.node = static_cast<uint32_t>(file.node);
  const auto refuse = [&answer](int error) {
    answer.error = -error;
    return Route::answered;
  };
  const auto describe = [&request](FuseOperation operation, uint64_t offset, uint64_t length) {
    request.operation = static_cast<uint32_t>(operation);
    request.offset = offset;
    request.length = length;
    return Route::javascript;
  };
  const auto is_inside = [&file](uint64_t offset, uint64_t length) {
    return offset <= file.size && length <= file.size - offset;
  };
  switch (opcode) {
    case FUSE_READ: {
      const auto in = arguments<fuse_read_in>(args);
      if (in.size > fuse::payload_max) return refuse(EINVAL);
      request.handle = static_cast<uint32_t>(in.fh);
      if (file.is_text) return describe(FuseOperation::read, in.offset, in.size);
      if (in.offset >= file.size || in.size == 0) return Route::answered;
      const uint64_t length = std::min<uint64_t>(in.size, file.size - in.offset);
      return describe(FuseOperation::read, in.offset, length);
    }
    case FUSE_WRITE: {
      const auto in = arguments<fuse_write_in>(args);
      if (file.is_text) return refuse(EBADF);
      if (in.size > fuse::payload_max) return refuse(EINVAL);
      if (!is_inside(in.offset, in.size)) return refuse(ENOSPC);
      return describe(FuseOperation::write, in.offset, in.size);
    }
    case FUSE_FSYNC:
      return file.is_text ? Route::metadata : describe(FuseOperation::flush, 0, 0);
    case FUSE_FALLOCATE: {
      const auto in = arguments<fuse_fallocate_in>(args);
      const bool is_punch = in.mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      const bool is_zero = (in.mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
      if (file.is_text || (!is_punch && !is_zero)) return refuse(EOPNOTSUPP);
      if (!is_inside(in.offset, in.length)) return refuse(ENOSPC);
      request.may_trim = is_punch ? 1 : 0;
      return describe(FuseOperation::zero, in.offset, in.length);
    }
    default:
      return Route::metadata;
  }
}

// Service thread.
void FuseSession::hand_over(uint32_t channel, uint32_t tag, const fuse_in_header& header,
                            const FuseRequest& request) {
  descriptors()[tag] = request;
  Tag& state = tags_[tag];
  state.unique = header.unique;
  state.channel = channel;
  state.operation = request.operation;
  state.length = request.length;
  state.is_borrowed = false;
  counters_.data++;
  bool is_first;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_first = waiting_.empty();
    waiting_.push_back(tag);
  }
  // Whoever finds the batch empty wakes JavaScript; the others' tags go along.
  if (!is_first) return;
  counters_.wakes++;
  wake_();
}

uint32_t FuseSession::take_batch() {
  auto* batch = reinterpret_cast<uint32_t*>(slab_->base() + batch_offset_);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto count = static_cast<uint32_t>(waiting_.size());
  for (uint32_t i = 0; i < count; i++) {
    batch[i] = waiting_[i];
    tags_[waiting_[i]].is_borrowed = true;
  }
  waiting_.clear();
  borrowed_count_ += count;
  return count;
}

bool FuseSession::complete(uint32_t tag, int64_t result) {
  if (tag >= tags_.size() || !tags_[tag].is_borrowed) return false;
  Tag& state = tags_[tag];
  const bool is_read = state.operation == static_cast<uint32_t>(FuseOperation::read);
  const bool is_write = state.operation == static_cast<uint32_t>(FuseOperation::write);
  if (result < -4095 || result > static_cast<int64_t>(is_read || is_write ? state.length : 0)) {
    return false;
  }
  state.is_borrowed = false;
  borrowed_count_--;
  // The reply is laid out so that header and body are one run of bytes, for a READ right before
  // the bytes that are already there.
  uint8_t* body = payload(tag);
  size_t length = 0;
  if (result > 0 && is_read) length = static_cast<size_t>(result);
  if (result >= 0 && is_write) {
    const fuse_write_out written{static_cast<uint32_t>(result), 0};
    length = sizeof written;
    body -= sizeof written;  // leaves the payload as JavaScript knows it
    memcpy(body, &written, sizeof written);
  }
  const fuse_out_header header{static_cast<uint32_t>(sizeof(fuse_out_header) + length),
                               static_cast<int32_t>(std::min<int64_t>(result, 0)), state.unique};
  memcpy(body - sizeof header, &header, sizeof header);
  if (!channels_.empty()) {
    const int fd = channels_[state.channel].get();
    if (write(fd, body - sizeof header, header.len) < 0) counters_.refused++;
  }
  give_back(tag);
  return true;
}

bool FuseSession::acquire(uint32_t& tag) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || !free_.empty(); });
  if (stopping_) return false;
  tag = free_.back();
  free_.pop_back();
  lock.unlock();
  make_resident(tag);
  return true;
}

// Service thread, which holds the tag.
void FuseSession::make_resident(uint32_t tag) {
  if (tags_[tag].is_resident) return;
  tags_[tag].is_resident = true;
  if (mlock(payload(tag) - page, stride) != 0) counters_.unlocked++;
}

void FuseSession::give_back(uint32_t tag) {
  bool was_empty;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    was_empty = free_.empty();
    free_.push_back(tag);
  }
  if (was_empty) changed_.notify_all();
}

void FuseSession::stop() {
  std::lock_guard<std::mutex> join_lock(join_mutex_);
  std::unique_lock<std::mutex> lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  // Each round interrupts whoever still sits in a system call; one round is nearly always enough.
  for (;;) {
    bool all_ended = true;
    for (Service& service : services_) {
      if (service.has_ended) continue;
      all_ended = false;
      pthread_kill(service.thread.native_handle(), kick_signal);
    }
    if (all_ended) break;
    changed_.wait_for(lock, kick_interval);
  }
  lock.unlock();
  for (Service& service : services_) {
    if (service.thread.joinable()) service.thread.join();
  }
}

void FuseSession::close_channels() { channels_.clear(); }

uint8_t* FuseSession::payload(uint32_t tag) const {
  return slab_->base() + buffers_offset_ + static_cast<size_t>(tag) * stride + page;
}

}  // namespace regrow
