// A fixed number of threads that run closures in the order they were submitted.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace regrow {

class WorkPool {
 public:
  // Threads are started by the first submit(). `name`: at most 15 characters, shown by top -H.
  WorkPool(unsigned thread_count, std::string name);
  // Runs what is queued, then joins every thread.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // Any thread.
  void submit(std::function<void()> work);

 private:
  void run();

  const unsigned thread_count_;
  const std::string name_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  std::vector<std::thread> threads_;         // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
};

}  // namespace regrow
