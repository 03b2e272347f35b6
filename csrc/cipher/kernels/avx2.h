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
  static Reg load(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static void store(uint8_t* to, Reg x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
  static Reg key(const uint32_t* from) { return _mm256_set1_epi32(static_cast<int>(*from)); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm256_xor_si256(a, b); }
  static Reg exclusive_or(Reg a, Reg b, Reg c) { return exclusive_or(exclusive_or(a, b), c); }
  static void finish(Reg& x) { __asm__ volatile("" : "+x"(x)); }
  static void transpose_words(Reg* x) {
    const Reg a = _mm256_unpacklo_epi32(x[0], x[1]);
    const Reg b = _mm256_unpackhi_epi32(x[0], x[1]);
    const Reg c = _mm256_unpacklo_epi32(x[2], x[3]);
    const Reg d = _mm256_unpackhi_epi32(x[2], x[3]);
    x[0] = _mm256_unpacklo_epi64(a, c);
    x[1] = _mm256_unpackhi_epi64(a, c);
    x[2] = _mm256_unpacklo_epi64(b, d);
    x[3] = _mm256_unpackhi_epi64(b, d);
  }
  static void transpose_blocks(Reg* x) {
    const Reg first = x[0];
    x[0] = _mm256_permute2x128_si256(first, x[1], 0x20);
    x[1] = _mm256_permute2x128_si256(first, x[1], 0x31);
  }
};

}  // namespace

}  // namespace mindckpt
