// Device libraries with something wrong about them; BAD_PLUGIN says what.
#include "device_api.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

#if BAD_PLUGIN == 1  // for another version of the interface
EXPORT const mindckpt_device_backend* mindckpt_device_backend_v1() {
  static constexpr mindckpt_device_backend table = [] {
    mindckpt_device_backend other{};
    other.struct_size = sizeof(other);
    other.abi_major = MINDCKPT_DEVICE_ABI_MAJOR + 1;
    other.name = "other";
    return other;
  }();
  return &table;
}
#elif BAD_PLUGIN == 2  // without a table
EXPORT const mindckpt_device_backend* mindckpt_device_backend_v1() { return nullptr; }
#elif BAD_PLUGIN == 3  // in need of a function that is nowhere
extern "C" const mindckpt_device_backend* function_that_is_nowhere();
EXPORT const mindckpt_device_backend* mindckpt_device_backend_v1() {
  return function_that_is_nowhere();
}
#elif BAD_PLUGIN == 4  // a libcuda.so.1 that has hardly anything
EXPORT int cuInit(unsigned int) { return 0; }
EXPORT int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
EXPORT int cuGetErrorName(int, const char**) { return 1; }
EXPORT int cuGetErrorString(int, const char**) { return 1; }
#elif BAD_PLUGIN == 5  // a libascendcl.so that has hardly anything
EXPORT int aclInit(const char*) { return 0; }
#elif BAD_PLUGIN == 6  // a libcuda.so.1 that shuts down before the program's own static objects go
#include <cstdint>
#include <cstdio>

namespace {

bool is_shut_down = false;

struct ShutDown {
  ~ShutDown() {
    std::puts("the driver has shut down");
    std::fflush(stdout);
    is_shut_down = true;
  }
} shut_down;

// What all functions do. A handle is never null.
int answer() { return is_shut_down ? 4 : 0; }
int make(void** handle) {
  if (!is_shut_down) *handle = &shut_down;
  return answer();
}

}  // namespace

EXPORT int cuInit(unsigned int) { return answer(); }
EXPORT int cuDriverGetVersion(int* version) { return *version = 12080, answer(); }
EXPORT int cuGetErrorName(int, const char**) { return 4; }
EXPORT int cuGetErrorString(int, const char**) { return 4; }
EXPORT int cuDeviceGet(int* device, int) { return *device = 0, answer(); }
EXPORT int cuDeviceGetCount(int* count) { return *count = 1, answer(); }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) { return make(context); }
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return answer(); }
EXPORT int cuCtxPushCurrent_v2(void*) { return answer(); }
EXPORT int cuCtxPopCurrent_v2(void** context) { return make(context); }
EXPORT int cuThreadExchangeStreamCaptureMode(int*) { return answer(); }
EXPORT int cuCtxSynchronize() { return answer(); }
EXPORT int cuCtxGetStreamPriorityRange(int*, int*) { return answer(); }
EXPORT int cuPointerGetAttributes(unsigned int, int*, void**, uint64_t) { return answer(); }
EXPORT int cuMemHostRegister_v2(void*, size_t, unsigned int) { return answer(); }
EXPORT int cuMemHostUnregister(void*) { return answer(); }
EXPORT int cuMemAlloc_v2(void** memory, size_t) { return make(memory); }
EXPORT int cuMemFree_v2(uint64_t) { return answer(); }
EXPORT int cuMemGetInfo_v2(size_t*, size_t*) { return answer(); }
EXPORT int cuStreamCreateWithPriority(void** stream, unsigned int, int) { return make(stream); }
EXPORT int cuStreamDestroy_v2(void*) { return answer(); }
EXPORT int cuStreamWaitEvent(void*, void*, unsigned int) { return answer(); }
EXPORT int cuStreamSynchronize(void*) { return answer(); }
EXPORT int cuStreamIsCapturing(void*, int*) { return answer(); }
EXPORT int cuEventCreate(void** event, unsigned int) { return make(event); }
EXPORT int cuEventDestroy_v2(void*) { return answer(); }
EXPORT int cuEventRecord(void*, void*) { return answer(); }
EXPORT int cuEventQuery(void*) { return answer(); }
EXPORT int cuEventSynchronize(void*) { return answer(); }
EXPORT int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*) { return answer(); }
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*) { return answer(); }
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void*) { return answer(); }
#endif
