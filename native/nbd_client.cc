// NBD connections for JavaScript.
//
//   new NbdClient(target, ready, done, ended)   starts to connect
//     ready(facts)                  at most once
//     done(slot, error, extents?)   once for each submit
//     ended(error, message, wasReady)             once, last
//     submit(operation, slot, offset, length, bytes | undefined, flags)
//     close()                       returns at once; ended follows
//
// As in file_io.cc, JavaScript keeps buffers and promises in a table by slot, and this object holds
// itself until it has ended. What the connection thread has to say gathers in the mailbox; the
// first letter wakes the JavaScript thread, which takes all.
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "addon_data.h"
#include "nbd_connection.h"

namespace regrow {
namespace {

class NbdClient;

struct Mailbox {
  std::shared_ptr<Completions> completions;
  NbdClient* owner = nullptr;      // JavaScript thread only; alive until it has ended
  std::mutex mutex;
  bool is_announced = false;       // guarded by mutex
  std::optional<NbdFacts> facts;   // guarded by mutex
  std::vector<NbdResult> results;  // guarded by mutex
  std::optional<NbdEnd> end;       // guarded by mutex
};

Napi::Object facts_to_js(Napi::Env env, const NbdFacts& facts) {
  auto object = Napi::Object::New(env);
  const auto number = [&](const char* name, uint64_t value) {
    object.Set(name, Napi::Number::New(env, static_cast<double>(value)));
  };
  const auto flag = [&](const char* name, bool value) {
    object.Set(name, Napi::Boolean::New(env, value));
  };
  number("size", facts.size);
  number("minimumBlock", facts.minimum);
  number("preferredBlock", facts.preferred);
  number("maximumBlock", facts.maximum);
  flag("isReadOnly", facts.is_read_only);
  flag("canMultiConn", facts.can_multi_conn);
  flag("canFlush", facts.can_flush);
  flag("canFua", facts.can_fua);
  flag("canZero", facts.can_zero);
  flag("canFastZero", facts.can_fast_zero);
  flag("canTrim", facts.can_trim);
  flag("canCache", facts.can_cache);
  flag("hasBlockStatus", facts.has_block_status);
  flag("hasStructuredReplies", facts.has_structured_replies);
  flag("isEncrypted", facts.is_encrypted);
  object.Set("description", Napi::String::New(env, facts.description));
  return object;
}

NbdTarget target_from_js(const Napi::Object& object) {
  const auto text = [&](const char* name) { return object.Get(name).ToString().Utf8Value(); };
  const auto flag = [&](const char* name) { return object.Get(name).ToBoolean().Value(); };
  const auto duration = [&](const char* name) {
    return std::chrono::milliseconds(object.Get(name).ToNumber().Int64Value());
  };
  return {text("host"), text("port"), text("unixPath"), text("exportName"), flag("tls"),
          text("certificates"), text("pskFile"), text("username"), flag("verifyPeer"),
          duration("connectTimeout"), duration("ioTimeout")};
}

class NbdClient : public Napi::ObjectWrap<NbdClient> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NbdClient",
                       {InstanceMethod<&NbdClient::submit>("submit"),
                        InstanceMethod<&NbdClient::close>("close")});
  }

  explicit NbdClient(const Napi::CallbackInfo& info)
      : ObjectWrap(info), mailbox_(std::make_shared<Mailbox>()) {
    const Napi::Env env = info.Env();
    if (!info[0].IsObject() || !info[1].IsFunction() || !info[2].IsFunction() ||
        !info[3].IsFunction()) {
      Napi::TypeError::New(env, "NbdClient takes target, ready, done and ended")
          .ThrowAsJavaScriptException();
      return;
    }
    ready_ = Napi::Persistent(info[1].As<Napi::Function>());
    done_ = Napi::Persistent(info[2].As<Napi::Function>());
    ended_ = Napi::Persistent(info[3].As<Napi::Function>());
    mailbox_->completions = addon_data(env).completions;
    mailbox_->owner = this;
    connection_ =
        std::make_unique<NbdConnection>(target_from_js(info[0].As<Napi::Object>()), events());
    // The thread must be gone before the environment is.
    napi_add_env_cleanup_hook(env, stop_at_exit, connection_.get());
    mailbox_->completions->expect(1);
    Ref();
    connection_->start();
  }

 private:
  static void stop_at_exit(void* connection) {
    static_cast<NbdConnection*>(connection)->stop();
    static_cast<NbdConnection*>(connection)->join();
  }

  NbdConnection::Events events() const {
    const auto mailbox = mailbox_;
    return {[mailbox](const NbdFacts& facts) { post(mailbox, [&] { mailbox->facts = facts; }); },
            [mailbox](NbdResult result) {
              post(mailbox, [&] { mailbox->results.push_back(std::move(result)); });
            },
            [mailbox](NbdEnd end) { post(mailbox, [&] { mailbox->end = std::move(end); }); }};
  }

  // Any thread.
  template <class Fill>
  static void post(const std::shared_ptr<Mailbox>& mailbox, Fill fill) {
    bool is_first;
    {
      std::lock_guard<std::mutex> lock(mailbox->mutex);
      fill();
      is_first = !std::exchange(mailbox->is_announced, true);
    }
    if (!is_first) return;
    mailbox->completions->post([mailbox](Napi::Env env) { mailbox->owner->deliver(env); }, false);
  }

  void deliver(Napi::Env env) {
    std::optional<NbdFacts> facts;
    std::vector<NbdResult> results;
    std::optional<NbdEnd> end;
    {
      std::lock_guard<std::mutex> lock(mailbox_->mutex);
      mailbox_->is_announced = false;
      facts.swap(mailbox_->facts);
      results.swap(mailbox_->results);
      end.swap(mailbox_->end);
    }
    if (facts) ready_.Call({facts_to_js(env, *facts)});
    for (const NbdResult& result : results) {
      Napi::HandleScope scope(env);
      done_.Call({Napi::Number::New(env, result.slot), Napi::Number::New(env, result.error),
                  result.has_extents ? extents(env, result.extents) : env.Undefined()});
    }
    if (end) finish(env, *end);
  }

  void finish(Napi::Env env, const NbdEnd& end) {
    has_ended_ = true;
    connection_->join();
    napi_remove_env_cleanup_hook(env, stop_at_exit, connection_.get());
    mailbox_->completions->expect(-1);
    ended_.Call({Napi::Number::New(env, end.error), Napi::String::New(env, end.message),
                 Napi::Boolean::New(env, end.was_ready)});
    Unref();
  }

  static Napi::Value extents(Napi::Env env, const std::vector<uint32_t>& numbers) {
    auto array = Napi::Uint32Array::New(env, numbers.size());
    for (size_t index = 0; index < numbers.size(); index++) array[index] = numbers[index];
    return array;
  }

  Napi::Value submit(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    NbdCommand command{static_cast<NbdOperation>(info[0].As<Napi::Number>().Uint32Value()),
                       info[1].As<Napi::Number>().Uint32Value(),
                       static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value()),
                       static_cast<uint64_t>(info[3].As<Napi::Number>().Int64Value()),
                       nullptr,
                       info[5].As<Napi::Number>().Uint32Value()};
    if (info[4].IsTypedArray()) {
      auto bytes = info[4].As<Napi::Uint8Array>();
      if (bytes.ByteLength() >= command.length) command.bytes = bytes.Data();
    }
    const bool needs_bytes = command.operation <= NbdOperation::write;
    if (has_ended_ || (needs_bytes && command.bytes == nullptr)) {
      Napi::Error::New(env, "NbdClient.submit: ended, or without a buffer of that length")
          .ThrowAsJavaScriptException();
      return env.Undefined();
    }
    connection_->submit(command);
    return env.Undefined();
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    connection_->stop();
    return info.Env().Undefined();
  }

  const std::shared_ptr<Mailbox> mailbox_;
  std::unique_ptr<NbdConnection> connection_;
  Napi::FunctionReference ready_;
  Napi::FunctionReference done_;
  Napi::FunctionReference ended_;
  bool has_ended_ = false;
};

}  // namespace

void init_nbd_client(Napi::Env env, Napi::Object exports) {
  exports.Set("NbdClient", NbdClient::define(env));
}

}  // namespace regrow
