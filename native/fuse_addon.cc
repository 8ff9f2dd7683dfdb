// FUSE as JavaScript sees it: addon.fuse = {layout, open, unmount, resend, Session}.
//
// Session is an object with a lifetime: constructed over descriptors, started once, stopped once.
// While it runs it keeps itself and the event loop alive. Closures that service threads post name
// the object by pointer; that is safe because the last of them runs before stop() settles, posts
// being run in order, and because the environment's clean-up joins the threads first.
#include <limits>

#include "async_call.h"
#include "fuse_connection.h"
#include "fuse_session.h"

namespace regrow {
namespace {

class FuseSessionObject : public Napi::ObjectWrap<FuseSessionObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "FuseSession",
                       {InstanceMethod<&FuseSessionObject::start>("start"),
                        InstanceMethod<&FuseSessionObject::complete>("complete"),
                        InstanceMethod<&FuseSessionObject::stop>("stop"),
                        InstanceMethod<&FuseSessionObject::abandon>("abandon"),
                        InstanceMethod<&FuseSessionObject::counters>("counters"),
                        InstanceAccessor<&FuseSessionObject::slab>("slab"),
                        InstanceAccessor<&FuseSessionObject::layout>("layout")});
  }

  // new Session({channels: number[], tags, files: FuseFile[]}). Owns the descriptors from here on.
  explicit FuseSessionObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<FuseSessionObject>(info) {
    const auto options = info[0].As<Napi::Object>();
    std::vector<UniqueFd> channels;
    const auto numbers = options.Get("channels").As<Napi::Array>();
    for (uint32_t i = 0; i < numbers.Length(); i++) {
      channels.emplace_back(numbers.Get(i).As<Napi::Number>().Int32Value());
    }
    std::vector<FuseFile> files;
    const auto entries = options.Get("files").As<Napi::Array>();
    for (uint32_t i = 0; i < entries.Length(); i++) {
      files.push_back(to_file(entries.Get(i).As<Napi::Object>()));
    }
    const uint32_t tags = options.Get("tags").As<Napi::Number>().Uint32Value();
    if (channels.empty() || tags == 0 || files.size() > FuseTree::files_max) {
      Napi::RangeError::New(info.Env(), "a FUSE session needs a channel, tags and few files")
          .ThrowAsJavaScriptException();
      return;
    }
    session_ = std::make_shared<FuseSession>(std::move(channels), tags, std::move(files));
    if (session_->slab()->base() == nullptr) {
      session_.reset();
      Napi::Error::New(info.Env(), "no address space for the request buffers")
          .ThrowAsJavaScriptException();
    }
  }

  // While it runs the object references itself, so the threads have ended by now; or the
  // environment ended, and its clean-up hook has joined them.
  ~FuseSessionObject() override = default;

 private:
  static FuseFile to_file(const Napi::Object& entry) {
    FuseFile file;
    file.node = static_cast<uint64_t>(entry.Get("node").As<Napi::Number>().Int64Value());
    file.name = entry.Get("name").As<Napi::String>().Utf8Value();
    file.mode = entry.Get("mode").As<Napi::Number>().Uint32Value();
    file.size = static_cast<uint64_t>(entry.Get("size").As<Napi::Number>().Int64Value());
    file.is_text = entry.Get("isText").As<Napi::Boolean>().Value();
    file.is_held = entry.Get("isHeld").As<Napi::Boolean>().Value();
    return file;
  }

  // start(onBatch: (count) => void, onEnd: (errno) => void)
  void start(const Napi::CallbackInfo& info) {
    on_batch_ = Napi::Persistent(info[0].As<Napi::Function>());
    on_end_ = Napi::Persistent(info[1].As<Napi::Function>());
    auto completions = addon_data(info.Env()).completions;
    completions->expect(1);
    Ref();
    napi_add_env_cleanup_hook(info.Env(), end_with_environment, this);
    is_running_ = true;
    session_->start(
        [this, completions] { completions->post([this](Napi::Env env) { deliver(env); }, false); },
        [this, completions](int error) {
          completions->post([this, error](Napi::Env env) { report_end(env, error); }, false);
        });
  }

  void deliver(Napi::Env env) {
    const uint32_t count = session_->take_batch();
    if (count > 0) call(env, on_batch_, count);
  }

  void report_end(Napi::Env env, int error) { call(env, on_end_, static_cast<uint32_t>(error)); }

  // By the C interface: while an environment is being terminated a call fails, and node-addon-api
  // would make that the end of the process. An exception stays pending and becomes uncaught.
  static void call(Napi::Env env, const Napi::FunctionReference& function, uint32_t value) {
    napi_value argument;
    if (napi_create_uint32(env, value, &argument) != napi_ok) return;
    napi_call_function(env, env.Undefined(), function.Value(), 1, &argument, nullptr);
  }

  // complete(tag, result): false if the tag was not JavaScript's to complete (I5).
  Napi::Value complete(const Napi::CallbackInfo& info) {
    const uint32_t tag = info[0].As<Napi::Number>().Uint32Value();
    const int64_t result = info[1].As<Napi::Number>().Int64Value();
    return Napi::Boolean::New(info.Env(), session_->complete(tag, result));
  }

  // stop(): a promise for the end of the threads; the descriptors are closed by then.
  Napi::Value stop(const Napi::CallbackInfo& info) {
    Ref();  // until it settles, whether or not anyone else still knows the object
    return async_call(
        info.Env(), *addon_data(info.Env()).control_pool, session_,
        [](FuseSession& session) {
          session.stop();
          return Outcome::ok();
        },
        [this](Napi::Env env, FuseSession&) {
          release(env);
          Unref();
          return env.Undefined();
        });
  }

  // abandon(): stop() for a process that is about to exit; blocks, but never on JavaScript.
  void abandon(const Napi::CallbackInfo& info) {
    session_->stop();
    release(info.Env());
  }

  void release(Napi::Env env) {
    session_->close_channels();
    if (!is_running_) return;
    is_running_ = false;
    napi_remove_env_cleanup_hook(env, end_with_environment, this);
    addon_data(env).completions->expect(-1);
    Unref();
  }

  static void end_with_environment(void* self) {
    auto* object = static_cast<FuseSessionObject*>(self);
    object->is_running_ = false;
    object->session_->stop();
    object->session_->close_channels();
  }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    auto result = Napi::Object::New(info.Env());
    const auto put = [&](const char* name, uint64_t value) {
      result.Set(name, Napi::Number::New(info.Env(), static_cast<double>(value)));
    };
    const FuseCounters& counters = session_->counters();
    put("metadata", counters.metadata);
    put("data", counters.data);
    put("wakes", counters.wakes);
    put("refused", counters.refused);
    put("unlocked", counters.unlocked);
    put("borrowed", session_->borrowed_count());
    return result;
  }

  // The slab; the mapping lives as long as either the session or the ArrayBuffer.
  Napi::Value slab(const Napi::CallbackInfo& info) {
    auto owner = new std::shared_ptr<Slab>(session_->slab());
    return Napi::ArrayBuffer::New(
        info.Env(), (*owner)->base(), (*owner)->size(),
        [](Napi::Env, void*, std::shared_ptr<Slab>* held) { delete held; }, owner);
  }

  Napi::Value layout(const Napi::CallbackInfo& info) {
    auto result = Napi::Object::New(info.Env());
    result.Set("batchOffset", Napi::Number::New(info.Env(), session_->batch_offset()));
    result.Set("payloadOffset", Napi::Number::New(info.Env(), session_->payload_offset()));
    return result;
  }

  std::shared_ptr<FuseSession> session_;
  Napi::FunctionReference on_batch_;
  Napi::FunctionReference on_end_;
  bool is_running_ = false;
};

