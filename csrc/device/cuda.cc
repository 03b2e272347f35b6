#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "base/dynamic_library.h"
#include "base/memory.h"
#include "device/cuda_api.h"
#include "device/last_error.h"
#include "device/registry.h"

// CUDA by its driver API, in the library that the driver brings. What a process's frameworks have
// in common is the driver and each device's primary context, whatever CUDA runtimes they carry.
namespace mindckpt {

namespace {

using namespace cuda;  // NOLINT(google-build-using-namespace): the driver API's own names

constexpr int kOldestVersion = 11020;

// ---- The driver's functions

class Driver : public Functions {
 public:
  explicit Driver(DynamicLibrary found) : library(found) {
#define MINDCKPT_ASK(name, parameters) name = library.symbol(#name);
    MINDCKPT_CUDA_QUESTIONS(MINDCKPT_ASK)
#undef MINDCKPT_ASK
#define MINDCKPT_FIND(name, parameters) name = find(#name);
    MINDCKPT_CUDA_FUNCTIONS(MINDCKPT_FIND)
#undef MINDCKPT_FIND
  }

  DynamicLibrary library;
  const char* missing = nullptr;  // the first function that the library lacks
  int version = 0;

  bool answers() const noexcept {
    return cuInit != nullptr && cuDriverGetVersion != nullptr && cuGetErrorName != nullptr &&
           cuGetErrorString != nullptr;
  }

  void find_batch() noexcept {
#define MINDCKPT_LOCAL(name, parameters) CUresult(*const name) parameters = library.symbol(#name);
    MINDCKPT_CUDA_GET_PROC_ADDRESS(MINDCKPT_LOCAL)
#undef MINDCKPT_LOCAL
    if (version < kBatchVersion || cuGetProcAddress_v2 == nullptr) return;
    DynamicLibrary::Symbol function{nullptr};
    CUdriverProcAddressQueryResult status = 0;
    const CUresult result =
        cuGetProcAddress_v2("cuMemcpyBatchAsync", &function.address, kBatchVersion, 0, &status);
    if (result == CUDA_SUCCESS) cuMemcpyBatchAsync = function;
  }

