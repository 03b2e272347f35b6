#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>

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

// EVP takes lengths as int; more is handed over in parts of this size.
inline constexpr size_t kEvpPartBytes = size_t{1} << 30;

}  // namespace mindckpt
