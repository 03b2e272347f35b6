#pragma once

#include <cstdint>
#include <string_view>

#include "base/bytes.h"

namespace mindckpt {

// CRC-32 with zlib's polynomial, as in MindSpore's trailer. The checksum of no bytes is 0.
// By a kernel of ours, by ISA-L where that library is found at run time, or by zlib.
uint32_t crc32_update(uint32_t crc, ByteView bytes);

// Whose it is here: "vpclmulqdq", "isa-l" or "zlib".
std::string_view crc32_provider();

// The checksum of A followed by B, from theirs and B's length.
uint32_t crc32_concat(uint32_t crc_a, uint32_t crc_b, uint64_t nbytes_b);

}  // namespace mindckpt
