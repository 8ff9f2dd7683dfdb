// The process that outlives a volume's daemon: keeps its descriptors, and starts the next one.
//
//   daemon ──records──► supervisor     over a socket pair, each 64 bytes, zero-padded text:
//     hold NAME      the descriptor that comes along (SCM_RIGHTS) is kept under this name
//     drop NAME      and let go
//     ready VOLUME   from now on the daemon is started again when it dies
//     finish         it ends on purpose: all is let go, then one record comes back
//
// A daemon that dies before `ready` ends the supervisor with it: nothing is attached yet, and
// whatever it had opened goes. After `ready` it is reaped, which is the fence: its address space
// is gone, and with it every pwrite it had begun. What it sent is read to the end, and the next
// one is started with the descriptors inherited. In its environment:
//
//   REGROW_SUPERVISOR   descriptor of the socket
//   REGROW_HELD         NAME=DESCRIPTOR,…; absent at the first start
//   REGROW_DIED_AT      ms since 1970 when the last daemon that was ready had gone
//   REGROW_DIED_OF      "signal 9", "exit code 1": of the last one, ready or not
//   REGROW_ATTEMPT      1 for the first start after that, and so on
//
// Daemons that die again and again before they are ready are started more and more slowly, and
// each of these deaths is a line in the kernel's log; the supervisor never gives up.
//
// It has no data path, allocates nothing once it runs, is locked in memory, and opens no file that
// could lie on the volume, but for the program it executes. Killing it costs nothing but the next
// take-over: the daemon has descriptors of its own and goes on.
#pragma once

namespace regrow {

// Becomes the supervisor of `arguments` (program first, null at the end). Descriptors 0 to 3 go to
// the first daemon and are closed here. Never returns.
[[noreturn]] void supervise(char** arguments);

}  // namespace regrow
