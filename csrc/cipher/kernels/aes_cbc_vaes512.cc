#include <immintrin.h>

#include "cipher/kernels/aes_cbc_lanes.h"

namespace mindckpt {

namespace {

struct Vaes512 {
  using Reg = __m512i;
  static constexpr size_t kBlocks = 4;
  static constexpr size_t kRegs = 4;

  static __m128i quarter(const uint8_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static Reg key(const uint8_t* from) { return _mm512_broadcast_i32x4(quarter(from)); }
  static Reg load(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static void store(uint8_t* to, Reg x) { _mm512_storeu_si512(to, x); }
  static Reg exclusive_or(Reg a, Reg b) { return _mm512_xor_si512(a, b); }
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
  static Reg shift_in(Reg before, Reg x) { return _mm512_alignr_epi64(x, before, 6); }

  struct Encrypt {
    static Reg begin(Reg x, Reg key) { return _mm512_xor_si512(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm512_aesenc_epi128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm512_aesenclast_epi128(x, key); }
  };
  struct Decrypt {
    static Reg begin(Reg x, Reg key) { return _mm512_xor_si512(x, key); }
    static Reg round(Reg x, Reg, Reg key) { return _mm512_aesdec_epi128(x, key); }
    static Reg end(Reg x, Reg, Reg key) { return _mm512_aesdeclast_epi128(x, key); }
  };
};

}  // namespace

const AesCbcKernel kAesCbcVaes512{"VAES on 512 bits, 16 lanes", Vaes512::kRegs * Vaes512::kBlocks,
                                  aes_cbc_encrypt_any<Vaes512>, aes_cbc_decrypt_any<Vaes512>};

}  // namespace mindckpt
