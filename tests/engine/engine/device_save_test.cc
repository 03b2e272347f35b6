// Saves from devices' memory and loads into it, on the stand-in libraries.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/device_copy.h"
#include "engine/job.h"
#include "engine/saving.h"
#include "support/errors.h"
#include "support/stand_in.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::cipher_of;
using test::DeviceParameters;
using test::error_of;
using test::every_backend;
using test::SharedCipher;
using Names = std::vector<std::string>;

constexpr uint64_t kKiB = 1024;
// Sanitizers find in one round what takes luck without them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kRaceRounds = 20;
#else
constexpr uint64_t kRaceRounds = 200;
#endif
constexpr Clock::time_point kNever = Clock::time_point::max();

struct Fixture : test::DeviceFixture {
  explicit Fixture(const std::string& backend, uint64_t staging_limit = 256 * kKiB)
      : DeviceFixture(backend, staging_limit), stream(stand_in.stream_create(0)) {}
  ~Fixture() { stand_in.stream_destroy(stream); }

  Device& second_device() { return registry.device(device.backend().name(), 1); }

  SaveRequest request(const DeviceParameters& parameters, SharedCipher cipher = nullptr) {
    SaveRequest request;
    request.tensors = parameters.refs();
    request.path = path;
    request.durable = false;
    request.cipher = std::move(cipher);
    request.num_threads = 2;
    request.block_bytes = 4 * kKiB;
    request.producers = {{&device, stream}};
    request.staging = &pools;
    return request;
  }

  static std::shared_ptr<SaveJob> start(SaveRequest request) {
    auto job = std::make_shared<SaveJob>(std::move(request));
    job->start(nullptr);
    return job;
  }
  static const SaveStats& save(SaveRequest request) {
    static std::shared_ptr<SaveJob> last;  // whose stats are returned
    last = start(std::move(request));
    last->wait(std::nullopt);
    return last->result();
  }

  void* stream;  // the training's
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
};

// What is alive, by kind.
std::map<std::string, int64_t> living(const test::StandIn& stand_in) {
  std::map<std::string, int64_t> counts;
  for (const char* kind : {"stream", "event", "device_memory", "pinned_memory"}) {
    counts[kind] = stand_in.live(kind);
  }
  return counts;
}

// Some tensors of several blocks, some of one, and many small ones.
void add_model(test::Parameters& parameters) {
  parameters.add("embedding", "Float32", {100, 131});
  for (int i = 0; i < 20; ++i) {
    const std::string layer = "layer" + std::to_string(i);
    parameters.add(layer + ".weight", "Float16", {i + 1, 77}).add(layer + ".bias", "Int8", {i + 1});
  }
  parameters.add("step", "Int64", {}).add("none", "Float32", {0}).add_text("note", U"five");
  parameters.add_reversed("reversed", "Float32", {7, 5});
}

TEST_CASE("what is saved from a device is what is saved from the host") {
  test::Parameters parameters(1);
  add_model(parameters);
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend);
    const auto before = living(fixture.stand_in);
    Device* const first = &fixture.device;
    Device* const second = &fixture.second_device();
    const std::vector<std::vector<Device*>> places = {
        {first}, {first, nullptr}, {second, first}, {first, second, nullptr}};
    for (const auto& place : places) {
      const DeviceParameters on_device(fixture.stand_in, parameters,
                                       [&](size_t i) { return place[i % place.size()]; });
      CHECK(on_device.on_device() > 0);
      for (const bool crc : {false, true}) {
        for (const uint64_t block_bytes : {uint64_t{97}, 4 * kKiB, 100 * kKiB}) {
          CAPTURE(block_bytes);
          SaveRequest request = fixture.request(on_device);
          request.crc = crc;
          request.block_bytes = block_bytes;
          Fixture::save(std::move(request));
          CHECK((test::read_file(fixture.path) == parameters.file(crc)));
        }
      }
      for (const test::CipherKind& kind : test::every_mode()) {
        const SharedCipher cipher = cipher_of(kind);
        SaveRequest request = fixture.request(on_device, cipher);
        request.crc = true;
        Fixture::save(std::move(request));
        test::check_loads(fixture.path, cipher, parameters, true);
      }
    }
    fixture.pools.trim();
    CHECK(living(fixture.stand_in) == before);
  }
}

TEST_CASE("a save starts after what its producers' streams hold") {
  test::Parameters parameters(2);
  add_model(parameters);
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    // The values are computed late: until then there is nothing but zeros.
    fixture.stand_in.stream_pause(fixture.stream);
    const std::vector<TensorRef> originals = parameters.refs();
    for (size_t i = 0; i < originals.size(); ++i) {
      const TensorRef& tensor = on_device.refs()[i];
      if (tensor.device == nullptr) continue;
      auto* memory = const_cast<std::byte*>(tensor.layout.data);
      const std::vector<std::byte> zeros(tensor.nbytes);
      fixture.stand_in.write(memory, zeros.data(), zeros.size());
      fixture.stand_in.stream_write(fixture.stream, memory, originals[i].layout.data,
                                    tensor.nbytes);
    }
    const auto job = Fixture::start(fixture.request(on_device));
    CHECK_FALSE(job->wait(Clock::now() + std::chrono::milliseconds(20)));
    fixture.stand_in.stream_resume(fixture.stream);
    job->wait(std::nullopt);
    job->result();
    CHECK((test::read_file(fixture.path) == parameters.file(false)));
  }
}

