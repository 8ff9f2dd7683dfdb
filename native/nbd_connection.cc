#include "nbd_connection.h"

#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace regrow {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

constexpr char kAllocation[] = LIBNBD_CONTEXT_BASE_ALLOCATION;
// Extents one answer passes on; what follows is asked for again.
constexpr size_t kMaxExtents = 64 * 1024;
// How much longer than silence one answer may be owed while others arrive.
constexpr int kStuckFactor = 4;
// A server that does not hang up after our goodbye in this time is left without.
constexpr milliseconds kGoodbye{100};
// For answers still on their way at the end.
constexpr milliseconds kLastAnswers{500};

uint64_t at_least_zero(int64_t value) { return value > 0 ? static_cast<uint64_t>(value) : 0; }

}  // namespace

NbdConnection::NbdConnection(NbdTarget target, Events events)
    : target_(std::move(target)),
      events_(std::move(events)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

NbdConnection::~NbdConnection() {
  stop();
  join();
}

void NbdConnection::start() {
  thread_ = std::thread([this] { run(); });
}

void NbdConnection::join() {
  if (thread_.joinable()) thread_.join();
}

void NbdConnection::wake() {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the thread wakes anyway.
  if (write(wake_.get(), &one, sizeof one) < 0) return;
}

void NbdConnection::submit(NbdCommand command) {
  bool must_wake = false;
  bool is_late = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_late = has_ended_;
    if (!is_late) {
      queue_.push_back(command);
      must_wake = !std::exchange(wake_pending_, true);
    }
  }
  if (is_late) events_.completed({command.slot, ENOTCONN, false, {}});
  if (must_wake) wake();
}

void NbdConnection::stop() {
  stopping_ = true;
  wake();
}

bool NbdConnection::fail(int error, std::string message) {
  if (end_.error == 0) {
    end_.error = error == 0 ? ENOTCONN : error;
    end_.message = std::move(message);
  }
  return false;
}

bool NbdConnection::fail_by_libnbd() {
  const char* message = nbd_get_error();
  return fail(nbd_get_errno(), message == nullptr ? "the connection ended" : message);
}

// Connection thread, its whole life.
void NbdConnection::run() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), "regrow-nbd");
  handle_ = nbd_create();
  if (handle_ == nullptr) {
    fail_by_libnbd();
  } else if (configure() && can_verify() && connect()) {
    end_.was_ready = true;
    events_.ready(facts());
    serve();
    say_goodbye();
  }
  finish();
}

bool NbdConnection::configure() {
  const NbdTarget& target = target_;
  const bool ok =
      nbd_set_export_name(handle_, target.export_name.c_str()) == 0 &&
      nbd_set_full_info(handle_, true) == 0 && nbd_set_pread_initialize(handle_, false) == 0 &&
      nbd_add_meta_context(handle_, kAllocation) == 0 &&
      nbd_set_tls(handle_, target.tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE) == 0 &&
      nbd_set_tls_verify_peer(handle_, target.verify_peer) == 0 &&
      (target.certificates.empty() ||
       nbd_set_tls_certificates(handle_, target.certificates.c_str()) == 0) &&
      (target.psk_file.empty() || nbd_set_tls_psk_file(handle_, target.psk_file.c_str()) == 0) &&
      (target.username.empty() || nbd_set_tls_username(handle_, target.username.c_str()) == 0);
  return ok || fail_by_libnbd();
}

// Without a readable ca-cert.pem libnbd goes on without checking the server at all, so that is
// refused here, before each connection: the file may have gone since the last one.
bool NbdConnection::can_verify() {
  if (!target_.tls || !target_.psk_file.empty() || !target_.verify_peer) return true;
  const std::string authority = target_.certificates + "/ca-cert.pem";
  if (!target_.certificates.empty() && access(authority.c_str(), R_OK) == 0) return true;
  return fail(ENOENT, "no readable CA certificate: " + authority);
}

bool NbdConnection::connect() {
  const auto deadline = Clock::now() + target_.connect_timeout;
  const int result =
      target_.host.empty()
          ? nbd_aio_connect_unix(handle_, target_.unix_path.c_str())
          : nbd_aio_connect_tcp(handle_, target_.host.c_str(), target_.port.c_str());
  if (result != 0) return fail_by_libnbd();
  while (nbd_aio_is_ready(handle_) != 1) {
    if (stopping_) return fail(ESHUTDOWN, "closed while connecting");
    if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1) {
      return fail(ENOTCONN, "the server hung up during the handshake");
    }
    const auto left = duration_cast<milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      const bool is_talking = nbd_aio_get_direction(handle_) & LIBNBD_AIO_DIRECTION_READ;
      return fail(ETIMEDOUT, is_talking ? "handshake timeout" : "connect timeout");
    }
    if (!wait(left)) return false;
  }
  return true;
}

