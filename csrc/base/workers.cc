#include "base/workers.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <vector>

#include "base/error.h"

namespace mindckpt {

namespace {

constexpr std::chrono::milliseconds kLookInterval{100};

thread_local LookUp* look_up = nullptr;

std::atomic<int> threads{0};
std::atomic<bool> ending{false};

const bool forgets_at_fork = ::pthread_atfork(nullptr, nullptr, [] { threads.store(0); }) == 0;

}  // namespace

CountedThread::CountedThread() noexcept { threads.fetch_add(1); }

CountedThread::~CountedThread() {
  if (counts_) threads.fetch_sub(1);
}

void allow_threads() noexcept { ending.store(false); }

void end_threads() noexcept {
  using Clock = std::chrono::steady_clock;
  ending.store(true);
  // One that hangs in a call of the system, a network's or a device's, is not waited for longer.
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  while (forgets_at_fork && threads.load() > 0 && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

int default_num_threads() {
  cpu_set_t allowed;
  const int cpus = ::sched_getaffinity(0, sizeof(allowed), &allowed) == 0
                       ? CPU_COUNT(&allowed)
                       : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(cpus, 1, 8);
}

LookUp::LookUp(std::function<void()> look)
    : look_(std::move(look)),
      due_(std::chrono::steady_clock::now() + kLookInterval),
      outer_(std::exchange(look_up, this)) {}

LookUp::~LookUp() { look_up = outer_; }

void LookUp::look_if_due() {
  if (std::chrono::steady_clock::now() < due_) return;
  look_up = nullptr;
  look_();
  look_up = this;
  due_ = std::chrono::steady_clock::now() + kLookInterval;
}

bool is_cancelled(const CancelFlag& cancel) {
  return cancel.load(std::memory_order_relaxed) || ending.load(std::memory_order_relaxed);
}

void check_not_cancelled(const CancelFlag& cancel) {
  if (look_up != nullptr) look_up->look_if_due();
  if (is_cancelled(cancel)) throw Error(ErrorKind::kCancelled, "cancelled");
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
  for (int worker = 1; worker < static_cast<int>(useful); ++worker) {
    std::optional<std::jthread> helper = start_thread([&work, worker] { work(worker); });
    if (!helper) break;  // the ones that started, and this one, do the work
    helpers.push_back(std::move(*helper));
  }
  work(0);
  helpers.clear();  // joins
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace mindckpt
