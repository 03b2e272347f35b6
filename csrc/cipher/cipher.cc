#include "cipher/cipher.h"

#include <string>
#include <utility>

#include "base/error.h"
#include "cipher/modes.h"
#include "cipher/sm4.h"

namespace mindckpt {

namespace {

void check_key_nbytes(CipherMode mode, size_t nbytes) {
  const bool right =
      mode == CipherMode::kSm4Cbc ? nbytes == 16 : nbytes == 16 || nbytes == 24 || nbytes == 32;
  if (right) return;
  throw Error(ErrorKind::kInvalidArgument,
              std::string(cipher_mode_name(mode)) + " needs a key of " +
                  (mode == CipherMode::kSm4Cbc ? "16" : "16, 24 or 32") + " bytes, got " +
                  std::to_string(nbytes));
}

}  // namespace

std::unique_ptr<Cipher> Cipher::create(CipherMode mode, ByteView key) {
  check_key_nbytes(mode, key.size());
  switch (mode) {
    case CipherMode::kAesGcm:
      return make_gcm_cipher(key);
    case CipherMode::kAesCbc:
      return make_cbc_cipher(mode, make_openssl_aes_cbc(key));
    case CipherMode::kSm4Cbc:
      break;
  }
  auto sm4 = make_sm4_cbc(key);
  if (sm4 == nullptr) {
    throw Error(ErrorKind::kUnavailable,
                "SM4-CBC is not to be had here: this OpenSSL was built without SM4, and GmSSL's "
                "library (libgmssl.so.3) was not found");
  }
  return make_cbc_cipher(mode, std::move(sm4));
}

}  // namespace mindckpt
