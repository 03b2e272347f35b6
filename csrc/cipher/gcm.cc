#include <algorithm>
#include <string>

#include "base/error.h"
#include "cipher/iv.h"
#include "cipher/modes.h"
#include "cipher/openssl.h"
#include "cipher/secret.h"

namespace mindckpt {

namespace {

class GcmCipher final : public Cipher {
 public:
  explicit GcmCipher(ByteView key)
      : Cipher(CipherMode::kAesGcm),
        gcm_(fetch(key, "-GCM")),
        ctr_(fetch(key, "-CTR")),
        key_(key) {}

  uint64_t ciphertext_nbytes(uint64_t plain_nbytes) const override { return plain_nbytes; }

  // The IV is the number. The four bytes that GCM does not use stay zero: nothing vouches for them.
  Iv random_base() const override {
    Iv base{};
    fill_random(ByteSpan(base).first(kGcmIvBytes));
    return base;
  }
  Iv block_number(const Iv& base, uint64_t block) const override {
    return add_big_endian(base, block, kGcmIvBytes);
  }
  Iv iv_of(const Iv& number) const override { return number; }
  Iv number_of(const Iv& iv) const override {
    Iv number{};
    std::copy_n(iv.begin(), kGcmIvBytes, number.begin());
    return number;
  }

  void seal(ByteView plain, const Iv& iv, ByteSpan frame) const override {
    const ByteSpan ciphertext = frame.subspan(frame_header_nbytes(mode()), plain.size());
    FrameHeader header{mode(), {}, iv, plain.size()};
    const EvpContext context = start(gcm_, iv, 1);
    update(context, plain, ciphertext);
    int written = 0;
    openssl_check(EVP_CipherFinal_ex(context.get(), uchars(ciphertext), &written),
                  "EVP_CipherFinal_ex");
    openssl_check(
        EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, header.tag.data()),
        "EVP_CTRL_AEAD_GET_TAG");
    encode_frame_header(header, frame);
  }

  uint64_t open(const FrameHeader& header, ByteView ciphertext, ByteSpan plain) const override {
    if (plain.size() < ciphertext.size()) {
      throw Error(ErrorKind::kDecryption, "a block changed while it was read");
    }
    const EvpContext context = start(gcm_, header.iv, 0);
    update(context, ciphertext, plain);
    std::array<std::byte, kTagBytes> tag = header.tag;
    openssl_check(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()),
                  "EVP_CTRL_AEAD_SET_TAG");
    int written = 0;
    if (EVP_CipherFinal_ex(context.get(), uchars(plain), &written) != 1) {
      throw Error(ErrorKind::kDecryption,
                  "a block's authentication tag does not match: the key is wrong, or the file was "
                  "tampered with");
    }
    return ciphertext.size();
  }

  // GCM encrypts in counter mode; counter 1 makes the tag, so the data begin at 2.
  void peek(const FrameHeader& header, uint64_t offset, ByteView ciphertext,
            ByteSpan plain) const override {
    const size_t before = offset > 0 ? kCipherBlockBytes : 0;
    Iv counter{};
    std::copy_n(header.iv.begin(), kGcmIvBytes, counter.begin());
    counter = add_big_endian(counter, 2 + offset / kCipherBlockBytes, counter.size());
    const EvpContext context = start(ctr_, counter, 0);
    update(context, ciphertext.subspan(before), plain);
  }

  uint64_t tail_nbytes(const FrameHeader&) const override { return 0; }
  uint64_t plain_nbytes(const FrameHeader& header, ByteView) const override {
    return header.ciphertext_nbytes;
  }

 private:
  static constexpr size_t kGcmIvBytes = 12;

  static EvpCipher fetch(ByteView key, const char* mode) {
    const std::string name = "AES-" + std::to_string(key.size() * 8) + mode;
    EvpCipher cipher(EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr));
    openssl_check(cipher != nullptr, "EVP_CIPHER_fetch of AES");
    return cipher;
  }

  EvpContext start(const EvpCipher& cipher, const Iv& iv, int encrypt) const {
    EvpContext context = new_evp_context();
    openssl_check(EVP_CipherInit_ex2(context.get(), cipher.get(), uchars(key_.view()),
                                     uchars(ByteView(iv)), encrypt, nullptr),
                  "EVP_CipherInit_ex2");
    return context;
  }

  static void update(const EvpContext& context, ByteView in, ByteSpan out) {
    for (size_t at = 0; at < in.size(); at += kEvpPartBytes) {
      const size_t part = std::min(kEvpPartBytes, in.size() - at);
      int written = 0;
      openssl_check(EVP_CipherUpdate(context.get(), uchars(out.subspan(at)), &written,
                                     uchars(in.subspan(at)), static_cast<int>(part)),
                    "EVP_CipherUpdate");
    }
  }

  EvpCipher gcm_;
  EvpCipher ctr_;
  Secret key_;
};

}  // namespace

std::unique_ptr<Cipher> make_gcm_cipher(ByteView key) { return std::make_unique<GcmCipher>(key); }

}  // namespace mindckpt