struct OpenCall {
  FuseMountOptions options;
  FuseConnection connection;
};

// open({mountpoint, source, namespace, channels, maxBackground})
// resolves to {channels: number[], kernelMinor, hasResend}; the caller owns the descriptors.
Napi::Value open_connection(const Napi::CallbackInfo& info) {
  const auto options = info[0].As<Napi::Object>();
  auto call = std::make_shared<OpenCall>();
  call->options.mountpoint = options.Get("mountpoint").As<Napi::String>().Utf8Value();
  call->options.source = options.Get("source").As<Napi::String>().Utf8Value();
  call->options.namespace_fd = options.Get("namespace").As<Napi::Number>().Int32Value();
  call->options.channel_count = options.Get("channels").As<Napi::Number>().Uint32Value();
  call->options.max_background =
      static_cast<uint16_t>(options.Get("maxBackground").As<Napi::Number>().Uint32Value());
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](OpenCall& state) { return open_fuse_connection(state.options, state.connection); },
      [](Napi::Env env, OpenCall& state) -> Napi::Value {
        auto result = Napi::Object::New(env);
        auto channels = Napi::Array::New(env);
        for (UniqueFd& fd : state.connection.channels) {
          channels.Set(channels.Length(), Napi::Number::New(env, fd.release()));
        }
        result.Set("channels", channels);
        result.Set("kernelMinor", Napi::Number::New(env, state.connection.kernel_minor));
        const bool has_resend = (state.connection.flags & fuse::has_resend) != 0;
        result.Set("hasResend", Napi::Boolean::New(env, has_resend));
        return result;
      });
}

