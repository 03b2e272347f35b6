#pragma once

#include "cipher/kernels/avx2.h"
#include "cipher/kernels/sm4_cbc_lanes.h"

namespace mindckpt {

namespace {

// `Aes::sub_bytes(x)` is AES's ShiftRows and SubBytes on each 16 bytes.
template <typename Aes, size_t kNumGroups>
struct Sm4Avx2 : Avx2Words {
  static constexpr size_t kGroups = kNumGroups;

  struct Halves {
    Reg low, high;
  };
  static Halves split(Reg x) {
    const Reg mask = _mm256_set1_epi8(0x0F);
    return {_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi32(x, 4), mask)};
  }
  static Reg look_up(const Sm4Table& table, Halves x) {
    return exclusive_or(_mm256_shuffle_epi8(twice(table.low), x.low),
                        _mm256_shuffle_epi8(twice(table.high), x.high));
  }
  static Reg to_domain(Reg x) { return look_up(kSm4MTable, split(x)); }
  static Reg from_domain(Reg x) { return look_up(kSm4MInverseTable, split(x)); }

  static Reg rotate(Reg x, const Sm4Shuffle& shuffle) {
    return _mm256_shuffle_epi8(x, twice(shuffle.from));
  }
  static Reg transform(Reg x) {
    static constexpr Sm4Shuffle k0 = sm4_unshift_rows(0);
    static constexpr Sm4Shuffle k1 = sm4_unshift_rows(1);
    static constexpr Sm4Shuffle k2 = sm4_unshift_rows(2);
    static constexpr Sm4Shuffle k3 = sm4_unshift_rows(3);
    const Halves halves = split(Aes::sub_bytes(x));
    const Reg u1 = look_up(kSm4U1Table, halves);
    return exclusive_or(exclusive_or(rotate(look_up(kSm4U0Table, halves), k0), rotate(u1, k1)),
                        rotate(u1, k2), rotate(look_up(kSm4U3Table, halves), k3));
  }
};

}  // namespace

}  // namespace mindckpt
