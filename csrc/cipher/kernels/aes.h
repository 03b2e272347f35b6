#pragma once

#include "cipher/kernels/cbc_kernel.h"

namespace mindckpt {

// FIPS 197's expanded key, and that of its equivalent inverse cipher (section 5.3.5).
struct AesSchedule {
  alignas(16) uint8_t encrypt[15][16];
  alignas(16) uint8_t decrypt[15][16];
  int num_rounds;
};

using AesCbcKernel = CbcKernel<AesSchedule>;

// `key` has 16, 24 or 32 bytes. Needs CpuFeature::kAes.
void expand_aes_key(const uint8_t* key, size_t key_nbytes, AesSchedule& schedule);

#if defined(__x86_64__)
extern const AesCbcKernel kAesCbcAesni;    // needs kAes
extern const AesCbcKernel kAesCbcVaes256;  // needs kVaes and kAvx2
extern const AesCbcKernel kAesCbcVaes512;  // needs kVaes and kAvx512
#elif defined(__aarch64__)
extern const AesCbcKernel kAesCbcNeon;  // needs kAes
#endif

}  // namespace mindckpt
