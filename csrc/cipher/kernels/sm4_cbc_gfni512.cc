#include <immintrin.h>

#include "cipher/kernels/sm4_cbc_lanes.h"

namespace mindckpt {

namespace {

struct Gfni512 {
  using Reg = __m512i;
  static constexpr size_t kBlocks = 4;
  static constexpr size_t kGroups = 2;

  static __m128i quarter(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static Reg gather(const uint8_t* const* from, size_t at) {
    Reg x = _mm512_castsi128_si512(quarter(from[0] + at));
    x = _mm512_inserti32x4(x, quarter(from[1] + at), 1);
    x = _mm512_inserti32x4(x, quarter(from[2] + at), 2);
    return _mm512_inserti32x4(x, quarter(from[3] + at), 3);
  }
  static void scatter(uint8_t* const* to, size_t at, Reg x) {
    const auto put = [at](uint8_t* start, __m128i block) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(start + at), block);
    };
    put(to[0], _mm512_castsi512_si128(x));
    put(to[1], _mm512_extracti32x4_epi32(x, 1));
    put(to[2], _mm512_extracti32x4_epi32(x, 2));
    put(to[3], _mm512_extracti32x4_epi32(x, 3));
  }
  static Reg key(const uint32_t* from) { return _mm512_set1_epi32(static_cast<int>(*from)); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm512_xor_si512(a, b); }
  static Reg exclusive_or(Reg a, Reg b, Reg c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  static void finish(Reg&) {}
  static void transpose(Reg* x) {
    const Reg a = _mm512_unpacklo_epi32(x[0], x[1]);
    const Reg b = _mm512_unpackhi_epi32(x[0], x[1]);
    const Reg c = _mm512_unpacklo_epi32(x[2], x[3]);
    const Reg d = _mm512_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi64(a, c);
    x[1] = _mm512_unpackhi_epi64(a, c);
    x[2] = _mm512_unpacklo_epi64(b, d);
    x[3] = _mm512_unpackhi_epi64(b, d);
  }

  static Reg matrix(uint64_t rows) { return _mm512_set1_epi64(static_cast<int64_t>(rows)); }
  static Reg to_domain(Reg x) { return _mm512_gf2p8affine_epi64_epi8(x, matrix(kSm4M), 0); }
  static Reg from_domain(Reg x) {
    return _mm512_gf2p8affine_epi64_epi8(x, matrix(kSm4MInverse), 0);
  }
  static Reg transform(Reg x) {
    const Reg u0 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U0), kSm4Constant);
    const Reg u1 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U1), 0);
    const Reg u3 = _mm512_gf2p8affineinv_epi64_epi8(x, matrix(kSm4U3), 0);
    return exclusive_or(exclusive_or(u0, _mm512_ror_epi32(u1, 8), _mm512_ror_epi32(u1, 16)),
                        _mm512_ror_epi32(u3, 24));
  }
};

}  // namespace

const Sm4CbcKernel kSm4CbcGfni512{"AVX-512 with GFNI, 32 lanes", 32, sm4_cbc_encrypt<Gfni512>,
                                  sm4_cbc_decrypt<Gfni512>};

}  // namespace mindckpt
