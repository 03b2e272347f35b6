// A libcuda.so.1 for the tests: the driver API's functions that a checkpoint needs, by their real
// names, over simulated devices, with what the real driver insists on: cuInit first, a current
// context on the thread, no calls on a stream that is being captured, none that a graph can't hold
// while one is captured and the thread's mode is not relaxed, no use after a fork. Captures are of
// the default mode, global. Stricter than the real one in that asynchronous copies take pinned host
// memory only, and memory of the stream's own device.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "faults.h"
#include "simulation.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using stand_in::Copy;
using stand_in::Direction;
using stand_in::Owner;
using stand_in::PointerInfo;
using stand_in::Result;

namespace {

// ---- The types of cuda.h, as far as the ABI goes.

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
struct CUctx_st {
  int32_t device;
};
using CUcontext = CUctx_st*;
using CUstream = void*;
using CUevent = void*;

struct CUDA_MEMCPY2D {
  size_t srcXInBytes;
  size_t srcY;
  unsigned int srcMemoryType;
  const void* srcHost;
  CUdeviceptr srcDevice;
  void* srcArray;
  size_t srcPitch;
  size_t dstXInBytes;
  size_t dstY;
  unsigned int dstMemoryType;
  void* dstHost;
  CUdeviceptr dstDevice;
  void* dstArray;
  size_t dstPitch;
  size_t WidthInBytes;
  size_t Height;
};

struct CUmemLocation {
  int type;
  int id;
};

struct CUmemcpyAttributes {
  int srcAccessOrder;
  CUmemLocation srcLocHint;
  CUmemLocation dstLocHint;
  unsigned int flags;
};

constexpr unsigned int kMemoryHost = 1;
constexpr unsigned int kMemoryDevice = 2;
constexpr unsigned int kMemoryUnified = 4;

struct ErrorText {
  CUresult code;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

constexpr stand_in::Function kFunctions[] = {
    {"cuInit", 100},
    {"cuDriverGetVersion", 999},
    {"cuGetErrorName", 1},
    {"cuGetErrorString", 1},
    {"cuGetProcAddress_v2", 500},
    {"cuDeviceGet", 101},
    {"cuDeviceGetCount", 999},
    {"cuDeviceGetName", 999},
    {"cuDeviceGetAttribute", 999},
    {"cuDeviceTotalMem_v2", 999},
    {"cuDevicePrimaryCtxRetain", 2},
    {"cuDevicePrimaryCtxRelease_v2", 999},
    {"cuCtxPushCurrent_v2", 201},
    {"cuCtxPopCurrent_v2", 201},
    {"cuCtxGetCurrent", 999},
    {"cuCtxSetCurrent", 201},
    {"cuCtxGetDevice", 999},
    {"cuCtxGetStreamPriorityRange", 999},
    {"cuCtxSynchronize", 700},
    {"cuThreadExchangeStreamCaptureMode", 999},
    {"cuMemGetInfo_v2", 999},
    {"cuMemHostAlloc", 2},
    {"cuMemFreeHost", 999},
    {"cuMemHostRegister_v2", 2},
    {"cuMemHostUnregister", 999},
    {"cuMemAlloc_v2", 2},
    {"cuMemFree_v2", 999},
    {"cuMemAllocAsync", 2},
    {"cuMemFreeAsync", 999},
    {"cuPointerGetAttributes", 999},
    {"cuMemcpyDtoHAsync_v2", 719},
    {"cuMemcpyHtoDAsync_v2", 719},
    {"cuMemcpyDtoDAsync_v2", 719},
    {"cuMemcpy2DAsync_v2", 719},
    {"cuMemcpyBatchAsync", 719},
    {"cuMemcpyBatchAsync_v2", 719},
    {"cuMemsetD8Async", 719},
    {"cuStreamCreateWithPriority", 2},
    {"cuStreamDestroy_v2", 700},
    {"cuStreamWaitEvent", 700},
    {"cuStreamSynchronize", 700},
    {"cuStreamIsCapturing", 999},
    {"cuEventCreate", 2},
    {"cuEventDestroy_v2", 700},
    {"cuEventRecord", 700},
    {"cuEventQuery", 700},
    {"cuEventSynchronize", 700},
};

}  // namespace

std::span<const stand_in::Function> stand_in::functions() { return kFunctions; }

namespace {

std::atomic<bool> initialised{false};

CUcontext primary_context(CUdevice device) {
  static std::array<CUctx_st, stand_in::kMostDevices> contexts = [] {
    std::array<CUctx_st, stand_in::kMostDevices> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i].device = static_cast<int32_t>(i);
    return all;
  }();
  return &contexts[static_cast<size_t>(device)];
}

thread_local std::vector<CUcontext> current_contexts;

CUcontext current_context() { return current_contexts.empty() ? nullptr : current_contexts.back(); }

CUresult code_of(Result result) {
  switch (result) {
    case Result::kOk:
      return 0;
    case Result::kNotReady:
      return 600;
    case Result::kInvalidValue:
      return 1;
    case Result::kInvalidHandle:
      return 400;
    case Result::kInvalidDevice:
      return 101;
    case Result::kOutOfMemory:
      return 2;
    case Result::kAlreadyPinned:
      return 712;
    case Result::kNotPinned:
      return 713;
    case Result::kCapturing:
      return 900;
    case Result::kCaptureImplicit:
      return 906;
  }
  return 999;
}

CUresult refuse(CUresult code, const char* reason) {
  stand_in::explain(reason);
  return code;
}

constexpr int kModeRelaxed = 2;
thread_local int capture_mode = 0;

// kNoCapture: it is not to be called during a capture, but on a thread of the relaxed mode.
enum class Needs { kNothing, kInit, kContext, kNoCapture };

// What every function begins with: whether it fails before it does anything.
CUresult enter(const char* function, Needs needs) {
  stand_in::read_environment();
  if (const int code = stand_in::count_call(function)) return code;
  if (needs == Needs::kNothing) return 0;
  if (stand_in::is_forked_child()) return 3;
  if (!initialised) return refuse(3, "cuInit was not called");
  if (needs != Needs::kInit && current_context() == nullptr) {
    return refuse(201, "no context is current on this thread");
  }
  if (needs == Needs::kNoCapture && capture_mode != kModeRelaxed && stand_in::is_any_capturing()) {
    return refuse(900, "a stream is being captured, and this thread's mode is not relaxed");
  }
  return 0;
}

int32_t current_device() { return current_context()->device; }

bool is_device(CUdevice device) { return device >= 0 && device < stand_in::device_count(); }

void* pointer_of(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }
CUdeviceptr address_of(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

CUresult put_copy(CUstream stream, void* to, const void* from, size_t nbytes, Direction direction) {
  return code_of(stand_in::put_copies(current_device(), stream, {{to, from, nbytes}}, direction));
}

bool on_device(const void* pointer) {
  return stand_in::pointer_info(pointer).kind == PointerInfo::Kind::kDevice;
}

// Which way a copy goes whose addresses alone tell; host to host comes out as one of the others, to
// be refused by it.
Direction direction_of(const void* to, const void* from) {
  if (!on_device(from)) return Direction::kToDevice;
  return on_device(to) ? Direction::kOnDevice : Direction::kToHost;
}

CUresult copy_batch(const CUdeviceptr* dsts, const CUdeviceptr* srcs, const size_t* sizes,
                    size_t count, const CUmemcpyAttributes* attrs, const size_t* attrs_idxs,
                    size_t num_attrs, size_t* fail_idx, CUstream stream) {
  if (fail_idx != nullptr) *fail_idx = SIZE_MAX;
  if (reinterpret_cast<uintptr_t>(stream) <= 1) {
    return refuse(1, "batches of copies are not for the legacy stream");
  }
  if (dsts == nullptr || srcs == nullptr || sizes == nullptr || count == 0) {
    return refuse(1, "an empty batch");
  }
  if (attrs == nullptr || attrs_idxs == nullptr || num_attrs == 0 || num_attrs > count ||
      attrs_idxs[0] != 0) {
    return refuse(1, "attributes must begin with the first copy");
  }
  for (size_t i = 0; i < num_attrs; ++i) {
    const bool ordered = i == 0 || attrs_idxs[i] > attrs_idxs[i - 1];
    if (!ordered || attrs_idxs[i] >= count || attrs[i].srcAccessOrder < 1 ||
        attrs[i].srcAccessOrder > 3) {
      return refuse(1, "attributes out of order, or without an access order");
    }
  }
  std::vector<Copy> copies;
  for (size_t i = 0; i < count; ++i) {
    copies.push_back({pointer_of(dsts[i]), pointer_of(srcs[i]), sizes[i]});
  }
  const Direction direction = direction_of(copies[0].to, copies[0].from);
  for (size_t i = 0; i < count; ++i) {
    // Stricter than the real one, for which a batch may go both ways.
    if (sizes[i] == 0 || direction_of(copies[i].to, copies[i].from) != direction) {
      if (fail_idx != nullptr) *fail_idx = i;
      return refuse(1, "a batch of copies that are empty, or of different directions");
    }
  }
  return code_of(stand_in::put_copies(current_device(), stream, copies, direction));
}

}  // namespace

// ---- The driver

EXPORT CUresult cuInit(unsigned int flags) {
  if (const CUresult refused = enter(__func__, Needs::kNothing)) return refused;
  if (const int code = stand_in::init_error()) return refuse(code, "by the environment");
  if (stand_in::is_forked_child()) return 3;
  if (flags != 0) return refuse(1, "flags must be 0");
  if (stand_in::device_count() == 0) return refuse(100, "no devices");
  stand_in::enter_process();
  initialised = true;
  return 0;
}

EXPORT CUresult cuDriverGetVersion(int* version) {
  if (const CUresult refused = enter(__func__, Needs::kNothing)) return refused;
  if (version == nullptr) return refuse(1, "null");
  *version = stand_in::driver_version();
  return 0;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char** name) {
  if (const CUresult refused = enter(__func__, Needs::kNothing)) return refused;
  for (const ErrorText& known : kErrors) {
    if (known.code == error) {
      *name = known.name;
      return 0;
    }
  }
  *name = nullptr;
  return refuse(1, "no such error");
}

EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
  if (const CUresult refused = enter(__func__, Needs::kNothing)) return refused;
  for (const ErrorText& known : kErrors) {
    if (known.code == error) {
      *text = known.text;
      return 0;
    }
  }
  *text = nullptr;
  return refuse(1, "no such error");
}

