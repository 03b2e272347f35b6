#include "device/device.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/exercise.h"
#include "support/child.h"

// What holds for every backend, on a stand-in of each.
namespace mindckpt {
namespace {

using test::error_of;
using test::every_backend;
using test::live;
using test::StandIn;

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kGiB = size_t{1} << 30;

using Counts = std::map<std::string, int64_t>;

// Calls body(fixture) for each backend, and checks that all it made is given back.
template <typename Body>
void for_each_backend(const Body& body) {
  for (const std::string& backend : every_backend()) {
    CAPTURE(backend);
    const Counts before = live(StandIn::of(backend));
    {
      test::DeviceFixture fixture(backend);
      body(fixture);
    }
    CHECK(live(StandIn::of(backend)) == before);
  }
}

TEST_CASE("bytes come back from every device as they were sent") {
  for_each_backend([](test::DeviceFixture& fixture) {
    void* const stream = fixture.stand_in.stream_create(0);
    test::exercise(fixture.registry, fixture.stand_in, stream);
    fixture.stand_in.stream_destroy(stream);
  });
}

TEST_CASE("a device has a name and knows its memory") {
  for_each_backend([](test::DeviceFixture& fixture) {
    CHECK(fixture.device.name() == fixture.stand_in.backend() + ":0");
    CHECK(fixture.device.ordinal() == 0);
    CHECK(fixture.device.backend().name() == fixture.stand_in.backend());
    CHECK(fixture.device.backend().version() != "");
    CHECK(fixture.device.backend().device_count() == 2);
    fixture.stand_in.set_memory(64 * kMiB);
    const DeviceMemory memory(fixture.device, 16 * kMiB);
    CHECK(fixture.device.memory_info().total_nbytes == 64 * kMiB);
    CHECK(fixture.device.memory_info().free_nbytes == 48 * kMiB);
  });
}

TEST_CASE("pinned memory begins at a page") {
  for_each_backend([](test::DeviceFixture& fixture) {
    for (const size_t nbytes : {size_t{1}, size_t{4096}, 3 * kMiB + 5}) {
      const PinnedMemory memory(fixture.device, nbytes);
      CHECK(reinterpret_cast<uintptr_t>(memory.data()) % 4096 == 0);
      CHECK(memory.size() == nbytes);
      memory.data()[nbytes - 1] = std::byte{1};
      CHECK(fixture.registry.device_of(memory.data()) == nullptr);
    }
  });
}

TEST_CASE("no bytes are no memory and no copies") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const Counts before = live(fixture.stand_in);
    CHECK(PinnedMemory(fixture.device, 0).data() == nullptr);
    CHECK(DeviceMemory(fixture.device, 0).data() == nullptr);
    CHECK(live(fixture.stand_in) == before);
    DeviceStream stream(fixture.device, CopyDirection::kToHost);
    const DeviceBinding binding(fixture.device);
    stream.copy(nullptr, nullptr, 0, CopyDirection::kToHost);
    stream.copy({}, CopyDirection::kToHost);
    stream.copy({{nullptr, nullptr, 0}, {nullptr, nullptr, 0}}, CopyDirection::kToHost);
    stream.sync();
  });
}

TEST_CASE("what is moved is given back once") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const Device& device = fixture.device;
    const auto pass_on = [&](auto made, auto other) {
      auto taken = std::move(made);
      other = std::move(taken);
      auto& same = other;
      other = std::move(same);
      decltype(made) last(std::move(other));
      CHECK(live(fixture.stand_in)["context"] == 1);
      return last;
    };
    const Counts none = live(fixture.stand_in);
    {
      const PinnedMemory pinned =
          pass_on(PinnedMemory(device, kMiB), PinnedMemory(device, 2 * kMiB));
      CHECK(pinned.size() == kMiB);
      const DeviceMemory memory =
          pass_on(DeviceMemory(device, kMiB), DeviceMemory(device, 2 * kMiB));
      CHECK(memory.size() == kMiB);
      const DeviceStream stream = pass_on(DeviceStream(device, CopyDirection::kToHost),
                                          DeviceStream(device, CopyDirection::kToHost));
      const DeviceEvent event =
          pass_on(DeviceEvent(device, EventUse::kHost), DeviceEvent(device, EventUse::kStream));
      // Where it happens to lie over a multiple of 1 GiB, pinned memory is registered in two
      // pieces.
      const auto begin = reinterpret_cast<uintptr_t>(pinned.data());
      const bool in_two = fixture.stand_in.backend() != "ascend" &&
                          begin >> 30 != (begin + pinned.size() - 1) >> 30;
      const Counts one = live(fixture.stand_in);
      for (const auto& count : one) {
        CAPTURE(count.first);
        CHECK(count.second == (count.first == "pinned_memory" && in_two ? 2 : 1));
      }
    }
    CHECK(live(fixture.stand_in) == none);
  });
}

