#pragma once

#include <cstddef>
#include <cstdint>

// The part of CUDA's driver API that the backend uses, so that no CUDA toolkit is needed to build.
// `make headers` compares each row and type below with the real cuda.h. There the macros are
// expanded a second time, with that header's own types and values in place of these.

// Name, type. Enumerations and handles are as wide as the real ones, and no more than that.
#define MINDCKPT_CUDA_TYPES(X)       \
  X(CUresult, int)                   \
  X(CUdevice, int)                   \
  X(CUdeviceptr, unsigned long long) \
  X(CUcontext, struct CUctx_st*)     \
  X(CUstream, void*)                 \
  X(CUevent, void*)                  \
  X(CUpointer_attribute, int)        \
  X(CUmemorytype, unsigned int)      \
  X(CUstreamCaptureMode, int)        \
  X(CUstreamCaptureStatus, int)      \
  X(cuuint64_t, uint64_t)

// Types of functions that are not in every driver.
#define MINDCKPT_CUDA_BATCH_TYPES(X)     \
  X(CUdriverProcAddressQueryResult, int) \
  X(CUmemLocationType, int)              \
  X(CUmemcpySrcAccessOrder, int)

// Type, name, value. Neither the values nor the functions' ABI change between versions.
#define MINDCKPT_CUDA_CONSTANTS(X)                               \
  X(CUresult, CUDA_SUCCESS, 0)                                   \
  X(CUresult, CUDA_ERROR_OUT_OF_MEMORY, 2)                       \
  X(CUresult, CUDA_ERROR_NOT_INITIALIZED, 3)                     \
  X(CUresult, CUDA_ERROR_STUB_LIBRARY, 34)                       \
  X(CUresult, CUDA_ERROR_INVALID_CONTEXT, 201)                   \
  X(CUresult, CUDA_ERROR_NOT_READY, 600)                         \
  X(CUresult, CUDA_ERROR_NOT_SUPPORTED, 801)                     \
  X(CUresult, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 906)           \
  X(unsigned int, CU_STREAM_NON_BLOCKING, 1)                     \
  X(unsigned int, CU_EVENT_BLOCKING_SYNC, 1)                     \
  X(unsigned int, CU_EVENT_DISABLE_TIMING, 2)                    \
  X(unsigned int, CU_MEMHOSTREGISTER_PORTABLE, 1)                \
  X(CUpointer_attribute, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 2)    \
  X(CUpointer_attribute, CU_POINTER_ATTRIBUTE_IS_MANAGED, 8)     \
  X(CUpointer_attribute, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, 9) \
  X(CUmemorytype, CU_MEMORYTYPE_HOST, 1)                         \
  X(CUmemorytype, CU_MEMORYTYPE_DEVICE, 2)                       \
  X(CUstreamCaptureStatus, CU_STREAM_CAPTURE_STATUS_NONE, 0)     \
  X(CUstreamCaptureMode, CU_STREAM_CAPTURE_MODE_RELAXED, 2)

// Constants of functions that are not in every driver.
#define MINDCKPT_CUDA_BATCH_CONSTANTS(X) \
  X(CUmemcpySrcAccessOrder, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM, 1)

// Type, name, value: the handles that stand for something by themselves.
#define MINDCKPT_CUDA_HANDLES(X) X(CUstream, CU_STREAM_LEGACY, 0x1)

// Name of the exported symbol, parameters. All return CUresult. What can be asked of any
// libcuda.so.1, to find out whether it will do.
#define MINDCKPT_CUDA_QUESTIONS(X)                       \
  X(cuInit, (unsigned int flags))                        \
  X(cuDriverGetVersion, (int* version))                  \
  X(cuGetErrorName, (CUresult error, const char** name)) \
  X(cuGetErrorString, (CUresult error, const char** text))