// ---- Devices and contexts

EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (device == nullptr) return refuse(1, "null");
  if (!is_device(ordinal)) return refuse(101, "no such device");
  *device = ordinal;
  return 0;
}

EXPORT CUresult cuDeviceGetCount(int* count) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (count == nullptr) return refuse(1, "null");
  *count = stand_in::device_count();
  return 0;
}

EXPORT CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (name == nullptr || size <= 0) return refuse(1, "null");
  if (!is_device(device)) return refuse(101, "no such device");
  std::snprintf(name, static_cast<size_t>(size), "Stand-in GPU");
  return 0;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (value == nullptr || attribute <= 0) return refuse(1, "null, or no such attribute");
  if (!is_device(device)) return refuse(101, "no such device");
  constexpr struct {
    int attribute;
    int value;
  } kAttributes[] = {
      {16, 132},  // MULTIPROCESSOR_COUNT
      {19, 1},    // CAN_MAP_HOST_MEMORY
      {40, 3},    // ASYNC_ENGINE_COUNT
      {41, 1},    // UNIFIED_ADDRESSING
      {75, 9},    // COMPUTE_CAPABILITY_MAJOR
      {78, 1},    // STREAM_PRIORITIES_SUPPORTED
      {99, 1},    // HOST_REGISTER_SUPPORTED
      {115, 1},   // MEMORY_POOLS_SUPPORTED
  };
  *value = 0;
  for (const auto& known : kAttributes) {
    if (known.attribute == attribute) *value = known.value;
  }
  return 0;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t* nbytes, CUdevice device) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (nbytes == nullptr) return refuse(1, "null");
  uint64_t free_nbytes = 0;
  uint64_t total_nbytes = 0;
  const Result result = stand_in::memory_info(device, &free_nbytes, &total_nbytes);
  if (result == Result::kOk) *nbytes = total_nbytes;
  return code_of(result);
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (context == nullptr) return refuse(1, "null");
  if (!is_device(device)) return refuse(101, "no such device");
  *context = primary_context(device);
  stand_in::add_context(device, 1);
  return 0;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (!is_device(device)) return refuse(101, "no such device");
  if (stand_in::contexts(device) == 0) return refuse(201, "the context was not retained");
  stand_in::add_context(device, -1);
  return 0;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (context == nullptr || stand_in::contexts(context->device) == 0) {
    return refuse(201, "the context is not retained");
  }
  current_contexts.push_back(context);
  return 0;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (context != nullptr) *context = current_contexts.back();
  current_contexts.pop_back();
  return 0;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (context == nullptr) return refuse(1, "null");
  *context = current_context();
  return 0;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (context != nullptr && stand_in::contexts(context->device) == 0) {
    return refuse(201, "the context is not retained");
  }
  if (!current_contexts.empty()) current_contexts.pop_back();
  if (context != nullptr) current_contexts.push_back(context);
  return 0;
}

EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (device == nullptr) return refuse(1, "null");
  *device = current_device();
  return 0;
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return 0;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (mode == nullptr || *mode < 0 || *mode > kModeRelaxed) return refuse(1, "no such mode");
  std::swap(*mode, capture_mode);
  return 0;
}

EXPORT CUresult cuCtxSynchronize() {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::sync_device(current_device()));
}

// ---- Memory

EXPORT CUresult cuMemGetInfo_v2(size_t* free_nbytes, size_t* total_nbytes) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (free_nbytes == nullptr || total_nbytes == nullptr) return refuse(1, "null");
  return code_of(stand_in::memory_info(current_device(), free_nbytes, total_nbytes));
}

EXPORT CUresult cuMemHostAlloc(void** memory, size_t nbytes, unsigned int flags) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  if (flags > 7) return refuse(1, "unknown flags");
  if ((flags & 4) != 0) return refuse(1, "write-combined memory is far too slow to read from");
  // 256 bytes are all the alignment that the real one promises.
  return code_of(stand_in::allocate_host(current_device(), nbytes, 256, memory));
}

EXPORT CUresult cuMemFreeHost(void* memory) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::release_host(memory));
}

EXPORT CUresult cuMemHostRegister_v2(void* memory, size_t nbytes, unsigned int flags) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  if (flags > 15) return refuse(1, "unknown flags");
  return code_of(stand_in::register_host(current_device(), memory, nbytes));
}

