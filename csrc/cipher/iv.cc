#include "cipher/iv.h"

#include <openssl/rand.h>

#include "cipher/openssl.h"

namespace mindckpt {

Iv add_big_endian(const Iv& iv, uint64_t value, size_t nbytes) {
  Iv sum = iv;
  uint64_t carry = 0;
  for (size_t i = nbytes; i-- > 0; value >>= 8) {
    carry += std::to_integer<uint64_t>(iv[i]) + (value & 0xFF);
    sum[i] = static_cast<std::byte>(carry);
    carry >>= 8;
  }
  return sum;
}

void fill_random(ByteSpan out) {
  openssl_check(RAND_bytes(uchars(out), static_cast<int>(out.size())), "RAND_bytes");
}

}  // namespace mindckpt
