// One connection to an NBD server: a thread that speaks the protocol (libnbd) and nothing else.
// Knows nothing of JavaScript.
//
//   any thread: submit ──► queue_ ──► connection thread: libnbd ──► socket
//                                     connection thread: completed(result), once for each submit
//
// The thread alone touches the libnbd handle. It polls the socket and an eventfd that submit and
// stop write to. Its events, in order: ready at most once; completed for each command, exactly once
// (I5); ended exactly once, last.
//
// Loss. The connection ends when the server or the network says so, and also when the server owes
// answers and has been silent for io_timeout: a pulled cable says nothing. A server that goes on
// talking but owes one answer for four times as long counts as lost too. Whatever ends it, every
// command that is left completes with ENOTCONN (ETIMEDOUT after silence, ESHUTDOWN after stop), and
// not before the handle is closed: libnbd may write into a command's buffer until then.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "unique_fd.h"

struct nbd_handle;

namespace regrow {

struct NbdTarget {
  std::string host;       // empty: unix_path
  std::string port;
  std::string unix_path;
  std::string export_name;
  bool tls = false;       // required if true, never used if false
  std::string certificates;  // directory; empty: the system's
  std::string psk_file;      // empty: certificates are used
  std::string username;      // the identity a key is looked up by; empty: the user's own name
  bool verify_peer = true;
  std::chrono::milliseconds connect_timeout{};
  std::chrono::milliseconds io_timeout{};
};

// What was negotiated. Block sizes are 0 where the server said nothing.
struct NbdFacts {
  uint64_t size = 0;
  uint64_t minimum = 0, preferred = 0, maximum = 0;
  bool is_read_only = false, can_multi_conn = false, can_flush = false, can_fua = false;
  bool can_zero = false, can_fast_zero = false, can_trim = false, can_cache = false;
  bool has_block_status = false, has_structured_replies = false, is_encrypted = false;
  std::string description;  // of the export, as the server words it
};

// Mirrored in src/native/nbd.ts.
enum class NbdOperation : uint32_t { read = 0, write = 1, zero = 2, flush = 3, block_status = 4 };

struct NbdCommand {
  NbdOperation operation;
  uint32_t slot;
  uint64_t offset;
  uint64_t length;
  uint8_t* bytes;   // the submitter's until completed
  uint32_t flags;   // LIBNBD_CMD_FLAG_*
};

struct NbdResult {
  uint32_t slot;
  int error;  // 0 or a positive errno
  bool has_extents = false;
  std::vector<uint32_t> extents;  // length, flags, length, flags, … from the command's offset on
};

struct NbdEnd {
  int error = 0;        // 0 after stop
  bool was_ready = false;
  std::string message;  // libnbd's own words
};

class NbdConnection {
 public:
  // Called on the connection's thread, completed also on a submitter's.
  struct Events {
    std::function<void(const NbdFacts&)> ready;
    std::function<void(NbdResult)> completed;
    std::function<void(NbdEnd)> ended;
  };

  NbdConnection(NbdTarget target, Events events);
  // Stops and joins.
  ~NbdConnection();
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;

  // Owner's thread, once.
  void start();
  // Any thread. After the end it completes at once with ENOTCONN.
  void submit(NbdCommand command);
  // Any thread. Returns at once; the end follows, after name resolution if that is under way.
  void stop();
  // Owner's thread, after the ended event or stop().
  void join();

 private:
  using Clock = std::chrono::steady_clock;

  struct Pending {
    NbdCommand command;
    NbdConnection* connection;
    Clock::time_point since;
    bool is_done = false;
    int error = 0;
    std::vector<uint32_t> extents;
  };

  void run();
  bool configure();
  bool can_verify();
  bool connect();
  void serve();
  bool take_last_answers();
  void say_goodbye();
  void finish();
  NbdFacts facts();
  void take_commands();
  void issue(Pending& pending);
  void deliver_done();
  bool wait(std::chrono::milliseconds timeout);
  bool notify(short revents);
  bool check_silence();
  std::chrono::milliseconds patience() const;
  // Keeps the first failure: what follows from it explains less.
  bool fail(int error, std::string message);
  bool fail_by_libnbd();
  void wake();

  const NbdTarget target_;
  const Events events_;
  UniqueFd wake_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};

  std::mutex mutex_;
  std::vector<NbdCommand> queue_;  // guarded by mutex_
  bool has_ended_ = false;         // guarded by mutex_
  bool wake_pending_ = false;      // guarded by mutex_

  // Connection thread only.
  nbd_handle* handle_ = nullptr;
  std::list<Pending> pending_;     // oldest first; addresses are stable
  bool has_done_ = false;          // some of pending_ is done
  bool is_closing_ = false;  // connection thread only
  Clock::time_point heard_;        // last sign of life, or of the first command after a pause
  NbdEnd end_;
};

}  // namespace regrow