EXPORT CUresult cuMemHostUnregister(void* memory) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::unregister_host(memory));
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* memory, size_t nbytes) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  if (memory == nullptr) return refuse(1, "null");
  void* pointer = nullptr;
  const Result result = stand_in::allocate(current_device(), nbytes, Owner::kEngine, &pointer);
  if (result == Result::kOk) *memory = address_of(pointer);
  return code_of(result);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr memory) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::release(pointer_of(memory), Owner::kEngine));
}

// Earlier than the real one: the memory is there at once.
EXPORT CUresult cuMemAllocAsync(CUdeviceptr* memory, size_t nbytes, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (memory == nullptr) return refuse(1, "null");
  int32_t device = 0;
  Result result = stand_in::device_of_stream(stream, current_device(), &device);
  void* pointer = nullptr;
  if (result == Result::kOk) result = stand_in::allocate(device, nbytes, Owner::kEngine, &pointer);
  if (result == Result::kOk) *memory = address_of(pointer);
  return code_of(result);
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr memory, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::release_in_stream(pointer_of(memory), current_device(), stream));
}

EXPORT CUresult cuPointerGetAttributes(unsigned int count, int* attributes, void** data,
                                       CUdeviceptr pointer) {
  if (const CUresult refused = enter(__func__, Needs::kInit)) return refused;
  if (count == 0 || attributes == nullptr || data == nullptr) return refuse(1, "null");
  const PointerInfo info = stand_in::pointer_info(pointer_of(pointer));
  const bool known = info.kind != PointerInfo::Kind::kUnknown;
  const bool device = info.kind == PointerInfo::Kind::kDevice;
  const auto set = [](void* to, auto value) { std::memcpy(to, &value, sizeof(value)); };
  for (unsigned int i = 0; i < count; ++i) {
    switch (attributes[i]) {
      case 1:  // CONTEXT
        set(data[i], known ? primary_context(info.device) : nullptr);
        break;
      case 2:  // MEMORY_TYPE
        set(data[i], !known ? 0U : device ? kMemoryDevice : kMemoryHost);
        break;
      case 3:  // DEVICE_POINTER
        set(data[i], known ? pointer : CUdeviceptr{0});
        break;
      case 4:  // HOST_POINTER
        set(data[i], known && !device ? pointer_of(pointer) : nullptr);
        break;
      case 8:  // IS_MANAGED
        set(data[i], 0U);
        break;
      case 9:  // DEVICE_ORDINAL
        set(data[i], known ? info.device : 0);
        break;
      case 11:  // RANGE_START_ADDR
        set(data[i], address_of(info.begin));
        break;
      case 12:  // RANGE_SIZE
        set(data[i], info.nbytes);
        break;
      default:
        return refuse(1, "an attribute that this stand-in does not know");
    }
  }
  return 0;
}

