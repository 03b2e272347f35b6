#include "cipher/kernels/avx2.h"
#include "cipher/kernels/sm4_cbc_lanes.h"

namespace mindckpt {

namespace {

template <size_t kNumGroups>
struct Gfni256 : Avx2Words {
  static constexpr size_t kGroups = kNumGroups;

  static Reg matrix(uint64_t rows) { return _mm256_set1_epi64x(static_cast<int64_t>(rows)); }
  static Reg to_domain(Reg x) { return _mm256_gf2p8affine_epi64_epi8(x, matrix(kSm4M), 0); }
  static Reg from_domain(Reg x) {
    return _mm256_gf2p8affine_epi64_epi8(x, matrix(kSm4MInverse), 0);
  }
  template <int kBytes>
  static Reg rotate(Reg x) {  // out[j] = x[j + kBytes] in each word
    constexpr int64_t kWord = kBytes == 1 ? 0x00030201 : kBytes == 2 ? 0x01000302 : 0x02010003;
    constexpr int64_t kWords = kWord | (kWord + 0x04040404) << 32;
    return _mm256_shuffle_epi8(x, _mm256_set_epi64x(kWords + 0x0808080808080808, kWords,
                                                    kWords + 0x0808080808080808, kWords));
  }
  static Reg transform(Reg x) {
    const Reg u0 = _mm256_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U0), kSm4Constant);
    const Reg u1 = _mm256_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U1), 0);
    const Reg u3 = _mm256_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U3), 0);
    return exclusive_or(exclusive_or(u0, rotate<1>(u1)), rotate<2>(u1), rotate<3>(u3));
  }
};

using Wide = Gfni256<4>;
using Narrow = Gfni256<1>;

}  // namespace

const Sm4CbcKernel kSm4CbcGfni256{"AVX2 with GFNI, 32 lanes", 32, sm4_cbc_encrypt<Wide>,
                                  sm4_cbc_decrypt<Wide>};
const Sm4CbcKernel kSm4CbcGfni256Narrow{"AVX2 with GFNI, 8 lanes", 8, sm4_cbc_encrypt<Narrow>,
                                        sm4_cbc_decrypt<Narrow>};

}  // namespace mindckpt
