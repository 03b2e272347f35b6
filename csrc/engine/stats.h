#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace mindckpt {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Nanoseconds spent in one stage, summed over threads.
class StageTime {
 public:
  void add(Clock::duration spent) noexcept {
    const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(spent);
    nanoseconds_.fetch_add(nanoseconds.count(), std::memory_order_relaxed);
  }
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
  std::string write_way;        // how most bytes got into the file: "buffered", "direct"
  bool reused = false;          // a retired file's blocks were written over
  std::string reuse_reason;     // why not, where there was one
  std::string refused;          // what the file system refused and the save did without
  double seconds = 0;           // the whole save, wall clock, without waiting for one before it
  double snapshot_seconds = 0;  // of these, pinning memory for it and beginning its copies
  std::string snapshot;         // how the payloads were kept: "none", "host", "device", "lazy"
  std::string snapshot_reason;  // why this one, where it was picked
  double staged_seconds = 0;    // from the call to each state of the save
  double written_seconds = 0;
  double durable_seconds = 0;  // 0: not durable
  double copy_seconds =
      0;  // waiting for copies from devices; the five stages are summed over threads
  double fill_seconds = 0;
  double checksum_seconds = 0;
  double seal_seconds = 0;
  double write_seconds = 0;
  double publish_seconds = 0;
};

}  // namespace mindckpt
