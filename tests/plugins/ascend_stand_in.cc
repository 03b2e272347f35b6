// A libascendcl.so for the tests: AscendCL's functions that a checkpoint needs, by their real
// names, over simulated devices, with what the real runtime insists on: aclInit once, a context on
// the thread, addresses of copies that are multiples of 64, sizes that fit in
// dst_max, copies of at least one byte, no use after a fork. Host memory for asynchronous copies is
// that of aclrtMallocHost.
#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "faults.h"
#include "simulation.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using stand_in::Direction;
using stand_in::Owner;
using stand_in::PointerInfo;
using stand_in::Result;

namespace {

using aclError = int;

constexpr aclError kInvalidParam = 100000;
constexpr aclError kUninitialized = 100001;
constexpr aclError kRepeatInitialize = 100002;
constexpr aclError kParamInvalid = 107000;
constexpr aclError kInvalidDevice = 107001;
constexpr aclError kContextNull = 107002;
constexpr aclError kStreamContext = 107003;
constexpr aclError kUnaligned = 107008;
constexpr aclError kInvalidHandle = 107017;
constexpr aclError kWaitTimeout = 107019;
constexpr aclError kFeatureNotSupported = 207000;
constexpr aclError kMemoryAllocation = 207001;
constexpr aclError kNoDevice = 207004;
constexpr aclError kDriverInternal = 507899;

constexpr size_t kAlignment = 64;

struct aclrtPtrAttributes {
  struct {
    uint32_t id;
    int type;
  } location;
  uint32_t page_size;
  uint32_t reserved[4];
};

constexpr stand_in::Function kFunctions[] = {
    {"aclInit", kDriverInternal},
    {"aclFinalize", kDriverInternal},
    {"aclrtGetVersion", kDriverInternal},
    {"aclrtGetRunMode", kDriverInternal},
    {"aclrtGetDeviceCount", kNoDevice},
    {"aclrtSetDevice", kDriverInternal},
    {"aclrtResetDevice", kDriverInternal},
    {"aclrtGetDevice", kContextNull},
    {"aclrtSynchronizeDevice", kDriverInternal},
    {"aclrtGetCurrentContext", kContextNull},
    {"aclrtSetCurrentContext", kContextNull},
    {"aclrtGetMemInfo", kDriverInternal},
    {"aclrtMalloc", kMemoryAllocation},
    {"aclrtFree", kDriverInternal},
    {"aclrtMallocHost", kMemoryAllocation},
    {"aclrtFreeHost", kDriverInternal},
    {"aclrtPointerGetAttributes", kDriverInternal},
    {"aclrtMemcpyAsync", kDriverInternal},
    {"aclrtCreateStream", kDriverInternal},
    {"aclrtDestroyStream", kDriverInternal},
    {"aclrtSynchronizeStream", kDriverInternal},
    {"aclrtSynchronizeStreamWithTimeout", kDriverInternal},
    {"aclrtStreamWaitEvent", kDriverInternal},
    {"aclrtCreateEvent", kDriverInternal},
    {"aclrtCreateEventExWithFlag", kDriverInternal},
    {"aclrtDestroyEvent", kDriverInternal},
    {"aclrtRecordEvent", kDriverInternal},
    {"aclrtQueryEventStatus", kDriverInternal},
    {"aclrtSynchronizeEvent", kDriverInternal},
};

}  // namespace

std::span<const stand_in::Function> stand_in::functions() { return kFunctions; }

