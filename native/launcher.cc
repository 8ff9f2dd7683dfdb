// regrow-launcher [--supervise] PROGRAM [ARGUMENT]...
//
// Prepares the process a volume's daemon will live in, then becomes that daemon by exec, or with
// --supervise its supervisor (supervisor.h), whose children inherit all of it:
//
//   1. keeps the current mount namespace open and passes its descriptor's number on, in
//      REGROW_HOST_MNT_NS: mounts and device nodes are to appear there
//   2. moves into a copy of it that follows: what the host mounts and unmounts later happens here
//      too, nothing done here happens there. So no path of the daemon's leads to what it must not
//      wait for any more than it has to, and nothing is held that the host has let go of. Where the
//      host's / does not propagate (containers, hosts without systemd) a copy could not follow: it
//      would keep every file system mounted now, other volumes' too, until the daemon ends. There
//      steps 1 and 2 are left out
//   3. declares itself an I/O flusher, so that memory reclaim on the daemon's behalf never waits
//      for the daemon's own device; per thread and inherited, hence before Node starts any.
//      REGROW_IO_FLUSHER=1 or 0 says whether the kernel agreed (it needs CAP_SYS_RESOURCE)
//   4. is the last process the out-of-memory killer takes
//   5. starts a session of its own, and survives the end of the terminal
//   6. may lock memory and open files without the usual limits
//
// Steps 3, 4 and 6 are tolerated to fail: a container may forbid them, and a daemon without them
// still works. The others are not: without them it would misbehave later. No data passes through
// here. Exit codes: 2 wrong usage, 126 a step failed, 127 the program could not be executed; the
// reason is one line on standard error.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "supervisor.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace {

[[noreturn]] void fail(const char* what, int status) {
  fprintf(stderr, "regrow-launcher: %s: %s\n", what, strerror(errno));
  _exit(status);
}

void keep_host_namespace() {
  // Not close-on-exec: the daemon inherits it.
  const int fd = open("/proc/self/ns/mnt", O_RDONLY);
  if (fd < 0) fail("opening the mount namespace", 126);
  char number[16];
  snprintf(number, sizeof number, "%d", fd);
  if (setenv("REGROW_HOST_MNT_NS", number, 1) != 0) fail("setting the environment", 126);
}

// Whether what is mounted beneath / is seen by copies of this namespace: "shared:N" among the
// optional fields of its line (proc_pid_mountinfo(5)).
bool is_root_shared() {
  FILE* table = fopen("/proc/self/mountinfo", "re");
  if (table == nullptr) fail("opening /proc/self/mountinfo", 126);
  char line[4096];
  bool is_shared = false;
  while (fgets(line, sizeof line, table) != nullptr) {
    char* fields = strstr(line, " - ");
    // Mount ID, parent, device, root, place, options; then the optional fields up to " - ".
    char* place = line;
    for (int field = 0; field < 4 && place != nullptr; field++) {
      place = strchr(place, ' ');
      if (place != nullptr) place++;
    }
    if (fields == nullptr || place == nullptr || place[0] != '/' || place[1] != ' ') continue;
    *fields = '\0';
    is_shared = strstr(place, " shared:") != nullptr;
  }
  fclose(table);
  return is_shared;
}

void enter_own_namespace() {
  if (unshare(CLONE_NEWNS) != 0) fail("entering a mount namespace of its own", 126);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
    fail("making the mount namespace a follower", 126);
  }
}

void become_io_flusher() {
  const bool agreed = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0;
  if (setenv("REGROW_IO_FLUSHER", agreed ? "1" : "0", 1) != 0) fail("setting the environment", 126);
}

void avoid_out_of_memory_killer() {
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  const char least[] = "-1000";
  const ssize_t ignored = write(fd, least, sizeof least - 1);
  static_cast<void>(ignored);
  close(fd);
}

void leave_terminal() {
  // The leader of a process group cannot start a session; whoever is one has its own already or
  // is the direct child of a shell, where a fork would change the process id the caller waits for.
  if (setsid() < 0 && getpgrp() != getpid()) fail("starting a session", 126);
  signal(SIGHUP, SIG_IGN);
}

void raise_limit(__rlimit_resource_t resource, rlim_t wanted) {
  rlimit limit{wanted, wanted};
  if (setrlimit(resource, &limit) == 0) return;
  if (getrlimit(resource, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(resource, &limit);
}

}  // namespace

int main(int argument_count, char** arguments) {
  const bool is_supervised = argument_count > 1 && strcmp(arguments[1], "--supervise") == 0;
  char** program = arguments + (is_supervised ? 2 : 1);
  if (program[0] == nullptr) {
    fprintf(stderr, "usage: regrow-launcher [--supervise] PROGRAM [ARGUMENT]...\n");
    return 2;
  }
  if (is_root_shared()) {
    keep_host_namespace();
    enter_own_namespace();
  }
  become_io_flusher();
  avoid_out_of_memory_killer();
  leave_terminal();
  raise_limit(RLIMIT_NOFILE, 65536);
  raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
  if (is_supervised) regrow::supervise(program);
  execvp(program[0], program);
  fail(program[0], 127);
}
