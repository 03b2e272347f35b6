#include "storage/write_policy.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include "support/errors.h"

namespace mindckpt {
namespace {

using Start = WritePolicy::Start;

constexpr double kSlow = WritePolicy::kFastBytesPerSecond / 4;
constexpr double kFast = WritePolicy::kFastBytesPerSecond * 2;

double clock_seconds = 0;

// Tells of `nbytes` that went the policy's way at these speeds, 4 MiB at a time, `pause` seconds
// being spent on each with something else.
void go(WritePolicy& policy, uint64_t nbytes, double buffered, double direct, double pause = 0) {
  constexpr uint64_t kBlock = uint64_t{4} << 20;
  for (uint64_t done = 0; done < nbytes; done += kBlock) {
    const WriteWay way = policy.next();
    const double rate = way == WriteWay::kDirect ? direct : buffered;
    const double seconds = static_cast<double>(kBlock) / rate;
    clock_seconds += seconds + pause;
    policy.report(way, kBlock, seconds, clock_seconds);
  }
}

TEST_CASE("a way that was chosen is kept whatever its speed") {
  WritePolicy buffered(Start::kBuffered);
  go(buffered, 4 * WritePolicy::kWindowBytes, kSlow, kFast);
  CHECK(buffered.next() == WriteWay::kBuffered);
  WritePolicy direct(Start::kDirect);
  go(direct, 4 * WritePolicy::kWindowBytes, kFast, kSlow);
  CHECK(direct.next() == WriteWay::kDirect);
}

TEST_CASE("a fast page cache is never left") {
  WritePolicy policy(Start::kMeasured);
  for (int i = 0; i < 1000; ++i) {
    REQUIRE(policy.next() == WriteWay::kBuffered);
    go(policy, uint64_t{4} << 20, kFast, 100 * kFast);
  }
}

TEST_CASE("a slow page cache is left for direct writes where they are clearly faster") {
  WritePolicy policy(Start::kMeasured);
  CHECK(policy.next() == WriteWay::kBuffered);
  go(policy, WritePolicy::kWindowBytes, kSlow, 2 * kSlow);
  CHECK(policy.next() == WriteWay::kDirect);
  go(policy, 2 * WritePolicy::kWindowBytes, kSlow, 2 * kSlow);
  CHECK(policy.next() == WriteWay::kDirect);
}

TEST_CASE("slow direct writes are given up after one window") {
  for (const double direct : {kSlow / 10, kSlow, 1.4 * kSlow}) {
    WritePolicy policy(Start::kMeasured);
    go(policy, WritePolicy::kWindowBytes, kSlow, direct);
    CHECK(policy.next() == WriteWay::kDirect);
    go(policy, WritePolicy::kWindowBytes, kSlow, direct);
    CHECK(policy.next() == WriteWay::kBuffered);
    go(policy, WritePolicy::kWindowBytes, kSlow, direct);
    CHECK(policy.next() == WriteWay::kBuffered);
  }
}

TEST_CASE("direct writes that hardly speed the whole up are not kept") {
  WritePolicy policy(Start::kMeasured);
  constexpr double kPause = 0.02;  // more than the page cache takes for a block
  go(policy, WritePolicy::kWindowBytes, kSlow, 2 * kSlow, kPause);
  CHECK(policy.next() == WriteWay::kDirect);
  go(policy, WritePolicy::kWindowBytes, kSlow, 2 * kSlow, kPause);
  CHECK(policy.next() == WriteWay::kBuffered);
}

TEST_CASE("a page cache that became fast is found again") {
  WritePolicy policy(Start::kMeasured);
  go(policy, 2 * WritePolicy::kWindowBytes, kSlow, 2 * kSlow);
  CHECK(policy.next() == WriteWay::kDirect);
  go(policy, WritePolicy::kForgetBytes, kFast, 2 * kSlow);
  CHECK(policy.next() == WriteWay::kBuffered);
  go(policy, WritePolicy::kWindowBytes, kFast, 2 * kSlow);
  CHECK(policy.next() == WriteWay::kBuffered);
}

TEST_CASE("what began before a change of way does not count") {
  WritePolicy policy(Start::kMeasured);
  go(policy, WritePolicy::kWindowBytes, kSlow, kFast);
  REQUIRE(policy.next() == WriteWay::kDirect);
  policy.report(WriteWay::kBuffered, 100 * WritePolicy::kWindowBytes, 1e-9, clock_seconds);
  CHECK(policy.next() == WriteWay::kDirect);
}

TEST_CASE("MINDCKPT_WRITE is auto or buffered or direct") {
  const char* const set = ::getenv("MINDCKPT_WRITE");
  const std::string before = set == nullptr ? "" : set;
  const auto mode = [](const char* value) {
    ::setenv("MINDCKPT_WRITE", value, 1);
    return write_mode_from_environment();
  };
  CHECK(mode("auto") == WriteMode::kAuto);
  CHECK(mode("") == WriteMode::kAuto);
  CHECK(mode("buffered") == WriteMode::kBuffered);
  CHECK(mode("direct") == WriteMode::kDirect);
  const Error error = test::error_of([&] { mode("Direct"); });
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  CHECK(test::message(error) == doctest::Contains("MINDCKPT_WRITE"));
  ::unsetenv("MINDCKPT_WRITE");
  CHECK(write_mode_from_environment() == WriteMode::kAuto);
  if (set != nullptr) ::setenv("MINDCKPT_WRITE", before.c_str(), 1);
}

}  // namespace
}  // namespace mindckpt