// ---- Copies

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t nbytes, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return put_copy(stream, to, pointer_of(from), nbytes, Direction::kToHost);
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t nbytes,
                                     CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return put_copy(stream, pointer_of(to), from, nbytes, Direction::kToDevice);
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t nbytes,
                                     CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return put_copy(stream, pointer_of(to), pointer_of(from), nbytes, Direction::kOnDevice);
}

EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (copy == nullptr) return refuse(1, "null");
  const auto place = [](unsigned int type, const void* host, CUdeviceptr device) {
    return type == kMemoryHost                               ? address_of(host)
           : type == kMemoryDevice || type == kMemoryUnified ? device
                                                             : CUdeviceptr{0};
  };
  const CUdeviceptr from = place(copy->srcMemoryType, copy->srcHost, copy->srcDevice);
  const CUdeviceptr to = place(copy->dstMemoryType, copy->dstHost, copy->dstDevice);
  if (from == 0 || to == 0) return refuse(1, "a null pointer, or an array");
  Copy rows;
  rows.from = pointer_of(from + copy->srcY * copy->srcPitch + copy->srcXInBytes);
  rows.to = pointer_of(to + copy->dstY * copy->dstPitch + copy->dstXInBytes);
  rows.nbytes = copy->WidthInBytes;
  rows.rows = copy->Height;
  rows.from_pitch = copy->srcPitch;
  rows.to_pitch = copy->dstPitch;
  return code_of(
      stand_in::put_copies(current_device(), stream, {rows}, direction_of(rows.to, rows.from)));
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t nbytes,
                                CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::put_fill(current_device(), stream, pointer_of(to), value, nbytes));
}

namespace {

// Through cuGetProcAddress alone: 12.8's, and 13.0's, which lost the index of the failure.
CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                            CUmemcpyAttributes* attrs, size_t* attrs_idxs, size_t num_attrs,
                            size_t* fail_idx, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return copy_batch(dsts, srcs, sizes, count, attrs, attrs_idxs, num_attrs, fail_idx, stream);
}

