#include "completions.h"

#include <utility>

namespace regrow {

Completions::Completions(Napi::Env env) : env_(env) {
  napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "regrow completions"), 0, 1, nullptr, nullptr,
      this,
      [](napi_env raw_env, napi_value, void* context, void*) {
        if (raw_env == nullptr) return;
        static_cast<Completions*>(context)->drain(Napi::Env(raw_env));
      },
      &function_);
  napi_unref_threadsafe_function(env, function_);
}

Completions::~Completions() { close(); }

void Completions::expect(int count) {
  if (function_ == nullptr) return;
  const bool was_alive = expected_ > 0;
  expected_ += count;
  const bool is_alive = expected_ > 0;
  if (is_alive && !was_alive) napi_ref_threadsafe_function(env_, function_);
  if (!is_alive && was_alive) napi_unref_threadsafe_function(env_, function_);
}

void Completions::post(Closure closure, bool settle) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  queue_.push_back({std::move(closure), settle});
  if (wake_pending_) return;
  wake_pending_ = true;
  // Under the mutex, so that close() cannot release the function between the check and the call.
  napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

void Completions::drain(Napi::Env env) {
  std::vector<Entry> batch;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    wake_pending_ = false;
    batch.swap(queue_);
  }
  for (Entry& entry : batch) {
    Napi::HandleScope scope(env);
    if (entry.settle) expect(-1);
    entry.closure(env);
  }
}

void Completions::close() {
  std::vector<Entry> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    closed_ = true;
    dropped.swap(queue_);
  }
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
  function_ = nullptr;
}

}  // namespace regrow
