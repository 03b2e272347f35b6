#include "base/workers.h"

#include <sched.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"

namespace mindckpt {

int default_num_threads() {
  cpu_set_t allowed;
  const int cpus = ::sched_getaffinity(0, sizeof(allowed), &allowed) == 0
                       ? CPU_COUNT(&allowed)
                       : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(cpus, 1, 8);
}

void check_not_cancelled(const CancelFlag& cancel) {
  if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorKind::kCancelled, "cancelled");
}

void for_each_item(uint64_t begin, uint64_t end, int num_threads, const CancelFlag& cancel,
                   const std::function<void(uint64_t, int)>& body,
                   const std::function<void(int)>& at_end) {
  if (begin >= end) return;
  std::atomic<uint64_t> next{begin};
  std::atomic<bool> failed{false};
  std::exception_ptr first_error;
  std::mutex error_mutex;

  const auto guarded = [&](const auto& act) {
    try {
      act();
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
      failed.store(true, std::memory_order_relaxed);
    }
  };
  const auto work = [&](int worker) {
    while (!failed.load(std::memory_order_relaxed)) {
      const uint64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= end) break;
      guarded([&] {
        check_not_cancelled(cancel);
        body(item, worker);
      });
    }
    if (at_end) guarded([&] { at_end(worker); });
  };

  const uint64_t useful = std::min<uint64_t>(static_cast<uint64_t>(num_threads), end - begin);
  std::vector<std::jthread> helpers;
  helpers.reserve(useful);
  try {
    for (int worker = 1; worker < static_cast<int>(useful); ++worker) {
      helpers.emplace_back(work, worker);
    }
  } catch (const std::system_error&) {
    // No more threads to be had: the ones that started, and this one, do the work.
  }
  work(0);
  helpers.clear();  // joins
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace mindckpt
