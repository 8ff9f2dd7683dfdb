#include "work_pool.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace regrow {

WorkPool::WorkPool(unsigned thread_count, std::string name)
    : thread_count_(thread_count), name_(std::move(name)) {}

WorkPool::~WorkPool() {
  std::vector<std::thread> threads;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  wake_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void WorkPool::submit(std::function<void()> work) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(work));
    while (threads_.size() < thread_count_) threads_.emplace_back([this] { run(); });
  }
  wake_.notify_one();
}

void WorkPool::run() {
  // Signals belong to the main thread: a handler must not interrupt a system call here.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), name_.c_str());
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace regrow
