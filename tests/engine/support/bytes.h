#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace mindckpt::test {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  const ByteView view = as_bytes(text);
  return {view.begin(), view.end()};
}

inline std::string text_of(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::string hex(ByteView bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text.push_back(kDigits[std::to_integer<size_t>(byte >> 4)]);
    text.push_back(kDigits[std::to_integer<size_t>(byte & std::byte{15})]);
  }
  return text;
}
inline std::string hex(std::string_view bytes) { return hex(as_bytes(bytes)); }

// Reads what hex() writes; spaces are passed over.
inline Bytes from_hex(std::string_view text) {
  std::string digits(text);
  std::erase(digits, ' ');
  Bytes bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

template <size_t N>
std::array<std::byte, N> array_of(ByteView bytes) {
  std::array<std::byte, N> array{};
  std::copy_n(bytes.begin(), std::min(N, bytes.size()), array.begin());
  return array;
}

// Compared by value, as spans do not compare themselves.
inline bool same(ByteView a, ByteView b) { return std::ranges::equal(a, b); }

}  // namespace mindckpt::test

namespace doctest {

// What a failed check prints of long byte strings.
template <>
struct StringMaker<mindckpt::test::Bytes> {
  static String convert(const mindckpt::test::Bytes& bytes) {
    constexpr size_t kMost = 64;
    const mindckpt::ByteView shown = mindckpt::ByteView(bytes).first(std::min(bytes.size(), kMost));
    const std::string text = std::to_string(bytes.size()) + " bytes: " + mindckpt::test::hex(shown);
    return (bytes.size() > kMost ? text + "..." : text).c_str();
  }
};

}  // namespace doctest
