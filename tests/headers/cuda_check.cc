// Compiled, and never run, by `make headers`: csrc/device/cuda_api.h against the cuda.h of a
// toolkit. With PLANTED_MISTAKE it must not compile, which shows that each kind of check can fail.

// Ours first: cuda.h makes macros of some of these names.
#include "device/cuda_api.h"

// The real ones.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <string_view>
#include <type_traits>
#include <utility>

#include "same_abi.h"

namespace ours = mindckpt::cuda;

#define CHECK_TYPE(name, type) static_assert(kPassedAlike<type, ::name>, #name);
MINDCKPT_CUDA_TYPES(CHECK_TYPE)

#define CHECK_CONSTANT(type, name, value) \
  static_assert(static_cast<type>(name) == static_cast<type>(value), #name);
MINDCKPT_CUDA_CONSTANTS(CHECK_CONSTANT)

// cuda.h has them as casts, which are no constants: their text is compared.
#define TEXT_OF(...) #__VA_ARGS__
#define TEXT(...) TEXT_OF(__VA_ARGS__)
#define CHECK_HANDLE(type, name, value) \
  static_assert(std::string_view(TEXT(name)) == "((" #type ")" #value ")", #name);
MINDCKPT_CUDA_HANDLES(CHECK_HANDLE)

// `parameters` names the types of cuda.h here.
#define CHECK_FUNCTION(name, parameters) \
  static_assert(std::is_same_v<CUresult(*) parameters, decltype(&::name)>, #name);
MINDCKPT_CUDA_QUESTIONS(CHECK_FUNCTION)
MINDCKPT_CUDA_FUNCTIONS(CHECK_FUNCTION)

#if CUDA_VERSION >= 12000
MINDCKPT_CUDA_GET_PROC_ADDRESS(CHECK_FUNCTION)
#endif

#if CUDA_VERSION >= 12080
MINDCKPT_CUDA_BATCH_TYPES(CHECK_TYPE)
MINDCKPT_CUDA_BATCH_CONSTANTS(CHECK_CONSTANT)

// The type that cudaTypedefs.h gives to the function of that version, whatever cuda.h declares.
#define CHECK_VERSIONED(name, parameters) \
  static_assert(std::is_same_v<CUresult(*) parameters, PFN_##name##_v12080>, #name);
MINDCKPT_CUDA_BATCH(CHECK_VERSIONED)
static_assert(ours::kBatchVersion == 12080);

SAME_MEMBER(ours::CUmemLocation, CUmemLocation_v1, type);
SAME_MEMBER(ours::CUmemLocation, CUmemLocation_v1, id);
SAME_SIZE(ours::CUmemLocation, CUmemLocation_v1);
SAME_MEMBER(ours::CUmemcpyAttributes, CUmemcpyAttributes_v1, srcAccessOrder);
SAME_MEMBER(ours::CUmemcpyAttributes, CUmemcpyAttributes_v1, srcLocHint);
SAME_MEMBER(ours::CUmemcpyAttributes, CUmemcpyAttributes_v1, dstLocHint);
SAME_MEMBER(ours::CUmemcpyAttributes, CUmemcpyAttributes_v1, flags);
SAME_SIZE(ours::CUmemcpyAttributes, CUmemcpyAttributes_v1);
#endif

#if PLANTED_MISTAKE == 1
CHECK_TYPE(CUdeviceptr, unsigned int)
#elif PLANTED_MISTAKE == 2
CHECK_CONSTANT(CUresult, CUDA_ERROR_NOT_READY, 601)
#elif PLANTED_MISTAKE == 3
CHECK_HANDLE(CUstream, CU_STREAM_LEGACY, 0x2)
#elif PLANTED_MISTAKE == 4
CHECK_FUNCTION(cuEventRecord, (CUstream stream, CUevent event))
#elif PLANTED_MISTAKE == 5
CHECK_FUNCTION(cuPointerGetAttributes,
               (unsigned int count, int* attributes, void** values, CUdeviceptr pointer))
#elif PLANTED_MISTAKE == 6
struct Swapped {
  int id;
  int type;
};
SAME_MEMBER(Swapped, CUmemLocation, type);
#endif