NbdFacts NbdConnection::facts() {
  NbdFacts facts;
  const auto yes = [](int answer) { return answer == 1; };
  const auto block_size = [this](int type) {
    return at_least_zero(nbd_get_block_size(handle_, type));
  };
  facts.size = at_least_zero(nbd_get_size(handle_));
  facts.minimum = block_size(LIBNBD_SIZE_MINIMUM);
  facts.preferred = block_size(LIBNBD_SIZE_PREFERRED);
  facts.maximum = block_size(LIBNBD_SIZE_MAXIMUM);
  facts.is_read_only = yes(nbd_is_read_only(handle_));
  facts.can_multi_conn = yes(nbd_can_multi_conn(handle_));
  facts.can_flush = yes(nbd_can_flush(handle_));
  facts.can_fua = yes(nbd_can_fua(handle_));
  facts.can_zero = yes(nbd_can_zero(handle_));
  facts.can_fast_zero = yes(nbd_can_fast_zero(handle_));
  facts.can_trim = yes(nbd_can_trim(handle_));
  facts.can_cache = yes(nbd_can_cache(handle_));
  facts.has_block_status = yes(nbd_can_meta_context(handle_, kAllocation));
  facts.has_structured_replies = yes(nbd_get_structured_replies_negotiated(handle_));
  facts.is_encrypted = yes(nbd_get_tls_negotiated(handle_));
  char* description = nbd_get_export_description(handle_);
  if (description != nullptr) facts.description = description;
  free(description);
  return facts;
}

void NbdConnection::serve() {
  heard_ = Clock::now();
  while (!stopping_) {
    take_commands();
    deliver_done();
    if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1) {
      fail(ENOTCONN, "the server closed the connection");
      return;
    }
    const bool is_alive = wait(patience()) && check_silence();
    deliver_done();
    if (!is_alive) return;
  }
}

void NbdConnection::take_commands() {
  std::vector<NbdCommand> commands;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    commands.swap(queue_);
    wake_pending_ = false;
  }
  for (const NbdCommand& command : commands) {
    const auto now = Clock::now();
    if (pending_.empty()) heard_ = now;
    issue(pending_.emplace_back(Pending{command, this, now, false, 0, {}}));
  }
}

void NbdConnection::issue(Pending& pending) {
  const NbdCommand& command = pending.command;
  nbd_completion_callback done{
      [](void* user_data, int* error) {
        auto* self = static_cast<Pending*>(user_data);
        // Newer versions of libnbd complete what is left when they close, with their own error.
        if (self->connection->is_closing_) return 1;
        self->is_done = true;
        self->error = *error;
        self->connection->has_done_ = true;
        return 1;
      },
      &pending, nullptr};
  nbd_extent_callback extent{
      [](void* user_data, const char* context, uint64_t, uint32_t* entries, size_t count, int*) {
        auto& extents = static_cast<Pending*>(user_data)->extents;
        if (strcmp(context, kAllocation) != 0) return 0;
        extents.insert(extents.end(), entries,
                       entries + std::min(count, 2 * kMaxExtents -
                                                     std::min(extents.size(), 2 * kMaxExtents)));
        return 0;
      },
      &pending, nullptr};
  const auto [operation, slot, offset, length, bytes, flags] = command;
  int64_t cookie = -1;
  switch (operation) {
    case NbdOperation::read:
      cookie = nbd_aio_pread(handle_, bytes, length, offset, done, flags);
      break;
    case NbdOperation::write:
      cookie = nbd_aio_pwrite(handle_, bytes, length, offset, done, flags);
      break;
    case NbdOperation::zero:
      cookie = nbd_aio_zero(handle_, length, offset, done, flags);
      break;
    case NbdOperation::flush:
      cookie = nbd_aio_flush(handle_, done, flags);
      break;
    case NbdOperation::block_status:
      cookie = nbd_aio_block_status(handle_, length, offset, extent, done, flags);
      break;
  }
  if (cookie != -1 || pending.is_done) return;
  const int error = nbd_get_errno();
  pending.is_done = true;
  pending.error = error == 0 ? EINVAL : error;
  has_done_ = true;
}

