// Files and block devices for JavaScript: blocking calls on the store threads, completions in
// batches.
//
//   openFile(path, flags, mode, size) -> Promise<{fd, size, isRegular, isBlockDevice}>
//   describeFd(fd)                    -> Promise<the same>
//   tryLock(fd)                       -> boolean: takes or keeps flock(LOCK_EX)
//   new File(fd, isBlockDevice, done) owns fd from then on
//     submit(operation, slot, offset, length, bytes?)
//     close()                         -> closes; with calls in flight, after the last of them
//     done(slot, error, extents?)     is called once for each submit
//
// A call costs no Promise and no reference here: src/native/file.ts keeps the promise and the
// buffer in its table under `slot` until done(slot). That table is alive because `done` closes over
// it, and this object holds `done`, and holds itself while a call is in flight.
//
//   JavaScript thread: submit ──► store thread: system call, append to finished ──► first wakes
//   JavaScript thread: deliver all of finished_
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "addon_data.h"
#include "async_call.h"
#include "file_ops.h"
#include "unique_fd.h"

namespace regrow {
namespace {

// Mirrored in src/native/file.ts.
enum class Operation : uint32_t {
  read = 0, write = 1, sync_data = 2, sync_all = 3, zero = 4, extents = 5, truncate = 6,
  allocate = 7, reload = 8
};

// Data extents one call reports; a fragmented range takes several calls, so none blocks a thread
// long.
constexpr size_t kMaxExtents = 4096;

struct Call {
  Operation operation;
  uint32_t slot;
  uint64_t offset;
  uint64_t length;
  uint8_t* bytes;  // belongs to JavaScript, which keeps it until done(slot)
};

struct Finished {
  uint32_t slot;
  int error;  // 0, a positive errno, or kEndedEarly
  bool has_extents;
  uint64_t covered;
  std::vector<uint64_t> pairs;
};

class File;

// What a store thread needs of a file; outlives the JavaScript object.
struct FileCore {
  UniqueFd fd;
  bool is_block_device = false;
  File* owner = nullptr;           // JavaScript thread only; alive while a call is in flight
  std::mutex mutex;
  std::vector<Finished> finished;  // guarded by mutex
};

// Store thread.
Finished perform(const FileCore& core, const Call& call) {
  Finished result{call.slot, 0, false, 0, {}};
  const int fd = core.fd.get();
  const auto status = [](int returned) { return returned == 0 ? 0 : errno; };
  switch (call.operation) {
    case Operation::read:
      result.error = read_whole(fd, call.bytes, call.length, call.offset);
      break;
    case Operation::write:
      result.error = write_whole(fd, call.bytes, call.length, call.offset);
      break;
    case Operation::sync_data:
      result.error = status(fdatasync(fd));
      break;
    case Operation::sync_all:
      result.error = status(fsync(fd));
      break;
    case Operation::zero:
      result.error = zero_range(fd, core.is_block_device, call.offset, call.length);
      break;
    case Operation::extents:
      result.has_extents = true;
      result.error =
          data_extents(fd, call.offset, call.length, kMaxExtents, result.pairs, result.covered);
      break;
    case Operation::truncate:
      result.error = status(ftruncate(fd, static_cast<off_t>(call.length)));
      break;
    case Operation::allocate:
      result.error = posix_fallocate(fd, static_cast<off_t>(call.offset),
                                     static_cast<off_t>(call.length));
      break;
    case Operation::reload:
      // Dirty pages are written first: dropping takes clean ones only. What an earlier sync failed
      // to write counts as clean, though it never reached the medium (fsync(2), "errors").
      result.error = status(fdatasync(fd));
      if (result.error == 0) result.error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      break;
  }
  return result;
}

class File : public Napi::ObjectWrap<File> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "File",
                       {InstanceMethod<&File::submit>("submit"),
                        InstanceMethod<&File::close>("close"),
                        InstanceAccessor<&File::fd>("fd")});
  }

  explicit File(const Napi::CallbackInfo& info)
      : ObjectWrap(info), core_(std::make_shared<FileCore>()) {
    if (!info[0].IsNumber() || !info[1].IsBoolean() || !info[2].IsFunction()) {
      Napi::TypeError::New(info.Env(), "File takes fd, isBlockDevice and done")
          .ThrowAsJavaScriptException();
      return;
    }
    core_->fd.reset(info[0].As<Napi::Number>().Int32Value());
    core_->is_block_device = info[1].As<Napi::Boolean>();
    core_->owner = this;
    done_ = Napi::Persistent(info[2].As<Napi::Function>());
  }

 private:
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), core_->fd.get());
  }

  Napi::Value submit(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Call call{static_cast<Operation>(info[0].As<Napi::Number>().Uint32Value()),
              info[1].As<Napi::Number>().Uint32Value(),
              static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value()),
              static_cast<uint64_t>(info[3].As<Napi::Number>().Int64Value()), nullptr};
    const bool has_bytes = info.Length() > 4 && info[4].IsTypedArray();
    if (has_bytes) call.bytes = info[4].As<Napi::Uint8Array>().Data();
    const bool needs_bytes = call.operation <= Operation::write && call.length > 0;
    const bool fits = !has_bytes || call.length <= info[4].As<Napi::Uint8Array>().ByteLength();
    if (is_closing_ || !fits || (needs_bytes && call.bytes == nullptr)) {
      Napi::Error::New(env, "File.submit: closed, or without a buffer of that length")
          .ThrowAsJavaScriptException();
      return env.Undefined();
    }
    AddonData& data = addon_data(env);
    in_flight_++;
    if (!std::exchange(is_held_, true)) Ref();
    data.completions->expect(1);
    data.store_pool->submit([core = core_, completions = data.completions, call] {
      finish(core, completions, perform(*core, call));
    });
    return env.Undefined();
  }

  // Store thread. The first result since the last delivery wakes the JavaScript thread.
  static void finish(const std::shared_ptr<FileCore>& core,
                     const std::shared_ptr<Completions>& completions, Finished finished) {
    bool is_first;
    {
      std::lock_guard<std::mutex> lock(core->mutex);
      is_first = core->finished.empty();
      core->finished.push_back(std::move(finished));
    }
    if (!is_first) return;
    completions->post([core](Napi::Env env) { core->owner->deliver(env); }, false);
  }

  // JavaScript thread.
  void deliver(Napi::Env env) {
    std::vector<Finished> batch;
    {
      std::lock_guard<std::mutex> lock(core_->mutex);
      batch.swap(core_->finished);
    }
    addon_data(env).completions->expect(-static_cast<int>(batch.size()));
    for (const Finished& finished : batch) {
      Napi::HandleScope scope(env);
      in_flight_--;
      done_.Call({Napi::Number::New(env, finished.slot), Napi::Number::New(env, finished.error),
                  finished.has_extents ? extents(env, finished) : env.Undefined()});
    }
    if (in_flight_ > 0) return;
    if (is_closing_) core_->fd.reset();
    if (std::exchange(is_held_, false)) Unref();
  }

  // [covered, start, end, start, end, …] in bytes.
  static Napi::Value extents(Napi::Env env, const Finished& finished) {
    auto array = Napi::Float64Array::New(env, finished.pairs.size() + 1);
    array[0] = static_cast<double>(finished.covered);
    for (size_t index = 0; index < finished.pairs.size(); index++) {
      array[index + 1] = static_cast<double>(finished.pairs[index]);
    }
    return array;
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    is_closing_ = true;
    if (in_flight_ == 0) core_->fd.reset();
    return info.Env().Undefined();
  }

  const std::shared_ptr<FileCore> core_;
  Napi::FunctionReference done_;
  uint32_t in_flight_ = 0;   // JavaScript thread only
  bool is_held_ = false;     // holds itself, from the first call in flight to the last
  bool is_closing_ = false;  // JavaScript thread only
};

