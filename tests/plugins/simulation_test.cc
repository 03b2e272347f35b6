#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "device_api.h"
#include "stand_in_testing.h"

namespace stand_in::test {
namespace {

using Bytes = std::vector<unsigned char>;

constexpr size_t kMiB = 1 << 20;

Bytes filled(size_t nbytes, int value) { return Bytes(nbytes, static_cast<unsigned char>(value)); }

// The plug-in with both devices attached, this thread bound to the first.
class Sim {
 public:
  Sim() : control("libmindckpt_sim.so"), table(table_of(control.library)) {
    control.reset();
    ok(table.init());
    ok(table.attach(0));
    ok(table.attach(1));
    ok(table.bind_thread(0));
  }
  ~Sim() {
    ok(table.unbind_thread(0));
    ok(table.detach(1));
    ok(table.detach(0));
    control.reset();
    control.check_nothing_lives();
  }

  void ok(mindckpt_status status) const {
    INFO(table.last_error());
    REQUIRE(status == MINDCKPT_OK);
  }

  void* stream(int32_t direction = MINDCKPT_DEVICE_TO_HOST) const {
    void* made = nullptr;
    ok(table.stream_create(&made, direction));
    return made;
  }
  void* event() const {
    void* made = nullptr;
    ok(table.event_create(&made, MINDCKPT_EVENT_HOST));
    return made;
  }
  unsigned char* pinned(size_t nbytes) const {
    void* made = nullptr;
    ok(table.host_alloc(&made, nbytes));
    return static_cast<unsigned char*>(made);
  }
  // The framework's tensor, of bytes of this value.
  unsigned char* tensor(size_t nbytes, int value, int32_t device = 0) const {
    auto* const made = static_cast<unsigned char*>(control.allocate(device, nbytes));
    REQUIRE(made != nullptr);
    control.write(made, filled(nbytes, value).data(), nbytes);
    return made;
  }
  Bytes read(const void* device_pointer, size_t nbytes) const {
    Bytes bytes(nbytes);
    control.read(device_pointer, bytes.data(), nbytes);
    return bytes;
  }
  void to_host(void* to, const void* from, size_t nbytes, void* stream) const {
    ok(table.copy_async(to, from, nbytes, MINDCKPT_DEVICE_TO_HOST, stream));
  }

