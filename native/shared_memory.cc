// Memory that outlives the JavaScript heap: a memfd and views of its parts. What lies where in it
// is decided in src/native/memory.ts; here is only what needs a system call.
//
//   createMemfd(name) -> fd                  growMemfd(fd, size)         memfdSize(fd) -> number
//   mapMemfd(fd, offset, length) -> ArrayBuffer                          unmapMemfd(ArrayBuffer)
//   punchMemfd(fd, offset, length)           closeMemfd(fd)
//
// All run on the JavaScript thread and none waits for a disk. A view has no finalizer: it stays
// mapped until unmapMemfd(), or for the life of the process, because a store thread may be reading
// from it while the JavaScript environment ends. unmapMemfd() detaches the view first, so that what
// still holds it sees an empty array instead of a hole in the address space.
//
// The memfd cannot shrink (F_SEAL_SHRINK): no process that holds it can make another one's access
// to a mapped page fail.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "addon_data.h"
#include "async_call.h"
#include "unique_fd.h"

namespace regrow {
namespace {

constexpr double kMaxMapping = 1024.0 * 1024 * 1024;

Napi::Value fail(Napi::Env env, const char* syscall, std::string detail) {
  to_error(env, Outcome::failed(syscall, std::move(detail))).ThrowAsJavaScriptException();
  return env.Undefined();
}

Napi::Value create_memfd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string name = info[0].ToString().Utf8Value();
  UniqueFd fd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail(env, "memfd_create", name);
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return fail(env, "fcntl", name);
  }
  return Napi::Number::New(env, fd.release());
}

Napi::Value grow_memfd(const Napi::CallbackInfo& info) {
  const int fd = info[0].ToNumber().Int32Value();
  const double size = info[1].ToNumber().DoubleValue();
  if (ftruncate(fd, static_cast<off_t>(size)) != 0) {
    return fail(info.Env(), "ftruncate", "growing the shared memory");
  }
  return info.Env().Undefined();
}

Napi::Value memfd_size(const Napi::CallbackInfo& info) {
  struct stat status;
  if (fstat(info[0].ToNumber().Int32Value(), &status) != 0) {
    return fail(info.Env(), "fstat", "the shared memory");
  }
  return Napi::Number::New(info.Env(), static_cast<double>(status.st_size));
}

Napi::Value map_memfd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int fd = info[0].ToNumber().Int32Value();
  const double offset = info[1].ToNumber().DoubleValue();
  const double length = info[2].ToNumber().DoubleValue();
  if (!(length > 0 && length <= kMaxMapping)) {
    errno = EINVAL;
    return fail(env, "mmap", "a section holds 1 byte to 1 GiB");
  }
  const auto bytes = static_cast<size_t>(length);
  void* address =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) return fail(env, "mmap", "a section of the shared memory");
  // A forked child (a probe, a mount helper) has no business in here.
  madvise(address, bytes, MADV_DONTFORK);
  return Napi::ArrayBuffer::New(env, address, bytes);
}

Napi::Value unmap_memfd(const Napi::CallbackInfo& info) {
  auto buffer = info[0].As<Napi::ArrayBuffer>();
  void* address = buffer.Data();
  const size_t length = buffer.ByteLength();
  if (length == 0) return info.Env().Undefined();
  buffer.Detach();
  munmap(address, length);
  return info.Env().Undefined();
}

Napi::Value punch_memfd(const Napi::CallbackInfo& info) {
  const int fd = info[0].ToNumber().Int32Value();
  const auto offset = static_cast<off_t>(info[1].ToNumber().DoubleValue());
  const auto length = static_cast<off_t>(info[2].ToNumber().DoubleValue());
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0) {
    return fail(info.Env(), "fallocate", "releasing shared memory");
  }
  return info.Env().Undefined();
}

Napi::Value close_memfd(const Napi::CallbackInfo& info) {
  UniqueFd(info[0].ToNumber().Int32Value()).reset();
  return info.Env().Undefined();
}

}  // namespace

void init_shared_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("createMemfd", Napi::Function::New(env, create_memfd));
  exports.Set("growMemfd", Napi::Function::New(env, grow_memfd));
  exports.Set("memfdSize", Napi::Function::New(env, memfd_size));
  exports.Set("mapMemfd", Napi::Function::New(env, map_memfd));
  exports.Set("unmapMemfd", Napi::Function::New(env, unmap_memfd));
  exports.Set("punchMemfd", Napi::Function::New(env, punch_memfd));
  exports.Set("closeMemfd", Napi::Function::New(env, close_memfd));
}

}  // namespace regrow