 private:
  DynamicLibrary::Symbol find(const char* name) noexcept {
    const DynamicLibrary::Symbol found = library.symbol(name);
    if (found.address == nullptr && missing == nullptr) missing = name;
    return found;
  }
};

// ---- What the backend keeps. Never destroyed: others' destructors may still call.

struct Attached {
  std::atomic<CUcontext> context{nullptr};  // null: not attached
  int times = 0;
};

struct State {
  std::mutex mutex;  // of init, shutdown, attach and detach; all others read what these left
  int users = 0;     // registries that initialised the backend, and did not shut it down
  std::unique_ptr<Driver> driver;
  std::unique_ptr<Attached[]> devices;
  int32_t num_devices = 0;
};

State& state() {
  static State* const only = new State;
  return *only;
}
const Driver& driver() { return *state().driver; }

thread_local LastError error;

mindckpt_status refuse(mindckpt_status status, std::initializer_list<std::string_view> why) {
  error.set(why);
  return status;
}

// "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory". While a process ends, the driver may
// not even know its errors' names any more.
void explain(const Driver& of, CUresult result, std::string_view function) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (of.cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) name = "error";
  if (of.cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr) {
    text = "the driver has no words for it";
  }
  char code[16];
  std::snprintf(code, sizeof(code), " (%d): ", result);
  error.set({function, ": ", name, code, text});
}

mindckpt_status status_of(CUresult result, std::string_view function) {
  if (result == CUDA_SUCCESS) {
    error.clear();
    return MINDCKPT_OK;
  }
  explain(driver(), result, function);
  return result == CUDA_ERROR_OUT_OF_MEMORY ? MINDCKPT_OUT_OF_MEMORY : MINDCKPT_ERROR;
}

CUdeviceptr address_of(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

std::string version_text(int version) {
  return std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
}

// ---- Once a process

constexpr const char* kLibrary = "libcuda.so.1";

mindckpt_status unavailable(const Driver& of, CUresult result, std::string_view function) {
  if (result == CUDA_ERROR_STUB_LIBRARY) {
    return refuse(MINDCKPT_UNAVAILABLE,
                  {kLibrary,
                   " is the stub that CUDA toolkits bring for linking, not a driver: is a folder "
                   "named 'stubs' in LD_LIBRARY_PATH?"});
  }
  explain(of, result, function);
  if (result == CUDA_ERROR_NOT_INITIALIZED) {
    const std::string why = error.text;
    error.set({why,
               "; a process that was forked after CUDA was used can't use it: start processes "
               "by the \"spawn\" method"});
  }
  return MINDCKPT_UNAVAILABLE;
}

mindckpt_status start(State& all) {
  std::string why;
  const auto library = DynamicLibrary::load(kLibrary, DynamicLibrary::Symbols::kWhenCalled, why);
  if (!library) return refuse(MINDCKPT_UNAVAILABLE, {"no CUDA driver: ", why});
  auto found = std::make_unique<Driver>(*library);
  if (!found->answers()) {
    return refuse(MINDCKPT_UNAVAILABLE, {kLibrary,
                                         " is no CUDA driver: it has no cuInit, or none "
                                         "of the functions that go with it"});
  }
  CUresult result = found->cuDriverGetVersion(&found->version);
  if (result != CUDA_SUCCESS) return unavailable(*found, result, "cuDriverGetVersion");
  if (found->version < kOldestVersion) {
    return refuse(MINDCKPT_UNAVAILABLE,
                  {"the driver is for CUDA ", version_text(found->version), ", at least ",
                   version_text(kOldestVersion), " is needed"});
  }
  if (found->missing != nullptr) {
    return refuse(MINDCKPT_UNAVAILABLE, {kLibrary, " for CUDA ", version_text(found->version),
                                         " lacks ", found->missing});
  }
  result = found->cuInit(0);
  if (result != CUDA_SUCCESS) return unavailable(*found, result, "cuInit");
  int count = 0;
  result = found->cuDeviceGetCount(&count);
  if (result != CUDA_SUCCESS) return unavailable(*found, result, "cuDeviceGetCount");
  if (count <= 0) return refuse(MINDCKPT_UNAVAILABLE, {"the driver sees no CUDA device"});
  found->find_batch();
  all.devices = std::make_unique<Attached[]>(static_cast<size_t>(count));
  all.num_devices = count;
  all.driver = std::move(found);
  error.clear();
  return MINDCKPT_OK;
}

mindckpt_status init() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  try {
    if (all.users == 0) {
      if (const mindckpt_status status = start(all)) return status;
    }
  } catch (const std::bad_alloc&) {
    return refuse(MINDCKPT_OUT_OF_MEMORY, {"no host memory"});
  }
  ++all.users;
  return MINDCKPT_OK;
}

void shutdown() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  --all.users;
}

const char* last_error() { return error.text; }

mindckpt_status version(char* text, size_t size) {
  std::snprintf(text, size, "CUDA driver %d.%d", driver().version / 1000,
                driver().version % 1000 / 10);
  error.clear();
  return MINDCKPT_OK;
}

mindckpt_status device_count(int32_t* count) {
  return status_of(driver().cuDeviceGetCount(count), "cuDeviceGetCount");
}

// ---- Once a device

Attached* find_device(int32_t device) {
  const State& all = state();
  if (device >= 0 && device < all.num_devices) return &all.devices[static_cast<size_t>(device)];
  refuse(MINDCKPT_ERROR, {"no such device"});
  return nullptr;
}

mindckpt_status attach(int32_t device) {
  Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  const std::lock_guard lock(state().mutex);
  CUdevice handle = 0;
  if (const auto failed = status_of(driver().cuDeviceGet(&handle, device), "cuDeviceGet")) {
    return failed;
  }
  CUcontext context = nullptr;
  if (const auto failed = status_of(driver().cuDevicePrimaryCtxRetain(&context, handle),
                                    "cuDevicePrimaryCtxRetain")) {
    return failed;
  }
  attached->context = context;
  ++attached->times;
  return MINDCKPT_OK;
}

