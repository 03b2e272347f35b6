#include "support/ciphers.h"

#include <doctest/doctest.h>
#include <openssl/evp.h>

#include "cipher/openssl.h"
#include "cipher/sm4.h"

namespace mindckpt::test {

namespace {

void append_u32(Bytes& bytes, size_t value) {
  for (int i = 0; i < 4; ++i, value >>= 8) bytes.push_back(static_cast<std::byte>(value));
}

// The ciphertext, and for GCM (a 12-byte IV, no additional data) the tag.
Bytes encrypt(const std::string& name, ByteView key, ByteView iv, ByteView plain, Bytes* tag) {
  const EvpCipher cipher(EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr));
  REQUIRE(cipher != nullptr);
  const EvpContext context(EVP_CIPHER_CTX_new());
  Bytes ciphertext(plain.size() + kCipherBlockBytes);
  int nbytes = 0;
  int rest = 0;
  REQUIRE(EVP_EncryptInit_ex2(context.get(), cipher.get(), uchars(key), uchars(iv), nullptr) == 1);
  REQUIRE(EVP_CIPHER_CTX_set_padding(context.get(), 0) == 1);
  REQUIRE(EVP_EncryptUpdate(context.get(), uchars(ByteSpan(ciphertext)), &nbytes, uchars(plain),
                            static_cast<int>(plain.size())) == 1);
  REQUIRE(EVP_EncryptFinal_ex(context.get(), nullptr, &rest) == 1);
  REQUIRE(static_cast<size_t>(nbytes) == plain.size());
  ciphertext.resize(plain.size());
  if (tag != nullptr) {
    tag->resize(kTagBytes);
    REQUIRE(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag->data()) == 1);
  }
  return ciphertext;
}

}  // namespace

std::string CipherKind::label() const {
  return std::string(cipher_mode_name(mode)) + " with " + std::to_string(key_nbytes) +
         " bytes of key";
}

const std::vector<CipherKind>& every_kind() {
  static const std::vector<CipherKind> kinds = [] {
    std::vector<CipherKind> found;
    for (const size_t key_nbytes : {16u, 24u, 32u}) {
      found.push_back({CipherMode::kAesGcm, key_nbytes});
      found.push_back({CipherMode::kAesCbc, key_nbytes});
    }
    if (!sm4_provider().empty()) found.push_back({CipherMode::kSm4Cbc, 16});
    return found;
  }();
  return kinds;
}

const std::vector<CipherKind>& every_mode() {
  static const std::vector<CipherKind> kinds = [] {
    std::vector<CipherKind> found{{CipherMode::kAesGcm, 32}, {CipherMode::kAesCbc, 16}};
    if (!sm4_provider().empty()) found.push_back({CipherMode::kSm4Cbc, 16});
    return found;
  }();
  return kinds;
}

Iv random_iv(Random& random) { return array_of<kIvBytes>(random.bytes(kIvBytes)); }

Bytes openssl_encrypt(const std::string& name, ByteView key, const Iv& iv, ByteView plain) {
  return encrypt(name, key, iv, plain, nullptr);
}

Bytes mindspore_frame(CipherMode mode, ByteView key, const Iv& iv, ByteView plain) {
  const std::string bits = std::to_string(key.size() * 8);
  Bytes padded(plain.begin(), plain.end());
  Bytes ciphertext;
  Bytes frame;
  Bytes tag;
  switch (mode) {
    case CipherMode::kAesGcm:
      frame = from_hex("d85e3a7f");
      ciphertext = encrypt("AES-" + bits + "-GCM", key, iv, plain, &tag);
      break;
    case CipherMode::kAesCbc:
    case CipherMode::kSm4Cbc: {
      const size_t padding = kCipherBlockBytes - plain.size() % kCipherBlockBytes;
      padded.insert(padded.end(), padding, static_cast<std::byte>(padding));
      const bool sm4 = mode == CipherMode::kSm4Cbc;
      frame = from_hex(sm4 ? "da5e3a7f" : "d95e3a7f");
      ciphertext = encrypt(sm4 ? "SM4-CBC" : "AES-" + bits + "-CBC", key, iv, padded, nullptr);
    }
  }
  frame.insert(frame.end(), tag.begin(), tag.end());
  append_u32(frame, 24 + ciphertext.size());
  append_u32(frame, iv.size());
  frame.insert(frame.end(), iv.begin(), iv.end());
  append_u32(frame, ciphertext.size());
  frame.insert(frame.end(), ciphertext.begin(), ciphertext.end());
  return frame;
}

std::vector<Bytes> split_frames(CipherMode mode, ByteView file) {
  const size_t before_length = mode == CipherMode::kAesGcm ? 20 : 4;
  std::vector<Bytes> frames;
  while (!file.empty()) {
    size_t nbytes = 0;
    for (size_t i = 4; i-- > 0;) {
      nbytes = nbytes << 8 | std::to_integer<size_t>(file[before_length + i]);
    }
    nbytes += before_length + 4;
    REQUIRE(nbytes <= file.size());
    frames.emplace_back(file.begin(), file.begin() + static_cast<ptrdiff_t>(nbytes));
    file = file.subspan(nbytes);
  }
  return frames;
}

Bytes join(const std::vector<Bytes>& parts) {
  Bytes whole;
  for (const Bytes& part : parts) whole.insert(whole.end(), part.begin(), part.end());
  return whole;
}

}  // namespace mindckpt::test