TEST_CASE("a save of memory whose writer nobody names waits for all that is on its device") {
  test::Parameters parameters(18);
  add_model(parameters);
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    on_device.overwrite(fixture.stream, 0xEE);
    fixture.stand_in.stream_sync(fixture.stream);
    fixture.stand_in.stream_pause(fixture.stream);
    const std::vector<TensorRef> originals = parameters.refs();
    for (size_t i = 0; i < originals.size(); ++i) {
      const TensorRef& tensor = on_device.refs()[i];
      if (tensor.device == nullptr) continue;
      fixture.stand_in.stream_write(fixture.stream, const_cast<std::byte*>(tensor.layout.data),
                                    originals[i].layout.data, tensor.nbytes);
    }
    // What another device does holds it up as little as anything.
    void* const elsewhere = fixture.stand_in.stream_create(1);
    fixture.stand_in.stream_pause(elsewhere);
    SaveRequest request = fixture.request(on_device);
    request.producers.clear();
    request.has_unknown_producer = true;
    request.synced_devices = {&fixture.device};
    request.snapshot = SnapshotPolicy::kDevice;
    std::atomic<bool> returned{false};
    std::shared_ptr<SaveJob> job;
    std::thread caller([&] {
      job = Fixture::start(std::move(request));
      returned = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_FALSE(returned);
    fixture.stand_in.stream_resume(fixture.stream);
    caller.join();
    job->wait(std::nullopt);
    job->result();
    CHECK((test::read_file(fixture.path) == parameters.file(false)));
    fixture.stand_in.stream_resume(elsewhere);
    fixture.stand_in.stream_destroy(elsewhere);
  }
}

// One asynchronous save whose parameters are overwritten in stream order as soon as it is allowed.
void save_and_overwrite(Fixture& fixture, const DeviceParameters& on_device, SnapshotPolicy policy,
                        bool fenced, const SharedCipher& cipher) {
  SaveRequest request = fixture.request(on_device, cipher);
  request.snapshot = policy;
  const auto job = std::make_shared<SaveJob>(std::move(request));
  job->start(nullptr);
  if (fenced && policy == SnapshotPolicy::kLazy)
    job->fence({&fixture.device, fixture.stream}, kNever);
  on_device.overwrite(fixture.stream, 0xEE);
  job->wait(std::nullopt);
  job->result();
  fixture.stand_in.stream_sync(fixture.stream);
}

TEST_CASE("whatever overwrites the parameters after the call, the file has the old values") {
  test::Parameters parameters(3);
  add_model(parameters);
  const std::string expected = parameters.file(false);
  for (const std::string& backend : every_backend()) {
    Fixture fixture(backend);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    for (const SnapshotPolicy policy : {SnapshotPolicy::kHost, SnapshotPolicy::kDevice,
                                        SnapshotPolicy::kLazy, SnapshotPolicy::kAuto}) {
      for (uint64_t round = 0; round < kRaceRounds; ++round) {
        CAPTURE(backend);
        CAPTURE(round);
        on_device.restore(parameters);
        fixture.stand_in.set_random_delay(round + 1, 2e-5);
        save_and_overwrite(fixture, on_device, policy, true, nullptr);
        REQUIRE((test::read_file(fixture.path) == expected));
      }
    }
  }
}

TEST_CASE("without its fence a lazy save's file has what came later") {
#ifdef __SANITIZE_THREAD__
  MESSAGE("skipped: ThreadSanitizer reports just that as a data race");
  return;
#endif
  test::Parameters parameters(4);
  add_model(parameters);
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    // Copies out of the device take longer than the test's own work.
    fixture.stand_in.set_speed(MINDCKPT_DEVICE_TO_HOST, 0, 5e-3);
    save_and_overwrite(fixture, on_device, SnapshotPolicy::kLazy, false, nullptr);
    CHECK((test::read_file(fixture.path) != parameters.file(false)));
    on_device.restore(parameters);
    save_and_overwrite(fixture, on_device, SnapshotPolicy::kLazy, true, nullptr);
    CHECK((test::read_file(fixture.path) == parameters.file(false)));
  }
}

TEST_CASE("no call of an asynchronous save waits for the device") {
  test::Parameters parameters(5);  // all on the device: no stream could wait for what is not
  parameters.add("a", "Float32", {5000}).add("b", "Int8", {3}).add("c", "Float16", {2, 1000});
  Fixture fixture("sim");
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  for (const SnapshotPolicy policy :
       {SnapshotPolicy::kHost, SnapshotPolicy::kDevice, SnapshotPolicy::kLazy}) {
    // Nothing can be copied before the training's stream goes on, which it does after all calls.
    fixture.stand_in.stream_pause(fixture.stream);
    SaveRequest request = fixture.request(on_device);
    request.snapshot = policy;
    const auto job = Fixture::start(std::move(request));
    job->fence({&fixture.device, fixture.stream}, kNever);
    on_device.overwrite(fixture.stream, 0xEE);
    CHECK_FALSE(job->settled(SaveState::kStaged));
    fixture.stand_in.stream_resume(fixture.stream);
    job->wait(std::nullopt);
    CHECK(job->reached(SaveState::kStaged) <= job->reached(SaveState::kWritten));
    CHECK_FALSE(job->reached(SaveState::kDurable).has_value());
    CHECK((test::read_file(fixture.path) == parameters.file(false)));
    fixture.stand_in.stream_sync(fixture.stream);
    on_device.restore(parameters);
  }
}

