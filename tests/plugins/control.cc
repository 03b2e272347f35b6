#include <string>

#include "faults.h"
#include "simulation.h"
#include "stand_in.h"

using stand_in::Direction;
using stand_in::Owner;
using stand_in::Result;

namespace {

void require(Result result, const char* function) {
  if (result != Result::kOk) {
    stand_in::die(std::string(function) + ": " + stand_in::explanation());
  }
}

}  // namespace

extern "C" {

void stand_in_reset() {
  stand_in::read_environment();
  stand_in::reset_settings();
  stand_in::reset_calls();
}

void stand_in_fail(const char* function, int64_t nth) {
  stand_in::read_environment();
  stand_in::fail_call(function, nth);
}

const char* stand_in_functions() { return stand_in::function_names().c_str(); }
int64_t stand_in_calls(const char* function) { return stand_in::calls(function); }
const char* stand_in_why() { return stand_in::explanation(); }
int64_t stand_in_live(const char* kind) { return stand_in::live(kind); }

void stand_in_set_device_count(int32_t count) {
  stand_in::read_environment();
  stand_in::set_device_count(count);
}

void stand_in_set_memory(uint64_t total_nbytes) { stand_in::set_memory(total_nbytes); }

void stand_in_set_driver_version(int32_t version) {
  stand_in::read_environment();
  stand_in::set_driver_version(version);
}

void stand_in_set_speed(int32_t direction, double bytes_per_second, double latency_seconds) {
  stand_in::read_environment();
  stand_in::set_speed(static_cast<Direction>(direction), bytes_per_second, latency_seconds);
}

void stand_in_set_random_delay(uint64_t seed, double max_seconds) {
  stand_in::set_random_delay(seed, max_seconds);
}

uint64_t stand_in_copied(int32_t device, int32_t direction) {
  return stand_in::copied_nbytes(device, static_cast<Direction>(direction));
}

double stand_in_busy_seconds(int32_t device, int32_t direction) {
  return stand_in::busy_seconds(device, static_cast<Direction>(direction));
}

void* stand_in_allocate(int32_t device, size_t nbytes) {
  stand_in::read_environment();
  void* pointer = nullptr;
  const Result result = stand_in::allocate(device, nbytes, Owner::kFramework, &pointer);
  if (result != Result::kOutOfMemory) require(result, "stand_in_allocate");
  return pointer;
}

void stand_in_release(void* device_pointer) {
  require(stand_in::release(device_pointer, Owner::kFramework), "stand_in_release");
}

void stand_in_write(void* device_pointer, const void* from, size_t nbytes) {
  stand_in::write_memory(device_pointer, from, nbytes);
}

void stand_in_read(const void* device_pointer, void* to, size_t nbytes) {
  stand_in::read_memory(device_pointer, to, nbytes);
}

void* stand_in_stream_create(int32_t device) {
  stand_in::read_environment();
  void* stream = nullptr;
  require(stand_in::create_stream(device, false, Owner::kFramework, &stream),
          "stand_in_stream_create");
  return stream;
}

void stand_in_stream_destroy(void* stream) {
  require(stand_in::destroy_stream(stream, Owner::kFramework), "stand_in_stream_destroy");
}

void stand_in_stream_sync(void* stream) {
  require(stand_in::sync_stream(0, stream), "stand_in_stream_sync");
}

void stand_in_stream_write(void* stream, void* device_pointer, const void* from, size_t nbytes) {
  stand_in::put_write(stream, device_pointer, from, nbytes);
}

void stand_in_stream_fill(void* stream, void* device_pointer, int value, size_t nbytes) {
  const int32_t device = stand_in::pointer_info(device_pointer).device;
  require(stand_in::put_fill(device, stream, device_pointer, value, nbytes),
          "stand_in_stream_fill");
}

void stand_in_stream_delay(void* stream, double seconds) { stand_in::put_delay(stream, seconds); }
void stand_in_stream_pause(void* stream) { stand_in::pause(stream); }
void stand_in_stream_resume(void* stream) { stand_in::resume(stream); }

void stand_in_stream_begin_capture(void* stream, int on) {
  stand_in::set_capturing(stream, on != 0);
}

}  // extern "C"
