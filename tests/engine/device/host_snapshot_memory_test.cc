#include "device/host_snapshot_memory.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "device/staging.h"
#include "support/child.h"

namespace mindckpt {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;

TEST_CASE("what was given back is what the next one gets") {
  HostSnapshotMemory memory;
  Pages first = memory.take(5 * kMib);
  CHECK(first.size() >= 5 * kMib);
  std::memset(first.data(), 1, first.size());
  const std::byte* const data = first.data();
  CHECK(memory.stats().nbytes == first.size());
  CHECK(memory.stats().kept_nbytes == 0);
  memory.keep(std::move(first));
  CHECK(memory.stats().kept_nbytes == 5 * kMib);

  const Pages smaller = memory.take(4 * kMib);
  CHECK(smaller.data() == data);
  CHECK(memory.stats().nbytes == 5 * kMib);
  CHECK(memory.stats().kept_nbytes == 0);
}

TEST_CASE("of several the smallest one that suffices is used, and none that is much too large") {
  HostSnapshotMemory memory;
  Pages large = memory.take(20 * kMib);
  Pages small = memory.take(10 * kMib);
  Pages huge = memory.take(500 * kMib);
  const std::byte* const data = small.data();
  memory.keep(std::move(large));
  memory.keep(std::move(huge));
  memory.keep(std::move(small));
  Pages taken = memory.take(9 * kMib);
  CHECK(taken.data() == data);
  memory.keep(std::move(taken));
  memory.set_limit(520 * kMib);  // the oldest goes first: the one of 20 MiB
  CHECK(memory.stats().kept_nbytes == 510 * kMib);
  const Pages one = memory.take(9 * kMib);
  CHECK(one.data() == data);
  CHECK(memory.take(9 * kMib).size() == 9 * kMib);
}

TEST_CASE("what does not suffice makes room for what is taken anew") {
  HostSnapshotMemory memory;
  memory.keep(memory.take(4 * kMib));
  const Pages larger = memory.take(8 * kMib);
  CHECK(larger.size() == 8 * kMib);
  CHECK(memory.stats().nbytes == 8 * kMib);
  CHECK(memory.stats().kept_nbytes == 0);
}

TEST_CASE("no more is kept than the limit, and nothing after a trim") {
  HostSnapshotMemory memory;
  CHECK(memory.stats().limit_nbytes > 0);
  memory.set_limit(4 * kMib);
  memory.keep(memory.take(4 * kMib + 1));
  CHECK(memory.stats().nbytes == 0);
  memory.keep(memory.take(4 * kMib));
  CHECK(memory.stats().kept_nbytes == 4 * kMib);
  memory.trim();
  CHECK(memory.stats().nbytes == 0);
  memory.keep(memory.take(kMib));
  memory.set_limit(0);
  CHECK(memory.stats().nbytes == 0);
  memory.keep(memory.take(kMib));
  CHECK(memory.stats().nbytes == 0);
}

TEST_CASE("no bytes take nothing") {
  HostSnapshotMemory memory;
  memory.keep(memory.take(0));
  CHECK(memory.stats().nbytes == 0);
}

TEST_CASE("release of the pools gives back what is kept for host tensors") {
  StagingPools pools;
  pools.host_snapshots().keep(pools.host_snapshots().take(kMib));
  CHECK(pools.host_snapshots().stats().kept_nbytes == kMib);
  pools.trim();
  CHECK(pools.host_snapshots().stats().kept_nbytes == 0);
}

TEST_CASE("a forked child has nothing of its parent's, and keeps its own") {
  HostSnapshotMemory memory;
  memory.set_limit(64 * kMib);
  memory.keep(memory.take(3 * kMib));
  Pages taken = memory.take(8 * kMib);
  memory.keep(std::move(taken));
  Pages out = memory.take(7 * kMib);
  std::memset(out.data(), 7, out.size());
  CHECK(test::succeeds_in_child([&] {
    unsigned char resident = 0;
    const bool is_inherited = ::mincore(out.data(), kPageBytes, &resident) == 0;
    const HostSnapshotMemory::Stats at_first = memory.stats();
    Pages own = memory.take(2 * kMib);
    std::memset(own.data(), 1, own.size());
    memory.keep(std::move(own));
    return !is_inherited && at_first.nbytes == 0 && at_first.limit_nbytes == 64 * kMib &&
           memory.stats().kept_nbytes == 2 * kMib;
  }));
  CHECK(out.data()[0] == std::byte{7});
  memory.keep(std::move(out));
  CHECK(memory.stats().kept_nbytes == 8 * kMib);
}

}  // namespace
}  // namespace mindckpt
