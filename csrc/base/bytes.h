#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace mindckpt {

using ByteView = std::span<const std::byte>;  // borrowed, read-only
using ByteSpan = std::span<std::byte>;        // borrowed, writable

inline ByteView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Cuts the first `nbytes` off, and returns them.
inline ByteSpan take_front(ByteSpan& from, size_t nbytes) {
  const ByteSpan front = from.first(nbytes);
  from = from.subspan(nbytes);
  return front;
}

// OpenSSL, zlib and the system calls speak unsigned char.
inline const unsigned char* uchars(ByteView bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}
inline unsigned char* uchars(ByteSpan bytes) {
  return reinterpret_cast<unsigned char*>(bytes.data());
}

}  // namespace mindckpt
