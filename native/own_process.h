// Runs a blocking call in a process of its own, for calls that may wait for our own device.
//
// A daemon that is killed while one of its threads waits in the kernel for an answer that only the
// daemon can give never dies: its descriptors of /dev/fuse are closed with its last thread, and
// that thread waits for them to be closed. Binding a loop device syncs the backing file, so it can
// be such a call, and the loop driver's lock would stay taken for the whole machine. The child made
// here has no descriptor of /dev/fuse: when the daemon dies the connection ends, and the child's
// call with it.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <type_traits>

#include "async_call.h"

namespace regrow {

// What the child says through the pipe, in one write.
template <class Result>
struct ChildReport {
  int error;
  char detail[480];
  Result result;
};

// Control thread. `work`: Outcome(Result&), runs in the child, in the calling thread's mount
// namespace, without any descriptor of this process. The syscall of a failure is named in its
// detail.
template <class Result, class Work>
Outcome in_own_process(const char* name, Result& result, Work work) {
  static_assert(std::is_trivially_copyable_v<Result>);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Outcome::failed("pipe2", name);
  const pid_t child = fork();
  if (child < 0) {
    const Outcome outcome = Outcome::failed("fork", name);
    close(ends[0]);
    close(ends[1]);
    return outcome;
  }
  ChildReport<Result> report{};
  if (child == 0) {
    dup2(ends[1], 3);
    close_range(4, ~0U, 0);
    report.result = result;
    const Outcome outcome = work(report.result);
    report.error = outcome.error;
    outcome.detail.copy(report.detail, sizeof report.detail - 1);
    const bool is_said = write(3, &report, sizeof report) == sizeof report;
    _exit(is_said ? 0 : 1);
  }
  close(ends[1]);
  const ssize_t got = read(ends[0], &report, sizeof report);
  close(ends[0]);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (got != sizeof report) return {ECHILD, name, "its process ended without an answer"};
  result = report.result;
  if (report.error == 0) return Outcome::ok();
  return {report.error, name, std::string(report.detail)};
}

}  // namespace regrow
