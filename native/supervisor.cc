#include "supervisor.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace regrow {
namespace {

constexpr size_t record_size = 64;
constexpr int held_max = 64;
constexpr int environment_max = 1024;
// Starts without a pause after the first daemon that did not become ready; then it doubles.
constexpr int quick_attempts = 8;
constexpr int pause_ms_max = 2000;
// Who is killed from outside has done nothing wrong.
constexpr int pause_ms_max_killed = 50;

struct Held {
  char name[record_size];
  int fd;
};

struct Supervisor {
  char** arguments;
  Held held[held_max];
  int held_count = 0;
  char volume[record_size] = "";
  bool is_ready = false;     // the daemon that runs now
  bool was_ready = false;    // any so far
  bool has_finished = false;
  long long died_at_ms = 0;
  int attempt = 0;
  char died_of[32] = "";
  int log = -1;              // /dev/kmsg, where there is one
  // Texts that the environment points to.
  char held_text[held_max * 48];
  char socket_text[48];
  char died_at_text[48];
  char died_of_text[64];
  char attempt_text[48];
  char* environment[environment_max + 6];
};

Supervisor self;

long long now_ms() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

void sleep_ms(int ms) {
  timespec rest{ms / 1000, (ms % 1000) * 1000000l};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
  }
}

void say(const char* what) {
  if (self.log < 0) return;
  char line[256];
  const int length = snprintf(line, sizeof line, "regrow %s: the daemon died (%s), %s\n",
                              self.volume, self.died_of, what);
  // Not blocking; a kernel that takes no line has other worries.
  const ssize_t ignored = write(self.log, line, static_cast<size_t>(length));
  static_cast<void>(ignored);
}

Held* find(const char* name) {
  for (int i = 0; i < self.held_count; i++) {
    if (strcmp(self.held[i].name, name) == 0) return &self.held[i];
  }
  return nullptr;
}

void hold(const char* name, int fd) {
  if (Held* known = find(name)) {
    close(known->fd);
    known->fd = fd;
  } else if (self.held_count < held_max) {
    Held& fresh = self.held[self.held_count++];
    snprintf(fresh.name, sizeof fresh.name, "%s", name);
    fresh.fd = fd;
  } else {
    close(fd);
  }
}

void drop(const char* name) {
  Held* known = find(name);
  if (known == nullptr) return;
  close(known->fd);
  *known = self.held[--self.held_count];
}

void finish(int socket) {
  self.has_finished = true;
  while (self.held_count > 0) close(self.held[--self.held_count].fd);
  char record[record_size] = "finished";
  send(socket, record, sizeof record, MSG_NOSIGNAL);
}

// A record's descriptor, or -1.
int descriptor_of(msghdr& message) {
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (part == nullptr || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(part), sizeof fd);
  return fd;
}

// Takes one record; false where there is none left.
bool take_record(int socket) {
  char record[record_size + 1] = "";
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{record, record_size};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  const int fd = descriptor_of(message);
  if (got == static_cast<ssize_t>(record_size)) {
    if (strncmp(record, "hold ", 5) == 0 && fd >= 0) {
      hold(record + 5, fd);
      return true;
    }
    if (strncmp(record, "drop ", 5) == 0) drop(record + 5);
    if (strncmp(record, "ready ", 6) == 0) {
      snprintf(self.volume, sizeof self.volume, "%s", record + 6);
      self.is_ready = self.was_ready = true;
      self.attempt = 0;
    }
    if (strcmp(record, "finish") == 0) finish(socket);
  }
  if (fd >= 0) close(fd);
  return true;
}

// What the next daemon is told. Texts are made here, before fork.
void describe(int daemon_socket) {
  size_t length = 0;
  const auto add = [&length](const char* name, int fd) {
    length += static_cast<size_t>(snprintf(self.held_text + length,
                                           sizeof self.held_text - length, "%s%s=%d",
                                           length > 12 ? "," : "", name, fd));
  };
  length = static_cast<size_t>(snprintf(self.held_text, sizeof self.held_text, "REGROW_HELD="));
  for (int i = 0; i < self.held_count; i++) add(self.held[i].name, self.held[i].fd);
  snprintf(self.socket_text, sizeof self.socket_text, "REGROW_SUPERVISOR=%d", daemon_socket);
  snprintf(self.died_at_text, sizeof self.died_at_text, "REGROW_DIED_AT=%lld", self.died_at_ms);
  snprintf(self.died_of_text, sizeof self.died_of_text, "REGROW_DIED_OF=%s", self.died_of);
  snprintf(self.attempt_text, sizeof self.attempt_text, "REGROW_ATTEMPT=%d", self.attempt);
  int count = 0;
  while (self.environment[count] != nullptr && count < environment_max) count++;
  // The first start has only the socket; the others follow it in the same places.
  for (int i = 0; i < count; i++) {
    if (strncmp(self.environment[i], "REGROW_SUPERVISOR=", 18) == 0) count = i;
  }
  self.environment[count++] = self.socket_text;
  if (self.was_ready) {
    self.environment[count++] = self.held_text;
    self.environment[count++] = self.died_at_text;
    self.environment[count++] = self.died_of_text;
    self.environment[count++] = self.attempt_text;
  }
  self.environment[count] = nullptr;
}