mindckpt_status detach(int32_t device) {
  Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  const std::lock_guard lock(state().mutex);
  if (attached->times == 0) return refuse(MINDCKPT_ERROR, {"the device is not attached"});
  if (--attached->times == 0) attached->context = nullptr;
  CUdevice handle = 0;
  if (const auto failed = status_of(driver().cuDeviceGet(&handle, device), "cuDeviceGet")) {
    return failed;
  }
  return status_of(driver().cuDevicePrimaryCtxRelease_v2(handle), "cuDevicePrimaryCtxRelease");
}

// ---- Once a thread. The driver keeps the stack of what was current.
//
// While any thread captures a stream into a graph in the default mode (as torch does), calls that
// no graph can hold are refused on all threads whose own mode is the default one, and the capture
// is lost: pinning, allocating, waiting for an event. Ours have nothing to do with the graph, which
// is what a thread says by the relaxed mode.

struct CaptureMode {
  int bindings;
  CUstreamCaptureMode before;  // the first of them
};
thread_local CaptureMode capture_mode;

mindckpt_status relax_capture_mode() {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  if (capture_mode.bindings == 0) {
    if (const auto failed = status_of(driver().cuThreadExchangeStreamCaptureMode(&mode),
                                      "cuThreadExchangeStreamCaptureMode")) {
      return failed;
    }
    capture_mode.before = mode;
  }
  ++capture_mode.bindings;
  return MINDCKPT_OK;
}

mindckpt_status restore_capture_mode() {
  if (capture_mode.bindings == 0 || --capture_mode.bindings > 0) return MINDCKPT_OK;
  return status_of(driver().cuThreadExchangeStreamCaptureMode(&capture_mode.before),
                   "cuThreadExchangeStreamCaptureMode");
}

