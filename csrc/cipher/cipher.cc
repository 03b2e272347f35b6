#include "cipher/cipher.h"

#include <algorithm>
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
      return make_cbc_cipher(mode, make_aes_cbc(key));
    case CipherMode::kSm4Cbc:
      break;
  }
  auto sm4 = make_sm4_cbc(key);
  if (sm4 == nullptr) {
    throw Error(
        ErrorKind::kUnavailable,
        "SM4-CBC is not to be had here: this processor lacks the instructions (AVX2 with AES "
        "or GFNI; on ARM, AES), this OpenSSL was built without SM4, and GmSSL's library "
        "(libgmssl.so.3) was not found");
  }
  return make_cbc_cipher(mode, std::move(sm4));
}

void Cipher::seal_run(ByteView plain, uint64_t frame_bytes, const Iv& first_number,
                      ByteSpan frames) const {
  uint64_t number = 0;
  do {  // once for no bytes, too
    const ByteView part = plain.first(std::min<uint64_t>(frame_bytes, plain.size()));
    const uint64_t nbytes = frame_nbytes(part.size());
    seal(part, iv_of(block_number(first_number, number++)), frames.first(nbytes));
    plain = plain.subspan(part.size());
    frames = frames.subspan(nbytes);
  } while (!plain.empty());
}

uint64_t Cipher::frames_nbytes(uint64_t plain_nbytes, uint64_t frame_bytes) const {
  const uint64_t whole = plain_nbytes / frame_bytes;
  const uint64_t rest = plain_nbytes % frame_bytes;
  return whole * frame_nbytes(frame_bytes) + (rest > 0 ? frame_nbytes(rest) : 0);
}

}  // namespace mindckpt
