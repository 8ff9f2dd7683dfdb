// The addon's entry: one AddonData per environment, then each part adds what it offers.
#include "addon_data.h"

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new regrow::AddonData(env));
  regrow::init_file_io(env, exports);
  regrow::init_shared_memory(env, exports);
  regrow::init_checksum(env, exports);
  regrow::init_nbd_client(env, exports);
  regrow::init_fuse_session(env, exports);
  regrow::init_loop_device(env, exports);
  regrow::init_host_system(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(regrow, init)
