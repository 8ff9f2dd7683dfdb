#include "mount_namespace.h"

#include <sched.h>
#include <signal.h>

#include <thread>

namespace regrow {

Outcome in_mount_namespace(int namespace_fd, const std::function<Outcome()>& work) {
  if (namespace_fd < 0) return work();
  Outcome outcome;
  std::thread visitor([&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    if (unshare(CLONE_FS) != 0) {
      outcome = Outcome::failed("unshare", "separating the file system context of a thread");
    } else if (setns(namespace_fd, CLONE_NEWNS) != 0) {
      outcome = Outcome::failed("setns", "entering the host's mount namespace");
    } else {
      outcome = work();
    }
  });
  visitor.join();
  return outcome;
}

}  // namespace regrow
