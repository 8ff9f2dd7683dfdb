// Calls of the host that Node.js has no word for: addon.host = {makeDirectory, removeDirectory,
// removeDirectoryNow, openFile, closeDescriptor, lockFile, freeSpace, peerCredentials, ioFlusher}.
//
// What takes a path and a namespace acts where mounts are meant to appear (mount_namespace.h). All
// that touches a file system runs on the control pool and returns a promise; the rest is a few
// microseconds and answers at once.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cstring>
#include <string>

#include "async_call.h"
#include "mount_namespace.h"
#include "unique_fd.h"

// Linux 5.6. Memory reclaim started by such a thread never waits for I/O that the thread itself
// may have to serve. Per thread, inherited by threads and over exec.
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

namespace regrow {
namespace {

struct PathCall {
  std::string path;
  int namespace_fd = -1;
  int flags = 0;
  bool changed = false;
  UniqueFd fd;
  struct statvfs space {};
};

std::shared_ptr<PathCall> path_call(const Napi::CallbackInfo& info) {
  auto call = std::make_shared<PathCall>();
  call->path = info[0].As<Napi::String>().Utf8Value();
  if (info[1].IsNumber()) call->namespace_fd = info[1].As<Napi::Number>().Int32Value();
  return call;
}

template <class Work, class Finish>
Napi::Value run(const Napi::CallbackInfo& info, std::shared_ptr<PathCall> call, Work work,
                Finish finish) {
  return async_call(
      info.Env(), *addon_data(info.Env()).control_pool, std::move(call),
      [work](PathCall& state) {
        return in_mount_namespace(state.namespace_fd, [&] { return work(state); });
      },
      finish);
}

// makeDirectory(path, namespace): true if it was made, false if it was there. Mode 0700; the
// parent must exist.
Napi::Value make_directory(const Napi::CallbackInfo& info) {
  return run(
      info, path_call(info),
      [](PathCall& state) -> Outcome {
        state.changed = mkdir(state.path.c_str(), 0700) == 0;
        if (state.changed) return Outcome::ok();
        if (errno != EEXIST) return Outcome::failed("mkdir", state.path);
        // lstat of a mountpoint whose server died fails; that it is there is all we need to know.
        struct stat found {};
        if (lstat(state.path.c_str(), &found) == 0 && !S_ISDIR(found.st_mode)) {
          return {ENOTDIR, "mkdir", state.path};
        }
        return Outcome::ok();
      },
      [](Napi::Env env, PathCall& state) { return Napi::Boolean::New(env, state.changed); });
}

// removeDirectory(path, namespace): true if it was removed, false if it was not there.
Napi::Value remove_directory(const Napi::CallbackInfo& info) {
  return run(
      info, path_call(info),
      [](PathCall& state) -> Outcome {
        state.changed = rmdir(state.path.c_str()) == 0;
        if (state.changed || errno == ENOENT) return Outcome::ok();
        return Outcome::failed("rmdir", state.path);
      },
      [](Napi::Env env, PathCall& state) { return Napi::Boolean::New(env, state.changed); });
}

// removeDirectoryNow(path, namespace): blocking, for a process that is about to exit.
Napi::Value remove_directory_now(const Napi::CallbackInfo& info) {
  const std::shared_ptr<PathCall> call = path_call(info);
  const Outcome outcome = in_mount_namespace(call->namespace_fd, [&] {
    return rmdir(call->path.c_str()) == 0 ? Outcome::ok() : Outcome::failed("rmdir", call->path);
  });
  return Napi::Boolean::New(info.Env(), static_cast<bool>(outcome));
}

// openFile(path, namespace, flags): a descriptor that the caller owns. Close on exec is added.
Napi::Value open_file(const Napi::CallbackInfo& info) {
  auto call = path_call(info);
  call->flags = info[2].As<Napi::Number>().Int32Value();
  return run(
      info, std::move(call),
      [](PathCall& state) {
        state.fd.reset(open(state.path.c_str(), state.flags | O_CLOEXEC, 0600));
        return state.fd ? Outcome::ok() : Outcome::failed("open", state.path);
      },
      [](Napi::Env env, PathCall& state) { return Napi::Number::New(env, state.fd.release()); });
}

// lockFile(path, namespace): a descriptor that holds an exclusive flock until it is closed, which
// the kernel does if the process dies. EWOULDBLOCK if someone else holds it. `path` may be a
// directory.
Napi::Value lock_file(const Napi::CallbackInfo& info) {
  return run(
      info, path_call(info),
      [](PathCall& state) {
        state.fd.reset(open(state.path.c_str(), O_RDONLY | O_CLOEXEC));
        if (!state.fd) return Outcome::failed("open", state.path);
        const bool is_locked = flock(state.fd.get(), LOCK_EX | LOCK_NB) == 0;
        return is_locked ? Outcome::ok() : Outcome::failed("flock", state.path);
      },
      [](Napi::Env env, PathCall& state) { return Napi::Number::New(env, state.fd.release()); });
}

// freeSpace(path, namespace): {total, free, available, blockSize} in bytes; available is what is
// left to processes without privileges.
Napi::Value free_space(const Napi::CallbackInfo& info) {
  return run(
      info, path_call(info),
      [](PathCall& state) {
        const bool is_known = statvfs(state.path.c_str(), &state.space) == 0;
        return is_known ? Outcome::ok() : Outcome::failed("statvfs", state.path);
      },
      [](Napi::Env env, PathCall& state) -> Napi::Value {
        const auto unit = static_cast<double>(state.space.f_frsize);
        auto result = Napi::Object::New(env);
        const auto put = [&](const char* name, double value) {
          result.Set(name, Napi::Number::New(env, value));
        };
        put("total", static_cast<double>(state.space.f_blocks) * unit);
        put("free", static_cast<double>(state.space.f_bfree) * unit);
        put("available", static_cast<double>(state.space.f_bavail) * unit);
        put("blockSize", static_cast<double>(state.space.f_bsize));
        return result;
      });
}

// closeDescriptor(fd). For plain files and sockets only: closing a device may wait for it.
void close_descriptor(const Napi::CallbackInfo& info) {
  UniqueFd closes_itself(info[0].As<Napi::Number>().Int32Value());
}

// peerCredentials(fd): {pid, uid, gid} of whoever connected the UNIX socket.
Napi::Value peer_credentials(const Napi::CallbackInfo& info) {
  ucred peer{};
  socklen_t size = sizeof peer;
  const int fd = info[0].As<Napi::Number>().Int32Value();
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    to_error(info.Env(), Outcome::failed("getsockopt")).ThrowAsJavaScriptException();
    return info.Env().Undefined();
  }
  auto result = Napi::Object::New(info.Env());
  result.Set("pid", Napi::Number::New(info.Env(), peer.pid));
  result.Set("uid", Napi::Number::New(info.Env(), peer.uid));
  result.Set("gid", Napi::Number::New(info.Env(), peer.gid));
  return result;
}

// ioFlusher(): whether this thread is one. ioFlusher(true|false): makes it one or not; threads
// started later inherit it. EPERM without CAP_SYS_RESOURCE.
Napi::Value io_flusher(const Napi::CallbackInfo& info) {
  if (info[0].IsBoolean()) {
    const unsigned long wanted = info[0].As<Napi::Boolean>().Value() ? 1 : 0;
    if (prctl(PR_SET_IO_FLUSHER, wanted, 0, 0, 0) != 0) {
      to_error(info.Env(), Outcome::failed("prctl", "PR_SET_IO_FLUSHER"))
          .ThrowAsJavaScriptException();
      return info.Env().Undefined();
    }
  }
  const int is_set = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
  return Napi::Boolean::New(info.Env(), is_set == 1);
}

// sendRecord(socket, text, descriptor): 64 bytes, and the descriptor with them unless it is -1.
void send_record(const Napi::CallbackInfo& info) {
  char record[64] = "";
  const std::string text = info[1].As<Napi::String>().Utf8Value();
  text.copy(record, sizeof record - 1);
  const int passed = info[2].As<Napi::Number>().Int32Value();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  iovec part{record, sizeof record};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (passed >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
  }
  const ssize_t sent = sendmsg(info[0].As<Napi::Number>().Int32Value(), &message, MSG_NOSIGNAL);
  if (sent == sizeof record) return;
  to_error(info.Env(), Outcome::failed("sendmsg", text)).ThrowAsJavaScriptException();
}

// closeOnExec(descriptor): no child of this process inherits it.
void close_on_exec(const Napi::CallbackInfo& info) {
  if (fcntl(info[0].As<Napi::Number>().Int32Value(), F_SETFD, FD_CLOEXEC) == 0) return;
  to_error(info.Env(), Outcome::failed("fcntl", "closing on exec")).ThrowAsJavaScriptException();
}

}  // namespace

void init_host_system(Napi::Env env, Napi::Object exports) {
  auto part = Napi::Object::New(env);
  part.Set("makeDirectory", Napi::Function::New<make_directory>(env));
  part.Set("removeDirectory", Napi::Function::New<remove_directory>(env));
  part.Set("removeDirectoryNow", Napi::Function::New<remove_directory_now>(env));
  part.Set("openFile", Napi::Function::New<open_file>(env));
  part.Set("lockFile", Napi::Function::New<lock_file>(env));
  part.Set("freeSpace", Napi::Function::New<free_space>(env));
  part.Set("closeDescriptor", Napi::Function::New<close_descriptor>(env));
  part.Set("peerCredentials", Napi::Function::New<peer_credentials>(env));
  part.Set("sendRecord", Napi::Function::New<send_record>(env));
  part.Set("closeOnExec", Napi::Function::New<close_on_exec>(env));
  part.Set("ioFlusher", Napi::Function::New<io_flusher>(env));
  exports.Set("host", part);
}

}  // namespace regrow
