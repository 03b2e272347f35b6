#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/cpu.h"

namespace mindckpt {

// The kernels that this processor can run and that pass, in the order of the choices. A choice has
// a kernel, and what it needs.
template <typename Choice, typename Passes>
auto usable_of(std::span<const Choice> choices, const Passes& passes) {
  std::vector<decltype(Choice::kernel)> usable;
  for (const Choice& choice : choices) {
    if (cpu_features().contains(choice.needs) && passes(*choice.kernel)) {
      usable.push_back(choice.kernel);
    }
  }
  return usable;
}

// What kernels are asked before they are used: messages, keys and IVs cut from one row of bytes.
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
