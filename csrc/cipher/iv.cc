#include "cipher/iv.h"

#include <openssl/rand.h>
#include <sys/random.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "cipher/openssl.h"

namespace mindckpt {

namespace {

void fill_from_kernel(ByteSpan out) {
  while (!out.empty()) {
    const ssize_t nbytes = ::getrandom(out.data(), out.size(), 0);
    if (nbytes < 0) {
      if (errno == EINTR) continue;
      throw Error(ErrorKind::kUnavailable, "no random numbers from the kernel: getrandom: " +
                                               std::generic_category().message(errno));
    }
    take_front(out, static_cast<size_t>(nbytes));
  }
}

}  // namespace

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
  std::vector<std::byte> from_kernel(out.size());
  fill_from_kernel(from_kernel);
  for (size_t i = 0; i < out.size(); ++i) out[i] ^= from_kernel[i];
}

}  // namespace mindckpt
