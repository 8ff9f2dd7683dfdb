// Runs a blocking closure on a pool and settles a promise with what it returned.
#pragma once

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "addon_data.h"

namespace regrow {

// How a blocking call ended. `error` is 0 or a positive errno.
struct Outcome {
  int error = 0;
  const char* syscall = "";
  std::string detail;  // says what the call was about; may be empty

  static Outcome ok() { return {}; }
  // Takes errno as it stands.
  static Outcome failed(const char* syscall, std::string detail = {}) {
    return {errno, syscall, std::move(detail)};
  }
  explicit operator bool() const { return error == 0; }
};

// JavaScript thread. An Error with Node's own fields: errno (negative), code is filled in by
// TypeScript from errno, syscall.
inline Napi::Error to_error(Napi::Env env, const Outcome& outcome) {
  std::string message = std::string(outcome.syscall) + ": " + strerror(outcome.error);
  if (!outcome.detail.empty()) message += ": " + outcome.detail;
  Napi::Error error = Napi::Error::New(env, message);
  error.Value().Set("errno", Napi::Number::New(env, -outcome.error));
  error.Value().Set("syscall", Napi::String::New(env, outcome.syscall));
  return error;
}

// JavaScript thread. `work`: Outcome(State&), runs on `pool`. `finish`: Napi::Value(Napi::Env,
// State&), runs on the JavaScript thread if the outcome is ok. State carries inputs there and
// results back, and is destroyed on the JavaScript thread.
template <class State, class Work, class Finish>
Napi::Value async_call(Napi::Env env, WorkPool& pool, std::shared_ptr<State> state, Work work,
                       Finish finish) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  auto completions = addon_data(env).completions;
  completions->expect(1);
  pool.submit([=]() mutable {
    auto outcome = std::make_shared<Outcome>(work(*state));
    completions->post(
        [state = std::move(state), outcome, deferred, finish](Napi::Env post_env) mutable {
          if (outcome->error == 0) {
            deferred->Resolve(finish(post_env, *state));
          } else {
            deferred->Reject(to_error(post_env, *outcome).Value());
          }
        },
        true);
  });
  return deferred->Promise();
}

}  // namespace regrow
