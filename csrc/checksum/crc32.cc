#include "checksum/crc32.h"

#include <zlib.h>

namespace mindckpt {

uint32_t crc32_update(uint32_t crc, ByteView bytes) {
  return static_cast<uint32_t>(::crc32_z(crc, uchars(bytes), bytes.size()));
}

uint32_t crc32_concat(uint32_t crc_a, uint32_t crc_b, uint64_t nbytes_b) {
  return static_cast<uint32_t>(::crc32_combine64(crc_a, crc_b, static_cast<z_off64_t>(nbytes_b)));
}

}  // namespace mindckpt
