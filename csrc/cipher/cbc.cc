#include "cipher/cbc.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "cipher/iv.h"
#include "cipher/modes.h"

namespace mindckpt {

namespace {

class CbcCipher final : public Cipher {
 public:
  CbcCipher(CipherMode mode, std::unique_ptr<CbcTransform> cbc)
      : Cipher(mode), cbc_(std::move(cbc)) {}

  uint64_t ciphertext_nbytes(uint64_t plain_nbytes) const override {
    return plain_nbytes - plain_nbytes % kCipherBlockBytes + kCipherBlockBytes;
  }

  // CBC's IVs must not be predictable: a block's is its number encrypted under the key (NIST SP
  // 800-38A, appendix C).
  Iv random_base() const override {
    Iv base;
    fill_random(base);
    return base;
  }
  Iv block_number(const Iv& base, uint64_t block) const override {
    return add_big_endian(base, block, kIvBytes);
  }
  Iv iv_of(const Iv& number) const override {
    Iv iv;
    cbc_->encrypt(Iv{}, number, iv);
    return iv;
  }
  Iv number_of(const Iv& iv) const override {
    Iv number;
    cbc_->decrypt(Iv{}, iv, number);
    return number;
  }

  void seal(ByteView plain, const Iv& iv, ByteSpan frame) const override {
    const uint64_t nbytes = ciphertext_nbytes(plain.size());
    encode_frame_header({mode(), {}, iv, nbytes}, frame);
    const ByteSpan ciphertext = frame.subspan(frame_header_nbytes(mode()), nbytes);
    const size_t whole = plain.size() - plain.size() % kCipherBlockBytes;
    cbc_->encrypt(iv, plain.first(whole), ciphertext);

    std::array<std::byte, kCipherBlockBytes> last;
    const ByteView tail = plain.subspan(whole);
    last.fill(static_cast<std::byte>(kCipherBlockBytes - tail.size()));
    std::copy(tail.begin(), tail.end(), last.begin());
    Iv previous = iv;
    if (whole > 0) {
      std::memcpy(previous.data(), ciphertext.data() + whole - kCipherBlockBytes, kIvBytes);
    }
    cbc_->encrypt(previous, last, ciphertext.subspan(whole));
  }

  uint64_t open(const FrameHeader& header, ByteView ciphertext, ByteSpan plain) const override {
    cbc_->decrypt(header.iv, ciphertext, plain);
    return ciphertext.size() - checked_padding(plain.first(ciphertext.size()));
  }

  void peek(const FrameHeader& header, uint64_t offset, ByteView ciphertext,
            ByteSpan plain) const override {
    Iv previous = header.iv;
    if (offset > 0) {
      std::memcpy(previous.data(), ciphertext.data(), kIvBytes);
      ciphertext = ciphertext.subspan(kCipherBlockBytes);
    }
    cbc_->decrypt(previous, ciphertext, plain);
  }

  // The last cipher block tells the padding; the one before it, when there is one, is its IV.
  uint64_t tail_nbytes(const FrameHeader& header) const override {
    return std::min<uint64_t>(2 * kCipherBlockBytes, header.ciphertext_nbytes);
  }
  uint64_t plain_nbytes(const FrameHeader& header, ByteView tail) const override {
    Iv previous = header.iv;
    if (tail.size() > kCipherBlockBytes) std::memcpy(previous.data(), tail.data(), kIvBytes);
    std::array<std::byte, kCipherBlockBytes> last;
    cbc_->decrypt(previous, tail.last(kCipherBlockBytes), last);
    return header.ciphertext_nbytes - checked_padding(last);
  }

 private:
  static size_t checked_padding(ByteView plain) {
    const auto padding = std::to_integer<size_t>(plain.back());
    const bool right =
        padding >= 1 && padding <= kCipherBlockBytes &&
        std::ranges::all_of(plain.last(padding), [&](std::byte b) { return b == plain.back(); });
    if (!right) {
      throw Error(ErrorKind::kDecryption,
                  "a block's padding is wrong: the key is wrong, or the file is damaged");
    }
    return padding;
  }

  std::unique_ptr<CbcTransform> cbc_;
};

}  // namespace

std::unique_ptr<Cipher> make_cbc_cipher(CipherMode mode, std::unique_ptr<CbcTransform> cbc) {
  return std::make_unique<CbcCipher>(mode, std::move(cbc));
}

}  // namespace mindckpt
