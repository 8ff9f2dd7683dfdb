// What one JavaScript environment (main thread or worker) owns in this addon: the way back into it
// and the threads that block on its behalf. There are no globals, so two environments never meet.
#pragma once

#include <memory>

#include <napi.h>

#include "completions.h"
#include "work_pool.h"

namespace regrow {

struct AddonData {
  explicit AddonData(Napi::Env env)
      : completions(std::make_shared<Completions>(env)),
        store_pool(std::make_shared<WorkPool>(8, "regrow-store")),
        control_pool(std::make_shared<WorkPool>(4, "regrow-control")) {}

  // Posts finished work to the JavaScript thread.
  std::shared_ptr<Completions> completions;
  // pread, pwrite, sync and zeroing of stores and state files.
  std::shared_ptr<WorkPool> store_pool;
  // Calls that may block on our own device: mount, loop ioctls, opens, probes.
  std::shared_ptr<WorkPool> control_pool;
};

// JavaScript thread.
inline AddonData& addon_data(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

// Each adds its functions and classes to exports. JavaScript thread, once per environment.
void init_file_io(Napi::Env env, Napi::Object exports);
void init_shared_memory(Napi::Env env, Napi::Object exports);
void init_checksum(Napi::Env env, Napi::Object exports);
void init_nbd_client(Napi::Env env, Napi::Object exports);
void init_fuse_session(Napi::Env env, Napi::Object exports);
void init_loop_device(Napi::Env env, Napi::Object exports);
void init_host_system(Napi::Env env, Napi::Object exports);

}  // namespace regrow