TEST_CASE("a stream's destructor waits for what is in it") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const PinnedMemory host(fixture.device, kMiB);
    const DeviceMemory memory(fixture.device, kMiB);
    fixture.stand_in.set_speed(MINDCKPT_DEVICE_TO_HOST, 0, 0.02);
    {
      DeviceStream stream(fixture.device, CopyDirection::kToHost);
      const DeviceBinding binding(fixture.device);
      stream.copy(host.data(), memory.data(), kMiB, CopyDirection::kToHost);
    }
    // A copy that was still under way would end the process when its memory goes.
  });
}

TEST_CASE("an event that was never recorded holds nobody up") {
  for_each_backend([](test::DeviceFixture& fixture) {
    DeviceStream stream(fixture.device, CopyDirection::kToHost);
    const DeviceEvent event(fixture.device, EventUse::kHost);
    const DeviceBinding binding(fixture.device);
    CHECK(event.happened());
    event.sync();
    stream.wait(event);
    stream.sync();
  });
}

TEST_CASE("an event happens when the stream has come to it, each time it is recorded") {
  for_each_backend([](test::DeviceFixture& fixture) {
    void* const framework_stream = fixture.stand_in.stream_create(0);
    DeviceEvent event(fixture.device, EventUse::kHost);
    const DeviceBinding binding(fixture.device);
    for (int i = 0; i < 3; ++i) {
      fixture.stand_in.stream_pause(framework_stream);
      event.record(framework_stream);
      CHECK_FALSE(event.happened());
      fixture.stand_in.stream_resume(framework_stream);
      event.sync();
      CHECK(event.happened());
    }
    fixture.stand_in.stream_destroy(framework_stream);
  });
}

TEST_CASE("a stream waits for an event of the caller's stream, and the other way round") {
  for_each_backend([](test::DeviceFixture& fixture) {
    StandIn& stand_in = fixture.stand_in;
    void* const training = stand_in.stream_create(0);
    void* const tensor = stand_in.allocate(0, kMiB);
    {
      const PinnedMemory host(fixture.device, kMiB);
      DeviceStream stream(fixture.device, CopyDirection::kToHost);
      DeviceEvent ready(fixture.device, EventUse::kStream);
      DeviceEvent copied(fixture.device, EventUse::kStream);
      const DeviceBinding binding(fixture.device);
      stand_in.stream_pause(training);
      stand_in.stream_fill(training, tensor, 7, kMiB);
      ready.record(training);
      stream.wait(ready);
      stand_in.set_speed(MINDCKPT_DEVICE_TO_HOST, 0, 0.01);
      stream.copy(host.data(), tensor, kMiB, CopyDirection::kToHost);
      copied.record(stream.get());
      stream_wait(fixture.device, training, copied);
      stand_in.stream_fill(training, tensor, 8, kMiB);
      stand_in.stream_resume(training);
      stream.sync();
      CHECK(test::same({host.data(), kMiB}, test::Bytes(kMiB, std::byte{7})));
      stand_in.stream_sync(training);
    }
    stand_in.stream_destroy(training);
    stand_in.release(tensor);
  });
}

TEST_CASE("bindings nest, and leave the thread as it was") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const Device& first = fixture.device;
    const Device& second = fixture.registry.device(fixture.stand_in.backend(), 1);
    const PinnedMemory host(first, kMiB);
    const DeviceMemory in_first(first, kMiB);
    const DeviceMemory in_second(second, kMiB);
    DeviceStream of_first(first, CopyDirection::kToHost);
    DeviceStream of_second(second, CopyDirection::kToHost);
    const auto copy = [&](DeviceStream& stream, const DeviceMemory& from) {
      // All but CUDA refuse streams of another device than the bound one.
      stream.copy(host.data(), from.data(), kMiB, CopyDirection::kToHost);
      stream.sync();
    };
    const DeviceBinding outer(first);
    copy(of_first, in_first);
    {
      const DeviceBinding inner(second);
      copy(of_second, in_second);
      {
        const DeviceBinding same(second);
        const DeviceBinding again(first);
        copy(of_first, in_first);
        const DeviceEvent event(second, EventUse::kHost);
        copy(of_first, in_first);
      }
      copy(of_second, in_second);
    }
    copy(of_first, in_first);
  });
}

