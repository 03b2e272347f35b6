#include <immintrin.h>
#include <zlib.h>

#include <cstddef>

#include "checksum/kernels/crc32.h"

// Intel's white paper "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
// (Gopal et al.), on pairs of 16-byte blocks: a message keeps its checksum when a block is taken
// away and, multiplied by x^distance modulo the polynomial, added to the one at that distance.
// Four sums are folded over the message; zlib does what is left, at most 63 bytes.
namespace mindckpt {

namespace {

using Pair = __m256i;

#define ALWAYS_INLINE inline __attribute__((always_inline))

constexpr uint64_t kPairBytes = sizeof(Pair);
constexpr uint64_t kSums = 4;
constexpr uint64_t kStrideBytes = kSums * kPairBytes;

// x^exponent modulo the polynomial, reflected, and times x: so the product of two reflected factors
// of 64 bits is a reflected block of 128.
constexpr uint64_t power_of_x(uint64_t exponent) {
  constexpr uint32_t kPolynomial = 0xEDB88320;  // without x^32
  uint32_t power = uint32_t{1} << 31;           // x^0
  for (; exponent > 0; --exponent) power = (power & 1) != 0 ? power >> 1 ^ kPolynomial : power >> 1;
  return uint64_t{power} << 1;
}

// What moves a block's halves by `nbytes`. The first half, of higher powers, has 64 bits to go
// beyond the second; a factor of 32 bits in 64 makes up for 32 of both.
template <uint64_t nbytes>
ALWAYS_INLINE Pair factors() {
  constexpr auto kFirst = static_cast<long long>(power_of_x(8 * nbytes + 32));
  constexpr auto kSecond = static_cast<long long>(power_of_x(8 * nbytes - 32));
  return _mm256_set_epi64x(kSecond, kFirst, kSecond, kFirst);
}

ALWAYS_INLINE Pair load(const unsigned char* from) {
  return _mm256_loadu_si256(reinterpret_cast<const Pair*>(from));
}

ALWAYS_INLINE Pair folded(Pair sum, Pair factors, Pair next) {
  const Pair first = _mm256_clmulepi64_epi128(sum, factors, 0x00);
  const Pair second = _mm256_clmulepi64_epi128(sum, factors, 0x11);
  return _mm256_xor_si256(_mm256_xor_si256(first, second), next);
}

}  // namespace

uint32_t crc32_vpclmul256(uint32_t crc, const unsigned char* bytes, uint64_t nbytes) {
  if (nbytes < kStrideBytes) return static_cast<uint32_t>(::crc32_z(crc, bytes, nbytes));
  Pair sums[kSums];
#pragma GCC unroll 4
  for (uint64_t i = 0; i < kSums; ++i) sums[i] = load(bytes + kPairBytes * i);
  const __m128i before = _mm_cvtsi32_si128(static_cast<int>(~crc));
  sums[0] = _mm256_xor_si256(sums[0], _mm256_zextsi128_si256(before));
  bytes += kStrideBytes;
  nbytes -= kStrideBytes;

  const Pair stride = factors<kStrideBytes>();
  for (; nbytes >= kStrideBytes; bytes += kStrideBytes, nbytes -= kStrideBytes) {
#pragma GCC unroll 4
    for (uint64_t i = 0; i < kSums; ++i) {
      sums[i] = folded(sums[i], stride, load(bytes + kPairBytes * i));
    }
  }
  const Pair step = factors<kPairBytes>();
  Pair sum = sums[0];
#pragma GCC unroll 4
  for (uint64_t i = 1; i < kSums; ++i) sum = folded(sum, step, sums[i]);
  for (; nbytes >= kPairBytes; bytes += kPairBytes, nbytes -= kPairBytes) {
    sum = folded(sum, step, load(bytes));
  }

  unsigned char left[kPairBytes];
  _mm256_storeu_si256(reinterpret_cast<Pair*>(left), sum);
  constexpr uLong kNothingBefore = 0xFFFFFFFF;  // zlib inverts it: `left` has what was before
  const uLong of_left = ::crc32_z(kNothingBefore, left, sizeof(left));
  return static_cast<uint32_t>(::crc32_z(of_left, bytes, nbytes));
}

}  // namespace mindckpt