TEST_CASE(
    "what a lazy save spends on memory for its copies counts, though the caller has gone on") {
  test::Parameters parameters(19);
  parameters.add("a", "Float32", {5000});
  Fixture fixture("sim");
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  for (const SnapshotPolicy policy :
       {SnapshotPolicy::kHost, SnapshotPolicy::kDevice, SnapshotPolicy::kLazy}) {
    SaveRequest request = fixture.request(on_device);
    request.snapshot = policy;
    const SaveStats& stats = Fixture::save(std::move(request));
    CHECK(stats.snapshot_seconds > 0);
    CHECK(stats.seconds > stats.snapshot_seconds);
  }
}

// The function by which a stand-in gets pinned memory.
const char* pinning_function(const Fixture& fixture) {
  const std::string& backend = fixture.stand_in.backend();
  if (backend == "cuda") return "cuMemHostRegister_v2";
  return backend == "ascend" ? "aclrtMallocHost" : "host_register";
}

// A save of tensors on both devices that is held up on one of them, while the training's stream, of
// the first, goes on.
struct HeldUpSave {
  explicit HeldUpSave(const std::string& backend, int32_t held_up = 0,
                      uint64_t staging_limit = 256 * kKiB)
      : fixture(backend, staging_limit), other(fixture.stand_in.stream_create(held_up)) {
    parameters.add("a", "Float32", {5000}).add("b", "Int8", {3}).add("c", "Float16", {2, 1000});
    Device* const devices[] = {&fixture.device, &fixture.second_device()};
    on_device.emplace(fixture.stand_in, parameters,
                      [&](size_t i) { return devices[held_up == 0 ? 0 : i % 2]; });
    fixture.stand_in.stream_pause(other);
    request = fixture.request(*on_device);
    request.producers.push_back({devices[held_up], other});
  }
  ~HeldUpSave() {
    let_go();
    if (job) job->wait(std::nullopt);
    fixture.stand_in.stream_sync(fixture.stream);
    fixture.stand_in.stream_destroy(other);
    if (flag != nullptr) fixture.stand_in.release(flag);
  }

  void start(SnapshotPolicy policy) {
    request.snapshot = policy;
    job = Fixture::start(std::move(request));
  }
  void let_go() const { fixture.stand_in.stream_resume(other); }
  Producer training() const { return {&fixture.device, fixture.stream}; }

  // Whether the training's stream comes to what is put into it now.
  bool training_goes_on() {
    unsigned char seen = 0;
    if (flag == nullptr) flag = fixture.stand_in.allocate(0, 1);
    fixture.stand_in.write(flag, &seen, 1);
    fixture.stand_in.stream_fill(fixture.stream, flag, 1, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fixture.stand_in.read(flag, &seen, 1);
    return seen != 0;
  }
  // The file has what there was at the call.
  void check_file() {
    job->wait(std::nullopt);
    job->result();
    CHECK((test::read_file(fixture.path) == parameters.file(false)));
  }

  test::Parameters parameters{20};
  Fixture fixture;
  void* const other;
  std::optional<DeviceParameters> on_device;
  SaveRequest request;
  std::shared_ptr<SaveJob> job;
  void* flag = nullptr;
};

TEST_CASE("a stream is held up until the last device has been copied from") {
  for (const std::string& backend : every_backend()) {
    for (const SnapshotPolicy policy : {SnapshotPolicy::kHost, SnapshotPolicy::kDevice}) {
      for (const int32_t held_up : {0, 1}) {
        CAPTURE(backend);
        CAPTURE(held_up);
        HeldUpSave save(backend, held_up);
        save.start(policy);
        CHECK_FALSE(save.training_goes_on());
        CHECK_FALSE(save.job->settled(SaveState::kStaged));
        save.let_go();
        save.check_file();
      }
    }
  }
}

TEST_CASE("a fence holds a stream up until all was copied, by whatever way it is") {
  for (const std::string& backend : every_backend()) {
    for (const bool through_pool : {false, true}) {
      for (const int32_t held_up : {0, 1}) {
        CAPTURE(backend);
        CAPTURE(through_pool);
        CAPTURE(held_up);
        HeldUpSave save(backend, held_up);
        // Without memory for a snapshot the copies go block by block.
        if (through_pool) save.fixture.stand_in.fail(pinning_function(save.fixture), 1);
        save.start(SnapshotPolicy::kLazy);
        CHECK(save.job->fence(save.training(), kNever));
        if (held_up == 0) save.on_device->overwrite(save.fixture.stream, 0xEE);
        CHECK_FALSE(save.training_goes_on());
        CHECK_FALSE(save.job->settled(SaveState::kStaged));
        save.let_go();
        save.check_file();
        const std::string& why = save.job->result().snapshot_reason;
        CHECK((why.find("through the pool") != std::string::npos) == through_pool);
      }
    }
  }
}

TEST_CASE("a fence waits for the last copy where there is too little staging memory for all") {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    HeldUpSave save(backend, 0, 8 * kKiB);
    save.fixture.stand_in.fail(pinning_function(save.fixture), 1);
    save.start(SnapshotPolicy::kLazy);
    CHECK_FALSE(save.job->fence(save.training(), Clock::now()));
    CHECK_FALSE(save.job->fence(save.training(), Clock::now() + std::chrono::milliseconds(5)));
    std::atomic<bool> returned{false};
    bool fenced = false;
    std::thread caller([&] {
      fenced = save.job->fence(save.training(), kNever);
      save.on_device->overwrite(save.fixture.stream, 0xEE);
      returned = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_FALSE(returned);
    save.let_go();
    caller.join();
    CHECK(fenced);
    save.check_file();
  }
}

TEST_CASE("a fence of a save that reads tensors on the host waits for them") {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    HeldUpSave save(backend);
    save.request.tensors.back() = save.parameters.refs().back();
    save.start(SnapshotPolicy::kLazy);
    CHECK_FALSE(save.job->fence(save.training(), Clock::now() + std::chrono::milliseconds(20)));
    save.let_go();
    CHECK(save.job->fence(save.training(), kNever));
    CHECK(save.job->settled(SaveState::kStaged));
    save.check_file();
  }
}

TEST_CASE("a stream of another driver can't be fenced") {
  HeldUpSave save("sim");
  Fixture cuda("cuda");
  save.start(SnapshotPolicy::kLazy);
  const auto fence = [&] { save.job->fence({&cuda.device, cuda.stream}, kNever); };
  CHECK(error_of(fence).kind() == ErrorKind::kInvalidArgument);
  save.let_go();
  save.check_file();
}

TEST_CASE("what a save with an unknown producer has copied when the call returns is whole") {
  test::Parameters parameters(21);
  parameters.add("a", "Float32", {5000}).add("b", "Int8", {3});
  for (const std::string& backend : every_backend()) {
    for (const SnapshotPolicy policy : {SnapshotPolicy::kHost, SnapshotPolicy::kDevice}) {
      CAPTURE(backend);
      Fixture fixture(backend);
      const DeviceParameters on_device(fixture.stand_in, parameters,
                                       [&](size_t) { return &fixture.device; });
      for (const int32_t direction :
           std::initializer_list<int32_t>{MINDCKPT_DEVICE_TO_HOST, MINDCKPT_DEVICE_TO_DEVICE}) {
        fixture.stand_in.set_speed(direction, 0, 0.02);
      }
      SaveRequest request = fixture.request(on_device);
      request.snapshot = policy;
      request.producers.clear();
      request.has_unknown_producer = true;
      const auto job = Fixture::start(std::move(request));
      CHECK(job->settled(SaveState::kStaged));
      on_device.restore(test::Parameters(0).add("a", "Float32", {5000}).add("b", "Int8", {3}));
      job->wait(std::nullopt);
      job->result();
      CHECK((test::read_file(fixture.path) == parameters.file(false)));
    }
  }
}

TEST_CASE("a save that finds memory for no snapshot says that its caller has to wait") {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    HeldUpSave save(backend);
    save.fixture.stand_in.set_memory(save.parameters.payload_nbytes() + kKiB);
    save.fixture.stand_in.fail(pinning_function(save.fixture), 1);
    save.start(SnapshotPolicy::kAuto);
    CHECK(save.job->is_synchronous());
    CHECK_FALSE(save.job->wait(SaveState::kStaged, Clock::now() + std::chrono::milliseconds(20)));
    save.let_go();
    CHECK(save.job->wait(SaveState::kStaged, std::nullopt));
    save.on_device->overwrite(save.fixture.stream, 0xEE);
    save.check_file();
    CHECK(save.job->result().snapshot == "none");
  }
}

