#include "cipher/cbc.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

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
    Frame one{plain, iv, frame};
    seal_all({&one, 1});
  }

  void seal_run(ByteView plain, uint64_t frame_bytes, const Iv& first_number,
                ByteSpan frames) const override {
    std::vector<Frame> run;
    run.reserve(plain.size() / frame_bytes + 1);
    std::vector<CbcMessage> ivs;
    ivs.reserve(run.capacity());
    do {  // once for no bytes, too
      const ByteView part = plain.first(std::min<uint64_t>(frame_bytes, plain.size()));
      run.push_back({part, block_number(first_number, run.size()), frames});
      plain = plain.subspan(part.size());
      frames = frames.subspan(frame_nbytes(part.size()));
    } while (!plain.empty());
    for (Frame& frame : run) ivs.push_back({{}, frame.iv, frame.iv});
    cbc_->encrypt_all(ivs);
    seal_all(run);
  }

  uint64_t open(const FrameHeader& header, ByteView body, ByteView end,
                ByteSpan plain) const override {
    // The end first, and aside: it has the padding, which is not to be written, and is chained from
    // what may be overwritten.
    std::array<std::byte, kCipherBlockBytes> last;
    cbc_->decrypt(chain_behind(header, body), end, last);
    const size_t in_last = kCipherBlockBytes - checked_padding(last);
    if (plain.size() < body.size() + in_last) {
      throw Error(ErrorKind::kDecryption,
                  "a block is longer than was expected: it was not saved here, or changed while it "
                  "was read");
    }
    cbc_->decrypt(header.iv, body, plain);
    std::copy_n(last.begin(), in_last, plain.begin() + static_cast<ptrdiff_t>(body.size()));
    return body.size() + in_last;
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
    std::array<std::byte, kCipherBlockBytes> last;
    const ByteView before = tail.first(tail.size() - kCipherBlockBytes);
    cbc_->decrypt(chain_behind(header, before), tail.last(kCipherBlockBytes), last);
    return header.ciphertext_nbytes - checked_padding(last);
  }

 private:
  // A frame to be made, and the IV that it gets.
  struct Frame {
    ByteView plain;
    Iv iv;
    ByteSpan frame;
  };

  void seal_all(std::span<Frame> frames) const {
    std::vector<CbcMessage> messages;
    messages.reserve(frames.size());
    for (const Frame& frame : frames) {
      const uint64_t nbytes = ciphertext_nbytes(frame.plain.size());
      encode_frame_header({mode(), {}, frame.iv, nbytes}, frame.frame);
      const size_t whole = frame.plain.size() - frame.plain.size() % kCipherBlockBytes;
      messages.push_back({frame.iv, frame.plain.first(whole),
                          frame.frame.subspan(frame_header_nbytes(mode()), nbytes)});
    }
    cbc_->encrypt_all(messages);
    // What is left over is padded aside, in place in the frame.
    for (size_t i = 0; i < frames.size(); ++i) {
      CbcMessage& message = messages[i];
      const ByteView tail = frames[i].plain.subspan(message.plain.size());
      const ByteSpan last = message.ciphertext.subspan(message.plain.size(), kCipherBlockBytes);
      std::ranges::fill(last, static_cast<std::byte>(kCipherBlockBytes - tail.size()));
      std::ranges::copy(tail, last.begin());
      message.plain = message.ciphertext = last;
    }
    cbc_->encrypt_all(messages);
  }

  // What the cipher block behind this much of a ciphertext is chained from.
  static Iv chain_behind(const FrameHeader& header, ByteView ciphertext) {
    Iv chain = header.iv;
    if (!ciphertext.empty()) std::ranges::copy(ciphertext.last(kIvBytes), chain.begin());
    return chain;
  }

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

std::unique_ptr<CbcTransform> make_aes_cbc(ByteView key) {
  auto lanes = make_lane_aes_cbc(key);
  return lanes != nullptr ? std::move(lanes) : make_openssl_aes_cbc(key);
}

std::unique_ptr<Cipher> make_cbc_cipher(CipherMode mode, std::unique_ptr<CbcTransform> cbc) {
  return std::make_unique<CbcCipher>(mode, std::move(cbc));
}

}  // namespace mindckpt
