#include "device/staging.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "support/child.h"
#include "support/errors.h"
#include "support/random.h"
#include "support/stand_in.h"

namespace mindckpt {
namespace {

using test::error_of;
using Lease = StagingPool::Lease;

constexpr uint64_t kMiB = uint64_t{1} << 20;
const CancelFlag kNever{false};

struct Fixture : test::DeviceFixture {
  Fixture() : DeviceFixture("sim") {}
};

TEST_CASE_FIXTURE(Fixture, "nothing is pinned before it is needed, and then kept") {
  StagingPool pool(device, 256 * kMiB);
  CHECK(stand_in.live("pinned_memory") == 0);
  {
    const Lease lease = pool.acquire(kMiB, kNever);
  }
  const uint64_t pinned = pool.stats().pinned_nbytes;
  CHECK(pinned == 64 * kMiB);
  const int64_t calls = stand_in.calls("host_register");
  for (int i = 0; i < 10; ++i) const Lease lease = pool.acquire(kMiB, kNever);
  CHECK(stand_in.calls("host_register") == calls);
  CHECK(pool.stats().leases == 11);
  CHECK(pool.stats().in_use_nbytes == 0);
  CHECK(pool.stats().peak_in_use_nbytes == kMiB);
  pool.trim();
  CHECK(pool.stats().pinned_nbytes == 0);
  CHECK(stand_in.live("pinned_memory") == 0);
}

TEST_CASE_FIXTURE(Fixture, "a lease of no bytes has a page, and gives it back") {
  StagingPool pool(device, 3 * kMiB);
  {
    const Lease none = pool.acquire(0, kNever);
    const Lease one = pool.acquire(1, kNever);
    CHECK(none.span().data() != one.span().data());
    CHECK(pool.stats().in_use_nbytes == 2 * kPageBytes);
  }
  CHECK(pool.stats().in_use_nbytes == 0);
  pool.trim();
  CHECK(pool.stats().pinned_nbytes == 0);
}

TEST_CASE_FIXTURE(Fixture, "leases are whole pages that do not overlap, within the limit") {
  StagingPool pool(device, 3 * kMiB);
  test::Random random(7);
  std::vector<Lease> leases;
  for (int i = 0; i < 3000; ++i) {
    if (!leases.empty() && random.below(2) == 0) {
      leases.erase(leases.begin() + static_cast<ptrdiff_t>(random.below(leases.size())));
      continue;
    }
    const uint64_t nbytes = 1 + random.below(600'000);
    auto lease = pool.try_acquire(nbytes);
    if (!lease) continue;
    CHECK(lease->span().size() >= nbytes);
    CHECK(reinterpret_cast<uintptr_t>(lease->span().data()) % 4096 == 0);
    for (const Lease& other : leases) {
      const bool apart = lease->span().data() + lease->span().size() <= other.span().data() ||
                         other.span().data() + other.span().size() <= lease->span().data();
      CHECK(apart);
    }
    leases.push_back(std::move(*lease));
    CHECK(pool.stats().in_use_nbytes <= 3 * kMiB);
  }
  leases.clear();
  CHECK(pool.stats().in_use_nbytes == 0);
  // What came back is joined again: the whole pool can be had as one.
  CHECK(pool.try_acquire(3 * kMiB).has_value());
}

TEST_CASE_FIXTURE(Fixture, "whoever finds no room waits until some comes back, in order") {
  StagingPool pool(device, kMiB);
  std::optional<Lease> first = pool.acquire(kMiB, kNever);
  CHECK_FALSE(pool.try_acquire(1).has_value());
  std::atomic<int> served{0};
  std::thread large([&] {
    const Lease lease = pool.acquire(kMiB, kNever);
    CHECK(served.fetch_add(1) == 0);
  });
  while (pool.stats().leases != 1 || stand_in.live("pinned_memory") == 0) std::this_thread::yield();
  first.reset();
  large.join();
  CHECK(served == 1);
  CHECK(pool.stats().in_use_nbytes == 0);
}

TEST_CASE_FIXTURE(Fixture, "nobody overtakes who waits for more room") {
  StagingPool pool(device, kMiB);
  std::optional<Lease> most = pool.acquire(kMiB - kPageBytes, kNever);
  std::atomic<int> served{0};
  std::thread large([&] {
    const Lease lease = pool.acquire(kMiB, kNever);
    CHECK(served.fetch_add(1) == 0);
  });
  // A page is free, until somebody waits.
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (pool.try_acquire(1) && std::chrono::steady_clock::now() < patience) {
    std::this_thread::yield();
  }
  CHECK_FALSE(pool.try_acquire(1).has_value());
  std::thread small([&] {
    const Lease lease = pool.acquire(1, kNever);
    CHECK(served.fetch_add(1) == 1);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(served == 0);
  most.reset();
  large.join();
  small.join();
  CHECK(served == 2);
}

TEST_CASE_FIXTURE(Fixture, "waiting for room ends with a cancel") {
  StagingPool pool(device, kMiB);
  const Lease all = pool.acquire(kMiB, kNever);
  CancelFlag cancel{false};
  std::thread other([&] { cancel = true; });
  CHECK(error_of([&] { pool.acquire(1, cancel); }).kind() == ErrorKind::kCancelled);
  other.join();
}

TEST_CASE_FIXTURE(Fixture, "more than the limit is refused, with both numbers") {
  StagingPool pool(device, kMiB);
  const Error error = error_of([&] { pool.acquire(kMiB + 1, kNever); });
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  CHECK(std::string(error.what()).find("1048577") != std::string::npos);
  CHECK(std::string(error.what()).find("1048576") != std::string::npos);
  CHECK_FALSE(pool.try_acquire(kMiB + 1).has_value());
}

TEST_CASE_FIXTURE(Fixture, "memory that can't be pinned is an error only when there is none") {
  StagingPool pool(device, 256 * kMiB);
  stand_in.fail("host_register", 1);
  CHECK(error_of([&] { pool.acquire(kMiB, kNever); }).kind() == ErrorKind::kDevice);
  CHECK(pool.stats().pinned_nbytes == 0);
  const Lease whole = pool.acquire(64 * kMiB, kNever);
  stand_in.fail("host_register", 1);
  CHECK_FALSE(pool.try_acquire(kMiB).has_value());
  CHECK(pool.try_acquire(kMiB).has_value());
}

TEST_CASE_FIXTURE(Fixture, "a lower limit gives back what is free, and a higher one lets in more") {
  StagingPool pool(device, 256 * kMiB);
  {
    const Lease lease = pool.acquire(kMiB, kNever);
  }
  pool.set_limit(2 * kMiB);
  CHECK(pool.stats().pinned_nbytes == 0);
  CHECK_FALSE(pool.try_acquire(3 * kMiB).has_value());
  pool.set_limit(4 * kMiB);
  CHECK(pool.try_acquire(3 * kMiB).has_value());
}

TEST_CASE_FIXTURE(Fixture, "pools of many threads give every buffer back") {
  StagingPool pool(device, 2 * kMiB);
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&pool, seed] {
      test::Random random(seed);
      for (int i = 0; i < 300; ++i) {
        const Lease lease = pool.acquire(1 + random.below(kMiB), kNever);
        lease.span().front() = std::byte{1};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(pool.stats().in_use_nbytes == 0);
  CHECK(pool.stats().leases == 1200);
  CHECK(pool.stats().peak_in_use_nbytes <= 2 * kMiB);
}

// A backend that pins until it is told to end.
struct SlowPinning {
  explicit SlowPinning(const mindckpt_device_backend& from) : table(from) {
    pin = from.host_register;
    begun = false;
    may_end = false;
    table.name = "slow";
    table.host_register = [](void* memory, size_t nbytes) {
      begun = true;
      while (!may_end) std::this_thread::yield();
      return pin(memory, nbytes);
    };
  }

  static inline mindckpt_status (*pin)(void* memory, size_t nbytes);
  static inline std::atomic<bool> begun;
  static inline std::atomic<bool> may_end;
  mindckpt_device_backend table;
};

TEST_CASE("a child that is forked while its parent pins memory has no pools, and does not hang") {
  test::DeviceFixture fixture("sim");
  static SlowPinning slow(fixture.device.backend().table());
  fixture.registry.add(&slow.table, "a test");
  const Device& device = fixture.registry.device("slow", 0);
  StagingPools& pools = fixture.pools;
  pools.of(fixture.device).pool.acquire(kMiB, kNever);
  std::thread pinning([&] { pools.of(device).pool.acquire(kMiB, kNever); });
  while (!SlowPinning::begun) std::this_thread::yield();
  // Now that thread holds its pool's lock, which nobody gives back in a child.
  const bool ended = test::succeeds_in_child([&] {
    const bool has_none = pools.all().empty();
    pools.trim();
    pools.set_limit(2 * kMiB);
    const Error error = error_of([&] { pools.of(device); });
    return has_none && pools.all().empty() && error.kind() == ErrorKind::kUnavailable;
  });
  CHECK(ended);
  SlowPinning::may_end = true;
  pinning.join();
  CHECK(pools.all().size() == 2);
  pools.trim();
}

TEST_CASE_FIXTURE(Fixture, "a snapshot's memory is kept for the next of its size") {
  SnapshotMemory memory(device);
  PinnedMemory taken = memory.take(5 * kMiB);
  CHECK(memory.pinned_nbytes() == 5 * kMiB);
  CHECK(memory.kept_nbytes() == 0);
  const std::byte* data = taken.data();
  memory.keep(std::move(taken));
  CHECK(memory.kept_nbytes() == 5 * kMiB);
  PinnedMemory smaller = memory.take(4 * kMiB);
  CHECK(smaller.data() == data);
  memory.keep(std::move(smaller));
  PinnedMemory larger = memory.take(6 * kMiB);  // the smaller one made room
  CHECK(memory.pinned_nbytes() == 6 * kMiB);
  memory.keep(std::move(larger));
  memory.trim();
  CHECK(memory.pinned_nbytes() == 0);
  CHECK(stand_in.live("pinned_memory") == 0);
}

}  // namespace
}  // namespace mindckpt