mindckpt_status bind_thread(int32_t device) {
  const Attached* const attached = find_device(device);
  if (attached == nullptr) return MINDCKPT_ERROR;
  const CUcontext context = attached->context;
  if (context == nullptr) return refuse(MINDCKPT_ERROR, {"the device is not attached"});
  if (const auto failed = status_of(driver().cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")) {
    return failed;
  }
  const mindckpt_status relaxed = relax_capture_mode();
  if (relaxed != MINDCKPT_OK) {
    CUcontext popped = nullptr;
    driver().cuCtxPopCurrent_v2(&popped);
  }
  return relaxed;
}

mindckpt_status unbind_thread(int32_t) {
  const mindckpt_status restored = restore_capture_mode();
  CUcontext popped = nullptr;
  const auto failed = status_of(driver().cuCtxPopCurrent_v2(&popped), "cuCtxPopCurrent");
  return failed != MINDCKPT_OK ? failed : restored;
}

mindckpt_status pointer_info(const void* pointer, mindckpt_pointer_info* info) {
  // A pointer that the driver does not know leaves these as they are, or null.
  CUmemorytype kind = 0;
  unsigned int is_managed = 0;
  int ordinal = 0;
  std::array attributes = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                           CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  std::array<void*, 3> values = {&kind, &is_managed, &ordinal};
  const auto ask = [&] {
    return driver().cuPointerGetAttributes(static_cast<unsigned int>(attributes.size()),
                                           attributes.data(), values.data(), address_of(pointer));
  };
  CUresult result = ask();
  if (result == CUDA_ERROR_INVALID_CONTEXT) {
    // Any context will do, where the driver wants one at all.
    const State& all = state();
    for (int32_t device = 0; device < all.num_devices; ++device) {
      const CUcontext context = all.devices[static_cast<size_t>(device)].context;
      if (context == nullptr || driver().cuCtxPushCurrent_v2(context) != CUDA_SUCCESS) continue;
      result = ask();
      CUcontext popped = nullptr;
      driver().cuCtxPopCurrent_v2(&popped);
      break;
    }
  }
  *info = {MINDCKPT_POINTER_UNKNOWN, 0};
  if (const auto failed = status_of(result, "cuPointerGetAttributes")) return failed;
  if (is_managed != 0 || kind == CU_MEMORYTYPE_DEVICE) {
    // Managed memory that is on no device at the moment can be reached from each.
    *info = {MINDCKPT_POINTER_DEVICE, ordinal < 0 ? 0 : ordinal};
  } else if (kind == CU_MEMORYTYPE_HOST) {
    info->kind = MINDCKPT_POINTER_HOST;
  }
  return MINDCKPT_OK;
}

// ---- Host memory

mindckpt_status host_register(void* memory, size_t nbytes) {
  return status_of(driver().cuMemHostRegister_v2(memory, nbytes, CU_MEMHOSTREGISTER_PORTABLE),
                   "cuMemHostRegister");
}

mindckpt_status host_unregister(void* memory) {
  return status_of(driver().cuMemHostUnregister(memory), "cuMemHostUnregister");
}

// Not by cuMemHostAlloc: that promises no page alignment, and pins at a fifth of the speed.
mindckpt_status host_alloc(void** memory, size_t nbytes) {
  const size_t rounded = (nbytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  void* const allocated = rounded >= nbytes ? std::aligned_alloc(kPageBytes, rounded) : nullptr;
  if (allocated == nullptr) return refuse(MINDCKPT_OUT_OF_MEMORY, {"no host memory"});
  const mindckpt_status status = host_register(allocated, rounded);
  if (status != MINDCKPT_OK) {
    std::free(allocated);
    return status;
  }
  *memory = allocated;
  return MINDCKPT_OK;
}

mindckpt_status host_free(void* memory) {
  // What the driver holds on to is not to be used for anything else.
  if (const auto failed = host_unregister(memory)) return failed;
  std::free(memory);
  return MINDCKPT_OK;
}

// ---- Device memory

mindckpt_status device_alloc(void** memory, size_t nbytes) {
  CUdeviceptr allocated = 0;
  const auto status = status_of(driver().cuMemAlloc_v2(&allocated, nbytes), "cuMemAlloc");
  if (status == MINDCKPT_OK) *memory = reinterpret_cast<void*>(allocated);
  return status;
}

mindckpt_status device_free(void* memory) {
  return status_of(driver().cuMemFree_v2(address_of(memory)), "cuMemFree");
}

mindckpt_status memory_info(uint64_t* free_nbytes, uint64_t* total_nbytes) {
  size_t free = 0;
  size_t total = 0;
  const auto status = status_of(driver().cuMemGetInfo_v2(&free, &total), "cuMemGetInfo");
  *free_nbytes = free;
  *total_nbytes = total;
  return status;
}

mindckpt_status device_sync() { return status_of(driver().cuCtxSynchronize(), "cuCtxSynchronize"); }

// ---- Streams

mindckpt_status stream_create(void** stream, int32_t direction) {
  int least = 0;
  int greatest = 0;
  if (const auto failed = status_of(driver().cuCtxGetStreamPriorityRange(&least, &greatest),
                                    "cuCtxGetStreamPriorityRange")) {
    return failed;
  }
  // A snapshot is what training may have to wait for.
  const int priority = direction == MINDCKPT_DEVICE_TO_HOST ? greatest : least;
  return status_of(driver().cuStreamCreateWithPriority(stream, CU_STREAM_NON_BLOCKING, priority),
                   "cuStreamCreateWithPriority");
}

mindckpt_status stream_destroy(void* stream) {
  return status_of(driver().cuStreamDestroy_v2(stream), "cuStreamDestroy");
}

mindckpt_status stream_wait_event(void* stream, void* event) {
  return status_of(driver().cuStreamWaitEvent(stream, event, 0), "cuStreamWaitEvent");
}

mindckpt_status stream_sync(void* stream) {
  return status_of(driver().cuStreamSynchronize(stream), "cuStreamSynchronize");
}

mindckpt_status stream_is_capturing(void* stream, int32_t* capturing) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult result = driver().cuStreamIsCapturing(stream, &status);
  // The legacy stream while one that waits for it is being captured: as little may go into it.
  *capturing =
      status != CU_STREAM_CAPTURE_STATUS_NONE || result == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT ? 1
                                                                                              : 0;
  if (result == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) return MINDCKPT_OK;
  return status_of(result, "cuStreamIsCapturing");
}

// ---- Events

mindckpt_status event_create(void** event, uint32_t flags) {
  const unsigned int cuda_flags =
      CU_EVENT_DISABLE_TIMING | ((flags & MINDCKPT_EVENT_HOST) != 0 ? CU_EVENT_BLOCKING_SYNC : 0);
  return status_of(driver().cuEventCreate(event, cuda_flags), "cuEventCreate");
}

mindckpt_status event_destroy(void* event) {
  return status_of(driver().cuEventDestroy_v2(event), "cuEventDestroy");
}

mindckpt_status event_record(void* event, void* stream) {
  return status_of(driver().cuEventRecord(event, stream), "cuEventRecord");
}

mindckpt_status event_query(void* event) {
  const CUresult result = driver().cuEventQuery(event);
  if (result == CUDA_ERROR_NOT_READY) return MINDCKPT_NOT_READY;
  return status_of(result, "cuEventQuery");
}

mindckpt_status event_sync(void* event) {
  return status_of(driver().cuEventSynchronize(event), "cuEventSynchronize");
}

// ---- Copies

mindckpt_status copy_async(void* to, const void* from, size_t nbytes, int32_t direction,
                           void* stream) {
  switch (direction) {
    case MINDCKPT_DEVICE_TO_HOST:
      return status_of(driver().cuMemcpyDtoHAsync_v2(to, address_of(from), nbytes, stream),
                       "cuMemcpyDtoHAsync");
    case MINDCKPT_HOST_TO_DEVICE:
      return status_of(driver().cuMemcpyHtoDAsync_v2(address_of(to), from, nbytes, stream),
                       "cuMemcpyHtoDAsync");
    case MINDCKPT_DEVICE_TO_DEVICE:
      return status_of(
          driver().cuMemcpyDtoDAsync_v2(address_of(to), address_of(from), nbytes, stream),
          "cuMemcpyDtoDAsync");
    default:
      return refuse(MINDCKPT_ERROR, {"no such direction"});
  }
}

static_assert(sizeof(CUdeviceptr) == sizeof(void*));

mindckpt_status copy_batch_async(void* const* to, const void* const* from, const size_t* nbytes,
                                 size_t count, int32_t direction, void* stream) {
  // The driver has no batches for the legacy stream.
  if (driver().cuMemcpyBatchAsync != nullptr && stream != nullptr && stream != CU_STREAM_LEGACY) {
    CUmemcpyAttributes attributes{CU_MEMCPY_SRC_ACCESS_ORDER_STREAM, {}, {}, 0};
    size_t first = 0;
    size_t failed = 0;
    // The driver writes to none of these arrays.
    const CUresult result = driver().cuMemcpyBatchAsync(
        reinterpret_cast<CUdeviceptr*>(const_cast<void**>(to)),
        reinterpret_cast<CUdeviceptr*>(const_cast<const void**>(from)), const_cast<size_t*>(nbytes),
        count, &attributes, &first, 1, &failed, stream);
    if (result != CUDA_ERROR_NOT_SUPPORTED) return status_of(result, "cuMemcpyBatchAsync");
  }
  for (size_t i = 0; i < count; ++i) {
    if (const auto status = copy_async(to[i], from[i], nbytes[i], direction, stream)) {
      return status;
    }
  }
  return MINDCKPT_OK;
}

constexpr mindckpt_device_backend kBackend = {
    .struct_size = sizeof(mindckpt_device_backend),
    .abi_major = MINDCKPT_DEVICE_ABI_MAJOR,
    .abi_minor = MINDCKPT_DEVICE_ABI_MINOR,
    .name = "cuda",
    .dlpack_device_type = 2,  // kDLCUDA
    .copy_alignment = 1,
    .init = init,
    .shutdown = shutdown,
    .last_error = last_error,
    .version = version,
    .device_count = device_count,
    .attach = attach,
    .detach = detach,
    .bind_thread = bind_thread,
    .unbind_thread = unbind_thread,
    .pointer_info = pointer_info,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .host_register = host_register,
    .host_unregister = host_unregister,
    .device_alloc = device_alloc,
    .device_free = device_free,
    .memory_info = memory_info,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait_event = stream_wait_event,
    .stream_sync = stream_sync,
    .stream_is_capturing = stream_is_capturing,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .event_sync = event_sync,
    .copy_async = copy_async,
    .copy_batch_async = copy_batch_async,
    .device_sync = device_sync,
};

}  // namespace

const mindckpt_device_backend* cuda_backend() { return &kBackend; }

}  // namespace mindckpt
