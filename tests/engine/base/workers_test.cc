#include "base/workers.h"

#include <doctest/doctest.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/child.h"
#include "support/errors.h"
#include "support/no_threads.h"

namespace mindckpt {
namespace {

using test::error_of;

constexpr int kMostThreads = 8;

TEST_CASE("every item is handled once with any number of threads") {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    for (const uint64_t count : {1u, 2u, 7u, 1000u}) {
      CAPTURE(threads);
      CAPTURE(count);
      constexpr uint64_t kBegin = 5;
      const CancelFlag cancel{false};
      std::vector<std::atomic<int>> handled(count);
      for_each_item(kBegin, kBegin + count, threads, cancel,
                    [&](uint64_t item, int) { ++handled.at(item - kBegin); });
      for (const auto& times : handled) CHECK(times.load() == 1);
    }
  }
}

TEST_CASE("a worker number is below the number of threads and is one thread's at a time") {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    CAPTURE(threads);
    const CancelFlag cancel{false};
    std::array<std::atomic<bool>, kMostThreads> busy{};
    std::atomic<int> wrong{0};
    for_each_item(0, 200, threads, cancel, [&](uint64_t, int worker) {
      if (worker < 0 || worker >= threads) {
        ++wrong;
        return;
      }
      auto& mine = busy[static_cast<size_t>(worker)];
      if (mine.exchange(true)) ++wrong;
      std::this_thread::yield();
      mine = false;
    });
    CHECK(wrong.load() == 0);
  }
}

TEST_CASE("worker 0 is the calling thread") {
  const CancelFlag cancel{false};
  const auto caller = std::this_thread::get_id();
  std::atomic<int> wrong{0};
  for_each_item(0, 100, 3, cancel, [&](uint64_t, int worker) {
    if ((std::this_thread::get_id() == caller) != (worker == 0)) ++wrong;
  });
  CHECK(wrong.load() == 0);
}

TEST_CASE("an empty range calls nothing") {
  const CancelFlag cancel{false};
  const auto never = [](uint64_t, int) { throw std::logic_error("called"); };
  for_each_item(0, 0, 4, cancel, never);
  for_each_item(7, 7, 1, cancel, never);
  for_each_item(7, 3, 4, cancel, never);
}

TEST_CASE("an exception is rethrown as it was and ends the run at its item") {
  const CancelFlag cancel{false};
  std::vector<uint64_t> handled;
  const auto body = [&](uint64_t item, int) {
    handled.push_back(item);
    if (item == 3) throw std::out_of_range("item 3");
  };
  CHECK_THROWS_WITH_AS(for_each_item(0, 10, 1, cancel, body), "item 3", std::out_of_range);
  CHECK(handled == std::vector<uint64_t>{0, 1, 2, 3});
}

TEST_CASE("an exception of any type is rethrown") {
  const CancelFlag cancel{false};
  CHECK_THROWS_AS(for_each_item(0, 4, 2, cancel, [](uint64_t, int) { throw 42; }), int);
}

// Set when a helper thread has ended, which is after its exception was kept.
std::atomic<bool> helper_ended{false};
struct TellsItsThreadsEnd {
  ~TellsItsThreadsEnd() { helper_ended = true; }
  void touch() {}
};
thread_local TellsItsThreadsEnd end_of_this_thread;

// Worker 1 throws "first" while worker 0 has an item too, which then does `second`.
template <typename Second>
void throw_first_then(uint64_t items, std::atomic<int>& handled, const Second& second) {
  helper_ended = false;
  const CancelFlag cancel{false};
  for_each_item(0, items, 2, cancel, [&](uint64_t, int worker) {
    ++handled;
    if (worker == 1) {
      end_of_this_thread.touch();
      while (handled < 2) std::this_thread::yield();
      throw std::runtime_error("first");
    }
    while (!helper_ended) std::this_thread::yield();
    second();
  });
}

TEST_CASE("of two exceptions the first is rethrown") {
  std::atomic<int> handled{0};
  CHECK_THROWS_WITH(throw_first_then(2, handled, [] { throw std::runtime_error("second"); }),
                    "first");
  CHECK(handled.load() == 2);
}

TEST_CASE("after an exception the other threads take no more items") {
  std::atomic<int> handled{0};
  CHECK_THROWS_WITH(throw_first_then(1000, handled, [] {}), "first");
  CHECK(handled.load() == 2);
}