TEST_CASE("a snapshot is picked by free memory, and the reason told") {
  test::Parameters parameters(6);
  add_model(parameters);
  Fixture fixture("sim");
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  SaveRequest request = fixture.request(on_device);
  request.snapshot = SnapshotPolicy::kAuto;
  CHECK(Fixture::save(std::move(request)).snapshot == "device");

  fixture.stand_in.set_memory(parameters.payload_nbytes() + kKiB);
  request = fixture.request(on_device);
  request.snapshot = SnapshotPolicy::kAuto;
  const SaveStats& stats = Fixture::save(std::move(request));
  CHECK(stats.snapshot == "host");
  CHECK(stats.snapshot_reason.find("sim:0 has 0 MiB free") != std::string::npos);
  CHECK((test::read_file(fixture.path) == parameters.file(false)));
}

TEST_CASE("a snapshot is picked by the free memory of each device") {
  test::Parameters parameters(24);
  parameters.add("a", "Int8", {100}).add("b", "Int8", {30 << 20});
  Fixture fixture("sim");
  const DeviceParameters on_device(fixture.stand_in, parameters, [&](size_t i) {
    return i == 0 ? &fixture.device : &fixture.second_device();
  });
  fixture.stand_in.set_memory(uint64_t{300} << 20);
  SaveRequest request = fixture.request(on_device);
  request.block_bytes = 0;
  request.snapshot = SnapshotPolicy::kAuto;
  const SaveStats& stats = Fixture::save(std::move(request));
  CHECK(stats.snapshot == "host");
  CHECK(stats.snapshot_reason.find("sim:1 has 270 MiB free") != std::string::npos);
  CHECK((test::read_file(fixture.path) == parameters.file(false)));
}

TEST_CASE("staged memory stays within the pool, however little that is") {
  test::Parameters parameters(7);
  add_model(parameters);
  for (const uint64_t limit : {8 * kKiB, 12 * kKiB, 40 * kKiB}) {
    CAPTURE(limit);
    Fixture fixture("sim", limit);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    for (const int threads : {1, 2, 8}) {
      SaveRequest request = fixture.request(on_device, cipher_of({CipherMode::kAesGcm, 16}));
      request.num_threads = threads;
      Fixture::save(std::move(request));
      const StagingPool::Stats stats = fixture.pools.of(fixture.device).pool.stats();
      CHECK(stats.peak_in_use_nbytes <= limit);
      CHECK(stats.in_use_nbytes == 0);
    }
    // Several at once share it.
    std::vector<std::shared_ptr<SaveJob>> jobs;
    for (int i = 0; i < 4; ++i) {
      SaveRequest request = fixture.request(on_device);
      request.path = fixture.folder.path(std::to_string(i) + ".ckpt");
      jobs.push_back(Fixture::start(std::move(request)));
    }
    for (int i = 0; i < 4; ++i) {
      jobs[static_cast<size_t>(i)]->wait(std::nullopt);
      jobs[static_cast<size_t>(i)]->result();
      CHECK((test::read_file(fixture.folder.path(std::to_string(i) + ".ckpt")) ==
             parameters.file(false)));
    }
  }
}

