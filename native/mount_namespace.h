// Runs a call in the mount namespace where mounts and device nodes are meant to appear.
//
// A daemon lives in a mount namespace of its own, so that it pins no mount the administrator wants
// gone. What it mounts must nevertheless be seen by everyone, so every path it uses for that is
// resolved by a thread that first enters the namespace of whoever launched the daemon. Entering is
// per thread and needs a file system context that is not shared (CLONE_FS), hence a thread of its
// own for each call; these calls are rare and slow anyway.
#pragma once

#include <functional>

#include "async_call.h"

namespace regrow {

// Control worker, or the JavaScript thread while the environment ends. Runs `work` in the mount
// namespace open at `namespace_fd` and returns its outcome; negative: in the current one, on the
// calling thread. Inside, /proc/thread-self is the namespace's view, /proc/self is not.
Outcome in_mount_namespace(int namespace_fd, const std::function<Outcome()>& work);

}  // namespace regrow
