#pragma once

#include <cstddef>
#include <cstdint>

// The part of AscendCL that the backend uses, so that no CANN toolkit is needed to build.
// `make headers` compares each row and type below with the real acl/acl.h. There the macros are
// expanded a second time, with that header's own types and values in place of these.

// Name, type. Enumerations are as wide as the real ones, and no more than that.
#define MINDCKPT_ASCEND_TYPES(X)   \
  X(aclError, int)                 \
  X(aclrtContext, void*)           \
  X(aclrtStream, void*)            \
  X(aclrtEvent, void*)             \
  X(aclrtMemAttr, int)             \
  X(aclrtMemMallocPolicy, int)     \
  X(aclrtMemcpyKind, int)          \
  X(aclrtEventRecordedStatus, int) \
  X(aclrtMemLocationType, int)

// Type, name, value.
#define MINDCKPT_ASCEND_CONSTANTS(X)                                 \
  X(aclError, ACL_SUCCESS, 0)                                        \
  X(aclError, ACL_ERROR_UNINITIALIZE, 100001)                        \
  X(aclError, ACL_ERROR_REPEAT_INITIALIZE, 100002)                   \
  X(aclError, ACL_ERROR_RT_CONTEXT_NULL, 107002)                     \
  X(aclError, ACL_ERROR_RT_ADDR_UNALIGNED, 107008)                   \
  X(aclError, ACL_ERROR_BAD_ALLOC, 200000)                           \
  X(aclError, ACL_ERROR_RT_MEMORY_ALLOCATION, 207001)                \
  X(aclError, ACL_ERROR_RT_NO_DEVICE, 207004)                        \
  X(aclError, ACL_ERROR_RT_INTERNAL_ERROR, 507000)                   \
  X(aclrtMemAttr, ACL_DDR_MEM, 0)                                    \
  X(aclrtMemAttr, ACL_HBM_MEM, 1)                                    \
  X(aclrtMemMallocPolicy, ACL_MEM_MALLOC_HUGE_FIRST, 0)              \
  X(aclrtMemcpyKind, ACL_MEMCPY_HOST_TO_DEVICE, 1)                   \
  X(aclrtMemcpyKind, ACL_MEMCPY_DEVICE_TO_HOST, 2)                   \
  X(aclrtMemcpyKind, ACL_MEMCPY_DEVICE_TO_DEVICE, 3)                 \
  X(uint32_t, ACL_EVENT_SYNC, 1)                                     \
  X(aclrtEventRecordedStatus, ACL_EVENT_RECORDED_STATUS_COMPLETE, 1) \
  X(aclrtMemLocationType, ACL_MEM_LOCATION_TYPE_HOST, 0)             \
  X(aclrtMemLocationType, ACL_MEM_LOCATION_TYPE_DEVICE, 1)

// Older toolkits have no name for these.
#define MINDCKPT_ASCEND_NEWER_CONSTANTS(X) X(aclError, ACL_ERROR_RT_WAIT_TIMEOUT, 107019)

// Result, name of the exported symbol, parameters. What every toolkit that will do has. The older
// aclrtCreateEvent makes events that must be reset before they are recorded again.
#define MINDCKPT_ASCEND_FUNCTIONS(X)                                                        \
  X(aclError, aclInit, (const char* config))                                                \
  X(aclError, aclFinalize, ())                                                              \
  X(aclError, aclrtGetDeviceCount, (uint32_t* count))                                       \
  X(aclError, aclrtSetDevice, (int32_t device))                                             \
  X(aclError, aclrtResetDevice, (int32_t device))                                           \
  X(aclError, aclrtSynchronizeDevice, ())                                                   \
  X(aclError, aclrtGetCurrentContext, (aclrtContext * context))                             \
  X(aclError, aclrtSetCurrentContext, (aclrtContext context))                               \
  X(aclError, aclrtMalloc, (void** memory, size_t nbytes, aclrtMemMallocPolicy policy))     \
  X(aclError, aclrtFree, (void* memory))                                                    \
  X(aclError, aclrtMallocHost, (void** memory, size_t nbytes))                              \
  X(aclError, aclrtFreeHost, (void* memory))                                                \
  X(aclError, aclrtGetMemInfo, (aclrtMemAttr kind, size_t* free, size_t* total))            \
  X(aclError, aclrtCreateStream, (aclrtStream * stream))                                    \
  X(aclError, aclrtDestroyStream, (aclrtStream stream))                                     \
  X(aclError, aclrtSynchronizeStream, (aclrtStream stream))                                 \
  X(aclError, aclrtStreamWaitEvent, (aclrtStream stream, aclrtEvent event))                 \
  X(aclError, aclrtCreateEventExWithFlag, (aclrtEvent * event, uint32_t flag))              \
  X(aclError, aclrtDestroyEvent, (aclrtEvent event))                                        \
  X(aclError, aclrtRecordEvent, (aclrtEvent event, aclrtStream stream))                     \
  X(aclError, aclrtQueryEventStatus, (aclrtEvent event, aclrtEventRecordedStatus * status)) \
  X(aclError, aclrtSynchronizeEvent, (aclrtEvent event))                                    \
  X(aclError, aclrtMemcpyAsync,                                                             \
    (void* to, size_t to_max, const void* from, size_t nbytes, aclrtMemcpyKind kind,        \
     aclrtStream stream))

// Without these there are fewer words.
#define MINDCKPT_ASCEND_WORDS(X)         \
  X(const char*, aclGetRecentErrMsg, ()) \
  X(aclError, aclrtGetVersion, (int32_t* major, int32_t* minor, int32_t* patch))

// Newer toolkits have it; without it no pointer is known by itself.
#define MINDCKPT_ASCEND_POINTERS(X) \
  X(aclError, aclrtPointerGetAttributes, (const void* pointer, aclrtPtrAttributes* attributes))

namespace mindckpt::ascend {

#define MINDCKPT_DEFINE(name, type) using name = type;
MINDCKPT_ASCEND_TYPES(MINDCKPT_DEFINE)
#undef MINDCKPT_DEFINE

#define MINDCKPT_DEFINE(type, name, value) constexpr type name = value;
MINDCKPT_ASCEND_CONSTANTS(MINDCKPT_DEFINE)
MINDCKPT_ASCEND_NEWER_CONSTANTS(MINDCKPT_DEFINE)
#undef MINDCKPT_DEFINE

struct aclrtMemLocation {
  uint32_t id;
  aclrtMemLocationType type;
};

struct aclrtPtrAttributes {
  aclrtMemLocation location;
  uint32_t pageSize;
  uint32_t rsv[4];
};

struct Functions {
#define MINDCKPT_DECLARE(result, name, parameters) result(*name) parameters = nullptr;
  MINDCKPT_ASCEND_FUNCTIONS(MINDCKPT_DECLARE)
  MINDCKPT_ASCEND_WORDS(MINDCKPT_DECLARE)
  MINDCKPT_ASCEND_POINTERS(MINDCKPT_DECLARE)
#undef MINDCKPT_DECLARE
};

}  // namespace mindckpt::ascend
