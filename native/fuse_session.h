// Serves the descriptors of a FUSE connection: native threads read requests, JavaScript decides
// what to do with those that carry data, and answers each exactly once (I5).
//
//   kernel ──read──► service thread (one a channel)
//                      metadata: FuseTree answers, the same thread writes the reply
//                      data:     descriptor filled, tag appended to the batch, JavaScript woken
//   JavaScript thread: takes the whole batch, works on the tags' buffers, complete(tag) ──write──►
//
// One mapping (the slab) holds everything both sides look at:
//
//   0            FuseRequest[tags]           descriptors, by tag
//   batch        uint32[tags]                tags handed over by the last take_batch()
//   buffers      tags x (4096 + 1 MiB)       [... out header][payload, page aligned]
//
// A request is read so that the payload of a WRITE lands page aligned, and the reply to a READ is
// one contiguous write from just before the payload: no copy, no gather. A tag's buffer belongs to
// the service thread while it reads, to JavaScript from the batch until complete(), then to nobody.
// When no tag is free the service threads wait and the kernel queues.
//
// Before a tag is first read into, its buffer is locked in memory: where a page must be brought in
// while the process is being killed, the kernel gives up and ends the request with EIO, which would
// be the guest's error (docs/DESIGN.md, "Take-over"). Locked once, it stays; few tags are in use.
//
// More tags exist than the kernel hands out asynchronous requests (max_background), so that a disk
// whose requests all wait for an unreachable source can still be asked for its status.
//
// Ending: unmounting, or aborting the connection, ends every read and thus every thread; stop()
// ends the threads of a connection that lives on. Neither waits for JavaScript.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fuse_protocol.h"
#include "fuse_tree.h"
#include "unique_fd.h"

namespace regrow {

// What JavaScript is asked to do. Mirrored in src/native/fuse.ts.
enum class FuseOperation : uint32_t { read = 1, write = 2, flush = 3, zero = 4 };

// A request as both sides see it. Mirrored in src/native/fuse.ts.
struct FuseRequest {
  uint32_t operation;  // FuseOperation
  uint32_t node;       // FuseFile::node
  uint64_t offset;     // bytes, inside the disk
  uint64_t length;     // bytes, inside the disk; of a read or write at most payload_max
  uint32_t may_trim;   // of zero: 1 if the range may be deallocated
  uint32_t handle;     // of a text: tells its openers apart
};
static_assert(sizeof(FuseRequest) == 32);

// A private anonymous mapping. Only touched pages cost memory.
class Slab {
 public:
  explicit Slab(size_t size);
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  uint8_t* base() const { return base_; }  // nullptr if there was no address space
  size_t size() const { return size_; }

 private:
  const size_t size_;
  uint8_t* base_;
};

struct FuseCounters {
  std::atomic<uint64_t> metadata{0};  // answered without JavaScript
  std::atomic<uint64_t> data{0};      // handed to JavaScript
  std::atomic<uint64_t> wakes{0};     // batches announced
  std::atomic<uint64_t> refused{0};   // replies the kernel did not take: request gone or aborted
  std::atomic<uint64_t> unlocked{0};  // buffers that could not be locked in memory
};

class FuseSession {
 public:
  static constexpr uint32_t page = 4096;
  static constexpr uint32_t stride = page + fuse::payload_max;

  // JavaScript thread. Adopts the channels; starts nothing yet.
  FuseSession(std::vector<UniqueFd> channels, uint32_t tag_count, std::vector<FuseFile> files);
  ~FuseSession();

  // JavaScript thread, once. `wake`: a batch waits for take_batch(). `ended`: the last service
  // thread is about to end, with the errno that ended it or 0 after stop(). Both are called on
  // service threads.
  void start(std::function<void()> wake, std::function<void(int)> ended);

  // JavaScript thread. Moves the tags that wait into the slab's batch area and returns how many.
  uint32_t take_batch();

  // JavaScript thread. Replies: bytes >= 0 or a negative errno. False if the tag is not
  // JavaScript's to complete (a broken I5) or the result is out of range. After close_channels() it
  // only takes the tag back.
  bool complete(uint32_t tag, int64_t result);

  // Control worker, or the JavaScript thread while the environment ends. Ends and joins the service
  // threads. The connection lives on as long as a descriptor is open. May be called again, and by
  // two threads at once.
  void stop();

  // JavaScript thread, after stop().
  void close_channels();

  const std::shared_ptr<Slab>& slab() const { return slab_; }
  size_t batch_offset() const { return batch_offset_; }
  size_t payload_offset() const { return buffers_offset_ + page; }
  const FuseCounters& counters() const { return counters_; }
  // JavaScript thread. Tags that JavaScript has and has not completed.
  uint32_t borrowed_count() const { return borrowed_count_; }

 private:
  // Who answers: JavaScript, the tree, or nobody any more because the answer is already made.
  enum class Route { javascript, metadata, answered };
  struct Tag {
    uint64_t unique = 0;    // as read, RESEND bit included
    uint32_t channel = 0;
    uint32_t operation = 0;
    uint64_t length = 0;
    bool is_borrowed = false;  // by JavaScript
    bool is_resident = false;  // locking was tried
  };
  struct Service {
    std::thread thread;
    bool has_ended = false;  // guarded by mutex_
  };

  void serve(uint32_t channel);
  int serve_until_error(uint32_t channel);
  bool dispatch(uint32_t channel, uint32_t tag, size_t length);
  Route route(const FuseFile& file, uint32_t opcode, const uint8_t* args, FuseRequest& request,
              FuseAnswer& answer) const;
  void hand_over(uint32_t channel, uint32_t tag, const fuse_in_header& header,
                 const FuseRequest& request);
  bool acquire(uint32_t& tag);
  void make_resident(uint32_t tag);
  void give_back(uint32_t tag);
  uint8_t* payload(uint32_t tag) const;
  FuseRequest* descriptors() const { return reinterpret_cast<FuseRequest*>(slab_->base()); }

  std::vector<UniqueFd> channels_;
  FuseTree tree_;
  const size_t batch_offset_;
  const size_t buffers_offset_;
  const std::shared_ptr<Slab> slab_;
  FuseCounters counters_;
  std::function<void()> wake_;
  std::function<void(int)> ended_;
  std::atomic<bool> stopping_{false};

  // A tag is in free_, in waiting_, borrowed by JavaScript, or held by one service thread.
  mutable std::mutex mutex_;
  std::condition_variable changed_;   // free_, has_ended or stopping_ changed
  std::vector<uint32_t> free_;        // guarded by mutex_; last in, first out keeps pages few
  std::vector<uint32_t> waiting_;     // guarded by mutex_
  std::vector<Tag> tags_;             // a tag's entry: whoever holds the tag
  uint32_t running_ = 0;              // guarded by mutex_
  uint32_t borrowed_count_ = 0;       // JavaScript thread only
  std::mutex join_mutex_;             // taken before mutex_; held by whoever joins
  std::vector<Service> services_;     // set by start(); thread: guarded by join_mutex_
};

}  // namespace regrow
