#include "cipher/kernels/sm4_avx2.h"

namespace mindckpt {

namespace {

struct Aesni {
  static __m256i sub_bytes(__m256i x) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i low = _mm_aesenclast_si128(_mm256_castsi256_si128(x), zero);
    const __m128i high = _mm_aesenclast_si128(_mm256_extracti128_si256(x, 1), zero);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
};
using Lanes = Sm4Avx2<Aesni, 2>;

}  // namespace

const Sm4CbcKernel kSm4CbcAesni{"AVX2 with AES-NI, 16 lanes", 16, sm4_cbc_encrypt<Lanes>,
                                sm4_cbc_decrypt<Lanes>};

}  // namespace mindckpt
