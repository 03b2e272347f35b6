#pragma once

#include <memory>

#include "base/bytes.h"
#include "cipher/iv.h"

namespace mindckpt {

// CBC over whole cipher blocks under one key, without padding. Immutable: safe from any thread.
// Inputs are multiples of kCipherBlockBytes; decrypt works in place, encrypt too.
class CbcTransform {
 public:
  virtual ~CbcTransform() = default;
  virtual void encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const = 0;
  virtual void decrypt(const Iv& iv, ByteView ciphertext, ByteSpan plain) const = 0;
};

// The key's length is right already.
std::unique_ptr<CbcTransform> make_openssl_aes_cbc(ByteView key);
// nullptr where the library has no SM4.
std::unique_ptr<CbcTransform> make_openssl_sm4_cbc(ByteView key);
std::unique_ptr<CbcTransform> make_gmssl_sm4_cbc(ByteView key);

}  // namespace mindckpt
