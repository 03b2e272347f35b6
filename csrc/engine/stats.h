#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace mindckpt {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Nanoseconds spent in one stage, summed over threads.
class StageTime {
 public:
  // Adds its own lifetime.
  class Span {
   public:
    explicit Span(StageTime& stage) : stage_(stage), start_(Clock::now()) {}
    ~Span() {
      const auto spent =
          std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_);
      stage_.nanoseconds_.fetch_add(spent.count(), std::memory_order_relaxed);
    }
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    StageTime& stage_;
    Clock::time_point start_;
  };

  double seconds() const noexcept {
    return static_cast<double>(nanoseconds_.load(std::memory_order_relaxed)) * 1e-9;
  }

 private:
  std::atomic<int64_t> nanoseconds_{0};
};

// What a save did and how long each part took.
struct SaveStats {
  uint64_t nbytes = 0;          // of the file
  uint64_t payload_nbytes = 0;  // of tensor data in it
  uint64_t records = 0;         // parameters and strings
  uint64_t blocks = 0;
  int num_threads = 0;
  bool durable = false;
  double seconds = 0;  // the whole save, wall clock
  double snapshot_seconds = 0;
  double fill_seconds = 0;  // the four stages, summed over threads
  double checksum_seconds = 0;
  double seal_seconds = 0;
  double write_seconds = 0;
  double publish_seconds = 0;
};

}  // namespace mindckpt