// What every driver that will do has.
#define MINDCKPT_CUDA_FUNCTIONS(X)                                                             \
  X(cuDeviceGet, (CUdevice * device, int ordinal))                                             \
  X(cuDeviceGetCount, (int* count))                                                            \
  X(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                          \
  X(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                           \
  X(cuCtxPushCurrent_v2, (CUcontext context))                                                  \
  X(cuCtxPopCurrent_v2, (CUcontext * context))                                                 \
  X(cuThreadExchangeStreamCaptureMode, (CUstreamCaptureMode * mode))                           \
  X(cuCtxSynchronize, ())                                                                      \
  X(cuCtxGetStreamPriorityRange, (int* least, int* greatest))                                  \
  X(cuPointerGetAttributes,                                                                    \
    (unsigned int count, CUpointer_attribute* attributes, void** values, CUdeviceptr pointer)) \
  X(cuMemHostRegister_v2, (void* memory, size_t nbytes, unsigned int flags))                   \
  X(cuMemHostUnregister, (void* memory))                                                       \
  X(cuMemAlloc_v2, (CUdeviceptr * memory, size_t nbytes))                                      \
  X(cuMemFree_v2, (CUdeviceptr memory))                                                        \
  X(cuMemGetInfo_v2, (size_t* free, size_t* total))                                            \
  X(cuStreamCreateWithPriority, (CUstream * stream, unsigned int flags, int priority))         \
  X(cuStreamDestroy_v2, (CUstream stream))                                                     \
  X(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags))                   \
  X(cuStreamSynchronize, (CUstream stream))                                                    \
  X(cuStreamIsCapturing, (CUstream stream, CUstreamCaptureStatus * status))                    \
  X(cuEventCreate, (CUevent * event, unsigned int flags))                                      \
  X(cuEventDestroy_v2, (CUevent event))                                                        \
  X(cuEventRecord, (CUevent event, CUstream stream))                                           \
  X(cuEventQuery, (CUevent event))                                                             \
  X(cuEventSynchronize, (CUevent event))                                                       \
  X(cuMemcpyDtoHAsync_v2, (void* to, CUdeviceptr from, size_t nbytes, CUstream stream))        \
  X(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void* from, size_t nbytes, CUstream stream))  \
  X(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t nbytes, CUstream stream))

// Drivers for CUDA 12.0 and newer have it.
#define MINDCKPT_CUDA_GET_PROC_ADDRESS(X)                                                   \
  X(cuGetProcAddress_v2, (const char* name, void** function, int version, cuuint64_t flags, \
                          CUdriverProcAddressQueryResult* status))

// As CUDA 12.8 has it, and newer drivers too, to whoever asks cuGetProcAddress for that version.
// 13.0's own has no fail_index.
#define MINDCKPT_CUDA_BATCH(X)                                                                  \
  X(cuMemcpyBatchAsync, (CUdeviceptr * to, CUdeviceptr * from, size_t* nbytes, size_t count,    \
                         CUmemcpyAttributes* attributes, size_t* firsts, size_t num_attributes, \
                         size_t* fail_index, CUstream stream))

namespace mindckpt::cuda {

#define MINDCKPT_DEFINE(name, type) using name = type;
MINDCKPT_CUDA_TYPES(MINDCKPT_DEFINE)
MINDCKPT_CUDA_BATCH_TYPES(MINDCKPT_DEFINE)
#undef MINDCKPT_DEFINE

#define MINDCKPT_DEFINE(type, name, value) constexpr type name = value;
MINDCKPT_CUDA_CONSTANTS(MINDCKPT_DEFINE)
MINDCKPT_CUDA_BATCH_CONSTANTS(MINDCKPT_DEFINE)
#undef MINDCKPT_DEFINE

#define MINDCKPT_DEFINE(type, name, value) inline const type name = reinterpret_cast<type>(value);
MINDCKPT_CUDA_HANDLES(MINDCKPT_DEFINE)
#undef MINDCKPT_DEFINE

struct CUmemLocation {
  CUmemLocationType type;
  int id;
};

struct CUmemcpyAttributes {
  CUmemcpySrcAccessOrder srcAccessOrder;
  CUmemLocation srcLocHint;
  CUmemLocation dstLocHint;
  unsigned int flags;
};

// The version that the batch copies' ABI is asked for by.
constexpr int kBatchVersion = 12080;

struct Functions {
#define MINDCKPT_DECLARE(name, parameters) CUresult(*name) parameters = nullptr;
  MINDCKPT_CUDA_QUESTIONS(MINDCKPT_DECLARE)
  MINDCKPT_CUDA_FUNCTIONS(MINDCKPT_DECLARE)
  MINDCKPT_CUDA_BATCH(MINDCKPT_DECLARE)  // null where the driver has none
#undef MINDCKPT_DECLARE
};

}  // namespace mindckpt::cuda