struct UnmountCall {
  std::string mountpoint;
  int namespace_fd;
  bool force;
};

// unmount(mountpoint, namespace, force): a promise.
Napi::Value unmount(const Napi::CallbackInfo& info) {
  auto call = std::make_shared<UnmountCall>(UnmountCall{
      info[0].As<Napi::String>().Utf8Value(), info[1].As<Napi::Number>().Int32Value(),
      info[2].As<Napi::Boolean>().Value()});
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](UnmountCall& state) {
        return unmount_fuse(state.mountpoint, state.namespace_fd, state.force);
      },
      [](Napi::Env env, UnmountCall&) { return env.Undefined(); });
}

// unmountNow(mountpoint, namespace): forced, blocking, for a process that is about to exit.
// False if there was nothing to unmount.
Napi::Value unmount_now(const Napi::CallbackInfo& info) {
  const std::string mountpoint = info[0].As<Napi::String>().Utf8Value();
  const int namespace_fd = info[1].As<Napi::Number>().Int32Value();
  const Outcome outcome = unmount_fuse(mountpoint, namespace_fd, true);
  return Napi::Boolean::New(info.Env(), static_cast<bool>(outcome));
}

// resend(descriptor): before start(). A single small write that never blocks.
void resend(const Napi::CallbackInfo& info) {
  const Outcome outcome = request_resend(info[0].As<Napi::Number>().Int32Value());
  if (!outcome) to_error(info.Env(), outcome).ThrowAsJavaScriptException();
}

}  // namespace

void init_fuse_session(Napi::Env env, Napi::Object exports) {
  auto layout = Napi::Object::New(env);
  layout.Set("requestSize", Napi::Number::New(env, sizeof(FuseRequest)));
  layout.Set("payloadSize", Napi::Number::New(env, fuse::payload_max));
  layout.Set("stride", Napi::Number::New(env, FuseSession::stride));
  auto part = Napi::Object::New(env);
  part.Set("layout", layout);
  part.Set("open", Napi::Function::New<open_connection>(env));
  part.Set("unmount", Napi::Function::New<unmount>(env));
  part.Set("unmountNow", Napi::Function::New<unmount_now>(env));
  part.Set("resend", Napi::Function::New<resend>(env));
  part.Set("Session", FuseSessionObject::define(env));
  exports.Set("fuse", part);
}

}  // namespace regrow