namespace {

constexpr int32_t kNoCurrent = -1;

std::atomic<bool> initialised{false};

// A context is a device's default one, its address a place in here.
std::array<char, stand_in::kMostDevices> contexts;

struct Thread {
  int32_t device = kNoCurrent;  // whose context was made current last
  std::string error;            // of the last failure, until it is asked for
  std::string answered;
};
thread_local Thread thread;

// The device whose context is current; it is not, once everybody has reset the device.
int32_t current_device() {
  if (thread.device != kNoCurrent && stand_in::contexts(thread.device) == 0) {
    thread.device = kNoCurrent;
  }
  return thread.device;
}

aclError fail(aclError code) {
  thread.error = "EE" + std::to_string(code) + ": " + stand_in::explanation();
  return code;
}

aclError refuse(aclError code, const char* reason) {
  stand_in::explain(reason);
  return fail(code);
}

aclError finish(Result result) {
  switch (result) {
    case Result::kOk:
      return 0;
    case Result::kNotReady:
      return fail(kWaitTimeout);
    case Result::kInvalidHandle:
      return fail(kInvalidHandle);
    case Result::kInvalidDevice:
      return fail(kInvalidDevice);
    case Result::kOutOfMemory:
      return fail(kMemoryAllocation);
    case Result::kCapturing:
    case Result::kCaptureImplicit:
      return fail(kFeatureNotSupported);
    case Result::kInvalidValue:
    case Result::kAlreadyPinned:
    case Result::kNotPinned:
      return fail(kParamInvalid);
  }
  return fail(kDriverInternal);
}

enum class Needs { kNothing, kInit, kContext };

// What every function begins with: whether it fails before it does anything.
aclError enter(const char* function, Needs needs) {
  stand_in::read_environment();
  if (const int code = stand_in::count_call(function)) return fail(code);
  if (stand_in::is_forked_child()) return fail(kDriverInternal);
  if (needs == Needs::kNothing) return 0;
  if (!initialised) return refuse(kUninitialized, "aclInit was not called");
  if (needs == Needs::kContext && current_device() == kNoCurrent) {
    return refuse(kContextNull, "no context is current on this thread");
  }
  return 0;
}

// A stream's operations are for threads with its device's context.
aclError check_stream(void* stream) {
  const auto value = reinterpret_cast<uintptr_t>(stream);
  if (value == 1 || value == 2) return refuse(kInvalidHandle, "no stream of AscendCL's");
  int32_t device = kNoCurrent;
  const Result found = stand_in::device_of_stream(stream, thread.device, &device);
  if (found != Result::kOk) return finish(found);
  if (device != thread.device) {
    return refuse(kStreamContext, "the stream is of another device than the thread's context");
  }
  return 0;
}

// Where the real one would wait for ever.
aclError check_recorded(void* event) {
  if (stand_in::was_recorded(event)) return 0;
  return refuse(kParamInvalid, "a wait for an event that was never recorded, which never ends");
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0;
}

}  // namespace

// ---- The process

EXPORT aclError aclInit(const char*) {
  if (const aclError refused = enter(__func__, Needs::kNothing)) return refused;
  if (const int code = stand_in::init_error()) return refuse(code, "by the environment");
  if (initialised.exchange(true)) return refuse(kRepeatInitialize, "aclInit was called before");
  stand_in::enter_process();
  return 0;
}

EXPORT aclError aclFinalize() {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  initialised = false;
  return 0;
}

// The text of the thread's last failure, once: null when there was none since the last call.
EXPORT const char* aclGetRecentErrMsg() {
  if (thread.error.empty()) return nullptr;
  thread.answered = std::move(thread.error);
  thread.error.clear();
  return thread.answered.c_str();
}

EXPORT aclError aclrtGetVersion(int32_t* major, int32_t* minor, int32_t* patch) {
  if (const aclError refused = enter(__func__, Needs::kNothing)) return refused;
  if (major == nullptr || minor == nullptr || patch == nullptr) {
    return refuse(kInvalidParam, "null");
  }
  *major = 1;
  *minor = 12;
  *patch = 0;
  return 0;
}

EXPORT aclError aclrtGetRunMode(int* mode) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  if (mode == nullptr) return refuse(kInvalidParam, "null");
  *mode = 1;  // ACL_HOST
  return 0;
}

// ---- Devices and contexts

EXPORT aclError aclrtGetDeviceCount(uint32_t* count) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  if (count == nullptr) return refuse(kInvalidParam, "null");
  if (stand_in::device_count() == 0) return refuse(kNoDevice, "no devices");
  *count = static_cast<uint32_t>(stand_in::device_count());
  return 0;
}

// Counted for the whole process; what is the thread's is which context is current.
EXPORT aclError aclrtSetDevice(int32_t device) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  if (device < 0 || device >= stand_in::device_count()) {
    return refuse(kInvalidDevice, "no such device");
  }
  stand_in::add_context(device, 1);
  thread.device = device;
  return 0;
}

EXPORT aclError aclrtResetDevice(int32_t device) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  if (device < 0 || device >= stand_in::kMostDevices) {
    return refuse(kInvalidDevice, "no such device");
  }
  if (stand_in::contexts(device) == 0) return refuse(kContextNull, "the device is not set");
  stand_in::add_context(device, -1);
  return 0;
}

EXPORT aclError aclrtGetDevice(int32_t* device) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (device == nullptr) return refuse(kInvalidParam, "null");
  *device = thread.device;
  return 0;
}

EXPORT aclError aclrtSynchronizeDevice() {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::sync_device(thread.device));
}

EXPORT aclError aclrtGetCurrentContext(void** context) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (context == nullptr) return refuse(kInvalidParam, "null");
  *context = &contexts[static_cast<size_t>(thread.device)];
  return 0;
}

EXPORT aclError aclrtSetCurrentContext(void* context) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  for (int32_t device = 0; device < stand_in::kMostDevices; ++device) {
    if (context != &contexts[static_cast<size_t>(device)]) continue;
    if (stand_in::contexts(device) == 0) break;
    thread.device = device;
    return 0;
  }
  return refuse(kContextNull, "no context of a device that is set");
}

// ---- Memory

