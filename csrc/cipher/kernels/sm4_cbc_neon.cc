#include <arm_neon.h>

#include "cipher/kernels/sm4_cbc_lanes.h"

namespace mindckpt {

namespace {

struct Neon {
  using Reg = uint8x16_t;
  static constexpr size_t kBlocks = 1;
  static constexpr size_t kGroups = 4;

  static Reg load(const uint8_t* from) { return vld1q_u8(from); }
  static void store(uint8_t* to, Reg x) { vst1q_u8(to, x); }
  static Reg key(const uint32_t* from) { return vreinterpretq_u8_u32(vdupq_n_u32(*from)); }
  static Reg exclusive_or(Reg a, Reg b) { return veorq_u8(a, b); }
  static Reg exclusive_or(Reg a, Reg b, Reg c) { return veorq_u8(veorq_u8(a, b), c); }
  static void finish(Reg&) {}
  static void transpose_words(Reg* x) {
    const auto words = [](Reg r) { return vreinterpretq_u32_u8(r); };
    const auto pairs = [](uint32x4_t r) { return vreinterpretq_u64_u32(r); };
    const uint64x2_t a = pairs(vtrn1q_u32(words(x[0]), words(x[1])));
    const uint64x2_t b = pairs(vtrn2q_u32(words(x[0]), words(x[1])));
    const uint64x2_t c = pairs(vtrn1q_u32(words(x[2]), words(x[3])));
    const uint64x2_t d = pairs(vtrn2q_u32(words(x[2]), words(x[3])));
    x[0] = vreinterpretq_u8_u64(vtrn1q_u64(a, c));
    x[1] = vreinterpretq_u8_u64(vtrn1q_u64(b, d));
    x[2] = vreinterpretq_u8_u64(vtrn2q_u64(a, c));
    x[3] = vreinterpretq_u8_u64(vtrn2q_u64(b, d));
  }
  static void transpose_blocks(Reg*) {}

  struct Halves {
    Reg low, high;
  };
  static Halves split(Reg x) { return {vandq_u8(x, vdupq_n_u8(0x0F)), vshrq_n_u8(x, 4)}; }
  static Reg look_up(const Sm4Table& table, Halves x) {
    return veorq_u8(vqtbl1q_u8(vld1q_u8(table.low), x.low),
                    vqtbl1q_u8(vld1q_u8(table.high), x.high));
  }
  static Reg to_domain(Reg x) { return look_up(kSm4MTable, split(x)); }
  static Reg from_domain(Reg x) { return look_up(kSm4MInverseTable, split(x)); }

  static Reg rotate(Reg x, const Sm4Shuffle& shuffle) {
    return vqtbl1q_u8(x, vld1q_u8(shuffle.from));
  }
  static Reg transform(Reg x) {
    static constexpr Sm4Shuffle k0 = sm4_unshift_rows(0);
    static constexpr Sm4Shuffle k1 = sm4_unshift_rows(1);
    static constexpr Sm4Shuffle k2 = sm4_unshift_rows(2);
    static constexpr Sm4Shuffle k3 = sm4_unshift_rows(3);
    const Halves halves = split(vaeseq_u8(x, vdupq_n_u8(0)));
    const Reg u1 = look_up(kSm4U1Table, halves);
    return exclusive_or(exclusive_or(rotate(look_up(kSm4U0Table, halves), k0), rotate(u1, k1)),
                        rotate(u1, k2), rotate(look_up(kSm4U3Table, halves), k3));
  }
};

}  // namespace

const Sm4CbcKernel kSm4CbcNeon{"ARMv8 AES, 16 lanes", 16, sm4_cbc_encrypt<Neon>,
                               sm4_cbc_decrypt<Neon>};

}  // namespace mindckpt
