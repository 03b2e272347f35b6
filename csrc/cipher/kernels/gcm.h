#pragma once

#include "cipher/kernels/aes.h"

namespace mindckpt {

// How many blocks GHASH takes in before it reduces.
inline constexpr size_t kGhashBlocks = 16;

// What GCM needs of a key (NIST SP 800-38D): AES's schedule, and the powers of the hash key
// H = E(0), the highest first; behind H^1 stand zeros. Each is byte-reversed and times x, as
// multiplying bit-reflected polynomials wants them. `folded` are their halves' sums.
struct GcmKey {
  AesSchedule aes;
  alignas(32) uint8_t powers[kGhashBlocks + 2][16];
  alignas(32) uint8_t folded[kGhashBlocks + 2][16];
};

// Whole messages, without additional data. `iv` has 12 bytes, `tag` 16. `out` may be `in`.
struct GcmKernel {
  const char* name;
  // Sets the powers, of key.aes.
  void (*expand)(GcmKey& key);
  // Encrypts, and writes the ciphertext's tag.
  void (*seal)(const GcmKey& key, const uint8_t* iv, const uint8_t* in, uint8_t* out, size_t nbytes,
               uint8_t* tag);
  // Decrypts, and writes the tag that the ciphertext should have come with.
  void (*open)(const GcmKey& key, const uint8_t* iv, const uint8_t* in, uint8_t* out, size_t nbytes,
               uint8_t* tag);
};

#if defined(__x86_64__)
extern const GcmKernel kGcmVaes256;  // needs kVaes and kAvx2
#endif

}  // namespace mindckpt
