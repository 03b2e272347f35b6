#include "cipher/kernels/sm4_avx2.h"

namespace mindckpt {

namespace {

struct Vaes {
  static __m256i sub_bytes(__m256i x) {
    return _mm256_aesenclast_epi128(x, _mm256_setzero_si256());
  }
};
using Wide = Sm4Avx2<Vaes, 4>;
using Narrow = Sm4Avx2<Vaes, 1>;

}  // namespace

const Sm4CbcKernel kSm4CbcVaes256{"AVX2 with VAES, 32 lanes", 32, sm4_cbc_encrypt<Wide>,
                                  sm4_cbc_decrypt<Wide>};
const Sm4CbcKernel kSm4CbcVaes256Narrow{"AVX2 with VAES, 8 lanes", 8, sm4_cbc_encrypt<Narrow>,
                                        sm4_cbc_decrypt<Narrow>};

}  // namespace mindckpt
