#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// What kernels are asked before they are used: messages, keys and IVs cut from one row of bytes.
namespace mindckpt {

inline constexpr size_t kAnswerIvBegin = 1000;
inline constexpr size_t kAnswerKeyBegin = 2000;

constexpr uint8_t answer_byte(size_t i) { return static_cast<uint8_t>(i * 167 + (i >> 8) + 13); }

template <size_t kBytes>
constexpr std::array<uint8_t, kBytes> answer_bytes(size_t begin) {
  std::array<uint8_t, kBytes> bytes{};
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = answer_byte(begin + i);
  return bytes;
}

}  // namespace mindckpt
