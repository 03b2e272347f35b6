#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

namespace mindckpt {

// Threads to use when the caller does not say: the processors this process may run on, at most 8
// (past that one file's writer is the limit, and staging memory grows with each thread).
int default_num_threads();

// Counts, from before its start to its end, one of the threads that end_threads() waits for. A
// forked child has none of them.
class CountedThread {
 public:
  CountedThread() noexcept;
  CountedThread(CountedThread&& other) noexcept : counts_(std::exchange(other.counts_, false)) {}
  CountedThread& operator=(CountedThread&&) = delete;
  ~CountedThread();

 private:
  bool counts_ = true;
};

// A new thread that runs `body`. Nothing where the system gives none, because of a limit of threads
// or too little memory for a stack: then whoever asks does that work itself.
template <typename Body>
std::optional<std::jthread> start_thread(Body body) {
  try {
    return std::jthread([counted = CountedThread(), body = std::move(body)]() mutable { body(); });
  } catch (const std::system_error&) {
    return std::nullopt;
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  }
}

// Cancels all that is under way, and what begins from now on, and returns when no thread that
// start_thread() made is left, or after ten seconds: for the end of a process, where what they use
// goes away and nobody will see what they did.
void end_threads() noexcept;
// Takes that back.
void allow_threads() noexcept;

// Set from any thread to make a save or load stop at its next block.
using CancelFlag = std::atomic<bool>;
// Whether it is set, or end_threads() was called.
bool is_cancelled(const CancelFlag& cancel);
// Throws Error(kCancelled) then. Calls the LookUp of this thread before: it may take a while.
void check_not_cancelled(const CancelFlag& cancel);

// While it lives, the thread that made it looks up from its work ten times a second: it calls
// `look` in check_not_cancelled(). For a caller that does itself what a thread is for elsewhere,
// and must still see signals. The latest one counts, and none within a call of `look`, which must
// not throw: it sets the flag that is checked then.
class LookUp {
 public:
  explicit LookUp(std::function<void()> look);
  ~LookUp();
  LookUp(const LookUp&) = delete;
  LookUp& operator=(const LookUp&) = delete;

 private:
  friend void check_not_cancelled(const CancelFlag& cancel);
  void look_if_due();

  std::function<void()> look_;
  std::chrono::steady_clock::time_point due_;
  LookUp* outer_;
};

// Runs body(item, worker) for every item in [begin, end), items taken from one counter by
// `num_threads` threads, the calling one among them; worker is in [0, num_threads). Returns when
// all are done. The first exception is kept, the rest of the items are dropped, and it is rethrown
// here. Throws Error(kCancelled) once `cancel` is set.
//
// `at_end`, where there is one, is called by each worker when it gets no more items, also after a
// failure: so that it gives back what others may be waiting for.
void for_each_item(uint64_t begin, uint64_t end, int num_threads, const CancelFlag& cancel,
                   const std::function<void(uint64_t item, int worker)>& body,
                   const std::function<void(int worker)>& at_end = {});

}  // namespace mindckpt
