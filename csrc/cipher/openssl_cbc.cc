#include <utility>

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
    const EvpContext context = start_evp(cipher_, key_.view(), iv, encrypt);
    EVP_CIPHER_CTX_set_padding(context.get(), 0);
    update_evp(context, in, out);
  }

  EvpCipher cipher_;
  Secret key_;
};

}  // namespace

std::unique_ptr<CbcTransform> make_openssl_aes_cbc(ByteView key) {
  return std::make_unique<OpensslCbc>(fetch_aes(key, "CBC"), key);
}

std::unique_ptr<CbcTransform> make_openssl_sm4_cbc(ByteView key) {
  EvpCipher cipher(EVP_CIPHER_fetch(nullptr, "SM4-CBC", nullptr));
  if (cipher == nullptr) return nullptr;
  return std::make_unique<OpensslCbc>(std::move(cipher), key);
}

}  // namespace mindckpt
