// The loop driver as JavaScript sees it: addon.loop = {attach, detach, detachNow, users, list,
// sweepStale}. All but detachNow return promises and run on the control pool.
#include "loop_device.h"

namespace regrow {
namespace {

Napi::Array to_array(Napi::Env env, const std::vector<uint32_t>& numbers) {
  auto array = Napi::Array::New(env);
  for (uint32_t number : numbers) array.Set(array.Length(), Napi::Number::New(env, number));
  return array;
}

struct AttachCall {
  LoopSettings settings;
  LoopState state;
};

// attach({backing, label, namespace, sectorSize, readOnly, scanPartitions})
Napi::Value attach(const Napi::CallbackInfo& info) {
  const auto options = info[0].As<Napi::Object>();
  auto call = std::make_shared<AttachCall>();
  LoopSettings& settings = call->settings;
  settings.backing = options.Get("backing").As<Napi::String>().Utf8Value();
  settings.label = options.Get("label").As<Napi::String>().Utf8Value();
  settings.namespace_fd = options.Get("namespace").As<Napi::Number>().Int32Value();
  settings.sector_size = options.Get("sectorSize").As<Napi::Number>().Uint32Value();
  settings.read_only = options.Get("readOnly").As<Napi::Boolean>().Value();
  settings.scan_partitions = options.Get("scanPartitions").As<Napi::Boolean>().Value();
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](AttachCall& state) { return attach_loop(state.settings, state.state); },
      [](Napi::Env env, AttachCall& state) -> Napi::Value {
        const LoopState& loop = state.state;
        const auto number = [&](uint64_t value) {
          return Napi::Number::New(env, static_cast<double>(value));
        };
        auto result = Napi::Object::New(env);
        result.Set("number", number(loop.number));
        result.Set("sequence", number(loop.sequence));
        result.Set("path", Napi::String::New(env, loop_path(loop.number)));
        result.Set("discardBytesMax", number(loop.discard_bytes_max));
        result.Set("zeroesBytesMax", number(loop.zeroes_bytes_max));
        return result;
      });
}

struct DeviceCall {
  uint32_t number = 0;
  uint64_t sequence = 0;
  int namespace_fd = -1;
  bool force = false;
  LoopUsers users;
};

// detach(number, sequence, namespace, force)
Napi::Value detach(const Napi::CallbackInfo& info) {
  auto call = std::make_shared<DeviceCall>();
  call->number = info[0].As<Napi::Number>().Uint32Value();
  call->sequence = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  call->namespace_fd = info[2].As<Napi::Number>().Int32Value();
  call->force = info[3].As<Napi::Boolean>().Value();
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](DeviceCall& state) {
        return detach_loop(state.number, state.sequence, state.namespace_fd, state.force);
      },
      [](Napi::Env env, DeviceCall&) { return env.Undefined(); });
}

// detachNow(number, sequence, namespace): forced and blocking, for a process that is about to exit
// and whose connection has been aborted, so that nothing waits for JavaScript. False if it failed.
Napi::Value detach_now(const Napi::CallbackInfo& info) {
  const uint32_t number = info[0].As<Napi::Number>().Uint32Value();
  const auto sequence = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  const Outcome outcome =
      detach_loop(number, sequence, info[2].As<Napi::Number>().Int32Value(), true);
  return Napi::Boolean::New(info.Env(), static_cast<bool>(outcome));
}

// users(number, namespace): {hasClaim, processes}
Napi::Value users(const Napi::CallbackInfo& info) {
  auto call = std::make_shared<DeviceCall>();
  call->number = info[0].As<Napi::Number>().Uint32Value();
  call->namespace_fd = info[1].As<Napi::Number>().Int32Value();
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](DeviceCall& state) {
        return find_loop_users(state.number, state.namespace_fd, state.users);
      },
      [](Napi::Env env, DeviceCall& state) -> Napi::Value {
        auto result = Napi::Object::New(env);
        const std::vector<int>& found = state.users.processes;
        result.Set("hasClaim", Napi::Boolean::New(env, state.users.has_claim));
        result.Set("processes", to_array(env, {found.begin(), found.end()}));
        return result;
      });
}

// list(): [{number, backing}]
Napi::Value list(const Napi::CallbackInfo& info) {
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, std::make_shared<std::vector<LoopEntry>>(),
      [](std::vector<LoopEntry>& state) {
        state = list_loops();
        return Outcome::ok();
      },
      [](Napi::Env env, std::vector<LoopEntry>& state) -> Napi::Value {
        auto result = Napi::Array::New(env);
        for (const LoopEntry& loop : state) {
          auto entry = Napi::Object::New(env);
          entry.Set("number", Napi::Number::New(env, loop.number));
          entry.Set("path", Napi::String::New(env, loop_path(loop.number)));
          entry.Set("backing", Napi::String::New(env, loop.backing));
          result.Set(result.Length(), entry);
        }
        return result;
      });
}

struct SweepCall {
  std::string mountpoint;
  int namespace_fd;
  bool remove;
  StaleRemains remains;
};

// sweepStale(mountpoint, namespace, remove): {liveMounts, mounts, loops, loopsInUse}
Napi::Value sweep(const Napi::CallbackInfo& info) {
  auto call = std::make_shared<SweepCall>();
  call->mountpoint = info[0].As<Napi::String>().Utf8Value();
  call->namespace_fd = info[1].As<Napi::Number>().Int32Value();
  call->remove = info[2].As<Napi::Boolean>().Value();
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, call,
      [](SweepCall& state) {
        return sweep_stale(state.mountpoint, state.namespace_fd, state.remove, state.remains);
      },
      [](Napi::Env env, SweepCall& state) -> Napi::Value {
        auto result = Napi::Object::New(env);
        result.Set("liveMounts", Napi::Number::New(env, state.remains.live_mounts));
        result.Set("mounts", Napi::Number::New(env, state.remains.mounts));
        result.Set("loops", to_array(env, state.remains.loops));
        result.Set("loopsInUse", to_array(env, state.remains.loops_in_use));
        return result;
      });
}

}  // namespace

void init_loop_device(Napi::Env env, Napi::Object exports) {
  auto part = Napi::Object::New(env);
  part.Set("attach", Napi::Function::New<attach>(env));
  part.Set("detach", Napi::Function::New<detach>(env));
  part.Set("detachNow", Napi::Function::New<detach_now>(env));
  part.Set("users", Napi::Function::New<users>(env));
  part.Set("list", Napi::Function::New<list>(env));
  part.Set("sweepStale", Napi::Function::New<sweep>(env));
  exports.Set("loop", part);
}

}  // namespace regrow
