// Memory that copies use while they are under way: of snapshots, of a save's blocks, of a load's.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/block_feed.h"
#include "engine/snapshot.h"
#include "engine/uploads.h"
#include "support/bytes.h"
#include "support/errors.h"
#include "support/parameters.h"
#include "support/stand_in.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::DeviceParameters;
using test::error_of;

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
const CancelFlag kNever{false};

// A device of the sim, on which nothing is copied before let_go(): what starts after `producer` is
// held up. There is staging memory for all blocks at once.
struct Fixture : test::DeviceFixture {
  Fixture() : DeviceFixture("sim", kMiB), producer{&device, stand_in.stream_create(0)} {
    stand_in.stream_pause(producer.stream);
  }
  ~Fixture() {
    let_go();
    stand_in.stream_destroy(producer.stream);
  }

  void let_go() { stand_in.stream_resume(producer.stream); }
  uint64_t leased_nbytes() { return pools.of(device).pool.stats().in_use_nbytes; }
  uint64_t kept_nbytes() { return pools.of(device).snapshots.kept_nbytes(); }

  // Runs `act`, and checks that it does not end, and that `holds` is true, until the copies that
  // are under way when it begins to wait have ended.
  template <typename Act, typename Holds>
  void check_waits(Act&& act, Holds&& holds) {
    std::atomic<bool> ended{false};
    std::jthread acting([&] {
      act();
      ended = true;
    });
    const auto patience = Clock::now() + std::chrono::seconds(2);
    while (!ended && !holds() && Clock::now() < patience) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_FALSE(ended);
    CHECK(holds());
    let_go();
  }
  // The same for an act that gives staging memory back.
  template <typename Act>
  void check_leases_until_copied(Act&& act) {
    check_waits(std::forward<Act>(act), [this] { return leased_nbytes() > 0; });
    CHECK(leased_nbytes() == 0);
  }

  const Producer producer;
};

