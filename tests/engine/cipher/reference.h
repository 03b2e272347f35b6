#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// AES and SM4 as their standards write them down, byte by byte and without a thought for speed: the
// oracle of the kernels where there is no OpenSSL.
namespace mindckpt::reference {

// Multiplication modulo `polynomial`.
constexpr uint8_t multiply(uint8_t a, uint8_t b, unsigned polynomial) {
  unsigned product = 0;
  unsigned x = a;
  for (int bit = 0; bit < 8; ++bit) {
    if ((b >> bit & 1) != 0) product ^= x;
    x <<= 1;
    if ((x & 0x100) != 0) x ^= polynomial;
  }
  return static_cast<uint8_t>(product);
}
constexpr uint8_t inverse(uint8_t a, unsigned polynomial) {
  uint8_t power = 1;  // a^254
  for (int i = 0; i < 254; ++i) power = multiply(power, a, polynomial);
  return a == 0 ? uint8_t{0} : power;
}
constexpr uint8_t rotate_byte(uint8_t x, int left) {
  return static_cast<uint8_t>(x << left | x >> (8 - left));
}

// FIPS 197, section 5.1.1.
constexpr uint8_t aes_sub(uint8_t x) {
  const uint8_t b = inverse(x, 0x11B);
  return static_cast<uint8_t>(b ^ rotate_byte(b, 1) ^ rotate_byte(b, 2) ^ rotate_byte(b, 3) ^
                              rotate_byte(b, 4) ^ 0x63);
}

// Liu et al., "Analysis of the SMS4 block cipher" (2007): the affine maps and the field.
constexpr uint8_t sm4_affine(uint8_t x) {
  uint8_t out = 0xD3;
  for (int bit = 0; bit < 8; ++bit) {
    const auto row = static_cast<unsigned>(rotate_byte(0xA7, bit) & x);
    out = static_cast<uint8_t>(out ^ (__builtin_parity(row) << bit));
  }
  return out;
}
constexpr uint8_t sm4_sub(uint8_t x) { return sm4_affine(inverse(sm4_affine(x), 0x1F5)); }

struct Tables {
  uint8_t aes[256];
  uint8_t sm4[256];
};
inline const Tables& tables() {
  static const Tables made = [] {
    Tables t{};
    for (unsigned i = 0; i < 256; ++i) {
      t.aes[i] = aes_sub(static_cast<uint8_t>(i));
      t.sm4[i] = sm4_sub(static_cast<uint8_t>(i));
    }
    return t;
  }();
  return made;
}

using Key = std::vector<uint8_t>;

// FIPS 197, sections 5.1 and 5.2.
inline void aes_encrypt(const Key& key, uint8_t* block) {
  const auto& sub = tables().aes;
  const size_t words = key.size() / 4;
  const size_t rounds = words + 6;
  std::vector<uint8_t> w(key);
  uint8_t constant = 1;
  for (size_t i = words; i < 4 * (rounds + 1); ++i) {
    uint8_t t[4] = {w[4 * i - 4], w[4 * i - 3], w[4 * i - 2], w[4 * i - 1]};
    if (i % words == 0) {
      const uint8_t first = t[0];
      for (size_t j = 0; j < 4; ++j) t[j] = sub[j == 3 ? first : t[j + 1]];
      t[0] = static_cast<uint8_t>(t[0] ^ constant);
      constant = multiply(constant, 2, 0x11B);
    } else if (words > 6 && i % words == 4) {
      for (uint8_t& byte : t) byte = sub[byte];
    }
    for (size_t j = 0; j < 4; ++j) w.push_back(static_cast<uint8_t>(w[4 * (i - words) + j] ^ t[j]));
  }
  const auto add_key = [&](size_t round) {
    for (size_t i = 0; i < 16; ++i) block[i] = static_cast<uint8_t>(block[i] ^ w[16 * round + i]);
  };
  add_key(0);
  for (size_t round = 1; round <= rounds; ++round) {
    uint8_t s[16];
    for (size_t i = 0; i < 16; ++i) s[i] = sub[block[(i + 4 * (i % 4)) % 16]];
    for (size_t i = 0; i < 16; ++i) {
      const uint8_t* const column = s + i / 4 * 4;
      const auto at = [&](size_t j) { return column[(i + j) % 4]; };
      block[i] = round == rounds ? s[i]
                                 : static_cast<uint8_t>(multiply(at(0), 2, 0x11B) ^
                                                        multiply(at(1), 3, 0x11B) ^ at(2) ^ at(3));
    }
    add_key(round);
  }
}

// GB/T 32907.
inline void sm4_encrypt(const Key& key, uint8_t* block) {
  const auto word_of = [](const uint8_t* at) {
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
  };
  const auto rotate = [](uint32_t x, int left) { return x << left | x >> (32 - left); };
  const auto sub = [](uint32_t x) {
    uint32_t out = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      out |= uint32_t{tables().sm4[x >> shift & 0xFF]} << shift;
    }
    return out;
  };
  constexpr uint32_t kFamilyKey[4] = {0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC};
  uint32_t k[36];
  uint32_t x[36];
  for (size_t i = 0; i < 4; ++i) {
    k[i] = word_of(key.data() + 4 * i) ^ kFamilyKey[i];
    x[i] = word_of(block + 4 * i);
  }
  for (uint32_t i = 0; i < 32; ++i) {
    uint32_t constant = 0;
    for (uint32_t j = 0; j < 4; ++j) constant = constant << 8 | ((4 * i + j) * 7 & 0xFF);
    const uint32_t s = sub(k[i + 1] ^ k[i + 2] ^ k[i + 3] ^ constant);
    k[i + 4] = k[i] ^ s ^ rotate(s, 13) ^ rotate(s, 23);
    const uint32_t b = sub(x[i + 1] ^ x[i + 2] ^ x[i + 3] ^ k[i + 4]);
    x[i + 4] = x[i] ^ b ^ rotate(b, 2) ^ rotate(b, 10) ^ rotate(b, 18) ^ rotate(b, 24);
  }
  for (size_t i = 0; i < 16; ++i) {
    block[i] = static_cast<uint8_t>(x[35 - i / 4] >> (8 * (3 - i % 4)));
  }
}

}  // namespace mindckpt::reference
