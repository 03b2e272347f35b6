#pragma once

#include <immintrin.h>

#include "cipher/kernels/sm4_cbc_lanes.h"

// What the SM4 kernels on 512 bits share. Included only where AVX-512 and GFNI may be used.
namespace mindckpt {

namespace {

struct Avx512Words {
  using Reg = __m512i;
  static constexpr size_t kBlocks = 4;

  static Reg load(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static void store(uint8_t* to, Reg x) { _mm512_storeu_si512(to, x); }
  static Reg key(const uint32_t* from) { return _mm512_set1_epi32(static_cast<int>(*from)); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm512_xor_si512(a, b); }
  static Reg exclusive_or(Reg a, Reg b, Reg c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  static Reg matrix(uint64_t rows) { return _mm512_set1_epi64(static_cast<int64_t>(rows)); }
  static Reg to_domain(Reg x) { return _mm512_gf2p8affine_epi64_epi8(x, matrix(kSm4M), 0); }
  static Reg from_domain(Reg x) {
    return _mm512_gf2p8affine_epi64_epi8(x, matrix(kSm4MInverse), 0);
  }
  static void transpose_words(Reg* x) {
    const Reg a = _mm512_unpacklo_epi32(x[0], x[1]);
    const Reg b = _mm512_unpackhi_epi32(x[0], x[1]);
    const Reg c = _mm512_unpacklo_epi32(x[2], x[3]);
    const Reg d = _mm512_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi64(a, c);
    x[1] = _mm512_unpackhi_epi64(a, c);
    x[2] = _mm512_unpacklo_epi64(b, d);
    x[3] = _mm512_unpackhi_epi64(b, d);
  }
  static void transpose_blocks(Reg* x) {
    const Reg a = _mm512_shuffle_i32x4(x[0], x[1], 0x44);  // blocks 0, 1 of either
    const Reg b = _mm512_shuffle_i32x4(x[0], x[1], 0xEE);  // 2, 3
    const Reg c = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    const Reg d = _mm512_shuffle_i32x4(x[2], x[3], 0xEE);
    x[0] = _mm512_shuffle_i32x4(a, c, 0x88);  // 0, 2 of either
    x[1] = _mm512_shuffle_i32x4(a, c, 0xDD);  // 1, 3
    x[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[3] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }
};

}  // namespace

}  // namespace mindckpt
