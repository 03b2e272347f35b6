#include <immintrin.h>

#include "cipher/kernels/aes_cbc_lanes.h"

namespace mindckpt {

namespace {

struct Vaes256 {
  using Reg = __m256i;
  static constexpr size_t kBlocks = 2;
  static constexpr size_t kRegs = 8;

  static __m128i half(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static Reg key(const uint8_t* from) { return _mm256_broadcastsi128_si256(half(from)); }
  static Reg load(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static void store(uint8_t* to, Reg x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm256_xor_si256(a, b); }
  static Reg gather(const uint8_t* const* from, size_t at) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(half(from[0] + at)), half(from[1] + at),
                                   1);
  }
  static void scatter(uint8_t* const* to, size_t at, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0] + at), _mm256_castsi256_si128(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1] + at), _mm256_extracti128_si256(x, 1));
  }
  static Reg shift_in(Reg before, Reg x) { return _mm256_permute2x128_si256(before, x, 0x21); }

  struct Encrypt {
    static Reg begin(Reg x, Reg key) { return _mm256_xor_si256(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm256_aesenc_epi128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm256_aesenclast_epi128(x, key); }
  };
  struct Decrypt {
    static Reg begin(Reg x, Reg key) { return _mm256_xor_si256(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm256_aesdec_epi128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm256_aesdeclast_epi128(x, key); }
  };
};

}  // namespace

const AesCbcKernel kAesCbcVaes256{"VAES on 256 bits, 16 lanes", Vaes256::kRegs * Vaes256::kBlocks,
                                  aes_cbc_encrypt_any<Vaes256>, aes_cbc_decrypt_any<Vaes256>};

}  // namespace mindckpt