// Blocks of a tensor on the device, whose copies are held up.
struct FeedFixture : Fixture {
  FeedFixture() {
    parameters.add("a", "Int8", {100'000});
    on_device.emplace(stand_in, parameters, [this](size_t) { return &device; });
    image = FileImage::plan(on_device->refs(), {4 * kKiB, false, std::nullopt});
    lanes = CopyLanes(image, pools);
    lanes.start_after({producer});
    feed.emplace(image, lanes, nullptr, kNever);
  }

  test::Parameters parameters{1};
  std::optional<DeviceParameters> on_device;
  FileImage image;
  CopyLanes lanes;
  std::optional<BlockFeed> feed;
};

TEST_CASE_FIXTURE(FeedFixture, "a feed that goes keeps its leases until their copies have ended") {
  feed->refill();
  CHECK(feed->all_issued());
  check_leases_until_copied([&] { feed.reset(); });
}

TEST_CASE_FIXTURE(FeedFixture, "a feed that fails keeps its leases until their copies have ended") {
  stand_in.fail("copy_async", 3);  // of the third block
  std::optional<Error> error;
  check_leases_until_copied([&] { error = error_of([&] { feed->refill(); }); });
  CHECK(error->kind() == ErrorKind::kDevice);
}

TEST_CASE_FIXTURE(FeedFixture, "a block keeps its lease when its arrival can't be told") {
  stand_in.fail("event_sync", 1);
  std::optional<Error> error;
  check_waits([&] { error = error_of([&] { feed->take(0); }); },
              [&] { return leased_nbytes() > 0; });
  CHECK(error->kind() == ErrorKind::kDevice);
  feed.reset();
  CHECK(leased_nbytes() == 0);
}

TEST_CASE_FIXTURE(FeedFixture, "a feed that has failed gives no block any more") {
  let_go();
  for (const uint64_t failing : {uint64_t{0}, uint64_t{3}, image.num_blocks() - 1}) {
    CAPTURE(failing);
    for (const bool by_refill : {true, false}) {
      CAPTURE(by_refill);
      feed.emplace(image, lanes, nullptr, kNever);
      stand_in.fail("copy_async", static_cast<int64_t>(failing) + 1);
      const auto begin = [&] { by_refill ? feed->refill() : void(feed->take(0)); };
      const Error why = error_of(begin);
      CHECK(why.kind() == ErrorKind::kDevice);
      CHECK_FALSE(feed->all_issued());
      CHECK(leased_nbytes() == 0);
      for (const uint64_t block : {uint64_t{0}, failing, image.num_blocks() - 1}) {
        CHECK(error_of([&] { feed->take(block); }).what() == std::string(why.what()));
      }
      CHECK(error_of([&] { feed->refill(); }).what() == std::string(why.what()));
      CHECK(leased_nbytes() == 0);
    }
  }
}

TEST_CASE_FIXTURE(FeedFixture, "all who wait for room hear of a cancel") {
  let_go();
  const StagingPool::Lease all = pools.of(device).pool.acquire(kMiB, kNever);
  CancelFlag cancel{false};
  feed.emplace(image, lanes, nullptr, cancel);
  std::atomic<int> cancelled{0};
  std::vector<std::jthread> waiting;
  for (uint64_t block = 0; block < 3; ++block) {
    waiting.emplace_back([&, block] {
      const Error error = error_of([&] { feed->take(block); });
      cancelled += error.kind() == ErrorKind::kCancelled ? 1 : 0;
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(cancelled == 0);
  cancel = true;
  waiting.clear();
  CHECK(cancelled == 3);
}

// A snapshot in pinned host memory, whose copies are held up.
struct SnapshotFixture : Fixture {
  SnapshotFixture() {
    parameters.add("a", "Int8", {5'000'000}).add("b", "Int8", {3}).add("c", "Int8", {40'000'000});
    parameters.add("d", "Int8", {20'000'000});
    on_device.emplace(stand_in, parameters, [this](size_t) { return &device; });
    image = FileImage::plan(on_device->refs(), {kMiB, false, std::nullopt});
    lanes = CopyLanes(image, pools);
    lanes.start_after({producer});
  }

  test::Parameters parameters{2};
  std::optional<DeviceParameters> on_device;
  FileImage image;
  CopyLanes lanes;
  std::optional<Snapshot> snapshot{std::in_place, nullptr};
};

TEST_CASE_FIXTURE(SnapshotFixture, "a snapshot that goes keeps its memory until it was copied") {
  snapshot->copy_to_host(image, lanes);
  check_waits([&] { snapshot.reset(); }, [&] { return kept_nbytes() == 0; });
  CHECK(kept_nbytes() > 0);
}

TEST_CASE_FIXTURE(SnapshotFixture, "a snapshot on the device is freed after it was copied") {
  snapshot->copy_on_devices(image, lanes);
  check_waits([&] { snapshot.reset(); }, [&] { return stand_in.live("device_memory") > 0; });
  CHECK(stand_in.live("device_memory") == 0);
}

TEST_CASE_FIXTURE(SnapshotFixture, "what was pinned before the memory ran out is kept") {
  let_go();
  const Device& second = registry.device("sim", 1);
  const DeviceParameters on_both(stand_in, parameters, [&](size_t i) {
    return &registry.device("sim", static_cast<int32_t>(i % 2));
  });
  image = FileImage::plan(on_both.refs(), {kMiB, false, std::nullopt});
  lanes = CopyLanes(image, pools);
  stand_in.fail("host_register", 2);
  CHECK(error_of([&] { snapshot->copy_to_host(image, lanes); }).kind() == ErrorKind::kDevice);
  CHECK_FALSE(snapshot->copies_devices());
  CHECK(kept_nbytes() > 0);
  CHECK(kept_nbytes() == pools.of(device).snapshots.pinned_nbytes());
  CHECK(pools.of(second).snapshots.pinned_nbytes() == 0);
}

TEST_CASE_FIXTURE(SnapshotFixture, "a snapshot is whole when all of it was waited for") {
  snapshot->copy_on_devices(image, lanes);
  check_waits([&] { snapshot->wait_until_copied(); }, [] { return true; });
}

// Every run of bytes is there when it was waited for, wherever it lies between the events that tell
// how far the copies have come.
TEST_CASE_FIXTURE(SnapshotFixture, "what was waited for of a snapshot is there to its last byte") {
  constexpr uint64_t kRunBytes = 1'000'003;
  // Copies are late by that much, each event's bytes behind those of the one before.
  stand_in.set_speed(MINDCKPT_DEVICE_TO_HOST, 0, 0.02);
  snapshot->copy_to_host(image, lanes);
  let_go();
  for (size_t i = 0; i < image.tensors().size(); ++i) {
    const TensorRef& tensor = image.tensors()[i];
    const std::string& expected = parameters.all()[i].payload;
    for (uint64_t at = 0; at < tensor.nbytes; at += kRunBytes) {
      const ByteView run(tensor.layout.data + at, std::min(kRunBytes, tensor.nbytes - at));
      snapshot->wait_for(run);
      CAPTURE(tensor.name);
      CAPTURE(at);
      REQUIRE(std::memcmp(run.data(), expected.data() + at, run.size()) == 0);
    }
  }
}

// A load's block that is on its way to the device, held up.
struct UploadFixture : Fixture {
  UploadFixture() { put(); }
  ~UploadFixture() {
    uploads.reset();
    stand_in.release(memory);
  }

  // Returns the staging memory of the block.
  ByteSpan put() {
    const ByteSpan staging = uploads->begin(0, content.size(), kNever);
    std::memcpy(staging.data(), content.data(), content.size());
    uploads->copy(0, device, memory, staging);
    return staging;
  }
  Bytes loaded() {
    Bytes read(content.size());
    stand_in.read(memory, read.data(), read.size());
    return read;
  }

  const Bytes content = test::Random(3).bytes(5000);
  std::byte* const memory = static_cast<std::byte*>(stand_in.allocate(0, content.size()));
  std::optional<Uploads> uploads{std::in_place, std::vector<const Device*>{&device}, pools,
                                 std::vector<Producer>{producer}, 1};
};

TEST_CASE_FIXTURE(UploadFixture,
                  "uploads that go keep their leases until their copies have ended") {
  SUBCASE("submitted") { uploads->submit(0); }
  SUBCASE("of a block that failed before") {}
  check_leases_until_copied([&] { uploads.reset(); });
  CHECK((loaded() == content));
}

TEST_CASE_FIXTURE(UploadFixture, "a worker has finished when its copies have ended") {
  SUBCASE("submitted") { uploads->submit(0); }
  SUBCASE("of a block that failed before") {}
  check_leases_until_copied([&] { uploads->finish(0); });
  CHECK((loaded() == content));
}

TEST_CASE_FIXTURE(UploadFixture, "a worker that can't tell the end keeps its leases until then") {
  uploads->submit(0);
  stand_in.fail("event_sync", 1);
  std::optional<Error> error;
  check_leases_until_copied([&] { error = error_of([&] { uploads->finish(0); }); });
  CHECK(error->kind() == ErrorKind::kDevice);
  CHECK((loaded() == content));
}

TEST_CASE_FIXTURE(UploadFixture,
                  "a block that goes to two devices is under way until both have it") {
  const Device& second = registry.device("sim", 1);
  auto* const elsewhere = static_cast<std::byte*>(stand_in.allocate(1, content.size()));
  let_go();
  void* const other = stand_in.stream_create(1);
  stand_in.stream_pause(other);
  uploads.emplace(std::vector<const Device*>{&device, &second}, pools,
                  std::vector<Producer>{{&second, other}}, 1);
  const ByteSpan staging = put();
  uploads->copy(0, second, elsewhere, staging);
  uploads->submit(0);
  std::jthread resuming([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    stand_in.stream_resume(other);
  });
  uploads->finish(0);
  Bytes read(content.size());
  stand_in.read(elsewhere, read.data(), read.size());
  CHECK((read == content));
  CHECK((loaded() == content));
  resuming.join();
  stand_in.stream_destroy(other);
  stand_in.release(elsewhere);
}

TEST_CASE_FIXTURE(UploadFixture, "a worker has two blocks on their way, and waits for the first") {
  uploads->submit(0);
  put();
  uploads->submit(0);
  const uint64_t leased = leased_nbytes();
  check_waits([&] { put(); }, [&] { return leased_nbytes() == leased; });
  uploads->finish(0);
  CHECK(leased_nbytes() == 0);
}

}  // namespace
}  // namespace mindckpt
