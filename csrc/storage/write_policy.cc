#include "storage/write_policy.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

namespace mindckpt {

std::string_view write_way_name(WriteWay way) {
  return way == WriteWay::kDirect ? "direct" : "buffered";
}

WriteMode write_mode_from_environment() {
  const char* const value = std::getenv("MINDCKPT_WRITE");
  if (value == nullptr) return WriteMode::kAuto;
  const std::string_view name = value;
  if (name.empty() || name == "auto") return WriteMode::kAuto;
  if (name == "buffered") return WriteMode::kBuffered;
  if (name == "direct") return WriteMode::kDirect;
  throw Error(
      ErrorKind::kInvalidArgument,
      "MINDCKPT_WRITE must be 'auto', 'buffered' or 'direct', got '" + std::string(name) + "'");
}

WriteWay WritePolicy::next() const {
  if (start_ == Start::kBuffered) return WriteWay::kBuffered;
  if (start_ == Start::kDirect) return WriteWay::kDirect;
  const std::lock_guard lock(mutex_);
  return way_;
}

void WritePolicy::report(WriteWay way, uint64_t nbytes, double seconds, double now) {
  if (start_ != Start::kMeasured) return;
  const std::lock_guard lock(mutex_);
  if (way != way_) return;  // begun before the last change of way
  if (window_.begin < 0) window_.begin = now - seconds;
  window_.nbytes += nbytes;
  window_.seconds += seconds;
  if (window_.nbytes < (phase_ == Phase::kSettled ? kForgetBytes : kWindowBytes)) return;
  const double rate = static_cast<double>(window_.nbytes) / (now - window_.begin);
  switch (phase_) {
    case Phase::kTryBuffered:
      buffered_rate_ = rate;
      if (static_cast<double>(window_.nbytes) / window_.seconds < kFastBytesPerSecond) {
        begin(Phase::kTryDirect, WriteWay::kDirect, now);
      } else {
        begin(Phase::kTryBuffered, WriteWay::kBuffered, now);
      }
      break;
    case Phase::kTryDirect:
      begin(Phase::kSettled,
            rate > kClearly * buffered_rate_ ? WriteWay::kDirect : WriteWay::kBuffered, now);
      break;
    case Phase::kSettled:
      begin(Phase::kTryBuffered, WriteWay::kBuffered, now);
      break;
  }
}

void WritePolicy::begin(Phase phase, WriteWay way, double now) {
  phase_ = phase;
  way_ = way;
  window_ = {};
  window_.begin = now;
}

}  // namespace mindckpt