CUresult cuMemcpyBatchAsync_v2(const CUdeviceptr* dsts, const CUdeviceptr* srcs,
                               const size_t* sizes, size_t count, CUmemcpyAttributes* attrs,
                               size_t* attrs_idxs, size_t num_attrs, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return copy_batch(dsts, srcs, sizes, count, attrs, attrs_idxs, num_attrs, nullptr, stream);
}

}  // namespace

// ---- Streams

EXPORT CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (flags > 1) return refuse(1, "unknown flags");
  return code_of(stand_in::create_stream(current_device(), flags == 1, Owner::kEngine, stream));
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::destroy_stream(stream, Owner::kEngine));
}

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (flags > 1) return refuse(1, "unknown flags");
  return code_of(stand_in::wait_for_event(current_device(), stream, event));
}

EXPORT CUresult cuStreamSynchronize(CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::sync_stream(current_device(), stream));
}

EXPORT CUresult cuStreamIsCapturing(CUstream stream, int* status) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (status == nullptr) return refuse(1, "null");
  bool capturing = false;
  const Result result = stand_in::is_capturing(current_device(), stream, &capturing);
  if (result == Result::kOk) *status = capturing ? 1 : 0;
  return code_of(result);
}

// ---- Events

EXPORT CUresult cuEventCreate(CUevent* event, unsigned int flags) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  if (flags > 7) return refuse(1, "unknown flags");
  return code_of(stand_in::create_event(current_device(), event));
}

EXPORT CUresult cuEventDestroy_v2(CUevent event) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::destroy_event(event));
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
  if (const CUresult refused = enter(__func__, Needs::kContext)) return refused;
  return code_of(stand_in::record_event(current_device(), event, stream));
}

EXPORT CUresult cuEventQuery(CUevent event) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::query_event(event, Result::kOk));
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
  if (const CUresult refused = enter(__func__, Needs::kNoCapture)) return refused;
  return code_of(stand_in::sync_event(event));
}

// ---- Functions by their base names