TEST_CASE("threads use devices side by side") {
  for_each_backend([](test::DeviceFixture& fixture) {
    std::vector<std::thread> threads;
    std::atomic<int> equal{0};
    for (int i = 0; i < 4; ++i) {
      Device& device = fixture.registry.device(fixture.stand_in.backend(), i % 2);
      threads.emplace_back([&device, &equal, i] {
        const test::Bytes bytes(kMiB, static_cast<std::byte>(i));
        for (int turn = 0; turn < 5; ++turn) {
          const PinnedMemory host(device, 2 * kMiB);
          const DeviceMemory memory(device, kMiB);
          DeviceStream stream(device, CopyDirection::kToHost);
          const DeviceBinding binding(device);
          std::ranges::copy(bytes, host.data());
          stream.copy(memory.data(), host.data(), kMiB, CopyDirection::kToDevice);
          stream.copy(host.data() + kMiB, memory.data(), kMiB, CopyDirection::kToHost);
          stream.sync();
          equal += test::same({host.data() + kMiB, kMiB}, bytes) ? 1 : 0;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(equal == 20);
  });
}

TEST_CASE("memory that is not there is an Error that says how much") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const std::string name = fixture.device.name();
    fixture.stand_in.set_memory(kMiB);
    const Error error = error_of([&] { DeviceMemory(fixture.device, 2 * kMiB); });
    CHECK(error.kind() == ErrorKind::kDevice);
    CHECK(test::message(error) != "");
    CHECK(std::string(error.what())
              .starts_with(name + ": device_alloc: out of memory for 2097152 bytes of the device's "
                                  "memory: "));
    for (const char* function : {"cuMemHostRegister_v2", "host_register", "aclrtMallocHost"}) {
      const std::string functions = std::string("\n") + fixture.stand_in.functions();
      if (functions.find('\n' + std::string(function) + '\n') == std::string::npos) continue;
      fixture.stand_in.fail(function, 1);
      const std::string what = error_of([&] { PinnedMemory(fixture.device, 12345); }).what();
      CAPTURE(what);
      CHECK(what.starts_with(name + ": host_"));
      CHECK(what.find(": out of memory for 12345 bytes of pinned host memory: ") !=
            std::string::npos);
    }
    for (const size_t nbytes : {size_t{1} << 60, std::numeric_limits<size_t>::max()}) {
      const Error huge = error_of([&] { PinnedMemory(fixture.device, nbytes); });
      CHECK(huge.kind() == ErrorKind::kDevice);
      CHECK(std::string(huge.what()).find("out of memory for " + std::to_string(nbytes)) !=
            std::string::npos);
    }
  });
}

// Where host memory is registered in pieces.
TEST_CASE("copies may cross the pieces in which host memory is registered") {
  for (const std::string backend : {"cuda", "sim"}) {
    CAPTURE(backend);
    test::DeviceFixture fixture(backend);
    const PinnedMemory host(fixture.device, kGiB + 4 * kMiB);
    CHECK(fixture.stand_in.live("pinned_memory") > 1);
    const DeviceMemory memory(fixture.device, kMiB);
    const size_t before_bound = kGiB - (reinterpret_cast<uintptr_t>(host.data()) & (kGiB - 1));
    const test::Bytes bytes = test::Random(9).bytes(kMiB);
    fixture.stand_in.write(memory.data(), bytes.data(), kMiB);
    DeviceStream stream(fixture.device, CopyDirection::kToHost);
    const DeviceBinding binding(fixture.device);
    for (const size_t left : {size_t{4096}, kMiB / 2, kMiB - 1}) {
      for (const bool batched : {false, true}) {
        std::byte* const to = host.data() + (before_bound < left ? 0 : before_bound - left);
        std::memset(to, 0, kMiB);
        if (batched) {
          stream.copy({{to, memory.data(), kMiB}, {to, memory.data(), 1}}, CopyDirection::kToHost);
        } else {
          stream.copy(to, memory.data(), kMiB, CopyDirection::kToHost);
        }
        stream.sync();
        CHECK(test::same({to, kMiB}, bytes));
      }
    }
  }
}

TEST_CASE("when a piece of host memory can't be registered none stays registered") {
  for (const std::string backend : {"cuda", "sim"}) {
    CAPTURE(backend);
    test::DeviceFixture fixture(backend);
    fixture.stand_in.fail(backend == "cuda" ? "cuMemHostRegister_v2" : "host_register", 2);
    CHECK(error_of([&] { PinnedMemory(fixture.device, kGiB + 4 * kMiB); }).kind() ==
          ErrorKind::kDevice);
    CHECK(fixture.stand_in.live("pinned_memory") == 0);
  }
}

TEST_CASE("a stream that is being captured is refused") {
  for (const std::string backend : {"cuda", "sim"}) {
    CAPTURE(backend);
    test::DeviceFixture fixture(backend);
    void* const stream = fixture.stand_in.stream_create(0);
    const DeviceEvent event(fixture.device, EventUse::kStream);
    const DeviceBinding binding(fixture.device);
    check_not_capturing(fixture.device, stream);
    fixture.stand_in.stream_begin_capture(stream, 1);
    const Error error = error_of([&] { check_not_capturing(fixture.device, stream); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    CHECK(test::message(error) ==
          (backend +
           ":0: the stream is being captured into a graph, where nothing of a checkpoint may go")
              .c_str());
    CHECK(error_of([&] { stream_wait(fixture.device, stream, event); }).kind() ==
          ErrorKind::kInvalidArgument);
    fixture.stand_in.stream_begin_capture(stream, 0);
    stream_wait(fixture.device, stream, event);
    fixture.stand_in.stream_destroy(stream);
  }
}

TEST_CASE("a call that fails names the device, the call and the driver's reason") {
  test::DeviceFixture fixture("sim");
  DeviceStream stream(fixture.device, CopyDirection::kToHost);
  const DeviceBinding binding(fixture.device);
  std::byte not_pinned{};
  const DeviceMemory memory(fixture.device, 1);
  const Error error =
      error_of([&] { stream.copy(&not_pinned, memory.data(), 1, CopyDirection::kToHost); });
  CHECK(error.kind() == ErrorKind::kDevice);
  const std::string what = error.what();
  CHECK(what.starts_with("sim:0: copy_async: "));
  CHECK(what.size() > std::string("sim:0: copy_async: ").size());
}

TEST_CASE("after a fork the child can't use devices and gives nothing back") {
  for_each_backend([](test::DeviceFixture& fixture) {
    const std::string& backend = fixture.stand_in.backend();
    std::optional<PinnedMemory> pinned(std::in_place, fixture.device, kMiB);
    std::optional<DeviceMemory> memory(std::in_place, fixture.device, kMiB);
    std::optional<DeviceStream> stream(std::in_place, fixture.device, CopyDirection::kToHost);
    std::optional<DeviceEvent> event(std::in_place, fixture.device, EventUse::kHost);
    const Counts before = live(fixture.stand_in);
    CHECK(test::succeeds_in_child([&] {
      const auto is_refused = [&](const auto& body) {
        const Error error = error_of(body);
        return error.kind() == ErrorKind::kUnavailable &&
               error.what() == backend +
                                   " can't be used in a process that was forked after it was "
                                   "used: start processes by the \"spawn\" method";
      };
      bool good = is_refused([&] { fixture.registry.device(backend, 0); });
      good &= is_refused([&] { fixture.registry.device_of(memory->data()); });
      good &= is_refused([&] { const DeviceBinding binding(fixture.device); });
      good &= is_refused([&] { fixture.device.memory_info(); });
      good &= is_refused([&] { PinnedMemory(fixture.device, kMiB); });
      good &= is_refused([&] { DeviceMemory(fixture.device, kMiB); });
      good &= is_refused([&] { DeviceEvent(fixture.device, EventUse::kHost); });
      good &= is_refused([&] { DeviceStream(fixture.device, CopyDirection::kToHost); });
      good &= is_refused([&] { fixture.device.backend().device_count(); });
      for (const BackendInfo& info : fixture.registry.list()) {
        if (info.name == backend) {
          good &= info.unusable.find("forked") != std::string::npos;
        }
      }
      pinned.reset();
      memory.reset();
      stream.reset();
      event.reset();
      return good && live(fixture.stand_in) == before;
    }));
  });
}

TEST_CASE("host memory that a device knows of is not shared with a forked child") {
#ifdef __SANITIZE_THREAD__
  MESSAGE("skipped: ThreadSanitizer maps memory of its own where it was, in the child");
  return;
#endif
  for (const std::string backend : {"cuda", "sim"}) {
    CAPTURE(backend);
    test::DeviceFixture fixture(backend);
    const PinnedMemory pinned(fixture.device, 3 * kMiB);
    CHECK(test::succeeds_in_child([&] {
      unsigned char resident = 0;
      return ::mincore(pinned.data(), 4096, &resident) == -1 && errno == ENOMEM;
    }));
  }
}

TEST_CASE("probe: each call of the sim fails" * doctest::skip()) {
  test::fail_each_call(
      "sim", {.may_pass = {"detach", "bind_thread", "unbind_thread", "host_unregister",
                           "device_free", "stream_destroy", "stream_sync", "event_destroy"},
              .may_leave = {"detach", "bind_thread", "unbind_thread", "host_unregister",
                            "device_free", "stream_destroy", "event_destroy"}});
}

TEST_CASE("a sim that fails at any call is an Error and leaves nothing behind") {
  const test::CaseRun run = test::run_case("probe: each call of the sim fails", {});
  CAPTURE(run.output);
  CHECK(run.passed);
}

}  // namespace
}  // namespace mindckpt
