#include "cipher/lane_aes_cbc.h"

#include "cipher/lane_cbc.h"

namespace mindckpt {

namespace {

// The last 16 bytes of the answers' message in CBC, as OpenSSL 3 encrypts it.
struct KeyAnswer {
  size_t key_nbytes;
  Answer answer;
};
constexpr KeyAnswer kAnswers[] = {
    {16,
     {0x6F, 0x4F, 0x8D, 0x4D, 0x3B, 0xA1, 0x1C, 0x3F, 0xAE, 0x14, 0x96, 0x9C, 0xC6, 0xD8, 0x8C,
      0xDD}},
    {24,
     {0x69, 0x8D, 0x47, 0x12, 0x6B, 0xB7, 0x7D, 0x85, 0xC5, 0x64, 0xE9, 0x9F, 0x34, 0x53, 0x17,
      0xDA}},
    {32,
     {0x8F, 0x10, 0x0E, 0x28, 0x04, 0x05, 0xAC, 0x15, 0x8B, 0x05, 0xFE, 0xC0, 0xA8, 0x4E, 0x74,
      0xEE}},
};

bool passes(const AesCbcKernel& kernel) {
  const std::array<uint8_t, 32> key = answer_bytes<32>(kAnswerKeyBegin);
  for (const KeyAnswer& known : kAnswers) {
    AesSchedule schedule;
    expand_aes_key(key.data(), known.key_nbytes, schedule);
    if (!gives_answer(kernel, schedule, known.answer)) return false;
  }
  return true;
}

const std::vector<const AesCbcKernel*>& usable_kernels() {
  static const auto usable = usable_of(aes_cbc_choices(), passes);
  return usable;
}

}  // namespace

std::span<const AesCbcChoice> aes_cbc_choices() {
  static const AesCbcChoice choices[] = {
#if defined(__x86_64__)
      {&kAesCbcVaes512, CpuFeature::kAes | CpuFeature::kVaes | CpuFeature::kAvx512},
      {&kAesCbcVaes256, CpuFeature::kAes | CpuFeature::kVaes | CpuFeature::kAvx2},
      {&kAesCbcAesni, CpuFeature::kAes},
#elif defined(__aarch64__)
      {&kAesCbcNeon, CpuFeature::kAes},
#endif
  };
  return choices;
}

std::unique_ptr<CbcTransform> make_lane_aes_cbc(ByteView key) {
  if (usable_kernels().empty()) return nullptr;
  return std::make_unique<LaneCbc<AesSchedule>>(usable_kernels(), [&](AesSchedule& schedule) {
    expand_aes_key(uchars(key), key.size(), schedule);
  });
}

}  // namespace mindckpt