[[noreturn]] void become_daemon(int daemon_socket) {
  for (int i = 0; i < self.held_count; i++) fcntl(self.held[i].fd, F_SETFD, 0);
  fcntl(daemon_socket, F_SETFD, 0);
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  // A kill of the daemon's process group must not take the supervisor along.
  setsid();
  environ = self.environment;
  execvp(self.arguments[0], self.arguments);
  fprintf(stderr, "regrow-launcher: %s: %s\n", self.arguments[0], strerror(errno));
  _exit(127);
}

// Starts a daemon; its end of the socket pair is closed here. -1 where no process can be made.
pid_t start(int& socket) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  describe(ends[1]);
  const pid_t child = fork();
  if (child == 0) become_daemon(ends[1]);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return -1;
  }
  socket = ends[0];
  return child;
}

// Serves the daemon until it is dead and reaped; its wait status.
int accompany(pid_t child, int socket) {
  const int process = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  bool is_open = true;
  for (;;) {
    pollfd watched[2] = {{process, POLLIN, 0}, {is_open ? socket : -1, POLLIN, 0}};
    if (process < 0) watched[0].fd = -1;
    // Without a descriptor of the process its death is seen by the end of its socket.
    if (process < 0 && !is_open) break;
    if (poll(watched, 2, -1) < 0) continue;
    if (watched[1].revents != 0) is_open = take_record(socket);
    if (watched[0].revents != 0) break;
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  while (is_open && take_record(socket)) {
  }
  if (process >= 0) close(process);
  close(socket);
  return status;
}

void note_death(int status) {
  if (self.is_ready) self.died_at_ms = now_ms();
  if (WIFSIGNALED(status)) {
    snprintf(self.died_of, sizeof self.died_of, "signal %d", WTERMSIG(status));
  } else {
    snprintf(self.died_of, sizeof self.died_of, "exit code %d", WEXITSTATUS(status));
  }
  self.attempt++;
  if (self.attempt == 1) say("the next one is started");
  self.is_ready = false;
}

void pause_before_next(bool was_killed) {
  if (self.attempt <= quick_attempts) return;
  const int most = was_killed ? pause_ms_max_killed : pause_ms_max;
  const int doublings = self.attempt - quick_attempts;
  const int pause = doublings > 10 ? most : 5 << doublings;
  say("again before it was ready; the next one is started after a pause");
  sleep_ms(pause < most ? pause : most);
}

// After the first start: nothing of the caller's stays open here, and no folder in use.
void settle() {
  close(3);
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++) {
    if (nothing >= 0) dup2(nothing, fd);
  }
  if (nothing > 2) close(nothing);
  const int ignored = chdir("/");
  static_cast<void>(ignored);
  mlockall(MCL_CURRENT | MCL_FUTURE);
}

}  // namespace

void supervise(char** arguments) {
  self.arguments = arguments;
  int count = 0;
  for (char** each = environ; *each != nullptr && count < environment_max; each++) {
    const bool is_ours = strncmp(*each, "REGROW_HELD=", 12) == 0 ||
                         strncmp(*each, "REGROW_SUPERVISOR=", 18) == 0;
    if (!is_ours) self.environment[count++] = *each;
  }
  // A stop is meant for the daemon, which finishes in its own time.
  for (int each : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) signal(each, SIG_IGN);
  prctl(PR_SET_NAME, "regrow-superv");
  self.log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
  for (bool is_first = true;; is_first = false) {
    int socket = -1;
    const pid_t child = start(socket);
    if (is_first) settle();
    if (child < 0) {
      if (is_first) _exit(126);
      sleep_ms(pause_ms_max_killed);
      continue;
    }
    const int status = accompany(child, socket);
    if (self.has_finished || !self.was_ready) {
      _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    note_death(status);
    pause_before_next(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
}

}  // namespace regrow
