#include <utility>

#include "cipher/gcm.h"
#include "cipher/openssl.h"
#include "cipher/secret.h"

namespace mindckpt {

namespace {

class OpensslGcm final : public GcmTransform {
 public:
  OpensslGcm(EvpCipher cipher, ByteView key) : cipher_(std::move(cipher)), key_(key) {}

  Tag encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const override {
    const EvpContext context = start_evp(cipher_, key_.view(), iv, 1);
    update_evp(context, plain, ciphertext);
    int written = 0;
    openssl_check(EVP_CipherFinal_ex(context.get(), uchars(ciphertext), &written),
                  "EVP_CipherFinal_ex");
    Tag tag;
    openssl_check(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()),
                  "EVP_CTRL_AEAD_GET_TAG");
    return tag;
  }

  bool decrypt(const Iv& iv, const Tag& tag, ByteView ciphertext, ByteSpan plain) const override {
    const EvpContext context = start_evp(cipher_, key_.view(), iv, 0);
    update_evp(context, ciphertext, plain);
    Tag expected = tag;  // OpenSSL takes no pointer to const
    openssl_check(
        EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, expected.data()),
        "EVP_CTRL_AEAD_SET_TAG");
    int written = 0;
    return EVP_CipherFinal_ex(context.get(), uchars(plain), &written) == 1;
  }

 private:
  EvpCipher cipher_;
  Secret key_;
};

}  // namespace

std::unique_ptr<GcmTransform> make_openssl_aes_gcm(ByteView key) {
  return std::make_unique<OpensslGcm>(fetch_aes(key, "GCM"), key);
}

}  // namespace mindckpt
