#include <openssl/crypto.h>

#include <array>

#include "base/error.h"
#include "cipher/gcm.h"
#include "cipher/key_memory.h"
#include "cipher/usable_kernels.h"

namespace mindckpt {

namespace {

class KernelGcm final : public GcmTransform {
 public:
  KernelGcm(const GcmKernel& kernel, ByteView key) : kernel_(kernel) {
    expand_aes_key(uchars(key), key.size(), key_->aes);
    kernel_.expand(*key_);
  }

  Tag encrypt(const Iv& iv, ByteView plain, ByteSpan ciphertext) const override {
    MINDCKPT_CHECK(ciphertext.size() >= plain.size());
    Tag tag;
    kernel_.seal(*key_, uchars(ByteView(iv)), uchars(plain), uchars(ciphertext), plain.size(),
                 uchars(ByteSpan(tag)));
    return tag;
  }

  bool decrypt(const Iv& iv, const Tag& tag, ByteView ciphertext, ByteSpan plain) const override {
    MINDCKPT_CHECK(plain.size() >= ciphertext.size());
    Tag expected;
    kernel_.open(*key_, uchars(ByteView(iv)), uchars(ciphertext), uchars(plain), ciphertext.size(),
                 uchars(ByteSpan(expected)));
    return CRYPTO_memcmp(expected.data(), tag.data(), tag.size()) == 0;
  }

 private:
  const GcmKernel& kernel_;
  KeyMemory<GcmKey> key_;
};

// The tags of answer bytes, as OpenSSL 3 makes them: 4 chunks, 3 blocks and 5 bytes.
constexpr size_t kAnswerBytes = 67 * 16 + 5;
struct KnownTag {
  size_t key_nbytes;
  std::array<uint8_t, kTagBytes> tag;
};
constexpr KnownTag kKnownTags[] = {
    {16,
     {0x9F, 0x06, 0x7D, 0xAD, 0x07, 0xE6, 0xAE, 0x59, 0x9E, 0x42, 0xC5, 0xF4, 0x50, 0xB2, 0xBA,
      0xB5}},
    {24,
     {0x67, 0xAC, 0x51, 0xDB, 0x91, 0x4E, 0xB8, 0x42, 0x64, 0x75, 0x72, 0x67, 0x08, 0x18, 0xC8,
      0x66}},
    {32,
     {0x64, 0xDB, 0x5C, 0x91, 0xA5, 0x15, 0x75, 0x39, 0x59, 0xF2, 0x32, 0xBE, 0x22, 0x69, 0x88,
      0xE6}},
};

const GcmKernel* fastest_kernel() {
  static const auto usable = usable_of(gcm_choices(), gives_known_tags);
  return usable.empty() ? nullptr : usable.front();
}

}  // namespace

std::span<const GcmChoice> gcm_choices() {
#if defined(__x86_64__)
  static const GcmChoice choices[] = {
      {&kGcmVaes256, CpuFeature::kAes | CpuFeature::kVaes | CpuFeature::kAvx2},
  };
  return choices;
#else
  return {};
#endif
}

bool gives_known_tags(const GcmKernel& kernel) {
  const std::array<uint8_t, 32> key = answer_bytes<32>(kAnswerKeyBegin);
  const std::array<uint8_t, kGcmIvBytes> iv = answer_bytes<kGcmIvBytes>(kAnswerIvBegin);
  const std::array<uint8_t, kAnswerBytes> plain = answer_bytes<kAnswerBytes>(0);
  for (const KnownTag& known : kKnownTags) {
    GcmKey expanded;
    expand_aes_key(key.data(), known.key_nbytes, expanded.aes);
    kernel.expand(expanded);
    std::array<uint8_t, kAnswerBytes> text;
    std::array<uint8_t, kTagBytes> tag;
    kernel.seal(expanded, iv.data(), plain.data(), text.data(), text.size(), tag.data());
    if (tag != known.tag) return false;
    kernel.open(expanded, iv.data(), text.data(), text.data(), text.size(), tag.data());
    if (tag != known.tag || text != plain) return false;
  }
  return true;
}

std::unique_ptr<GcmTransform> make_kernel_aes_gcm(ByteView key) {
  if (fastest_kernel() == nullptr) return nullptr;
  return make_kernel_aes_gcm(*fastest_kernel(), key);
}

std::unique_ptr<GcmTransform> make_kernel_aes_gcm(const GcmKernel& kernel, ByteView key) {
  return std::make_unique<KernelGcm>(kernel, key);
}

}  // namespace mindckpt