TEST_CASE("a block that is larger than the pool is refused, and nothing is left") {
  test::Parameters parameters(8);
  add_model(parameters);
  Fixture fixture("sim", 8 * kKiB);
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  SaveRequest request = fixture.request(on_device);
  request.block_bytes = 64 * kKiB;
  CHECK(error_of([&] { Fixture::save(std::move(request)); }).kind() == ErrorKind::kInvalidArgument);
  CHECK(fixture.folder.names().empty());
}

TEST_CASE("a stream that is being captured is refused before anything is put into it") {
  test::Parameters parameters(9);
  add_model(parameters);
  for (const std::string& backend : {std::string("cuda"), std::string("sim")}) {
    Fixture fixture(backend);
    const DeviceParameters on_device(fixture.stand_in, parameters,
                                     [&](size_t) { return &fixture.device; });
    fixture.stand_in.stream_begin_capture(fixture.stream, 1);
    const Error error = error_of([&] { Fixture::save(fixture.request(on_device)); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    fixture.stand_in.stream_begin_capture(fixture.stream, 0);
    Fixture::save(fixture.request(on_device));
  }
}

TEST_CASE("a cancelled save gives everything back") {
  test::Parameters parameters(10);
  add_model(parameters);
  Fixture fixture("sim", 16 * kKiB);
  const auto before = living(fixture.stand_in);
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  fixture.stand_in.set_speed(MINDCKPT_DEVICE_TO_HOST, 0, 1e-3);
  {
    const auto job = Fixture::start(fixture.request(on_device));
    job->cancel();
    job->wait(std::nullopt);
    CHECK(error_of([&] { job->result(); }).kind() == ErrorKind::kCancelled);
    CHECK(error_of([&] { job->reached(SaveState::kStaged); }).kind() == ErrorKind::kCancelled);
  }
  CHECK(fixture.folder.names().empty());
  fixture.pools.trim();
  CHECK(living(fixture.stand_in) == before);
}

std::vector<std::string> lines_of(const char* text) {
  std::vector<std::string> lines;
  for (const char* at = text; *at != '\0';) {
    const char* end = std::strchr(at, '\n');
    lines.emplace_back(at, end == nullptr ? at + std::strlen(at) : end);
    at = end == nullptr ? at + std::strlen(at) : end + 1;
  }
  return lines;
}

// Whether the function gives something back, or makes a thread able to: what its failure leaves
// behind nobody can give back.
bool may_leave_behind(const std::string& function) {
  for (const char* part : {"estroy", "ree", "nregister", "Push", "Pop", "bind", "Context", "eset",
                           "etach", "elease", "SetDevice", "Exchange"}) {
    if (function.find(part) != std::string::npos) return true;
  }
  return false;
}

// Whether the function puts copies into a stream, or tells how they ended: what says that it failed
// must not be passed over.
bool tells_of_copies(const std::string& function) {
  for (const char* part : {"emcpy", "copy", "ventSynchronize", "event_sync", "SynchronizeEvent"}) {
    if (function.find(part) != std::string::npos) return true;
  }
  return false;
}

// Every function of the driver, each of its calls: whichever fails, the save says so and leaves
// nothing behind, and the next one works.
void fail_at_every_call(const std::string& backend, SnapshotPolicy policy, int num_threads) {
  test::Parameters parameters(11);
  parameters.add("a", "Float32", {700}).add("b", "Int8", {3}).add("c", "Float16", {2, 1000});
  Fixture fixture(backend, 16 * kKiB);
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  const auto request = [&] {
    SaveRequest wanted = fixture.request(on_device);
    wanted.snapshot = policy;
    wanted.block_bytes = 2 * kKiB;
    wanted.num_threads = num_threads;
    wanted.synced_devices = {&fixture.device};
    return wanted;
  };
  // No copy within the device, then one on the host, then none: as far as things fail.
  if (policy == SnapshotPolicy::kAuto) {
    fixture.stand_in.set_memory(parameters.payload_nbytes() + 16 * kKiB);
  }
  for (const std::string& function : lines_of(fixture.stand_in.functions())) {
    for (int64_t nth = 1; nth < 100; ++nth) {
      CAPTURE(backend);
      CAPTURE(function);
      CAPTURE(nth);
      CAPTURE(num_threads);
      const auto before = living(fixture.stand_in);
      const int64_t calls = fixture.stand_in.calls(function.c_str());
      fixture.stand_in.fail(function.c_str(), nth);
      bool failed = false;
      try {
        Fixture::save(request());
      } catch (const Error& error) {
        failed = true;
        CHECK((error.kind() == ErrorKind::kDevice || error.kind() == ErrorKind::kUnavailable));
        CHECK(std::string(error.what()).find(backend) != std::string::npos);
        CHECK(fixture.folder.names().empty());
      }
      const bool reached = fixture.stand_in.calls(function.c_str()) - calls >= nth;
      fixture.stand_in.fail("", 0);
      // Where there is a snapshot the same is asked twice: by the save, and by who watches it.
      if (reached && policy == SnapshotPolicy::kNone && tells_of_copies(function)) CHECK(failed);
      if (!failed) {
        CHECK((test::read_file(fixture.path) == parameters.file(false)));
        std::filesystem::remove(fixture.path);
      }
      Fixture::save(request());
      CHECK((test::read_file(fixture.path) == parameters.file(false)));
      std::filesystem::remove(fixture.path);
      fixture.pools.trim();
      if (!may_leave_behind(function)) CHECK(living(fixture.stand_in) == before);
      if (!reached) break;
    }
  }
}

TEST_CASE("every call of the driver may fail in a save") {
  for (const std::string& backend : every_backend()) {
    for (const SnapshotPolicy policy :
         {SnapshotPolicy::kNone, SnapshotPolicy::kHost, SnapshotPolicy::kDevice,
          SnapshotPolicy::kLazy, SnapshotPolicy::kAuto}) {
      for (const int num_threads : {1, 4}) fail_at_every_call(backend, policy, num_threads);
    }
  }
}

TEST_CASE("a load puts every payload in its place on the device") {
  test::Parameters parameters(12);
  add_model(parameters);
  for (const std::string& backend : {std::string("cuda"), std::string("sim")}) {
    CAPTURE(backend);
    Fixture fixture(backend, 16 * kKiB);
    const auto before = living(fixture.stand_in);
    for (const bool sealed : {false, true}) {
      const SharedCipher cipher = sealed ? cipher_of({CipherMode::kAesGcm, 32}) : nullptr;
      const DeviceParameters on_device(fixture.stand_in, parameters,
                                       [&](size_t) { return &fixture.device; });
      SaveRequest request = fixture.request(on_device, cipher);
      request.crc = true;
      Fixture::save(std::move(request));
      on_device.overwrite(fixture.stream, 0xEE);
      const CheckpointFile file(fixture.path, cipher);
      std::vector<Target> targets;
      std::vector<Bytes> host(file.entries().size());
      for (size_t i = 0; i < file.entries().size(); ++i) {
        const TensorRef& tensor = on_device.refs()[i];
        host[i].resize(file.entries()[i].nbytes);
        if (tensor.device == nullptr) {
          targets.push_back({i, host[i].data(), nullptr});
        } else {
          targets.push_back({i, const_cast<std::byte*>(tensor.layout.data), tensor.device});
        }
      }
      const CancelFlag never{false};
      file.read(targets, true, {2, never, &fixture.pools, {{&fixture.device, fixture.stream}}});
      for (size_t i = 0; i < file.entries().size(); ++i) {
        const TensorRef& tensor = on_device.refs()[i];
        if (tensor.device != nullptr) {
          fixture.stand_in.read(tensor.layout.data, host[i].data(), tensor.nbytes);
        }
        CHECK((test::text_of(host[i]) == parameters.all()[i].payload));
      }
    }
    fixture.pools.trim();
    CHECK(living(fixture.stand_in) == before);
  }
}

// Tensors on a device and the file that they are loaded from.
struct LoadFixture : Fixture {
  explicit LoadFixture(const std::string& backend, const SharedCipher& with)
      : Fixture(backend, 16 * kKiB), cipher(with) {
    parameters.add("a", "Float32", {700}).add("b", "Int8", {3}).add("c", "Float16", {2, 1000});
    on_device.emplace(stand_in, parameters, [this](size_t) { return &device; });
    save(request(*on_device, cipher));
  }

  void load(int num_threads) {
    const CheckpointFile file(path, cipher);
    std::vector<Target> targets;
    for (size_t i = 0; i < file.entries().size(); ++i) {
      const TensorRef& tensor = on_device->refs()[i];
      targets.push_back({i, const_cast<std::byte*>(tensor.layout.data), tensor.device});
    }
    const CancelFlag never{false};
    file.read(targets, false, {num_threads, never, &pools, {{&device, stream}}});
  }
  void spoil() {
    on_device->overwrite(stream, 0xEE);
    stand_in.stream_sync(stream);
  }
  void check_loaded() {
    for (size_t i = 0; i < on_device->refs().size(); ++i) {
      const TensorRef& tensor = on_device->refs()[i];
      Bytes loaded(tensor.nbytes);
      stand_in.read(tensor.layout.data, loaded.data(), loaded.size());
      CHECK((test::text_of(loaded) == parameters.all()[i].payload));
    }
  }

  const SharedCipher cipher;
  test::Parameters parameters{22};
  std::optional<DeviceParameters> on_device;
};

// As for saves: whichever call fails, the load says so, or the values are right; and nothing is
// left behind.
void fail_at_every_call_of_a_load(const std::string& backend, const SharedCipher& cipher,
                                  int num_threads) {
  LoadFixture fixture(backend, cipher);
  for (const std::string& function : lines_of(fixture.stand_in.functions())) {
    for (int64_t nth = 1; nth < 100; ++nth) {
      CAPTURE(backend);
      CAPTURE(function);
      CAPTURE(nth);
      CAPTURE(num_threads);
      fixture.pools.trim();
      fixture.spoil();
      const auto before = living(fixture.stand_in);
      const int64_t calls = fixture.stand_in.calls(function.c_str());
      fixture.stand_in.fail(function.c_str(), nth);
      bool failed = false;
      try {
        fixture.load(num_threads);
      } catch (const Error& error) {
        failed = true;
        CHECK((error.kind() == ErrorKind::kDevice || error.kind() == ErrorKind::kUnavailable));
        CHECK(std::string(error.what()).find(backend) != std::string::npos);
        CHECK(error.path() == fixture.path);
      }
      const bool reached = fixture.stand_in.calls(function.c_str()) - calls >= nth;
      fixture.stand_in.fail("", 0);
      if (reached && tells_of_copies(function)) CHECK(failed);
      if (!failed) fixture.check_loaded();
      CHECK(fixture.pools.of(fixture.device).pool.stats().in_use_nbytes == 0);
      fixture.spoil();
      fixture.load(num_threads);
      fixture.check_loaded();
      fixture.pools.trim();
      if (!may_leave_behind(function)) CHECK(living(fixture.stand_in) == before);
      if (!reached) break;
    }
  }
}

TEST_CASE("every call of the driver may fail in a load") {
  for (const std::string& backend : {std::string("cuda"), std::string("sim")}) {
    for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
      for (const int num_threads : {1, 4}) {
        fail_at_every_call_of_a_load(backend, cipher, num_threads);
      }
    }
  }
}

// By the way of single tensors, which is also that of devices whose copies must be aligned.
TEST_CASE("every call of the driver may fail in a copy of one tensor") {
  for (const std::string& backend : every_backend()) {
    Fixture fixture(backend, 16 * kKiB);
    const Bytes original = test::Random(23).bytes(50'000);
    const Bytes other(original.size(), std::byte{0xEE});
    auto* const memory = static_cast<std::byte*>(fixture.stand_in.allocate(0, original.size()));
    DeviceStaging& staging = fixture.pools.of(fixture.device);
    const CancelFlag never{false};
    for (const bool to_device : {false, true}) {
      const auto copied = [&]() -> Bytes {
        Bytes back(original.size());
        if (to_device) {
          fixture.stand_in.write(memory, other.data(), other.size());
          copy_to_device(staging, fixture.stream, original, memory, never);
          fixture.stand_in.read(memory, back.data(), back.size());
        } else {
          fixture.stand_in.write(memory, original.data(), original.size());
          copy_from_device(staging, fixture.stream, memory, back, never);
        }
        return back;
      };
      for (const std::string& function : lines_of(fixture.stand_in.functions())) {
        for (int64_t nth = 1; nth < 100; ++nth) {
          CAPTURE(backend);
          CAPTURE(to_device);
          CAPTURE(function);
          CAPTURE(nth);
          fixture.pools.trim();
          const auto before = living(fixture.stand_in);
          const int64_t calls = fixture.stand_in.calls(function.c_str());
          fixture.stand_in.fail(function.c_str(), nth);
          bool failed = false;
          try {
            const Bytes back = copied();
            CHECK((back == original));
          } catch (const Error& error) {
            failed = true;
            CHECK((error.kind() == ErrorKind::kDevice || error.kind() == ErrorKind::kUnavailable));
          }
          const bool reached = fixture.stand_in.calls(function.c_str()) - calls >= nth;
          fixture.stand_in.fail("", 0);
          if (reached && tells_of_copies(function)) CHECK(failed);
          CHECK(staging.pool.stats().in_use_nbytes == 0);
          CHECK((copied() == original));
          fixture.pools.trim();
          if (!may_leave_behind(function)) CHECK(living(fixture.stand_in) == before);
          if (!reached) break;
        }
      }
    }
    fixture.stand_in.release(memory);
  }
}

TEST_CASE("a load with many threads and little staging memory ends, well or not") {
  test::Parameters parameters(14);
  add_model(parameters);
  Fixture fixture("sim", 256 * kKiB);
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  const auto load = [&](const std::string& path, const SharedCipher& cipher, int num_threads) {
    const CheckpointFile file(path, cipher);
    std::vector<Target> targets;
    for (size_t i = 0; i < file.entries().size(); ++i) {
      const TensorRef& tensor = on_device.refs()[i];
      if (tensor.device == nullptr) continue;
      targets.push_back({i, const_cast<std::byte*>(tensor.layout.data), tensor.device});
    }
    const CancelFlag never{false};
    file.read(targets, false, {num_threads, never, &fixture.pools, {}});
  };
  const auto check_values = [&] {
    for (size_t i = 0; i < on_device.refs().size(); ++i) {
      const TensorRef& tensor = on_device.refs()[i];
      if (tensor.device == nullptr) continue;
      Bytes loaded(tensor.nbytes);
      fixture.stand_in.read(tensor.layout.data, loaded.data(), loaded.size());
      CHECK((test::text_of(loaded) == parameters.all()[i].payload));
    }
  };
  const auto before = living(fixture.stand_in);
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    CAPTURE(bool(cipher));
    on_device.restore(parameters);
    fixture.pools.set_limit(256 * kKiB);
    Fixture::save(fixture.request(on_device, cipher));
    Bytes damaged = test::bytes_of(test::read_file(fixture.path));
    damaged[damaged.size() / 2] ^= std::byte{1};
    const std::string damaged_path = fixture.folder.path("damaged.ckpt");
    test::write_file(damaged_path, damaged);
    for (const uint64_t limit : {8 * kKiB, 12 * kKiB, 32 * kKiB}) {
      CAPTURE(limit);
      fixture.pools.set_limit(limit);
      for (const int num_threads : {1, 3, 16, 128}) {
        CAPTURE(num_threads);
        on_device.overwrite(fixture.stream, 0xEE);
        fixture.stand_in.stream_sync(fixture.stream);
        load(fixture.path, cipher, num_threads);
        check_values();
        if (cipher == nullptr) continue;  // nothing notices damage
        CHECK(error_of([&] { load(damaged_path, cipher, num_threads); }).kind() ==
              ErrorKind::kDecryption);
      }
    }
    std::filesystem::remove(damaged_path);
  }
  fixture.pools.trim();
  const auto after = living(fixture.stand_in);
  CHECK(after.at("event") == before.at("event"));
  CHECK(after.at("stream") == before.at("stream"));
}

TEST_CASE("a block is staged when its host payloads were read, too") {
  test::Parameters parameters(15);
  parameters.add("on_device", "Int8", {1000}).add("on_host", "Int8", {1000});
  {
    Fixture fixture("sim");
    const DeviceParameters mixed(fixture.stand_in, parameters,
                                 [&](size_t i) { return i == 0 ? &fixture.device : nullptr; });
    // One block, written from its pieces: nothing may be overwritten before it is.
    FileImage image = FileImage::plan(mixed.refs(), {64 * kKiB, false, std::nullopt});
    CopyLanes lanes(image, fixture.pools);
    const CancelFlag never{false};
    BlockFeed feed(image, lanes, nullptr, never);
    std::atomic<uint64_t> written{0};
    bool staged = false;
    // Whether it counted as staged before it was written.
    class Watching final : public Sink {
     public:
      Watching(test::MemorySink& sink, const bool& was_staged) : sink_(sink), staged_(was_staged) {}
      void write_at(uint64_t offset, std::span<const ByteView> pieces) override {
        CHECK_FALSE(staged_);
        sink_.write_at(offset, pieces);
      }
      void sync() override { sink_.sync(); }
      void commit() override { sink_.commit(); }

     private:
      test::MemorySink& sink_;
      const bool& staged_;
    };
    test::MemorySink memory(image.nbytes());
    Watching sink(memory, staged);
    SaveStats stats;
    save(image, {}, feed, sink, {1, never, written, [&] { staged = true; }, {}}, stats);
    CHECK(staged);
    CHECK(test::text_of(memory.bytes()) == parameters.file(false));
  }
}

TEST_CASE("tensors of two backends in one file are refused before anything is done") {
  test::Parameters parameters(16);
  parameters.add("a", "Int8", {1000}).add("b", "Int8", {1000});
  Fixture sim("sim");
  Fixture cuda("cuda");
  const DeviceParameters first(sim.stand_in, parameters,
                               [&](size_t i) { return i == 0 ? &sim.device : nullptr; });
  const DeviceParameters second(cuda.stand_in, parameters,
                                [&](size_t i) { return i == 1 ? &cuda.device : nullptr; });
  for (const SnapshotPolicy policy : {SnapshotPolicy::kNone, SnapshotPolicy::kDevice}) {
    SaveRequest request = sim.request(first);
    request.tensors[1] = second.refs()[1];
    request.snapshot = policy;
    const Error error = error_of([&] { Fixture::save(std::move(request)); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    CHECK(std::string(error.what()).find("sim:0") != std::string::npos);
    CHECK(std::string(error.what()).find("cuda:0") != std::string::npos);
  }
  CHECK(sim.folder.names().empty());
}

TEST_CASE("blocks are picked to fit a small pool") {
  test::Parameters parameters(17);
  parameters.add("a", "Float32", {1'000'000});
  Fixture fixture("sim", 1024 * kKiB);
  const DeviceParameters on_device(fixture.stand_in, parameters,
                                   [&](size_t) { return &fixture.device; });
  SaveRequest request = fixture.request(on_device);
  request.block_bytes = 0;
  Fixture::save(std::move(request));
  CHECK((test::read_file(fixture.path) == parameters.file(false)));
}

TEST_CASE("single tensors are copied both ways, whatever their size and place") {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend, 64 * kKiB);
    test::Random random(13);
    constexpr size_t kNbytes = 9'000'001;
    auto* memory = static_cast<std::byte*>(fixture.stand_in.allocate(0, kNbytes));
    const Bytes original = random.bytes(kNbytes);
    DeviceStaging& staging = fixture.pools.of(fixture.device);
    const CancelFlag never{false};
    copy_to_device(staging, fixture.stream, original, memory, never);
    for (const size_t begin : std::initializer_list<size_t>{0, 1, 63, 64, 4097}) {
      for (const size_t nbytes : {size_t{0}, size_t{1}, size_t{100}, kNbytes - begin}) {
        Bytes back(nbytes);
        copy_from_device(staging, fixture.stream, memory + begin, back, never);
        CHECK(
            std::equal(back.begin(), back.end(), original.begin() + static_cast<ptrdiff_t>(begin)));
      }
    }
    fixture.stand_in.release(memory);
  }
}

TEST_CASE("many threads copy single tensors through little staging memory") {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    Fixture fixture(backend, 8 * kKiB);
    DeviceStaging& staging = fixture.pools.of(fixture.device);
    std::atomic<int> right{0};
    std::vector<std::jthread> threads;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      threads.emplace_back([&, seed] {
        const CancelFlag never{false};
        const Bytes original = test::Random(seed).bytes(100'000);
        Bytes back(original.size());
        auto* const memory = static_cast<std::byte*>(fixture.stand_in.allocate(0, original.size()));
        copy_to_device(staging, std::nullopt, original, memory, never);
        copy_from_device(staging, std::nullopt, memory, back, never);
        fixture.stand_in.release(memory);
        right += back == original ? 1 : 0;
      });
    }
    threads.clear();
    CHECK(right == 8);
    CHECK(staging.pool.stats().peak_in_use_nbytes <= 8 * kKiB);
  }
}

TEST_CASE("nothing is copied to where a device's copies can't begin") {
  Fixture fixture("ascend");
  auto* const memory = static_cast<std::byte*>(fixture.stand_in.allocate(0, 1000));
  const Bytes original = test::Random(25).bytes(100);
  const CancelFlag never{false};
  for (const size_t begin : std::initializer_list<size_t>{1, 32, 63, 65}) {
    const Error error = error_of([&] {
      copy_to_device(fixture.pools.of(fixture.device), std::nullopt, original, memory + begin,
                     never);
    });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
  }
  fixture.stand_in.release(memory);
}

}  // namespace
}  // namespace mindckpt
