#include "cipher/kernels/avx512.h"

namespace mindckpt {

namespace {

struct Gfni512 : Avx512Words {
  static constexpr size_t kGroups = 2;

  static void finish(Reg&) {}
  static Reg transform(Reg x) {
    const Reg u0 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U0), kSm4Constant);
    const Reg u1 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U1), 0);
    const Reg u3 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U3), 0);
    return exclusive_or(exclusive_or(u0, _mm512_ror_epi32(u1, 8), _mm512_ror_epi32(u1, 16)),
                        _mm512_ror_epi32(u3, 24));
  }
};

}  // namespace

const Sm4CbcKernel kSm4CbcGfni512Narrow{"AVX-512 with GFNI, 32 lanes", 32, sm4_cbc_encrypt<Gfni512>,
                                        sm4_cbc_decrypt<Gfni512>};

}  // namespace mindckpt
