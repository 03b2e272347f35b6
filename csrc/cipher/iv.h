#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace mindckpt {

inline constexpr size_t kIvBytes = 16;
using Iv = std::array<std::byte, kIvBytes>;

// Adds to the first `nbytes` bytes of an IV, taken as one big-endian number that wraps around.
Iv add_big_endian(const Iv& iv, uint64_t value, size_t nbytes);

// From OpenSSL's random generator, which is made for keys and IVs.
void fill_random(ByteSpan out);

}  // namespace mindckpt
