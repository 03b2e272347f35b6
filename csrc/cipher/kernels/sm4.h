#pragma once

#include "cipher/kernels/cbc_kernel.h"

namespace mindckpt {

// The 32 round keys in both orders, in the form that sm4_cbc_lanes.h describes.
struct Sm4Schedule {
  uint32_t encrypt[32];
  uint32_t decrypt[32];
};

using Sm4CbcKernel = CbcKernel<Sm4Schedule>;

#if defined(__x86_64__)
extern const Sm4CbcKernel kSm4CbcAesni;  // needs kAes and kAvx2
extern const Sm4CbcKernel kSm4CbcAesniNarrow;
extern const Sm4CbcKernel kSm4CbcVaes256;  // needs kVaes and kAvx2
extern const Sm4CbcKernel kSm4CbcVaes256Narrow;
extern const Sm4CbcKernel kSm4CbcGfni256;  // needs kGfni and kAvx2
extern const Sm4CbcKernel kSm4CbcGfni256Narrow;
extern const Sm4CbcKernel kSm4CbcGfni512;  // needs kGfni and kAvx512
#elif defined(__aarch64__)
extern const Sm4CbcKernel kSm4CbcNeon;  // needs kAes
#endif

}  // namespace mindckpt
