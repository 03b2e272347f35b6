#include "cipher/gcm.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cipher/modes.h"
#include "cipher/openssl.h"
#include "cipher/secret.h"

namespace mindckpt {

namespace {

class GcmCipher final : public Cipher {
 public:
  explicit GcmCipher(ByteView key)
      : Cipher(CipherMode::kAesGcm),
        gcm_(make_aes_gcm(key)),
        ctr_(fetch_aes(key, "CTR")),
        key_(key) {}

  uint64_t ciphertext_nbytes(uint64_t plain_nbytes) const override { return plain_nbytes; }

  // The IV is the number. The four bytes that GCM does not use stay zero: nothing vouches for them.
  Iv random_base() const override {
    Iv base{};
    fill_random(ByteSpan(base).first(kGcmIvBytes));
    return base;
  }
  Iv block_number(const Iv& base, uint64_t block) const override {
    return add_big_endian(base, block, kGcmIvBytes);
  }
  Iv iv_of(const Iv& number) const override { return number; }
  Iv number_of(const Iv& iv) const override {
    Iv number{};
    std::copy_n(iv.begin(), kGcmIvBytes, number.begin());
    return number;
  }

  void seal(ByteView plain, const Iv& iv, ByteSpan frame) const override {
    const ByteSpan ciphertext = frame.subspan(frame_header_nbytes(mode()), plain.size());
    const Tag tag = gcm_->encrypt(iv, plain, ciphertext);
    encode_frame_header({mode(), tag, iv, plain.size()}, frame);
  }

  uint64_t open(const FrameHeader& header, ByteView body, ByteView, ByteSpan plain) const override {
    if (plain.size() < body.size()) {
      throw Error(ErrorKind::kDecryption,
                  "a block is longer than was expected: it was not saved here, or changed while it "
                  "was read");
    }
    if (!gcm_->decrypt(header.iv, header.tag, body, plain)) {
      throw Error(ErrorKind::kDecryption,
                  "a block's authentication tag does not match: the key is wrong, or the file was "
                  "tampered with");
    }
    return body.size();
  }

  // GCM encrypts in counter mode; counter 1 makes the tag, so the data begin at 2.
  void peek(const FrameHeader& header, uint64_t offset, ByteView ciphertext,
            ByteSpan plain) const override {
    const size_t before = offset > 0 ? kCipherBlockBytes : 0;
    Iv counter{};
    std::copy_n(header.iv.begin(), kGcmIvBytes, counter.begin());
    counter = add_big_endian(counter, 2 + offset / kCipherBlockBytes, counter.size());
    const EvpContext context = start_evp(ctr_, key_.view(), counter, 0);
    update_evp(context, ciphertext.subspan(before), plain);
  }

  uint64_t tail_nbytes(const FrameHeader&) const override { return 0; }
  uint64_t plain_nbytes(const FrameHeader& header, ByteView) const override {
    return header.ciphertext_nbytes;
  }

 private:
  std::unique_ptr<GcmTransform> gcm_;
  EvpCipher ctr_;  // which peeks
  Secret key_;
};

// From 3.1 on, OpenSSL has a GCM of its own for AVX-512 with VAES. Which is the faster one depends
// on the processor.
bool openssl_has_avx512() {
  return OpenSSL_version_num() >= 0x30100000 && cpu_features().contains(CpuFeature::kAvx512);
}

// The fastest of some seals of a buffer that fits the cache.
std::chrono::steady_clock::duration seal_time(const GcmTransform& gcm) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::byte> text(size_t{64} << 10);
  auto best = Clock::duration::max();
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    gcm.encrypt(Iv{}, text, text);
    best = std::min(best, Clock::now() - start);
  }
  return best;
}

bool openssl_beats_kernel() {
  const std::array<std::byte, 32> key{};  // nobody's
  const auto kernel = make_kernel_aes_gcm(key);
  return kernel == nullptr || seal_time(*make_openssl_aes_gcm(key)) < seal_time(*kernel);
}

}  // namespace

std::unique_ptr<GcmTransform> make_aes_gcm(ByteView key) {
  static const bool openssl_is_faster = openssl_has_avx512() && openssl_beats_kernel();
  auto kernel = openssl_is_faster ? nullptr : make_kernel_aes_gcm(key);
  return kernel != nullptr ? std::move(kernel) : make_openssl_aes_gcm(key);
}

std::unique_ptr<Cipher> make_gcm_cipher(ByteView key) { return std::make_unique<GcmCipher>(key); }

}  // namespace mindckpt
