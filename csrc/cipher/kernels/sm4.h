#pragma once

#include "cipher/kernels/cbc_kernel.h"

namespace mindckpt {

// The 32 round keys in both orders, in the form that sm4_cbc_lanes.h describes; and their bytes in
// memory order, each in every byte of a word, for kernels that keep bytes apart.
struct Sm4Schedule {
  uint32_t encrypt[32];
  uint32_t decrypt[32];
  uint32_t encrypt_bytes[4 * 32];
  uint32_t decrypt_bytes[4 * 32];
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
extern const Sm4CbcKernel kSm4CbcGfni512Narrow;
#elif defined(__aarch64__)
extern const Sm4CbcKernel kSm4CbcNeon;  // needs kAes
#endif

}  // namespace mindckpt
