#include <algorithm>

#include "cipher/cbc.h"
#include "cipher/openssl.h"
#include "cipher/secret.h"

namespace mindckpt {

namespace {

class OpensslCbc final : public CbcTransform {
 public:
  OpensslCbc(EvpCipher cipher, ByteView key) : cipher_(std::move(cipher)), key_(key) {}

  void encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const override {
    transform(iv, plain, ciphertext, 1);
  }
  void decrypt(const Iv& iv, ByteView ciphertext, ByteSpan plain) const override {
    transform(iv, ciphertext, plain, 0);
  }

 private:
  void transform(const Iv& iv, ByteView in, ByteSpan out, int encrypt) const {
    MINDCKPT_CHECK(in.size() % sizeof(Iv) == 0 && out.size() >= in.size());
    const EvpContext context = new_evp_context();
    openssl_check(EVP_CipherInit_ex2(context.get(), cipher_.get(), uchars(key_.view()),
                                     uchars(ByteView(iv)), encrypt, nullptr),
                  "EVP_CipherInit_ex2");
    EVP_CIPHER_CTX_set_padding(context.get(), 0);
    for (size_t at = 0; at < in.size(); at += kEvpPartBytes) {
      const size_t part = std::min(kEvpPartBytes, in.size() - at);
      int written = 0;
      openssl_check(EVP_CipherUpdate(context.get(), uchars(out.subspan(at)), &written,
                                     uchars(in.subspan(at)), static_cast<int>(part)),
                    "EVP_CipherUpdate");
      MINDCKPT_CHECK(static_cast<size_t>(written) == part);
    }
  }

  EvpCipher cipher_;
  Secret key_;
};

}  // namespace

std::unique_ptr<CbcTransform> make_openssl_aes_cbc(ByteView key) {
  const std::string name = "AES-" + std::to_string(key.size() * 8) + "-CBC";
  EvpCipher cipher(EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr));
  openssl_check(cipher != nullptr, "EVP_CIPHER_fetch of AES-CBC");
  return std::make_unique<OpensslCbc>(std::move(cipher), key);
}

std::unique_ptr<CbcTransform> make_openssl_sm4_cbc(ByteView key) {
  EvpCipher cipher(EVP_CIPHER_fetch(nullptr, "SM4-CBC", nullptr));
  if (cipher == nullptr) return nullptr;
  return std::make_unique<OpensslCbc>(std::move(cipher), key);
}

}  // namespace mindckpt
