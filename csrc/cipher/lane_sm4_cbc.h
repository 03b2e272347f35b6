#pragma once

#include <span>

#include "base/bytes.h"
#include "base/cpu.h"
#include "cipher/cbc.h"
#include "cipher/kernels/sm4.h"

namespace mindckpt {

// GB/T 32907's key expansion, in constant time. `key` has 16 bytes.
void expand_sm4_key(const unsigned char* key, Sm4Schedule& schedule);

struct Sm4CbcChoice {
  const Sm4CbcKernel* kernel;
  CpuFeatures needs;
};

// Every kernel that was compiled in, whether or not this processor can run it, the fastest first.
std::span<const Sm4CbcChoice> sm4_cbc_choices();

}  // namespace mindckpt
