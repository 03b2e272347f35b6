#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/stats.h"

namespace mindckpt {

// What a save did when, for whoever wants to see it: one entry for each stage of each block. Safe
// from any thread.
class Trace {
 public:
  struct Entry {
    const char* stage;  // "copy", "wait" (for it), "fill", "checksum", "seal", "write"
    int worker;         // which worker did it; -1: a device's copy engine
    uint64_t block;
    double begin_seconds;  // since the trace began
    double end_seconds;
  };

  explicit Trace(Clock::time_point origin) : origin_(origin) {}

  void add(const char* stage, int worker, uint64_t block, Clock::time_point begin,
           Clock::time_point end) {
    const auto seconds = [this](Clock::time_point at) {
      return std::chrono::duration<double>(at - origin_).count();
    };
    const std::lock_guard lock(mutex_);
    entries_.push_back({stage, worker, block, seconds(begin), seconds(end)});
  }

  std::vector<Entry> entries() const {
    const std::lock_guard lock(mutex_);
    return entries_;
  }

 private:
  const Clock::time_point origin_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace mindckpt
