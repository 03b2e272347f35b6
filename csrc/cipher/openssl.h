#pragma once

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/error.h"

namespace mindckpt {

struct OpensslFree {
  void operator()(EVP_CIPHER* cipher) const noexcept { EVP_CIPHER_free(cipher); }
  void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
};
using EvpCipher = std::unique_ptr<EVP_CIPHER, OpensslFree>;
using EvpContext = std::unique_ptr<EVP_CIPHER_CTX, OpensslFree>;

// For calls that fail only when OpenSSL itself does (memory, a provider gone): `ok` is their
// result. OpenSSL's own message is not quoted: it may name data.
inline void openssl_check(int ok, const char* call) {
  if (ok != 1) throw Error(ErrorKind::kInternal, std::string("OpenSSL: ") + call + " failed");
}

inline EvpContext new_evp_context() {
  EvpContext context(EVP_CIPHER_CTX_new());
  openssl_check(context != nullptr, "EVP_CIPHER_CTX_new");
  return context;
}

// AES in a mode, such as "GCM", for a key of 16, 24 or 32 bytes.
inline EvpCipher fetch_aes(ByteView key, const std::string& mode) {
  const std::string name = "AES-" + std::to_string(key.size() * 8) + "-" + mode;
  EvpCipher cipher(EVP_CIPHER_fetch(nullptr, name.c_str(), nullptr));
  openssl_check(cipher != nullptr, "EVP_CIPHER_fetch of AES");
  return cipher;
}

inline EvpContext start_evp(const EvpCipher& cipher, ByteView key, ByteView iv, int encrypt) {
  EvpContext context = new_evp_context();
  openssl_check(
      EVP_CipherInit_ex2(context.get(), cipher.get(), uchars(key), uchars(iv), encrypt, nullptr),
      "EVP_CipherInit_ex2");
  return context;
}

// EVP takes lengths as int: more is handed over in parts. As many bytes come out as go in.
inline void update_evp(const EvpContext& context, ByteView in, ByteSpan out) {
  constexpr size_t kPartBytes = size_t{1} << 30;
  for (size_t at = 0; at < in.size(); at += kPartBytes) {
    const size_t part = std::min(kPartBytes, in.size() - at);
    int written = 0;
    openssl_check(EVP_CipherUpdate(context.get(), uchars(out.subspan(at)), &written,
                                   uchars(in.subspan(at)), static_cast<int>(part)),
                  "EVP_CipherUpdate");
    MINDCKPT_CHECK(static_cast<size_t>(written) == part);
  }
}

}  // namespace mindckpt