EXPORT CUresult cuGetProcAddress_v2(const char* symbol, void** function, int version,
                                    unsigned long long flags, int* status) {
  if (const CUresult refused = enter(__func__, Needs::kNothing)) return refused;
  if (symbol == nullptr || function == nullptr || flags > 2) return refuse(1, "null, or flags");
  struct Entry {
    const char* name;
    int since;
    void* function;
  };
#define AS_POINTER(name) reinterpret_cast<void*>(&name)
  // Newer versions behind older ones.
  static const Entry kEntries[] = {
      {"cuInit", 2000, AS_POINTER(cuInit)},
      {"cuDriverGetVersion", 2020, AS_POINTER(cuDriverGetVersion)},
      {"cuGetErrorName", 6000, AS_POINTER(cuGetErrorName)},
      {"cuGetErrorString", 6000, AS_POINTER(cuGetErrorString)},
      {"cuGetProcAddress", 12000, AS_POINTER(cuGetProcAddress_v2)},
      {"cuDeviceGet", 2000, AS_POINTER(cuDeviceGet)},
      {"cuDeviceGetCount", 2000, AS_POINTER(cuDeviceGetCount)},
      {"cuDeviceGetName", 2000, AS_POINTER(cuDeviceGetName)},
      {"cuDeviceGetAttribute", 2000, AS_POINTER(cuDeviceGetAttribute)},
      {"cuDeviceTotalMem", 3020, AS_POINTER(cuDeviceTotalMem_v2)},
      {"cuDevicePrimaryCtxRetain", 7000, AS_POINTER(cuDevicePrimaryCtxRetain)},
      {"cuDevicePrimaryCtxRelease", 11000, AS_POINTER(cuDevicePrimaryCtxRelease_v2)},
      {"cuCtxPushCurrent", 4000, AS_POINTER(cuCtxPushCurrent_v2)},
      {"cuCtxPopCurrent", 4000, AS_POINTER(cuCtxPopCurrent_v2)},
      {"cuCtxGetCurrent", 4000, AS_POINTER(cuCtxGetCurrent)},
      {"cuCtxSetCurrent", 4000, AS_POINTER(cuCtxSetCurrent)},
      {"cuCtxGetDevice", 2000, AS_POINTER(cuCtxGetDevice)},
      {"cuCtxGetStreamPriorityRange", 5050, AS_POINTER(cuCtxGetStreamPriorityRange)},
      {"cuCtxSynchronize", 2000, AS_POINTER(cuCtxSynchronize)},
      {"cuThreadExchangeStreamCaptureMode", 10010, AS_POINTER(cuThreadExchangeStreamCaptureMode)},
      {"cuMemGetInfo", 3020, AS_POINTER(cuMemGetInfo_v2)},
      {"cuMemHostAlloc", 2020, AS_POINTER(cuMemHostAlloc)},
      {"cuMemFreeHost", 2000, AS_POINTER(cuMemFreeHost)},
      {"cuMemHostRegister", 6050, AS_POINTER(cuMemHostRegister_v2)},
      {"cuMemHostUnregister", 4000, AS_POINTER(cuMemHostUnregister)},
      {"cuMemAlloc", 3020, AS_POINTER(cuMemAlloc_v2)},
      {"cuMemFree", 3020, AS_POINTER(cuMemFree_v2)},
      {"cuMemAllocAsync", 11020, AS_POINTER(cuMemAllocAsync)},
      {"cuMemFreeAsync", 11020, AS_POINTER(cuMemFreeAsync)},
      {"cuPointerGetAttributes", 7000, AS_POINTER(cuPointerGetAttributes)},
      {"cuMemcpyDtoHAsync", 3020, AS_POINTER(cuMemcpyDtoHAsync_v2)},
      {"cuMemcpyHtoDAsync", 3020, AS_POINTER(cuMemcpyHtoDAsync_v2)},
      {"cuMemcpyDtoDAsync", 3020, AS_POINTER(cuMemcpyDtoDAsync_v2)},
      {"cuMemcpy2DAsync", 3020, AS_POINTER(cuMemcpy2DAsync_v2)},
      {"cuMemcpyBatchAsync", 12080, AS_POINTER(cuMemcpyBatchAsync)},
      {"cuMemcpyBatchAsync", 13000, AS_POINTER(cuMemcpyBatchAsync_v2)},
      {"cuMemsetD8Async", 3020, AS_POINTER(cuMemsetD8Async)},
      {"cuStreamCreateWithPriority", 5050, AS_POINTER(cuStreamCreateWithPriority)},
      {"cuStreamDestroy", 4000, AS_POINTER(cuStreamDestroy_v2)},
      {"cuStreamWaitEvent", 3020, AS_POINTER(cuStreamWaitEvent)},
      {"cuStreamSynchronize", 2000, AS_POINTER(cuStreamSynchronize)},
      {"cuStreamIsCapturing", 10000, AS_POINTER(cuStreamIsCapturing)},
      {"cuEventCreate", 2000, AS_POINTER(cuEventCreate)},
      {"cuEventDestroy", 4000, AS_POINTER(cuEventDestroy_v2)},
      {"cuEventRecord", 2000, AS_POINTER(cuEventRecord)},
      {"cuEventQuery", 2000, AS_POINTER(cuEventQuery)},
      {"cuEventSynchronize", 2000, AS_POINTER(cuEventSynchronize)},
  };
#undef AS_POINTER
  *function = nullptr;
  int found = 1;  // SYMBOL_NOT_FOUND
  for (const Entry& entry : kEntries) {
    if (std::strcmp(entry.name, symbol) != 0 || entry.since > stand_in::driver_version()) continue;
    if (entry.since > version) {
      if (*function == nullptr) found = 2;  // VERSION_NOT_SUFFICIENT
      continue;
    }
    *function = entry.function;
    found = 0;
  }
  if (status != nullptr) *status = found;
  return *function == nullptr ? refuse(500, "no such function in this driver") : 0;
}
