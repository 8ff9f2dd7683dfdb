// The one way from a native thread back into JavaScript.
//
// Any thread posts a closure; the JavaScript thread runs all that have gathered in one wake-up, in
// the order they were posted. The event loop is kept alive only while work is expected (expect()).
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include <napi.h>

namespace regrow {

class Completions {
 public:
  using Closure = std::function<void(Napi::Env)>;

  // JavaScript thread.
  explicit Completions(Napi::Env env);
  ~Completions();
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  // JavaScript thread. Says that `count` posts will come (or, negative, no longer will): the loop
  // stays alive while the sum is above zero. Each post made with settle=true takes one off.
  void expect(int count);

  // Any thread. Runs `closure` on the JavaScript thread, once, unless the environment ended first.
  // `settle`: this post was announced with expect(1).
  void post(Closure closure, bool settle);

  // JavaScript thread. Drops what is queued and accepts nothing more. Called by the environment's
  // clean-up hook.
  void close();

 private:
  void drain(Napi::Env env);

  struct Entry {
    Closure closure;
    bool settle;
  };

  Napi::Env env_;
  std::mutex mutex_;
  std::vector<Entry> queue_;    // guarded by mutex_
  bool wake_pending_ = false;   // guarded by mutex_
  bool closed_ = false;         // guarded by mutex_
  int expected_ = 0;            // JavaScript thread only
  napi_threadsafe_function function_ = nullptr;
};

}  // namespace regrow
