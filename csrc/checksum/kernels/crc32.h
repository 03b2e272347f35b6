#pragma once

#include <cstdint>

namespace mindckpt {

// Continues a CRC-32 of zlib's polynomial, as zlib's crc32_z does.
using Crc32Update = uint32_t (*)(uint32_t crc, const unsigned char* bytes, uint64_t nbytes);

#if defined(__x86_64__)
uint32_t crc32_vpclmul256(uint32_t crc, const unsigned char* bytes, uint64_t nbytes);
#endif

}  // namespace mindckpt
