#include <doctest/doctest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "device/exercise.h"
#include "device/registry.h"
#include "support/child.h"

// What is AscendCL's own, on a stand-in for it.
namespace mindckpt {
namespace {

using test::error_of;
using test::StandIn;

constexpr size_t kMiB = size_t{1} << 20;

// AscendCL as a framework uses it.
struct Framework {
  explicit Framework(const StandIn& stand_in)
      : init(test::symbol_of(stand_in, "aclInit")),
        finalize(test::symbol_of(stand_in, "aclFinalize")),
        set_device(test::symbol_of(stand_in, "aclrtSetDevice")),
        reset_device(test::symbol_of(stand_in, "aclrtResetDevice")),
        get_device(test::symbol_of(stand_in, "aclrtGetDevice")) {}

  int32_t device() const {
    int32_t found = -1;
    CHECK(get_device(&found) == 0);
    return found;
  }

  int (*init)(const char*);
  int (*finalize)();
  int (*set_device)(int32_t);
  int (*reset_device)(int32_t);
  int (*get_device)(int32_t*);
};

struct Fixture : test::DeviceFixture {
  Fixture() : DeviceFixture("ascend") {}
};

TEST_CASE("AscendCL is begun with once, and ended when nobody else has begun with it") {
  StandIn& stand_in = StandIn::of("ascend");
  stand_in.reset();
  const Framework framework(stand_in);
  {
    auto first = std::make_unique<DeviceRegistry>();
    DeviceRegistry second;
    first->device("ascend", 0);
    Device& device = second.device("ascend", 0);
    CHECK(stand_in.calls("aclInit") == 1);
    first.reset();
    CHECK(stand_in.calls("aclFinalize") == 0);
    CHECK(DeviceMemory(device, 100).data() != nullptr);
  }
  CHECK(stand_in.calls("aclFinalize") == 1);
  CHECK(stand_in.live("context") == 0);
}

TEST_CASE("a framework's AscendCL and its devices are never reset or ended") {
  StandIn& stand_in = StandIn::of("ascend");
  stand_in.reset();
  const Framework framework(stand_in);
  CHECK(framework.init(nullptr) == 0);
  CHECK(framework.set_device(0) == 0);
  void* const stream = stand_in.stream_create(0);
  {
    DeviceRegistry registry;
    test::exercise(registry, stand_in, stream);
    registry.device("ascend", 1);
    CHECK(framework.device() == 0);
  }
  CHECK(stand_in.calls("aclrtResetDevice") == 0);
  CHECK(stand_in.calls("aclFinalize") == 0);
  CHECK(framework.device() == 0);
  CHECK(stand_in.live("context") == 3);  // the framework's, and the two that stay set
  stand_in.stream_destroy(stream);
  for (const int32_t device : {0, 0, 1}) CHECK(framework.reset_device(device) == 0);
  CHECK(framework.finalize() == 0);
}

TEST_CASE("a framework's device is current again when an Ascend binding ends") {
  StandIn& stand_in = StandIn::of("ascend");
  stand_in.reset();
  const Framework framework(stand_in);
  CHECK(framework.init(nullptr) == 0);
  CHECK(framework.set_device(1) == 0);
  {
    DeviceRegistry registry;
    Device& device = registry.device("ascend", 0);
    CHECK(framework.device() == 1);
    const int64_t times_set = stand_in.calls("aclrtSetDevice");
    {
      const DeviceBinding binding(device);
      CHECK(framework.device() == 0);
      {
        const DeviceBinding inner(registry.device("ascend", 1));
        CHECK(framework.device() == 1);
      }
      CHECK(framework.device() == 0);
    }
    CHECK(framework.device() == 1);
    const PinnedMemory host(device, 100);
    CHECK(device.memory_info().total_nbytes > 0);
    CHECK(framework.device() == 1);
    // Threads take the context that is there; the device is set once.
    CHECK(stand_in.calls("aclrtSetDevice") == times_set + 1);
    std::thread([&device] { const DeviceMemory memory(device, 100); }).join();
    CHECK(stand_in.calls("aclrtSetDevice") == times_set + 1);
  }
  for (const int32_t device : {1, 1, 0}) CHECK(framework.reset_device(device) == 0);
  CHECK(framework.finalize() == 0);
}

TEST_CASE_FIXTURE(Fixture, "copies of an Ascend device need addresses that are multiples of 64") {
  CHECK(device.backend().copy_alignment() == 64);
  const PinnedMemory host(device, 4096);
  const DeviceMemory memory(device, 4096);
  DeviceStream stream(device, CopyDirection::kToHost);
  const DeviceBinding binding(device);
  stream.copy(host.data() + 64, memory.data() + 128, 3, CopyDirection::kToHost);
  const std::string what = error_of([&] {
                             stream.copy(host.data() + 1, memory.data(), 3, CopyDirection::kToHost);
                           }).what();
  CHECK(what.starts_with(
      "ascend:0: copy_async: aclrtMemcpyAsync: error 107008 (an address that is not aligned): "));
}

TEST_CASE_FIXTURE(Fixture, "an Ascend device without HBM tells its other memory") {
  stand_in.set_memory(32 * kMiB);
  CHECK(device.memory_info().total_nbytes == 32 * kMiB);
  CHECK(stand_in.calls("aclrtGetMemInfo") == 1);
  stand_in.fail("aclrtGetMemInfo", 1);
  const std::string what = error_of([&] { device.memory_info(); }).what();
  CHECK(what.starts_with("ascend:0: memory_info: aclrtGetMemInfo: error 507899"));
  CHECK(stand_in.calls("aclrtGetMemInfo") == 3);
}

TEST_CASE_FIXTURE(Fixture, "bindings of Ascend devices nest only so deep, and not less") {
  const mindckpt_device_backend& table = *ascend_backend();
  for (int i = 0; i < 64; ++i) CHECK(table.bind_thread(0) == MINDCKPT_OK);
  CHECK(table.bind_thread(0) == MINDCKPT_ERROR);
  CHECK(std::string(table.last_error()) == "nested too deeply");
  for (int i = 0; i < 64; ++i) CHECK(table.unbind_thread(0) == MINDCKPT_OK);
  CHECK(table.unbind_thread(0) == MINDCKPT_ERROR);
  CHECK(table.bind_thread(1) == MINDCKPT_ERROR);
  CHECK(table.bind_thread(7) == MINDCKPT_ERROR);
  CHECK(table.detach(1) == MINDCKPT_ERROR);
  CHECK(table.attach(-1) == MINDCKPT_ERROR);
}

TEST_CASE("a machine without an Ascend device says so") {
  StandIn& stand_in = StandIn::of("ascend");
  stand_in.reset();
  void (*set_device_count)(int32_t) = test::symbol_of(stand_in, "stand_in_set_device_count");
  set_device_count(0);
  DeviceRegistry registry;
  const std::string what = error_of([&] { registry.device("ascend", 0); }).what();
  CHECK(what.starts_with("ascend: aclrtGetDeviceCount: error 207004 (no device)"));
  CHECK(stand_in.calls("aclFinalize") == 1);  // as if nobody had asked
  stand_in.reset();
}

TEST_CASE("probe: each call of AscendCL fails" * doctest::skip()) {
  const std::set<std::string> giving_back = {
      "aclFinalize",   "aclrtResetDevice",   "aclrtSetCurrentContext", "aclrtGetCurrentContext",
      "aclrtFreeHost", "aclrtDestroyStream", "aclrtDestroyEvent",      "aclrtFree"};
  auto may_pass = giving_back;
  may_pass.insert({"aclrtGetVersion", "aclrtSynchronizeStream"});
  test::fail_each_call("ascend", {.may_pass = may_pass, .may_leave = giving_back},
                       [](const StandIn& stand_in) {
                         // Where that was what failed: the next registry is to begin anew.
                         Framework(stand_in).finalize();
                       });
}

TEST_CASE("an AscendCL that fails at any call is an Error and leaves nothing behind") {
  // An event whose destructor the driver refuses is lost, with the few bytes of our own to it.
  const char* const options = std::getenv("ASAN_OPTIONS");
  const test::CaseRun run = test::run_case(
      "probe: each call of AscendCL fails",
      {{"ASAN_OPTIONS", std::string(options != nullptr ? options : "") + ":detect_leaks=0"}});
  CAPTURE(run.output);
  CHECK(run.passed);
}

}  // namespace
}  // namespace mindckpt
