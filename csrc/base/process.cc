#include "base/process.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>

namespace mindckpt {

namespace {

std::atomic<pid_t> known{0};  // 0: to be asked for

void forget() { known.store(0, std::memory_order_relaxed); }

}  // namespace

pid_t process_id() noexcept {
  static const bool is_watched = ::pthread_atfork(nullptr, nullptr, forget) == 0;
  if (!is_watched) return ::getpid();
  pid_t number = known.load(std::memory_order_relaxed);
  if (number == 0) {
    number = ::getpid();
    known.store(number, std::memory_order_relaxed);
  }
  return number;
}

}  // namespace mindckpt
