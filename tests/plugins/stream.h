#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "simulation.h"

namespace stand_in {

// Counters and settings order nothing: what does is what the simulated driver orders.
inline constexpr auto kRelaxed = std::memory_order_relaxed;

int64_t now();  // nanoseconds, of the steady clock
int64_t nanoseconds(double seconds);

// A place in a stream: reached once, with the simulated time of that.
class Marker {
 public:
  void reach(int64_t time) {
    const std::lock_guard lock(mutex_);
    time_ = time;
    reached_ = true;
    changed_.notify_all();
  }
  int64_t wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
    return time_;
  }
  bool wait_for(int64_t milliseconds) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(milliseconds),
                             [this] { return reached_; });
  }
  bool reached() {
    const std::lock_guard lock(mutex_);
    return reached_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  int64_t time_ = 0;
};

// Does what is put into it on a thread of its own, in that order.
class Stream {
 public:
  enum class Kind { kDefault, kBlocking, kNonBlocking };
  using Work = std::function<void(Stream&)>;

  Stream(int32_t device, Kind kind, Owner owner);
  ~Stream();  // when all that was put into it has ended
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int32_t device() const { return device_; }
  Kind kind() const { return kind_; }
  Owner owner() const { return owner_; }

  // `delayed`: one of the operations that random delays hold up.
  void put(Work work, bool delayed);
  std::shared_ptr<Marker> mark(bool delayed);
  void wait(std::shared_ptr<Marker> marker, bool delayed);
  bool idle();

  void pause();
  void resume();
  bool paused();

  std::atomic<bool> capturing{false};

  // ---- For the work, on the stream's thread: the simulated time.

  int64_t time() const { return time_; }
  void pass_until(int64_t time);

 private:
  struct Item {
    Work work;
    int64_t put_at;
    bool delayed;
  };

  void start();
  void run();
  void delay();

  const int32_t device_;
  const Kind kind_;
  const Owner owner_;
  const uint64_t number_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  std::vector<std::shared_ptr<Marker>> gates_;
  bool busy_ = false;
  bool closing_ = false;
  std::thread thread_;  // from the first work on
  // Of its own thread alone:
  int64_t time_ = 0;
  uint64_t delay_setting_ = 0;
  std::mt19937_64 random_;
};

}  // namespace stand_in
