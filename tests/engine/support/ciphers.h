#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cipher/cipher.h"
#include "support/bytes.h"
#include "support/random.h"

namespace mindckpt::test {

// One way of encrypting: a mode with one of its key lengths.
struct CipherKind {
  CipherMode mode;
  size_t key_nbytes;

  std::string label() const;  // such as "AES-CBC with 24 bytes of key"
  std::unique_ptr<Cipher> make(ByteView key) const { return Cipher::create(mode, key); }
};

// All of them, SM4 only where this machine has it.
const std::vector<CipherKind>& every_kind();
// One of each mode.
const std::vector<CipherKind>& every_mode();

Iv random_iv(Random& random);

// OpenSSL's cipher of this name, such as "AES-128-CBC", without padding.
Bytes openssl_encrypt(const std::string& name, ByteView key, const Iv& iv, ByteView plain);

// One block as MindSpore writes it, by OpenSSL and the bytes in docs/format.md alone.
Bytes mindspore_frame(CipherMode mode, ByteView key, const Iv& iv, ByteView plain);

// The frames that a file is made of, by the lengths in their headers.
std::vector<Bytes> split_frames(CipherMode mode, ByteView file);
Bytes join(const std::vector<Bytes>& parts);

}  // namespace mindckpt::test
