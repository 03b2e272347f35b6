#include <algorithm>
#include <array>
#include <cstring>

#include "base/dynamic_library.h"
#include "base/error.h"
#include "cipher/cbc.h"
#include "cipher/key_memory.h"

namespace mindckpt {

namespace {

// From GmSSL 3's <gmssl/sm4.h>: the expanded key, and the functions that are the same in all its
// releases but for one name.
struct Sm4Key {
  uint32_t round_keys[32];
};
using SetKey = void (*)(Sm4Key*, const uint8_t* raw_key);
using CbcBlocks = void (*)(const Sm4Key*, uint8_t* iv, const uint8_t* in, size_t num_blocks,
                           uint8_t* out);

struct Gmssl {
  SetKey set_encrypt_key = nullptr;
  SetKey set_decrypt_key = nullptr;
  CbcBlocks cbc_encrypt = nullptr;
  CbcBlocks cbc_decrypt = nullptr;

  bool complete() const {
    return set_encrypt_key != nullptr && set_decrypt_key != nullptr && cbc_encrypt != nullptr &&
           cbc_decrypt != nullptr;
  }
};

// The library stays loaded: it is looked for once, when SM4 is first wanted and OpenSSL has none.
const Gmssl& gmssl() {
  static const Gmssl loaded = [] {
    Gmssl api;
    std::string why;
    auto library = DynamicLibrary::load("libgmssl.so.3", DynamicLibrary::Symbols::kAtOnce, why);
    if (!library) {
      library = DynamicLibrary::load("libgmssl.so", DynamicLibrary::Symbols::kAtOnce, why);
    }
    if (!library) return api;
    api.set_encrypt_key = library->symbol("sm4_set_encrypt_key");
    api.set_decrypt_key = library->symbol("sm4_set_decrypt_key");
    api.cbc_encrypt = library->symbol("sm4_cbc_encrypt_blocks");
    api.cbc_decrypt = library->symbol("sm4_cbc_decrypt_blocks");
    // 3.1.1 renamed them.
    if (api.cbc_encrypt == nullptr) api.cbc_encrypt = library->symbol("sm4_cbc_encrypt");
    if (api.cbc_decrypt == nullptr) api.cbc_decrypt = library->symbol("sm4_cbc_decrypt");
    return api;
  }();
  return loaded;
}

class GmsslSm4Cbc final : public CbcTransform {
 public:
  explicit GmsslSm4Cbc(ByteView key) {
    gmssl().set_encrypt_key(&keys_->encrypt, uchars(key));
    gmssl().set_decrypt_key(&keys_->decrypt, uchars(key));
  }

  void encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const override {
    Iv chained = iv;  // some releases leave the last block here
    gmssl().cbc_encrypt(&keys_->encrypt, uchars(ByteSpan(chained)), uchars(plain),
                        plain.size() / sizeof(Iv), uchars(ciphertext));
  }
  // Several releases read the ciphertext after they wrote the plaintext over it, so it is handed
  // over in copies.
  void decrypt(const Iv& iv, ByteView ciphertext, ByteSpan plain) const override {
    Iv chained = iv;
    std::array<std::byte, kPartBytes> part;
    for (size_t at = 0; at < ciphertext.size(); at += part.size()) {
      const size_t nbytes = std::min(part.size(), ciphertext.size() - at);
      std::memcpy(part.data(), ciphertext.data() + at, nbytes);
      Iv next;
      std::memcpy(next.data(), part.data() + nbytes - kIvBytes, kIvBytes);
      gmssl().cbc_decrypt(&keys_->decrypt, uchars(ByteSpan(chained)), uchars(ByteView(part)),
                          nbytes / kIvBytes, uchars(plain.subspan(at)));
      chained = next;
    }
  }

 private:
  static constexpr size_t kPartBytes = 4096;

  struct Keys {
    Sm4Key encrypt;
    Sm4Key decrypt;
  };
  KeyMemory<Keys> keys_;
};

}  // namespace

std::unique_ptr<CbcTransform> make_gmssl_sm4_cbc(ByteView key) {
  if (!gmssl().complete()) return nullptr;
  return std::make_unique<GmsslSm4Cbc>(key);
}

}  // namespace mindckpt
