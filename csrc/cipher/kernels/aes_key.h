#pragma once

#include <cstring>

#include "cipher/kernels/aes.h"

namespace mindckpt {

// FIPS 197's key expansion (section 5.2), little-endian words. `Ops` has the instructions:
// sub_word(uint32_t) applies the S-box to each byte, inverse_mix_columns(to, from) is the
// instruction for decryption keys.
template <typename Ops>
void expand_aes_key_by(const uint8_t* key, size_t key_nbytes, AesSchedule& schedule) {
  const size_t key_words = key_nbytes / 4;
  schedule.num_rounds = static_cast<int>(key_words) + 6;
  const size_t num_words = 4 * (static_cast<size_t>(schedule.num_rounds) + 1);
  uint8_t* const out = schedule.encrypt[0];
  std::memcpy(out, key, key_nbytes);
  uint32_t last = 0;
  std::memcpy(&last, key + key_nbytes - 4, 4);
  uint32_t constant = 1;
  for (size_t i = key_words; i < num_words; ++i) {
    if (i % key_words == 0) {
      const uint32_t word = Ops::sub_word(last);
      last = (word >> 8 | word << 24) ^ constant;
      constant = (constant << 1) ^ (constant >> 7) * 0x11B;
    } else if (key_words > 6 && i % key_words == 4) {
      last = Ops::sub_word(last);
    }
    uint32_t before = 0;
    std::memcpy(&before, out + 4 * (i - key_words), 4);
    last ^= before;
    std::memcpy(out + 4 * i, &last, 4);
  }
  const int rounds = schedule.num_rounds;
  std::memcpy(schedule.decrypt[0], schedule.encrypt[rounds], 16);
  for (int i = 1; i < rounds; ++i) {
    Ops::inverse_mix_columns(schedule.decrypt[i], schedule.encrypt[rounds - i]);
  }
  std::memcpy(schedule.decrypt[rounds], schedule.encrypt[0], 16);
}

}  // namespace mindckpt
