#include <arm_neon.h>

#include "cipher/kernels/aes_cbc_lanes.h"
#include "cipher/kernels/aes_key.h"

namespace mindckpt {

namespace {

struct Neon {
  using Reg = uint8x16_t;
  static constexpr size_t kBlocks = 1;
  static constexpr size_t kRegs = 8;

  static Reg key(const uint8_t* from) { return vld1q_u8(from); }
  static Reg load(const uint8_t* from) { return vld1q_u8(from); }
  static void store(uint8_t* to, Reg x) { vst1q_u8(to, x); }
  static Reg exclusive_or(Reg a, Reg b) { return veorq_u8(a, b); }
  static Reg gather(const uint8_t* const* from, size_t at) { return load(from[0] + at); }
  static void scatter(uint8_t* const* to, size_t at, Reg x) { store(to[0] + at, x); }
  static Reg shift_in(Reg before, Reg) { return before; }

  struct Encrypt {
    static Reg begin(Reg x, Reg) { return x; }
    static Reg round(Reg x, Reg key, Reg) { return vaesmcq_u8(vaeseq_u8(x, key)); }
    static Reg end(Reg x, Reg key, Reg last) { return veorq_u8(vaeseq_u8(x, key), last); }
  };
  struct Decrypt {
    static Reg begin(Reg x, Reg) { return x; }
    static Reg round(Reg x, Reg key, Reg) { return vaesimcq_u8(vaesdq_u8(x, key)); }
    static Reg end(Reg x, Reg key, Reg last) { return veorq_u8(vaesdq_u8(x, key), last); }
  };
};

struct KeyOps {
  // The same word in every column, so that ShiftRows moves nothing.
  static uint32_t sub_word(uint32_t word) {
    const uint8x16_t words = vreinterpretq_u8_u32(vdupq_n_u32(word));
    return vgetq_lane_u32(vreinterpretq_u32_u8(vaeseq_u8(words, vdupq_n_u8(0))), 0);
  }
  static void inverse_mix_columns(uint8_t* to, const uint8_t* from) {
    vst1q_u8(to, vaesimcq_u8(vld1q_u8(from)));
  }
};

}  // namespace

void expand_aes_key(const uint8_t* key, size_t key_nbytes, AesSchedule& schedule) {
  expand_aes_key_by<KeyOps>(key, key_nbytes, schedule);
}

const AesCbcKernel kAesCbcNeon{"ARMv8 AES, 8 lanes", Neon::kRegs * Neon::kBlocks,
                               aes_cbc_encrypt_any<Neon>, aes_cbc_decrypt_any<Neon>};

}  // namespace mindckpt