struct Opening {
  std::string path;
  int flags = 0;
  mode_t mode = 0;
  double size = -1;  // of a file to be created; negative leaves it as it is
  UniqueFd fd;
  FileFacts facts;
};

Napi::Value facts_to_js(Napi::Env env, Opening& state) {
  auto result = Napi::Object::New(env);
  result.Set("fd", Napi::Number::New(env, state.fd.release()));
  result.Set("size", Napi::Number::New(env, static_cast<double>(state.facts.size)));
  result.Set("isRegular", Napi::Boolean::New(env, state.facts.is_regular));
  result.Set("isBlockDevice", Napi::Boolean::New(env, state.facts.is_block_device));
  return result;
}

// Control thread.
Outcome open_and_describe(Opening& state) {
  state.fd.reset(open(state.path.c_str(), state.flags | O_CLOEXEC, state.mode));
  if (!state.fd) return Outcome::failed("open", state.path);
  if (state.size >= 0 && ftruncate(state.fd.get(), static_cast<off_t>(state.size)) != 0) {
    return Outcome::failed("ftruncate", state.path);
  }
  const int error = describe_fd(state.fd.get(), state.facts);
  return Outcome{error, "fstat", state.path};
}

Napi::Value open_file(const Napi::CallbackInfo& info) {
  auto state = std::make_shared<Opening>();
  state->path = info[0].ToString().Utf8Value();
  state->flags = info[1].ToNumber().Int32Value();
  state->mode = info[2].ToNumber().Uint32Value();
  state->size = info[3].ToNumber().DoubleValue();
  return async_call(info.Env(), *addon_data(info.Env()).control_pool, state, open_and_describe,
                    facts_to_js);
}

// The descriptor stays the caller's, whatever happens.
Napi::Value describe(const Napi::CallbackInfo& info) {
  const int fd = info[0].ToNumber().Int32Value();
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, std::make_shared<Opening>(),
      [fd](Opening& state) { return Outcome{describe_fd(fd, state.facts), "fstat", "descriptor"}; },
      [fd](Napi::Env env, Opening& state) {
        auto result = facts_to_js(env, state).As<Napi::Object>();
        result.Set("fd", Napi::Number::New(env, fd));
        return result;
      });
}

Napi::Value try_lock(const Napi::CallbackInfo& info) {
  const int fd = info[0].ToNumber().Int32Value();
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Napi::Boolean::New(info.Env(), true);
  if (errno == EWOULDBLOCK) return Napi::Boolean::New(info.Env(), false);
  to_error(info.Env(), Outcome::failed("flock")).ThrowAsJavaScriptException();
  return info.Env().Undefined();
}

}  // namespace

void init_file_io(Napi::Env env, Napi::Object exports) {
  exports.Set("File", File::define(env));
  exports.Set("openFile", Napi::Function::New(env, open_file));
  exports.Set("describeFd", Napi::Function::New(env, describe));
  exports.Set("tryLock", Napi::Function::New(env, try_lock));
}

}  // namespace regrow
