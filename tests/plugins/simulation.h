#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Devices that are not there: memory, streams, events and copy engines as a driver offers them, for
// the stand-in libraries to put their real functions' names on.
//
// A stream is a thread that does what is put into it, in that order. Between streams nothing is
// ordered but by events, so a missing wait shows as stale or torn bytes, and under ThreadSanitizer
// as a data race; for that the streams' threads share no lock on their way.
//
// An event stands for the latest time it was recorded. Who waits for it waits for the record that
// was the latest at the time of the call, as in CUDA: recording it again moves nobody.
//
// Time is simulated where a speed is set: a copy takes its place in its engine's queue when all
// before it has ended, its stream then sleeps until its time is over. Lateness of a thread does not
// add up, so that long runs have exactly the speed set, and never more. Everything else takes the
// time that it takes.
//
// Device memory is address space without access; the bytes lie elsewhere. A host that follows a
// device pointer dies.
//
// The default stream, handle 0 or 1, is one to a device. It waits for all streams of the device
// that were not created as non-blocking, and they for it: at each operation, not as CUDA does it
// for each launch, but no difference can be seen. Handle 2 is one to a thread and device.
namespace stand_in {

constexpr int32_t kMostDevices = 16;
constexpr int32_t kDefaultDevices = 2;
constexpr uint64_t kDefaultMemory = uint64_t{8} << 30;
constexpr int32_t kDefaultDriver = 12080;

// Ends the process, with a message about a misuse.
[[noreturn]] void die(const std::string& message);

// Keeps why this thread's call is refused, for stand_in_why.
void explain(std::string reason);
const char* explanation();

enum class Result {
  kOk,
  kNotReady,         // an event has not happened, or a timeout is over
  kInvalidValue,     // among others: memory that is not known, or too short for the copy
  kInvalidHandle,    // a stream or event that is not there, or of the wrong device
  kInvalidDevice,    // no such device
  kOutOfMemory,      //
  kAlreadyPinned,    // memory that is registered twice
  kNotPinned,        // memory that was not registered
  kCapturing,        // a stream that is being captured
  kCaptureImplicit,  // the default stream, while a stream it waits for is being captured
};

// Where a call comes from: what belongs to the framework is not counted as live.
enum class Owner { kEngine, kFramework };

enum class Direction : int32_t { kToHost = 0, kToDevice = 1, kOnDevice = 2 };
constexpr int32_t kNumDirections = 3;

// ---- Settings, see stand_in.h

// Before anything else: reads the environment once. Every exported function calls it.
void read_environment();
// Whether this process is a forked child of one in which a driver was initialised or had streams;
// nothing works there.
bool is_forked_child();
// The driver was initialised: children forked from now on have none.
void enter_process();
int init_error();  // of the environment; 0: none

void reset_settings();
void set_speed(Direction direction, double bytes_per_second, double latency_seconds);
void set_random_delay(uint64_t seed, double max_seconds);
void set_device_count(int32_t count);
int32_t device_count();
void set_memory(uint64_t total_nbytes);
void set_driver_version(int32_t version);
int32_t driver_version();
uint64_t copied_nbytes(int32_t device, Direction direction);
double busy_seconds(int32_t device, Direction direction);

// ---- Memory

Result allocate(int32_t device, size_t nbytes, Owner owner, void** pointer);
Result release(void* pointer, Owner owner);
// When what is in the stream has ended; no copy can use it from now on.
Result release_in_stream(void* pointer, int32_t device, void* stream);
Result memory_info(int32_t device, uint64_t* free_nbytes, uint64_t* total_nbytes);

// Host memory for copies. `misalignment` bytes beyond a page's begin: real drivers promise little.
Result allocate_host(int32_t device, size_t nbytes, size_t misalignment, void** pointer);
Result release_host(void* pointer);
Result register_host(int32_t device, void* pointer, size_t nbytes);
Result unregister_host(void* pointer);

// What is known about a pointer, which may lie inside an allocation.
struct PointerInfo {
  enum class Kind { kUnknown, kHost, kDevice } kind = Kind::kUnknown;
  int32_t device = 0;
  const void* begin = nullptr;
  size_t nbytes = 0;
};
PointerInfo pointer_info(const void* pointer);

// At once; dies when the memory is not there.
void write_memory(void* pointer, const void* from, size_t nbytes);
void read_memory(const void* pointer, void* to, size_t nbytes);

// ---- Streams. `device` is the one current on the thread, whose default streams are meant.

Result create_stream(int32_t device, bool non_blocking, Owner owner, void** stream);
Result destroy_stream(void* stream, Owner owner);  // when what is in it has ended
Result device_of_stream(void* stream, int32_t device, int32_t* found);
Result sync_stream(int32_t device, void* stream);
// kNotReady: it has not ended in that time.
Result sync_stream_for(int32_t device, void* stream, int64_t milliseconds);
// When all that is in any of the device's streams has ended. Refused while one is being captured.
Result sync_device(int32_t device);
// A default stream can be told to be capturing only by others, see kCaptureImplicit.
Result is_capturing(int32_t device, void* stream, bool* capturing);
void set_capturing(void* stream, bool capturing);
// Whether any stream is being captured, on whatever device.
bool is_any_capturing();
Result put_fill(int32_t device, void* stream, void* pointer, int value, size_t nbytes);
void put_write(void* stream, void* pointer, const void* from, size_t nbytes);
void put_delay(void* stream, double seconds);
void pause(void* stream);
void resume(void* stream);

// Rows of bytes; one row: bytes in a piece.
struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t nbytes = 0;  // of a row
  size_t rows = 1;
  size_t to_pitch = 0;
  size_t from_pitch = 0;
};
// Several copies one after the other, with one latency. Refuses, before anything is copied, what
// leaves an allocation, is not of the stream's device, or whose host side is not pinned.
Result put_copies(int32_t device, void* stream, const std::vector<Copy>& copies,
                  Direction direction);

// ---- Events

Result create_event(int32_t device, void** event);
Result destroy_event(void* event);
Result record_event(int32_t device, void* event, void* stream);
Result wait_for_event(int32_t device, void* stream, void* event);
bool was_recorded(void* event);
// `if_never`: what a never recorded event answers.
Result query_event(void* event, Result if_never);
Result sync_event(void* event);

// ---- What lives

void add_context(int32_t device, int64_t difference);
int64_t contexts(int32_t device);
int64_t live(const std::string& kind);  // see stand_in_live

}  // namespace stand_in
