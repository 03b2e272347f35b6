// A libgmssl.so.3 for the tests: the functions of GmSSL's <gmssl/sm4.h> that the engine may look
// for, over OpenSSL's SM4, with the habits of the real releases that a caller can stumble on.
//
// GMSSL_RELEASE is 30 for 3.0.0 to 3.1.1, whose CBC functions have no suffix, leave the IV alone
// and cannot decrypt in place; or 32 for 3.2.0, where they are named *_blocks, move the IV on, and
// cannot decrypt in place when they were built with AES-NI or AVX2.
#include <openssl/evp.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

struct Sm4Key {
  uint32_t words[32];  // the raw key, the direction, and something to fill all of it
};

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

void set_key(Sm4Key* key, const uint8_t* raw_key, uint32_t encrypt) {
  for (uint32_t& word : key->words) word = 0x5A5A5A5A;
  std::memcpy(key->words, raw_key, 16);
  key->words[4] = encrypt;
}

void crypt_block(const Sm4Key* key, const uint8_t* in, uint8_t* out) {
  // Kept while the key stays the same: setting one up takes far longer than a block.
  thread_local const std::unique_ptr<EVP_CIPHER_CTX, FreeContext> kept(EVP_CIPHER_CTX_new());
  thread_local Sm4Key current{};
  EVP_CIPHER_CTX* const context = kept.get();
  if (std::memcmp(&current, key, sizeof(current)) != 0) {
    current = *key;
    if (EVP_CipherInit_ex(context, EVP_sm4_ecb(), nullptr,
                          reinterpret_cast<const uint8_t*>(key->words), nullptr,
                          static_cast<int>(key->words[4])) != 1 ||
        EVP_CIPHER_CTX_set_padding(context, 0) != 1) {
      std::abort();
    }
  }
  int nbytes = 0;
  if (EVP_CipherUpdate(context, out, &nbytes, in, 16) != 1 || nbytes != 16) std::abort();
}

void exclusive_or(uint8_t* out, const uint8_t* in, const uint8_t* mask) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(in[i] ^ mask[i]);
}

// Both return where the last block of ciphertext lies.
const uint8_t* cbc_encrypt(const Sm4Key* key, const uint8_t* iv, const uint8_t* in, size_t blocks,
                           uint8_t* out) {
  for (; blocks > 0; --blocks, in += 16, out += 16) {
    uint8_t mixed[16];
    exclusive_or(mixed, in, iv);
    crypt_block(key, mixed, out);
    iv = out;
  }
  return iv;
}
const uint8_t* cbc_decrypt(const Sm4Key* key, const uint8_t* iv, const uint8_t* in, size_t blocks,
                           uint8_t* out) {
  for (; blocks > 0; --blocks, in += 16, out += 16) {
    crypt_block(key, in, out);
    exclusive_or(out, out, iv);
    iv = in;  // overwritten by now when out == in
  }
  return iv;
}

}  // namespace

#define GMSSL_EXPORT extern "C" __attribute__((visibility("default")))

GMSSL_EXPORT void sm4_set_encrypt_key(Sm4Key* key, const uint8_t* raw_key) {
  set_key(key, raw_key, 1);
}
GMSSL_EXPORT void sm4_set_decrypt_key(Sm4Key* key, const uint8_t* raw_key) {
  set_key(key, raw_key, 0);
}
// The key decides the direction, in all releases.
GMSSL_EXPORT void sm4_encrypt(const Sm4Key* key, const uint8_t* in, uint8_t* out) {
  crypt_block(key, in, out);
}

#if GMSSL_RELEASE == 30
GMSSL_EXPORT void sm4_cbc_encrypt(const Sm4Key* key, const uint8_t* iv, const uint8_t* in,
                                  size_t blocks, uint8_t* out) {
  cbc_encrypt(key, iv, in, blocks, out);
}
GMSSL_EXPORT void sm4_cbc_decrypt(const Sm4Key* key, const uint8_t* iv, const uint8_t* in,
                                  size_t blocks, uint8_t* out) {
  cbc_decrypt(key, iv, in, blocks, out);
}
#else
GMSSL_EXPORT void sm4_cbc_encrypt_blocks(const Sm4Key* key, uint8_t* iv, const uint8_t* in,
                                         size_t blocks, uint8_t* out) {
  std::memmove(iv, cbc_encrypt(key, iv, in, blocks, out), 16);
}
GMSSL_EXPORT void sm4_cbc_decrypt_blocks(const Sm4Key* key, uint8_t* iv, const uint8_t* in,
                                         size_t blocks, uint8_t* out) {
  std::memmove(iv, cbc_decrypt(key, iv, in, blocks, out), 16);
}
#endif
