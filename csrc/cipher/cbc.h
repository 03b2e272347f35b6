#pragma once

#include <memory>
#include <span>

#include "base/bytes.h"
#include "cipher/iv.h"

namespace mindckpt {

// One of several messages that are encrypted at the same time.
struct CbcMessage {
  Iv chain{};  // the IV; afterwards the last block of ciphertext, for more of the message
  ByteView plain;
  ByteSpan ciphertext;
};

// CBC over whole cipher blocks under one key, without padding. Immutable: safe from any thread.
// Inputs are multiples of kCipherBlockBytes; decrypt works in place, encrypt too.
class CbcTransform {
 public:
  virtual ~CbcTransform() = default;
  virtual void encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const = 0;
  virtual void decrypt(const Iv& iv, ByteView ciphertext, ByteSpan plain) const = 0;

  // Any number of messages, of any lengths: one after the other, unless a kernel can do better.
  virtual void encrypt_all(std::span<CbcMessage> messages) const;
};

// The fastest one for this machine. The key's length is right already.
std::unique_ptr<CbcTransform> make_aes_cbc(ByteView key);

std::unique_ptr<CbcTransform> make_openssl_aes_cbc(ByteView key);
// nullptr where the processor has no instructions for it.
std::unique_ptr<CbcTransform> make_lane_aes_cbc(ByteView key);
std::unique_ptr<CbcTransform> make_lane_sm4_cbc(ByteView key);
// nullptr where the library has no SM4.
std::unique_ptr<CbcTransform> make_openssl_sm4_cbc(ByteView key);
std::unique_ptr<CbcTransform> make_gmssl_sm4_cbc(ByteView key);

}  // namespace mindckpt