EXPORT aclError aclrtGetMemInfo(int kind, size_t* free_nbytes, size_t* total_nbytes) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (free_nbytes == nullptr || total_nbytes == nullptr) return refuse(kInvalidParam, "null");
  switch (kind) {
    case 0:  // ACL_DDR_MEM, which devices with HBM lack
      *free_nbytes = *total_nbytes = 0;
      return 0;
    case 1:  // ACL_HBM_MEM
      return finish(stand_in::memory_info(thread.device, free_nbytes, total_nbytes));
    default:
      return refuse(kInvalidParam, "a kind of memory that this stand-in does not know");
  }
}

EXPORT aclError aclrtMalloc(void** memory, size_t nbytes, int) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::allocate(thread.device, nbytes, Owner::kEngine, memory));
}

EXPORT aclError aclrtFree(void* memory) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::release(memory, Owner::kEngine));
}

EXPORT aclError aclrtMallocHost(void** memory, size_t nbytes) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  // No documentation promises more alignment than copies need.
  return finish(stand_in::allocate_host(thread.device, nbytes, kAlignment, memory));
}

EXPORT aclError aclrtFreeHost(void* memory) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::release_host(memory));
}

EXPORT aclError aclrtPointerGetAttributes(const void* pointer, aclrtPtrAttributes* attributes) {
  if (const aclError refused = enter(__func__, Needs::kInit)) return refused;
  if (pointer == nullptr || attributes == nullptr) return refuse(kInvalidParam, "null");
  const PointerInfo info = stand_in::pointer_info(pointer);
  *attributes = {};
  attributes->page_size = 4096;
  switch (info.kind) {
    case PointerInfo::Kind::kHost:
      attributes->location.type = 0;
      break;
    case PointerInfo::Kind::kDevice:
      attributes->location.type = 1;
      attributes->location.id = static_cast<uint32_t>(info.device);
      break;
    case PointerInfo::Kind::kUnknown:
      attributes->location.type = 2;
      break;
  }
  return 0;
}

EXPORT aclError aclrtMemcpyAsync(void* to, size_t to_max, const void* from, size_t nbytes, int kind,
                                 void* stream) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  if (to == nullptr || from == nullptr || nbytes == 0) return refuse(kParamInvalid, "0, or null");
  if (nbytes > to_max) return refuse(kParamInvalid, "more bytes than dst_max");
  if (!is_aligned(to) || !is_aligned(from)) {
    return refuse(kUnaligned, "an address that is no multiple of 64");
  }
  constexpr Direction kDirections[] = {Direction::kToDevice, Direction::kToHost,
                                       Direction::kOnDevice};
  if (kind < 1 || kind > 3) return refuse(kParamInvalid, "not a kind of copy for a stream");
  return finish(
      stand_in::put_copies(thread.device, stream, {{to, from, nbytes}}, kDirections[kind - 1]));
}

// ---- Streams

EXPORT aclError aclrtCreateStream(void** stream) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::create_stream(thread.device, true, Owner::kEngine, stream));
}

EXPORT aclError aclrtDestroyStream(void* stream) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  return finish(stand_in::destroy_stream(stream, Owner::kEngine));
}

EXPORT aclError aclrtSynchronizeStream(void* stream) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  return finish(stand_in::sync_stream(thread.device, stream));
}

EXPORT aclError aclrtSynchronizeStreamWithTimeout(void* stream, int32_t milliseconds) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  if (milliseconds < -1) return refuse(kParamInvalid, "a timeout below -1");
  return finish(stand_in::sync_stream_for(thread.device, stream, milliseconds));
}

EXPORT aclError aclrtStreamWaitEvent(void* stream, void* event) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  if (const aclError refused = check_recorded(event)) return refused;
  return finish(stand_in::wait_for_event(thread.device, stream, event));
}

// ---- Events

EXPORT aclError aclrtCreateEvent(void** event) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::create_event(thread.device, event));
}

EXPORT aclError aclrtCreateEventExWithFlag(void** event, uint32_t) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::create_event(thread.device, event));
}

EXPORT aclError aclrtDestroyEvent(void* event) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  return finish(stand_in::destroy_event(event));
}

EXPORT aclError aclrtRecordEvent(void* event, void* stream) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_stream(stream)) return refused;
  return finish(stand_in::record_event(thread.device, event, stream));
}

// An event that was never recorded is not complete here, other than CUDA's.
EXPORT aclError aclrtQueryEventStatus(void* event, int* status) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (status == nullptr) return refuse(kInvalidParam, "null");
  const Result result = stand_in::query_event(event, Result::kNotReady);
  if (result != Result::kOk && result != Result::kNotReady) return finish(result);
  *status = result == Result::kOk ? 1 : 0;
  return 0;
}

EXPORT aclError aclrtSynchronizeEvent(void* event) {
  if (const aclError refused = enter(__func__, Needs::kContext)) return refused;
  if (const aclError refused = check_recorded(event)) return refused;
  return finish(stand_in::sync_event(event));
}
