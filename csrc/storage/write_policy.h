#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>

namespace mindckpt {

// How bytes get into a file.
enum class WriteWay {
  kBuffered,  // through the page cache, one thread at a time
  kDirect,    // past it (O_DIRECT), from page-aligned memory, many threads at once
};
std::string_view write_way_name(WriteWay way);

// What is asked for: one way, or whichever is faster.
enum class WriteMode { kAuto, kBuffered, kDirect };

// What MINDCKPT_WRITE says ("auto", "buffered" or "direct"); kAuto when it is not set. Throws
// Error(kInvalidArgument) for another value.
WriteMode write_mode_from_environment();

// Picks the way of the next bytes from how fast the last ones went. Pure: it is told the times.
//
// Buffered writes start. Where they are slow (a page cache short of memory, as on a virtual machine
// that gave its free memory back to the host, is up to six times slower than storage), one window
// is written directly, and the clearly faster way goes on. Once in a while everything is forgotten,
// because memory comes and goes. Safe from any thread.
class WritePolicy {
 public:
  enum class Start {
    kBuffered,  // and nothing else
    kDirect,    // and nothing else
    kMeasured,
  };
  explicit WritePolicy(Start start) : start_(start) {}

  Start start() const noexcept { return start_; }
  WriteWay next() const;

  // `nbytes` went this way in one call that took `seconds` and ended at `now`, seconds of any clock
  // that is the same for all calls.
  //
  // Whether the page cache is slow is told by the calls' own time, as only one runs at once. The
  // two ways are compared by the time that passed: direct writers that encrypt in between do not
  // write all at once, and what a call takes says little about what it costs.
  void report(WriteWay way, uint64_t nbytes, double seconds, double now);

  // Fewer bytes say nothing about a way's speed.
  static constexpr uint64_t kWindowBytes = uint64_t{64} << 20;
  // A page cache that has memory is faster than this everywhere.
  static constexpr double kFastBytesPerSecond = 2e9;
  // The other way has to be so many times faster to be taken.
  static constexpr double kClearly = 1.5;
  static constexpr uint64_t kForgetBytes = uint64_t{2} << 30;

 private:
  enum class Phase { kTryBuffered, kTryDirect, kSettled };
  struct Window {
    uint64_t nbytes = 0;
    double seconds = 0;  // in its calls
    double begin = -1;   // by the clock; negative: it has not begun
  };

  void begin(Phase phase, WriteWay way, double now);

  const Start start_;
  mutable std::mutex mutex_;
  Phase phase_ = Phase::kTryBuffered;
  WriteWay way_ = WriteWay::kBuffered;  // of the phase
  Window window_;                       // of the phase, and of its way
  double buffered_rate_ = 0;            // bytes a second of the clock in the last buffered window
};

}  // namespace mindckpt
