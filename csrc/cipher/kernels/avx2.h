#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// What the SM4 kernels on 256 bits share. Included only where AVX2 may be used.
namespace mindckpt {

namespace {

struct Avx2Words {
  using Reg = __m256i;
  static constexpr size_t kBlocks = 2;

  static __m128i half(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
  }
  static Reg twice(const void* from) { return _mm256_broadcastsi128_si256(half(from)); }
  static Reg gather(const uint8_t* const* from, size_t at) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(half(from[0] + at)), half(from[1] + at),
                                   1);
  }
  static void scatter(uint8_t* const* to, size_t at, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0] + at), _mm256_castsi256_si128(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1] + at), _mm256_extracti128_si256(x, 1));
  }
  static Reg key(const uint32_t* from) { return _mm256_set1_epi32(static_cast<int>(*from)); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm256_xor_si256(a, b); }
  static Reg exclusive_or(Reg a, Reg b, Reg c) { return exclusive_or(exclusive_or(a, b), c); }
  static void finish(Reg& x) { __asm__ volatile("" : "+x"(x)); }
  static void transpose(Reg* x) {
    const Reg a = _mm256_unpacklo_epi32(x[0], x[1]);
    const Reg b = _mm256_unpackhi_epi32(x[0], x[1]);
    const Reg c = _mm256_unpacklo_epi32(x[2], x[3]);
    const Reg d = _mm256_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm256_unpacklo_epi64(a, c);
    x[1] = _mm256_unpackhi_epi64(a, c);
    x[2] = _mm256_unpacklo_epi64(b, d);
    x[3] = _mm256_unpackhi_epi64(b, d);
  }
};

}  // namespace

}  // namespace mindckpt
