#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "stand_in_testing.h"

namespace stand_in::test {
namespace {

using CUdeviceptr = unsigned long long;

// What cuda.h declares, for the functions that the cases below call.
struct Cuda {
  StandIn control{"libcuda.so.1"};

  template <typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    return control.library.get<int(Arguments...)>(name)(arguments...);
  }
  template <typename Function>
  Function* by_version(const char* name, int version, int* status = nullptr) const {
    void* found = nullptr;
    call("cuGetProcAddress_v2", name, &found, version, 0ULL, status);
    return reinterpret_cast<Function*>(found);
  }
};

struct Memcpy2D {
  size_t from_x = 0;
  size_t from_y = 0;
  unsigned from_type = 0;
  const void* from_host = nullptr;
  CUdeviceptr from_device = 0;
  void* from_array = nullptr;
  size_t from_pitch = 0;
  size_t to_x = 0;
  size_t to_y = 0;
  unsigned to_type = 0;
  void* to_host = nullptr;
  CUdeviceptr to_device = 0;
  void* to_array = nullptr;
  size_t to_pitch = 0;
  size_t width = 0;
  size_t height = 0;
};

struct MemcpyAttributes {
  int source_order;
  int hints[4];
  unsigned flags;
};

using Batch12 = int(CUdeviceptr*, CUdeviceptr*, size_t*, size_t, MemcpyAttributes*, size_t*, size_t,
                    size_t*, void*);
using Batch13 = int(const CUdeviceptr*, const CUdeviceptr*, const size_t*, size_t,
                    MemcpyAttributes*, size_t*, size_t, void*);

TEST_CASE_FIXTURE(Cuda, "every function of the CUDA driver can fail, and all is given back") {
  control.reset();
  control.set_driver_version(13000);
  int number = 0;
  int more = 0;
  int mode = 0;
  size_t sizes[2] = {};
  char text[64] = {};
  const char* words = nullptr;
  void* context = nullptr;
  void* popped = nullptr;
  void* function = nullptr;
  void* host = nullptr;
  CUdeviceptr device = 0;
  CUdeviceptr in_stream = 0;
  void* stream = nullptr;
  void* event = nullptr;
  int attributes[] = {2, 9};
  unsigned type = 0;
  void* answers[] = {&type, &number};
  CUdeviceptr to = 0;
  size_t one_size = 100;
  size_t first = 0;
  size_t failed = 0;
  MemcpyAttributes order{1, {}, 0};
  const std::unique_ptr<void, decltype(&std::free)> pages(
      std::aligned_alloc(kPageBytes, kPageBytes), &std::free);
  // By the names, with the arguments of cuda.h.
  check_story(
      control,
      {{"cuInit", [&] { return call("cuInit", 0U); }},
       {"cuDriverGetVersion", [&] { return call("cuDriverGetVersion", &number); }},
       {"cuGetErrorName", [&] { return call("cuGetErrorName", 900, &words); }},
       {"cuGetErrorString", [&] { return call("cuGetErrorString", 900, &words); }},
       {"cuGetProcAddress_v2",
        [&] { return call("cuGetProcAddress_v2", "cuInit", &function, 12000, 0ULL, &number); }},
       {"cuDeviceGetCount", [&] { return call("cuDeviceGetCount", &number); }},
       {"cuDeviceGet", [&] { return call("cuDeviceGet", &number, 1); }},
       {"cuDeviceGetName", [&] { return call("cuDeviceGetName", text, 64, 1); }},
       {"cuDeviceGetAttribute", [&] { return call("cuDeviceGetAttribute", &number, 40, 1); }},
       {"cuDeviceTotalMem_v2", [&] { return call("cuDeviceTotalMem_v2", &sizes[0], 1); }},
       {"cuDevicePrimaryCtxRetain", [&] { return call("cuDevicePrimaryCtxRetain", &context, 1); }},
       {"cuCtxPushCurrent_v2", [&] { return call("cuCtxPushCurrent_v2", context); }},
       {"cuCtxGetCurrent", [&] { return call("cuCtxGetCurrent", &popped); }},
       {"cuCtxSetCurrent", [&] { return call("cuCtxSetCurrent", context); }},
       {"cuCtxGetDevice", [&] { return call("cuCtxGetDevice", &number); }},
       {"cuCtxGetStreamPriorityRange",
        [&] { return call("cuCtxGetStreamPriorityRange", &number, &more); }},
       {"cuMemGetInfo_v2", [&] { return call("cuMemGetInfo_v2", &sizes[0], &sizes[1]); }},
       {"cuMemHostAlloc", [&] { return call("cuMemHostAlloc", &host, size_t{1000}, 1U); }},
       {"cuMemHostRegister_v2",
        [&] { return call("cuMemHostRegister_v2", pages.get(), kPageBytes, 1U); }},
       {"cuStreamCreateWithPriority",
        [&] { return call("cuStreamCreateWithPriority", &stream, 1U, -5); }},
       {"cuMemAlloc_v2", [&] { return call("cuMemAlloc_v2", &device, size_t{1000}); }},
       {"cuMemAllocAsync",
        [&] { return call("cuMemAllocAsync", &in_stream, size_t{1000}, stream); }},
       {"cuPointerGetAttributes",
        [&] { return call("cuPointerGetAttributes", 2U, attributes, answers, device); }},
       {"cuStreamIsCapturing", [&] { return call("cuStreamIsCapturing", stream, &number); }},
       {"cuEventCreate", [&] { return call("cuEventCreate", &event, 3U); }},
       {"cuMemsetD8Async",
        [&] {
          return call("cuMemsetD8Async", device, static_cast<unsigned char>(7), size_t{1000},
                      stream);
        }},
       {"cuMemcpyDtoDAsync_v2",
        [&] { return call("cuMemcpyDtoDAsync_v2", in_stream, device, size_t{1000}, stream); }},
       {"cuMemcpyDtoHAsync_v2",
        [&] { return call("cuMemcpyDtoHAsync_v2", host, in_stream, size_t{1000}, stream); }},
       {"cuMemcpyHtoDAsync_v2",
        [&] {
          return call("cuMemcpyHtoDAsync_v2", device, static_cast<const void*>(host), size_t{1000},
                      stream);
        }},
       {"cuMemcpy2DAsync_v2",
        [&] {
          const Memcpy2D rows{.from_type = 2,
                              .from_device = device,
                              .from_pitch = 100,
                              .to_type = 1,
                              .to_host = host,
                              .to_pitch = 10,
                              .width = 10,
                              .height = 10};
          return call("cuMemcpy2DAsync_v2", &rows, stream);
        }},
       {"cuMemcpyBatchAsync",
        [&] {
          to = reinterpret_cast<CUdeviceptr>(host);
          return by_version<Batch12>("cuMemcpyBatchAsync", 12080)(
              &to, &device, &one_size, 1, &order, &first, 1, &failed, stream);
        }},
       {"cuMemcpyBatchAsync_v2",
        [&] {
          return by_version<Batch13>("cuMemcpyBatchAsync", 13000)(&to, &device, &one_size, 1,
                                                                  &order, &first, 1, stream);
        }},
       {"cuEventRecord", [&] { return call("cuEventRecord", event, stream); }},
       {"cuStreamWaitEvent", [&] { return call("cuStreamWaitEvent", stream, event, 0U); }},
       {"cuEventSynchronize", [&] { return call("cuEventSynchronize", event); }},
       {"cuEventQuery", [&] { return call("cuEventQuery", event); }},
       {"cuMemFreeAsync", [&] { return call("cuMemFreeAsync", in_stream, stream); }},
       {"cuStreamSynchronize", [&] { return call("cuStreamSynchronize", stream); }},
       {"cuCtxSynchronize", [&] { return call("cuCtxSynchronize"); }},
       {"cuThreadExchangeStreamCaptureMode",
        [&] { return call("cuThreadExchangeStreamCaptureMode", &mode); }},
       {"cuEventDestroy_v2", [&] { return call("cuEventDestroy_v2", event); }},
       {"cuStreamDestroy_v2", [&] { return call("cuStreamDestroy_v2", stream); }},
       {"cuMemFree_v2", [&] { return call("cuMemFree_v2", device); }},
       {"cuMemHostUnregister", [&] { return call("cuMemHostUnregister", pages.get()); }},
       {"cuMemFreeHost", [&] { return call("cuMemFreeHost", host); }},
       {"cuCtxPopCurrent_v2", [&] { return call("cuCtxPopCurrent_v2", &popped); }},
       {"cuDevicePrimaryCtxRelease_v2", [&] { return call("cuDevicePrimaryCtxRelease_v2", 1); }}});
  CHECK(std::string(words) == "operation not permitted when stream is capturing");
  CHECK(type == 2);
  CHECK(popped == context);
  control.reset();
}

TEST_CASE("in its own process: the rules of CUDA" * doctest::skip()) {
  const Cuda cuda;
  int number = 0;
  CHECK(cuda.call("cuDeviceGetCount", &number) == 3);  // NOT_INITIALIZED
  CHECK(cuda.call("cuInit", 0U) == 0);
  CUdeviceptr device = 0;
  CHECK(cuda.call("cuMemAlloc_v2", &device, size_t{100}) == 201);  // INVALID_CONTEXT
  void* context = nullptr;
  CHECK(cuda.call("cuDevicePrimaryCtxRetain", &context, 2) == 101);  // INVALID_DEVICE
  CHECK(cuda.call("cuDevicePrimaryCtxRetain", &context, 0) == 0);
  CHECK(cuda.call("cuCtxPushCurrent_v2", context) == 0);
  CHECK(cuda.call("cuMemAlloc_v2", &device, size_t{100}) == 0);

  // Host memory is aligned as badly as the real one may be.
  void* host = nullptr;
  CHECK(cuda.call("cuMemHostAlloc", &host, size_t{100}, 5U) == 1);  // write-combined
  CHECK(cuda.call("cuMemHostAlloc", &host, size_t{100}, 1U) == 0);
  CHECK(reinterpret_cast<uintptr_t>(host) % kPageBytes == 256);
  CHECK(cuda.call("cuMemHostRegister_v2", host, size_t{100}, 1U) == 712);
  CHECK(cuda.call("cuMemHostUnregister", host) == 713);

  int attributes[] = {2, 9};
  unsigned type = 7;
  void* answers[] = {&type, &number};
  number = 7;
  const auto foreign = reinterpret_cast<CUdeviceptr>(&number);
  CHECK(cuda.call("cuPointerGetAttributes", 2U, attributes, answers, foreign) == 0);
  CHECK(type == 0);
  CHECK(number == 0);

  void* const training = cuda.control.stream_create(0);
  void* event = nullptr;
  CHECK(cuda.call("cuEventCreate", &event, 2U) == 0);
  CHECK(cuda.call("cuEventQuery", event) == 0);
  cuda.control.stream_begin_capture(training, 1);
  CHECK(cuda.call("cuEventRecord", event, training) == 900);
  CHECK(cuda.call("cuStreamIsCapturing", training, &number) == 0);
  CHECK(number == 1);
  CHECK(cuda.call("cuStreamIsCapturing", static_cast<void*>(nullptr), &number) == 906);
  CHECK(cuda.call("cuCtxSynchronize") == 900);
  CUdeviceptr more = 0;
  CHECK(cuda.call("cuMemAlloc_v2", &more, size_t{100}) == 900);
  CHECK(cuda.call("cuEventQuery", event) == 900);
  int mode = 3;
  CHECK(cuda.call("cuThreadExchangeStreamCaptureMode", &mode) == 1);
  mode = 2;
  CHECK(cuda.call("cuThreadExchangeStreamCaptureMode", &mode) == 0);
  CHECK(mode == 0);
  CHECK(cuda.call("cuMemAlloc_v2", &more, size_t{100}) == 0);
  CHECK(cuda.call("cuMemFree_v2", more) == 0);
  CHECK(cuda.call("cuThreadExchangeStreamCaptureMode", &mode) == 0);
  CHECK(mode == 2);
  cuda.control.stream_begin_capture(training, 0);
  cuda.control.stream_pause(training);
  CHECK(cuda.call("cuEventRecord", event, training) == 0);
  CHECK(cuda.call("cuEventQuery", event) == 600);
  cuda.control.stream_resume(training);
  CHECK(cuda.call("cuEventSynchronize", event) == 0);

  int status = -1;
  CHECK(!cuda.by_version<int()>("cuMemcpyBatchAsync", 12000, &status));
  CHECK(status == 2);
  cuda.control.set_driver_version(12070);
  CHECK(!cuda.by_version<int()>("cuMemcpyBatchAsync", 12080, &status));
  CHECK(status == 1);
  cuda.control.set_driver_version(12080);
  Batch12* const batch = cuda.by_version<Batch12>("cuMemcpyBatchAsync", 12080);
  REQUIRE(static_cast<bool>(batch));
  auto to = reinterpret_cast<CUdeviceptr>(host);
  size_t nbytes = 100;
  size_t first = 0;
  size_t failed = 0;
  MemcpyAttributes order{1, {}, 0};
  CHECK(batch(&to, &device, &nbytes, 1, &order, &first, 1, &failed, nullptr) == 1);
  CHECK(batch(&to, &device, &nbytes, 1, &order, &first, 1, &failed, training) == 0);

  CHECK(cuda.call("cuEventDestroy_v2", event) == 0);
  CHECK(cuda.call("cuStreamDestroy_v2", training) == 400);  // the framework's
  cuda.control.stream_destroy(training);
  CHECK(cuda.call("cuMemFreeHost", host) == 0);
  CHECK(cuda.call("cuMemFree_v2", device) == 0);
  CHECK(cuda.call("cuDevicePrimaryCtxRelease_v2", 0) == 0);
  CHECK(cuda.call("cuCtxPopCurrent_v2", &context) == 0);
  CHECK(cuda.call("cuCtxPushCurrent_v2", context) == 201);
  cuda.control.check_nothing_lives();
}

TEST_CASE("the CUDA driver insists on what the real one does") {
  check_passes("in its own process: the rules of CUDA");
}

}  // namespace
}  // namespace stand_in::test
