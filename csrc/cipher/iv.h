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

// Unpredictable, and unlike all that was drawn before, as long as one of two generators is so:
// OpenSSL's or the kernel's, whose numbers are XORed. OpenSSL's state is in the process's memory,
// so that two copies of it, such as a virtual machine restored twice from one snapshot, draw the
// same. Throws Error(kUnavailable) where the kernel has none.
void fill_random(ByteSpan out);

}  // namespace mindckpt