  StandIn control;
  const mindckpt_device_backend& table;
};

// ---- Order

TEST_CASE_FIXTURE(Sim, "what is put into one stream happens in that order") {
  control.set_random_delay(1, 0.002);
  unsigned char* const device = tensor(1000, 0);
  unsigned char* const host = pinned(20 * 1000);
  void* const one = stream();
  for (int i = 0; i < 20; ++i) {
    control.stream_fill(one, device, i, 1000);
    to_host(host + i * 1000, device, 1000, one);
  }
  ok(table.stream_sync(one));
  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    CHECK(std::all_of(host + i * 1000, host + (i + 1) * 1000, [i](int b) { return b == i; }));
  }
  ok(table.stream_destroy(one));
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "a stream that waits for an event sees what was done before it") {
  unsigned char* const device = tensor(1000, 1);
  unsigned char* const host = pinned(1000);
  void* const producer = control.stream_create(0);
  void* const copies = stream();
  void* const ready = event();
  void* const done = event();

  control.stream_pause(producer);
  control.stream_fill(producer, device, 2, 1000);
  ok(table.event_record(ready, producer));
  ok(table.stream_wait_event(copies, ready));
  to_host(host, device, 1000, copies);
  ok(table.event_record(done, copies));
  CHECK(table.event_query(ready) == MINDCKPT_NOT_READY);
  CHECK(table.event_query(done) == MINDCKPT_NOT_READY);

  control.stream_resume(producer);
  ok(table.event_sync(done));
  CHECK(table.event_query(ready) == MINDCKPT_OK);
  CHECK(table.event_query(done) == MINDCKPT_OK);
  CHECK(Bytes(host, host + 1000) == filled(1000, 2));

  ok(table.event_destroy(ready));
  ok(table.event_destroy(done));
  ok(table.stream_destroy(copies));
  control.stream_destroy(producer);
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "without the wait it sees stale bytes") {
  unsigned char* const device = tensor(1000, 1);
  unsigned char* const host = pinned(1000);
  void* const producer = control.stream_create(0);
  void* const copies = stream();

  control.stream_pause(producer);
  control.stream_fill(producer, device, 2, 1000);
  to_host(host, device, 1000, copies);
  ok(table.stream_sync(copies));
  CHECK(Bytes(host, host + 1000) == filled(1000, 1));

  control.stream_resume(producer);
  control.stream_sync(producer);
  ok(table.stream_destroy(copies));
  control.stream_destroy(producer);
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "without the wait it sees torn bytes when both happen at once") {
#ifdef __SANITIZE_THREAD__
  MESSAGE("skipped: ThreadSanitizer reports just that as a data race");
#else
  control.set_speed(MINDCKPT_DEVICE_TO_HOST, 100e6, 0);  // 16 pieces of 0.6 ms each
  unsigned char* const device = tensor(kMiB, 1);
  unsigned char* const host = pinned(kMiB);
  void* const producer = control.stream_create(0);
  void* const copies = stream();
  bool torn = false;
  for (int attempt = 0; attempt < 200 && !torn; ++attempt) {
    control.stream_fill(producer, device, 1, kMiB);
    control.stream_sync(producer);
    to_host(host, device, kMiB, copies);
    control.stream_delay(producer, 0.001 * (attempt % 10));
    control.stream_fill(producer, device, 2, kMiB);
    ok(table.stream_sync(copies));
    control.stream_sync(producer);
    torn = host[0] != host[kMiB - 1];
  }
  CHECK(torn);
  ok(table.stream_destroy(copies));
  control.stream_destroy(producer);
  ok(table.host_free(host));
  control.release(device);
#endif
}

TEST_CASE_FIXTURE(Sim, "a wait is for the record that was the latest when it was put") {
  void* const first = control.stream_create(0);
  void* const second = stream();
  void* const waiting = stream();
  void* const later = stream();
  void* const event_of_two = event();
  void* const end = event();

  control.stream_pause(first);
  ok(table.event_record(event_of_two, first));
  ok(table.stream_wait_event(waiting, event_of_two));
  ok(table.event_record(end, waiting));
  ok(table.event_record(event_of_two, second));
  ok(table.event_sync(event_of_two));  // the second record's
  ok(table.stream_wait_event(later, event_of_two));
  ok(table.stream_sync(later));
  CHECK(table.event_query(event_of_two) == MINDCKPT_OK);
  CHECK(table.event_query(end) == MINDCKPT_NOT_READY);

  control.stream_resume(first);
  ok(table.event_sync(end));

  ok(table.event_destroy(event_of_two));
  ok(table.event_destroy(end));
  for (void* const made : {second, waiting, later}) ok(table.stream_destroy(made));
  control.stream_destroy(first);
}

TEST_CASE_FIXTURE(Sim, "an event that was never recorded holds nobody up") {
  void* const one = stream();
  void* const never = event();
  ok(table.stream_wait_event(one, never));
  ok(table.stream_sync(one));
  ok(table.event_sync(never));
  ok(table.event_destroy(never));
  ok(table.stream_destroy(one));
}

TEST_CASE_FIXTURE(Sim, "an event may be destroyed while streams wait for it") {
  void* const producer = control.stream_create(0);
  void* const one = stream();
  void* const ready = event();
  control.stream_pause(producer);
  ok(table.event_record(ready, producer));
  ok(table.stream_wait_event(one, ready));
  ok(table.event_destroy(ready));
  control.stream_resume(producer);
  ok(table.stream_sync(one));
  ok(table.stream_destroy(one));
  control.stream_destroy(producer);
}

TEST_CASE_FIXTURE(Sim, "the fences of a save that stalls nobody hold under random delays") {
  control.set_random_delay(7, 0.001);
  constexpr size_t kBytes = 64 << 10;
  constexpr int kSteps = 60;
  unsigned char* const device = tensor(kBytes, 0);
  unsigned char* const host = pinned(kBytes * kSteps);
  void* const training = control.stream_create(0);
  void* const copies = stream();
  void* const ready = event();
  void* const done = event();
  for (int step = 0; step < kSteps; ++step) {
    control.stream_fill(training, device, step, kBytes);
    ok(table.event_record(ready, training));
    ok(table.stream_wait_event(copies, ready));
    to_host(host + static_cast<size_t>(step) * kBytes, device, kBytes, copies);
    ok(table.event_record(done, copies));
    ok(table.stream_wait_event(training, done));
  }
  ok(table.event_sync(done));
  for (int step = 0; step < kSteps; ++step) {
    CAPTURE(step);
    unsigned char* const copy = host + static_cast<size_t>(step) * kBytes;
    CHECK(Bytes(copy, copy + kBytes) == filled(kBytes, step));
  }
  ok(table.event_destroy(ready));
  ok(table.event_destroy(done));
  ok(table.stream_destroy(copies));
  control.stream_destroy(training);
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "the default stream waits for blocking streams, and they for it") {
  unsigned char* const device = tensor(1000, 1);
  unsigned char* const host = pinned(2000);
  void* const blocking = control.stream_create(0);
  void* const beside = stream();
  for (const uintptr_t handle : {uintptr_t{0}, uintptr_t{1}}) {
    CAPTURE(handle);
    void* const standard = reinterpret_cast<void*>(handle);
    control.write(device, filled(1000, 1).data(), 1000);

    control.stream_pause(blocking);
    control.stream_fill(blocking, device, 2, 1000);
    to_host(host, device, 1000, standard);
    control.stream_fill(blocking, device, 3, 1000);
    to_host(host + 1000, device, 1000, beside);
    ok(table.stream_sync(beside));
    CHECK(Bytes(host + 1000, host + 2000) == filled(1000, 1));

    control.stream_resume(blocking);
    control.stream_sync(blocking);
    CHECK(Bytes(host, host + 1000) == filled(1000, 2));
    CHECK(read(device, 1000) == filled(1000, 3));
  }
  ok(table.stream_destroy(beside));
  control.stream_destroy(blocking);
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "a sync of the device waits for every stream of it, and no other's") {
  unsigned char* const device = tensor(1000, 1);
  void* const blocking = control.stream_create(0);
  void* const elsewhere = control.stream_create(1);
  control.stream_pause(elsewhere);
  for (void* const stream : {blocking, static_cast<void*>(nullptr)}) {
    control.stream_pause(stream);
    control.stream_fill(stream, device, 2, 1000);
    std::atomic<bool> ended{false};
    std::thread waiting([&] {
      ok(table.bind_thread(0));
      ok(table.device_sync());
      ended = true;
      ok(table.unbind_thread(0));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK_FALSE(ended);
    control.stream_resume(stream);
    waiting.join();
    CHECK(read(device, 1000) == filled(1000, 2));
    control.write(device, filled(1000, 1).data(), 1000);
  }
  control.stream_resume(elsewhere);
  control.stream_destroy(elsewhere);
  control.stream_destroy(blocking);
  control.release(device);
}

// ---- Time

TEST_CASE_FIXTURE(Sim, "copies of one direction share its speed, from whatever streams") {
  control.set_speed(MINDCKPT_DEVICE_TO_HOST, 1e9, 1e-4);
  unsigned char* const device = tensor(kMiB, 1);
  unsigned char* const host = pinned(4 * kMiB);
  const std::array streams = {stream(), stream()};
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < 4; ++i) to_host(host + i * kMiB, device, kMiB, streams[i % 2]);
  for (void* const each : streams) ok(table.stream_sync(each));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;

  const double expected = 4 * (1e-4 + static_cast<double>(kMiB) / 1e9);
  CHECK(control.copied(0, MINDCKPT_DEVICE_TO_HOST) == 4 * kMiB);
  CHECK(control.busy_seconds(0, MINDCKPT_DEVICE_TO_HOST) == doctest::Approx(expected));
  CHECK(took.count() >= expected * 0.999);
  CHECK(control.copied(0, MINDCKPT_HOST_TO_DEVICE) == 0);
  CHECK(control.copied(1, MINDCKPT_DEVICE_TO_HOST) == 0);

  for (void* const each : streams) ok(table.stream_destroy(each));
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "a batch of copies has one latency") {
  control.set_speed(MINDCKPT_HOST_TO_DEVICE, 0, 1e-3);
  unsigned char* const device = tensor(100, 0);
  unsigned char* const host = pinned(100);
  for (unsigned char i = 0; i < 100; ++i) host[i] = i;
  void* const one = stream(MINDCKPT_HOST_TO_DEVICE);
  void* const to[] = {device + 1, device + 50, device + 99};
  const void* const from[] = {host + 10, host + 20, host + 30};
  const size_t nbytes[] = {2, 0, 1};
  ok(table.copy_batch_async(to, from, nbytes, 3, MINDCKPT_HOST_TO_DEVICE, one));
  ok(table.stream_sync(one));
  Bytes expected(100);
  expected[1] = 10;
  expected[2] = 11;
  expected[99] = 30;
  CHECK(read(device, 100) == expected);
  CHECK(control.busy_seconds(0, MINDCKPT_HOST_TO_DEVICE) == doctest::Approx(1e-3));
  ok(table.stream_destroy(one));
  ok(table.host_free(host));
  control.release(device);
}

// ---- Memory

TEST_CASE_FIXTURE(Sim, "the host can't read a device's memory") {
  unsigned char* const device = tensor(100, 1);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would exit in its own way
    ::_exit(*static_cast<volatile unsigned char*>(device));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
  control.release(device);
}

TEST_CASE_FIXTURE(Sim, "a copy that leaves its memory is refused, and says why") {
  unsigned char* const device = tensor(1000, 1);
  unsigned char* const elsewhere = tensor(1000, 1, 1);
  unsigned char* const host = pinned(1000);
  Bytes pageable(1000);
  void* const one = stream();
  const auto refused = [&](void* to, const void* from, size_t nbytes, int32_t direction,
                           const char* why) {
    CHECK(table.copy_async(to, from, nbytes, direction, one) == MINDCKPT_ERROR);
    CHECK(contains(table.last_error(), why));
    CHECK(std::string(table.last_error()) == control.why());
  };
  refused(host, device, 1001, MINDCKPT_DEVICE_TO_HOST, "where only 1000 are");
  refused(host + 1, device, 1000, MINDCKPT_DEVICE_TO_HOST, "where only 999 are");
  refused(host, device + 999, 2, MINDCKPT_DEVICE_TO_HOST, "where only 1 are");
  refused(pageable.data(), device, 1000, MINDCKPT_DEVICE_TO_HOST, "is not pinned memory");
  refused(device, pageable.data(), 1000, MINDCKPT_HOST_TO_DEVICE, "is not pinned memory");
  refused(host, device, 1000, MINDCKPT_HOST_TO_DEVICE, "is not device memory");
  refused(device, device, 1000, MINDCKPT_DEVICE_TO_HOST, "is not pinned memory");
  refused(host, elsewhere, 1000, MINDCKPT_DEVICE_TO_HOST, "memory of device 1");
  CHECK(control.copied(0, MINDCKPT_DEVICE_TO_HOST) == 0);

  to_host(host + 1, device + 1, 999, one);
  ok(table.stream_sync(one));
  ok(table.stream_destroy(one));
  ok(table.host_free(host));
  control.release(device);
  control.release(elsewhere);
}

TEST_CASE_FIXTURE(Sim, "registered memory is pinned until it is no longer registered") {
  auto* const memory = static_cast<unsigned char*>(std::aligned_alloc(kPageBytes, 4 * kPageBytes));
  unsigned char* const device = tensor(kPageBytes, 5);
  void* const one = stream();
  CHECK(table.host_register(memory + 1, kPageBytes) == MINDCKPT_ERROR);
  CHECK(table.host_register(memory, kPageBytes + 1) == MINDCKPT_ERROR);
  ok(table.host_register(memory + kPageBytes, 2 * kPageBytes));
  CHECK(table.host_register(memory, 2 * kPageBytes) == MINDCKPT_ERROR);
  CHECK(table.host_register(memory + 2 * kPageBytes, kPageBytes) == MINDCKPT_ERROR);
  ok(table.host_register(memory, kPageBytes));
  CHECK(control.live("pinned_memory") == 2);

  to_host(memory + 2 * kPageBytes, device, kPageBytes, one);
  ok(table.stream_sync(one));
  CHECK(Bytes(memory + 2 * kPageBytes, memory + 3 * kPageBytes) == filled(kPageBytes, 5));
  ok(table.host_unregister(memory + kPageBytes));
  CHECK(table.host_unregister(memory + kPageBytes) == MINDCKPT_ERROR);
  CHECK(table.copy_async(memory + 2 * kPageBytes, device, kPageBytes, MINDCKPT_DEVICE_TO_HOST,
                         one) == MINDCKPT_ERROR);
  ok(table.host_unregister(memory));
  ok(table.stream_destroy(one));
  control.release(device);
  std::free(memory);
}

TEST_CASE_FIXTURE(Sim, "pointers are known, inner ones too, until their memory is given back") {
  unsigned char* const device = tensor(1000, 1, 1);
  unsigned char* const host = pinned(1000);
  const auto kind_of = [&](const void* pointer) {
    mindckpt_pointer_info info{};
    ok(table.pointer_info(pointer, &info));
    if (info.kind == MINDCKPT_POINTER_DEVICE) CHECK(info.device == 1);
    return info.kind;
  };
  CHECK(kind_of(device) == MINDCKPT_POINTER_DEVICE);
  CHECK(kind_of(device + 999) == MINDCKPT_POINTER_DEVICE);
  CHECK(kind_of(device + 1000) == MINDCKPT_POINTER_UNKNOWN);
  CHECK(kind_of(device - 1) == MINDCKPT_POINTER_UNKNOWN);
  CHECK(kind_of(host + 999) == MINDCKPT_POINTER_HOST);
  CHECK(kind_of(&table) == MINDCKPT_POINTER_UNKNOWN);
  CHECK(kind_of(nullptr) == MINDCKPT_POINTER_UNKNOWN);
  control.release(device);
  ok(table.host_free(host));
  CHECK(kind_of(device) == MINDCKPT_POINTER_UNKNOWN);
  CHECK(kind_of(host) == MINDCKPT_POINTER_UNKNOWN);
}

TEST_CASE_FIXTURE(Sim, "each device has as much memory as was set") {
  control.set_memory(10 * kMiB);
  unsigned char* const tensor_of_framework = tensor(4 * kMiB, 0);
  void* own = nullptr;
  ok(table.device_alloc(&own, 6 * kMiB - 1));
  uint64_t free_nbytes = 1;
  uint64_t total_nbytes = 0;
  ok(table.memory_info(&free_nbytes, &total_nbytes));
  CHECK(free_nbytes == 0);
  CHECK(total_nbytes == 10 * kMiB);
  void* more = nullptr;
  CHECK(table.device_alloc(&more, 1) == MINDCKPT_OUT_OF_MEMORY);
  CHECK(control.allocate(0, 1) == nullptr);

  ok(table.bind_thread(1));
  ok(table.device_alloc(&more, 10 * kMiB));
  ok(table.device_free(more));
  ok(table.unbind_thread(1));
  ok(table.device_free(own));
  control.release(tensor_of_framework);
}

// ---- Rules that others are held to

TEST_CASE_FIXTURE(Sim, "the plug-in refuses what device_api.h rules out") {
  ok(table.bind_thread(1));
  void* const of_second = stream();
  void* const event_of_second = event();
  CHECK(table.unbind_thread(0) == MINDCKPT_ERROR);
  ok(table.unbind_thread(1));
  CHECK(table.stream_sync(of_second) == MINDCKPT_ERROR);
  void* const one = stream();
  CHECK(table.event_record(event_of_second, one) == MINDCKPT_ERROR);
  ok(table.unbind_thread(0));
  CHECK(table.stream_sync(one) == MINDCKPT_ERROR);
  CHECK(contains(table.last_error(), "not bound"));
  CHECK(table.bind_thread(2) == MINDCKPT_ERROR);
  ok(table.bind_thread(0));
  ok(table.stream_destroy(one));
  CHECK(table.stream_destroy(one) == MINDCKPT_ERROR);
  ok(table.event_destroy(event_of_second));
  CHECK(table.event_destroy(event_of_second) == MINDCKPT_ERROR);
  ok(table.bind_thread(1));
  ok(table.stream_destroy(of_second));
  ok(table.unbind_thread(1));
}

TEST_CASE_FIXTURE(Sim, "nothing can be put into a stream that is being captured") {
  unsigned char* const device = tensor(100, 1);
  unsigned char* const host = pinned(100);
  void* const training = control.stream_create(0);
  void* const ready = event();
  int32_t capturing = 2;
  ok(table.stream_is_capturing(training, &capturing));
  CHECK(capturing == 0);
  control.stream_begin_capture(training, 1);
  ok(table.stream_is_capturing(training, &capturing));
  CHECK(capturing == 1);
  CHECK(table.event_record(ready, training) == MINDCKPT_ERROR);
  CHECK(table.stream_wait_event(training, ready) == MINDCKPT_ERROR);
  CHECK(table.stream_sync(training) == MINDCKPT_ERROR);
  CHECK(table.copy_async(host, device, 100, MINDCKPT_DEVICE_TO_HOST, training) == MINDCKPT_ERROR);
  CHECK(table.event_record(ready, nullptr) == MINDCKPT_ERROR);  // would wait for it
  control.stream_begin_capture(training, 0);
  ok(table.event_record(ready, training));
  ok(table.event_destroy(ready));
  control.stream_destroy(training);
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE("in its own process: memory is freed under a copy" * doctest::skip()) {
  const Sim sim;
  unsigned char* const device = sim.tensor(1000, 1);
  unsigned char* const host = sim.pinned(1000);
  void* const training = sim.control.stream_create(0);
  sim.control.stream_pause(training);
  sim.to_host(host, device, 1000, training);
  sim.control.release(device);
}

TEST_CASE("memory that is freed under a copy ends the process") {
  check_dies("in its own process: memory is freed under a copy", "while operations in streams use");
}

TEST_CASE("in its own process: pinned memory is freed under a copy" * doctest::skip()) {
  const Sim sim;
  unsigned char* const device = sim.tensor(1000, 1);
  unsigned char* const host = sim.pinned(1000);
  void* const training = sim.control.stream_create(0);
  sim.control.stream_pause(training);
  sim.to_host(host, device, 1000, training);
  sim.table.host_free(host);
}

TEST_CASE("pinned memory that is freed under a copy ends the process") {
  check_dies("in its own process: pinned memory is freed under a copy",
             "while operations in streams use");
}

TEST_CASE("in its own process: a misspelt function is to fail" * doctest::skip()) {
  const Sim sim;
  sim.control.fail("copy_asink", 1);
}

TEST_CASE("a misspelt function that is to fail ends the process") {
  check_dies("in its own process: a misspelt function is to fail", "no function copy_asink");
}

TEST_CASE_FIXTURE(Sim, "a forked child has no driver") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int32_t count = 0;
    ::_exit(table.init() == MINDCKPT_UNAVAILABLE && table.device_count(&count) == MINDCKPT_ERROR
                ? 0
                : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

// ---- Failures

TEST_CASE_FIXTURE(Sim, "the call that was named fails, once, and does nothing") {
  unsigned char* const device = tensor(100, 3);
  unsigned char* const host = pinned(100);
  std::memset(host, 0, 100);
  void* const one = stream();
  control.fail("copy_async", 2);
  to_host(host, device, 50, one);
  CHECK(table.copy_async(host + 50, device, 50, MINDCKPT_DEVICE_TO_HOST, one) == MINDCKPT_ERROR);
  CHECK(contains(table.last_error(), "a test made this call of copy_async fail"));
  ok(table.stream_sync(one));
  CHECK(host[49] == 3);
  CHECK(host[50] == 0);
  to_host(host + 50, device, 50, one);
  ok(table.stream_sync(one));
  CHECK(control.calls("copy_async") == 3);

  control.fail("copy_async", 1);
  control.fail("copy_async", 0);
  to_host(host, device, 50, one);
  control.fail("copy_async", 1);
  control.fail("stream_sync", 1);
  control.fail("", 0);
  to_host(host, device, 50, one);
  ok(table.stream_sync(one));
  control.reset();
  CHECK(control.calls("copy_async") == 0);
  ok(table.stream_destroy(one));
  ok(table.host_free(host));
  control.release(device);
}

TEST_CASE("every function of the plug-in can fail, and all is given back") {
  const StandIn control("libmindckpt_sim.so");
  control.reset();
  const mindckpt_device_backend& table = table_of(control.library);
  char text[64] = {};
  int32_t number = 0;
  uint64_t sizes[2] = {};
  mindckpt_pointer_info info{};
  void* host = nullptr;
  void* device = nullptr;
  void* stream = nullptr;
  void* event = nullptr;
  const size_t one_size = 100;
  const std::unique_ptr<void, decltype(&std::free)> pages(
      std::aligned_alloc(kPageBytes, kPageBytes), &std::free);
  check_story(
      control,
      {{"init", [&] { return table.init(); }},
       {"version", [&] { return table.version(text, sizeof(text)); }},
       {"device_count", [&] { return table.device_count(&number); }},
       {"attach", [&] { return table.attach(1); }},
       {"bind_thread", [&] { return table.bind_thread(1); }},
       {"memory_info", [&] { return table.memory_info(&sizes[0], &sizes[1]); }},
       {"host_alloc", [&] { return table.host_alloc(&host, 100); }},
       {"host_register", [&] { return table.host_register(pages.get(), kPageBytes); }},
       {"device_alloc", [&] { return table.device_alloc(&device, 100); }},
       {"pointer_info", [&] { return table.pointer_info(device, &info); }},
       {"stream_create", [&] { return table.stream_create(&stream, MINDCKPT_HOST_TO_DEVICE); }},
       {"stream_is_capturing", [&] { return table.stream_is_capturing(stream, &number); }},
       {"event_create", [&] { return table.event_create(&event, MINDCKPT_EVENT_STREAM); }},
       {"copy_async",
        [&] { return table.copy_async(host, device, 100, MINDCKPT_DEVICE_TO_HOST, stream); }},
       {"copy_batch_async",
        [&] {
          return table.copy_batch_async(&device, &host, &one_size, 1, MINDCKPT_HOST_TO_DEVICE,
                                        stream);
        }},
       {"event_record", [&] { return table.event_record(event, stream); }},
       {"stream_wait_event", [&] { return table.stream_wait_event(stream, event); }},
       {"event_sync", [&] { return table.event_sync(event); }},
       {"event_query", [&] { return table.event_query(event); }},
       {"stream_sync", [&] { return table.stream_sync(stream); }},
       {"device_sync", [&] { return table.device_sync(); }},
       {"event_destroy", [&] { return table.event_destroy(event); }},
       {"stream_destroy", [&] { return table.stream_destroy(stream); }},
       {"device_free", [&] { return table.device_free(device); }},
       {"host_unregister", [&] { return table.host_unregister(pages.get()); }},
       {"host_free", [&] { return table.host_free(host); }},
       {"unbind_thread", [&] { return table.unbind_thread(1); }},
       {"detach", [&] { return table.detach(1); }}});
  control.reset();
}

// ---- The environment

TEST_CASE("in its own process: steered by the environment" * doctest::skip()) {
  const StandIn control("libmindckpt_sim.so");
  const mindckpt_device_backend& table = table_of(control.library);
  CHECK(table.init() == MINDCKPT_OK);
  int32_t count = 0;
  CHECK(table.device_count(&count) == MINDCKPT_OK);
  CHECK(count == 3);
  CHECK(table.attach(2) == MINDCKPT_OK);
  CHECK(table.bind_thread(2) == MINDCKPT_OK);
  void* host = nullptr;
  CHECK(table.host_alloc(&host, 1000) == MINDCKPT_OK);
  CHECK(table.host_alloc(&host, 1000) == MINDCKPT_OUT_OF_MEMORY);
  void* stream = nullptr;
  CHECK(table.stream_create(&stream, MINDCKPT_HOST_TO_DEVICE) == MINDCKPT_OK);
  void* device = nullptr;
  CHECK(table.device_alloc(&device, 1000) == MINDCKPT_OK);
  CHECK(table.copy_async(device, host, 1000, MINDCKPT_HOST_TO_DEVICE, stream) == MINDCKPT_OK);
  CHECK(table.stream_sync(stream) == MINDCKPT_OK);
  CHECK(control.busy_seconds(2, MINDCKPT_HOST_TO_DEVICE) == doctest::Approx(0.003));
  const Library cuda("libcuda.so.1");
  CHECK(cuda.get<int(int*)>("cuDriverGetVersion")(&count) == 0);
  CHECK(count == 12020);
}

TEST_CASE("a process can be steered by its environment") {
  check_passes("in its own process: steered by the environment",
               "MINDCKPT_STAND_IN_FAIL=host_alloc:2,cuMemAlloc_v2:7 "
               "MINDCKPT_STAND_IN_SPEED=d2h=8e9,h2d=1e6,latency=2e-3 "
               "MINDCKPT_STAND_IN_DEVICES=3 MINDCKPT_STAND_IN_DRIVER=12020");
}

TEST_CASE("in its own process: no driver by the environment" * doctest::skip()) {
  CHECK(Library("libcuda.so.1").get<int(unsigned)>("cuInit")(0) == 100);
  CHECK(Library("libascendcl.so").get<int(const char*)>("aclInit")(nullptr) == 100);
}

TEST_CASE("initialisation can fail by the environment") {
  check_passes("in its own process: no driver by the environment",
               "MINDCKPT_STAND_IN_INIT_ERROR=100");
}

}  // namespace
}  // namespace stand_in::test