TEST_CASE("a cancel that was set before lets no item run") {
  const CancelFlag cancel{true};
  for (const int threads : {1, 4}) {
    std::atomic<int> handled{0};
    const Error error = error_of(
        [&] { for_each_item(0, 100, threads, cancel, [&](uint64_t, int) { ++handled; }); });
    CHECK(error.kind() == ErrorKind::kCancelled);
    CHECK(handled.load() == 0);
  }
}

TEST_CASE("a cancel while it runs stops every thread at its next item") {
  for (int threads = 1; threads <= kMostThreads; ++threads) {
    CAPTURE(threads);
    CancelFlag cancel{false};
    std::atomic<int> handled{0};
    const Error error = error_of([&] {
      for_each_item(0, 1'000'000, threads, cancel, [&](uint64_t, int) {
        cancel = true;
        ++handled;
      });
    });
    CHECK(error.kind() == ErrorKind::kCancelled);
    CHECK(handled.load() >= 1);
    CHECK(handled.load() <= threads);
  }
}

TEST_CASE("without threads the calling one does all the work") {
  const CancelFlag cancel{false};
  const auto caller = std::this_thread::get_id();
  const test::NoThreads none;
  CHECK_FALSE(start_thread([] {}).has_value());
  int handled = 0;
  int wrong = 0;
  for_each_item(0, 100, 4, cancel, [&](uint64_t, int worker) {
    ++handled;
    if (std::this_thread::get_id() != caller || worker != 0) ++wrong;
  });
  CHECK(handled == 100);
  CHECK(wrong == 0);
}

TEST_CASE("a thread looks up from its work and only the one that wants to") {
  CancelFlag cancel{false};
  const auto caller = std::this_thread::get_id();
  std::atomic<int> elsewhere{0};
  int looks = 0;
  const LookUp looking([&] {
    if (std::this_thread::get_id() != caller) ++elsewhere;
    check_not_cancelled(cancel);  // does not look again from within
    if (++looks == 2) cancel = true;
  });
  const auto endless = [&] {
    for_each_item(0, ~uint64_t{0}, 2, cancel, [](uint64_t, int) { std::this_thread::yield(); });
  };
  CHECK(error_of(endless).kind() == ErrorKind::kCancelled);
  CHECK(looks == 2);
  CHECK(elsewhere.load() == 0);
}

TEST_CASE("the latest of two that look up counts until it goes") {
  CancelFlag cancel{false};
  const auto work = [&] {
    cancel = false;
    for_each_item(0, ~uint64_t{0}, 1, cancel, [](uint64_t, int) { std::this_thread::yield(); });
  };
  std::string looks;
  const LookUp outer([&] {
    looks += 'o';
    cancel = true;
  });
  {
    const LookUp inner([&] {
      looks += 'i';
      cancel = true;
    });
    CHECK(error_of(work).kind() == ErrorKind::kCancelled);
  }
  CHECK(error_of(work).kind() == ErrorKind::kCancelled);
  CHECK(looks == "io");
}

TEST_CASE("at the end of a process every thread is cancelled and waited for") {
  const CancelFlag never{false};
  std::atomic<int> ended{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) {
    auto thread = start_thread([&] {
      CHECK_THROWS_AS(for_each_item(0, ~uint64_t{0}, 2, never, [](uint64_t, int) {}), Error);
      ++ended;
    });
    REQUIRE(thread.has_value());
    threads.push_back(std::move(*thread));
  }
  end_threads();
  CHECK(ended.load() == 3);
  CHECK(is_cancelled(never));  // what begins after it, too
  allow_threads();
  CHECK_FALSE(is_cancelled(never));
}

TEST_CASE("a forked child waits for none of its parent's threads") {
  std::atomic<bool> stop{false};
  const auto thread = start_thread([&] {
    while (!stop) std::this_thread::yield();
  });
  CHECK(test::succeeds_in_child([] {
    end_threads();
    return true;
  }));
  stop = true;
}

TEST_CASE("the default number of threads follows the processors this thread may run on") {
  CHECK(default_num_threads() >= 1);
  CHECK(default_num_threads() <= 8);
  int on_one = 0;
  std::thread([&on_one] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
    if (sched_setaffinity(0, sizeof(one), &one) == 0) on_one = default_num_threads();
  }).join();
  CHECK(on_one == 1);
}

}  // namespace
}  // namespace mindckpt
