#include <immintrin.h>

#include "cipher/kernels/aes_cbc_lanes.h"
#include "cipher/kernels/aes_key.h"

namespace mindckpt {

namespace {

__m128i load(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
void store(uint8_t* to, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x); }

struct Aesni {
  using Reg = __m128i;
  static constexpr size_t kBlocks = 1;
  static constexpr size_t kRegs = 8;

  static Reg key(const uint8_t* from) { return mindckpt::load(from); }
  static Reg load(const uint8_t* from) { return mindckpt::load(from); }
  static void store(uint8_t* to, Reg x) { mindckpt::store(to, x); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm_xor_si128(a, b); }
  static Reg gather(const uint8_t* const* from, size_t at) { return load(from[0] + at); }
  static void scatter(uint8_t* const* to, size_t at, Reg x) { store(to[0] + at, x); }
  static Reg shift_in(Reg before, Reg) { return before; }

  struct Encrypt {
    static Reg begin(Reg x, Reg key) { return _mm_xor_si128(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm_aesenc_si128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm_aesenclast_si128(x, key); }
  };
  struct Decrypt {
    static Reg begin(Reg x, Reg key) { return _mm_xor_si128(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm_aesdec_si128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm_aesdeclast_si128(x, key); }
  };
};

struct KeyOps {
  static uint32_t sub_word(uint32_t word) {
    const __m128i words = _mm_set1_epi32(static_cast<int>(word));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_aeskeygenassist_si128(words, 0)));
  }
  static void inverse_mix_columns(uint8_t* to, const uint8_t* from) {
    store(to, _mm_aesimc_si128(load(from)));
  }
};

}  // namespace

void expand_aes_key(const uint8_t* key, size_t key_nbytes, AesSchedule& schedule) {
  expand_aes_key_by<KeyOps>(key, key_nbytes, schedule);
}

const AesCbcKernel kAesCbcAesni{"AES-NI, 8 lanes", Aesni::kRegs * Aesni::kBlocks,
                                aes_cbc_encrypt_any<Aesni>, aes_cbc_decrypt_any<Aesni>};

}  // namespace mindckpt