void NbdConnection::deliver_done() {
  if (!std::exchange(has_done_, false)) return;
  for (auto at = pending_.begin(); at != pending_.end();) {
    if (!at->is_done) {
      ++at;
      continue;
    }
    const bool has_extents = at->command.operation == NbdOperation::block_status;
    events_.completed({at->command.slot, at->error, has_extents, std::move(at->extents)});
    at = pending_.erase(at);
  }
}

// False if the connection is lost.
bool NbdConnection::wait(milliseconds timeout) {
  const unsigned direction = nbd_aio_get_direction(handle_);
  pollfd fds[2] = {{nbd_aio_get_fd(handle_), 0, 0}, {wake_.get(), POLLIN, 0}};
  if (direction & LIBNBD_AIO_DIRECTION_READ) fds[0].events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) fds[0].events |= POLLOUT;
  const int count = poll(fds, 2, static_cast<int>(std::min<int64_t>(timeout.count(), INT32_MAX)));
  if (count < 0) return errno == EINTR || fail(errno, "poll failed");
  if (fds[1].revents != 0) {
    uint64_t ignored;
    if (read(wake_.get(), &ignored, sizeof ignored) < 0 && errno != EAGAIN) {
      return fail(errno, "eventfd");
    }
  }
  return fds[0].revents == 0 || notify(fds[0].revents);
}

bool NbdConnection::notify(short revents) {
  const unsigned direction = nbd_aio_get_direction(handle_);
  const bool has_failed = (revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
  if (revents & POLLIN) heard_ = Clock::now();
  int result = 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) && (has_failed || (revents & POLLIN))) {
    result = nbd_aio_notify_read(handle_);
  } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) && (has_failed || (revents & POLLOUT))) {
    result = nbd_aio_notify_write(handle_);
  } else if (has_failed) {
    return fail(ENOTCONN, "the connection ended");
  }
  return result == 0 || fail_by_libnbd();
}

milliseconds NbdConnection::patience() const {
  if (pending_.empty()) return milliseconds(INT32_MAX);
  const auto silent = heard_ + target_.io_timeout;
  const auto stuck = pending_.front().since + kStuckFactor * target_.io_timeout;
  const auto left = duration_cast<milliseconds>(std::min(silent, stuck) - Clock::now());
  return std::max(left + milliseconds(1), milliseconds(0));
}

bool NbdConnection::check_silence() {
  if (has_done_ || pending_.empty()) return true;
  const auto now = Clock::now();
  if (now - heard_ >= target_.io_timeout) return fail(ETIMEDOUT, "the server is silent");
  if (now - pending_.front().since < kStuckFactor * target_.io_timeout) return true;
  return fail(ETIMEDOUT, "the server leaves a request unanswered");
}

// Takes the answers that are on their way: nbdkit 1.32 aborts now and then when a client leaves
// while several of its answers are being sent. False if the connection went meanwhile.
bool NbdConnection::take_last_answers() {
  const auto deadline = Clock::now() + kLastAnswers;
  while (!pending_.empty()) {
    if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1) return false;
    const auto left = duration_cast<milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || !wait(left)) return false;
    deliver_done();
  }
  return true;
}

// Tells the server that the end is meant, if nothing is owed on either side.
void NbdConnection::say_goodbye() {
  if (stopping_) take_last_answers();
  if (!pending_.empty() || nbd_aio_is_ready(handle_) != 1) return;
  if (nbd_aio_disconnect(handle_, 0) != 0) return;
  const auto deadline = Clock::now() + kGoodbye;
  while (nbd_aio_is_closed(handle_) != 1 && nbd_aio_is_dead(handle_) != 1) {
    const auto left = duration_cast<milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || !wait(left)) return;
  }
}

// Closes first, so that libnbd touches no buffer any more, then completes what is left.
void NbdConnection::finish() {
  deliver_done();
  is_closing_ = true;
  nbd_close(handle_);
  handle_ = nullptr;
  std::vector<NbdCommand> unsent;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    has_ended_ = true;
    unsent.swap(queue_);
  }
  if (stopping_) end_.error = 0;
  const int error = stopping_ ? ESHUTDOWN : end_.error == ETIMEDOUT ? ETIMEDOUT : ENOTCONN;
  for (const Pending& pending : pending_) {
    events_.completed({pending.command.slot, error, false, {}});
  }
  for (const NbdCommand& command : unsent) events_.completed({command.slot, error, false, {}});
  pending_.clear();
  events_.ended(std::move(end_));
}

}  // namespace regrow
