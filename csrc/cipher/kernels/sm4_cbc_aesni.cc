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
using Wide = Sm4Avx2<Aesni, 4>;
using Narrow = Sm4Avx2<Aesni, 1>;

}  // namespace

const Sm4CbcKernel kSm4CbcAesni{"AVX2 with AES-NI, 32 lanes", 32, sm4_cbc_encrypt<Wide>,
                                sm4_cbc_decrypt<Wide>};
const Sm4CbcKernel kSm4CbcAesniNarrow{"AVX2 with AES-NI, 8 lanes", 8, sm4_cbc_encrypt<Narrow>,
                                      sm4_cbc_decrypt<Narrow>};

}  // namespace mindckpt
