#include "cipher/kernels/sm4_avx2.h"

namespace mindckpt {

namespace {

struct Vaes {
  static __m256i sub_bytes(__m256i x) {
    return _mm256_aesenclast_epi128(x, _mm256_setzero_si256());
  }
};
using Lanes = Sm4Avx2<Vaes, 2>;

}  // namespace

const Sm4CbcKernel kSm4CbcVaes256{"AVX2 with VAES, 16 lanes", 16, sm4_cbc_encrypt<Lanes>,
                                  sm4_cbc_decrypt<Lanes>};

}  // namespace mindckpt
