#pragma once

#include <span>

#include "base/cpu.h"
#include "cipher/cbc.h"
#include "cipher/kernels/aes.h"

namespace mindckpt {

struct AesCbcChoice {
  const AesCbcKernel* kernel;
  CpuFeatures needs;
};

// Every kernel that was compiled in, whether or not this processor can run it, the fastest first.
std::span<const AesCbcChoice> aes_cbc_choices();

}  // namespace mindckpt
