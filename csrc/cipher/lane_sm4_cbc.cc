#include "cipher/lane_sm4_cbc.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "base/wipe.h"
#include "cipher/lane_cbc.h"

namespace mindckpt {

namespace {

constexpr std::array<uint8_t, 256> kSbox = {
    0xd6, 0x90, 0xe9, 0xfe, 0xcc, 0xe1, 0x3d, 0xb7, 0x16, 0xb6, 0x14, 0xc2, 0x28, 0xfb, 0x2c, 0x05,
    0x2b, 0x67, 0x9a, 0x76, 0x2a, 0xbe, 0x04, 0xc3, 0xaa, 0x44, 0x13, 0x26, 0x49, 0x86, 0x06, 0x99,
    0x9c, 0x42, 0x50, 0xf4, 0x91, 0xef, 0x98, 0x7a, 0x33, 0x54, 0x0b, 0x43, 0xed, 0xcf, 0xac, 0x62,
    0xe4, 0xb3, 0x1c, 0xa9, 0xc9, 0x08, 0xe8, 0x95, 0x80, 0xdf, 0x94, 0xfa, 0x75, 0x8f, 0x3f, 0xa6,
    0x47, 0x07, 0xa7, 0xfc, 0xf3, 0x73, 0x17, 0xba, 0x83, 0x59, 0x3c, 0x19, 0xe6, 0x85, 0x4f, 0xa8,
    0x68, 0x6b, 0x81, 0xb2, 0x71, 0x64, 0xda, 0x8b, 0xf8, 0xeb, 0x0f, 0x4b, 0x70, 0x56, 0x9d, 0x35,
    0x1e, 0x24, 0x0e, 0x5e, 0x63, 0x58, 0xd1, 0xa2, 0x25, 0x22, 0x7c, 0x3b, 0x01, 0x21, 0x78, 0x87,
    0xd4, 0x00, 0x46, 0x57, 0x9f, 0xd3, 0x27, 0x52, 0x4c, 0x36, 0x02, 0xe7, 0xa0, 0xc4, 0xc8, 0x9e,
    0xea, 0xbf, 0x8a, 0xd2, 0x40, 0xc7, 0x38, 0xb5, 0xa3, 0xf7, 0xf2, 0xce, 0xf9, 0x61, 0x15, 0xa1,
    0xe0, 0xae, 0x5d, 0xa4, 0x9b, 0x34, 0x1a, 0x55, 0xad, 0x93, 0x32, 0x30, 0xf5, 0x8c, 0xb1, 0xe3,
    0x1d, 0xf6, 0xe2, 0x2e, 0x82, 0x66, 0xca, 0x60, 0xc0, 0x29, 0x23, 0xab, 0x0d, 0x53, 0x4e, 0x6f,
    0xd5, 0xdb, 0x37, 0x45, 0xde, 0xfd, 0x8e, 0x2f, 0x03, 0xff, 0x6a, 0x72, 0x6d, 0x6c, 0x5b, 0x51,
    0x8d, 0x1b, 0xaf, 0x92, 0xbb, 0xdd, 0xbc, 0x7f, 0x11, 0xd9, 0x5c, 0x41, 0x1f, 0x10, 0x5a, 0xd8,
    0x0a, 0xc1, 0x31, 0x88, 0xa5, 0xcd, 0x7b, 0xbd, 0x2d, 0x74, 0xd0, 0x12, 0xb8, 0xe5, 0xb4, 0xb0,
    0x89, 0x69, 0x97, 0x4a, 0x0c, 0x96, 0x77, 0x7e, 0x65, 0xb9, 0xf1, 0x09, 0xc5, 0x6e, 0xc6, 0x84,
    0x18, 0xf0, 0x7d, 0xec, 0x3a, 0xdc, 0x4d, 0x20, 0x79, 0xee, 0x5f, 0x3e, 0xd7, 0xcb, 0x39, 0x48,
};

// Reads all of the table: which entry it wants shows in no address.
uint32_t sub_byte(uint32_t byte) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < kSbox.size(); ++i) {
    const uint32_t is_wanted = ((i ^ byte) - 1) >> 8 & 0xFF;  // 0xFF where i == byte, else 0
    found |= kSbox[i] & is_wanted;
  }
  return found;
}

uint32_t sub_word(uint32_t word) {
  uint32_t out = 0;
  for (int shift = 0; shift < 32; shift += 8) out |= sub_byte(word >> shift & 0xFF) << shift;
  return out;
}

// What the kernels take for a round key k: M k ^ c in each byte, in memory order; see
// kernels/sm4_cbc_lanes.h.
uint32_t kernel_key(uint32_t key) {
  constexpr uint64_t kM = 0x4C287DB91A22505D;  // row by row, that of bit 7 in the lowest byte
  constexpr uint32_t kC = 0x3E;
  uint32_t out = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    uint32_t byte = kC;
    for (int bit = 0; bit < 8; ++bit) {
      const auto row = static_cast<uint32_t>(kM >> (8 * (7 - bit)) & 0xFF);
      byte ^= static_cast<uint32_t>(std::popcount(row & (key >> shift & 0xFF)) & 1) << bit;
    }
    out = out << 8 | byte;
  }
  return out;
}

// As OpenSSL 3 encrypts the answers' message.
constexpr Answer kAnswer = {0x79, 0xD2, 0xC3, 0xDD, 0x1D, 0x03, 0xC4, 0xC1,
                            0xBE, 0xD5, 0x85, 0x9A, 0x7D, 0x39, 0x3A, 0x76};

bool passes(const Sm4CbcKernel& kernel) {
  const std::array<uint8_t, 16> key = answer_bytes<16>(kAnswerKeyBegin);
  Sm4Schedule schedule;
  expand_sm4_key(key.data(), schedule);
  return gives_answer(kernel, schedule, kAnswer);
}

CpuFeatures needs_of(const Sm4CbcKernel* kernel) {
  const auto choices = sm4_cbc_choices();
  return std::ranges::find(choices, kernel, &Sm4CbcChoice::kernel)->needs;
}

const std::vector<const Sm4CbcKernel*>& usable_kernels() {
  static const auto usable = [] {
    auto found = usable_of(sm4_cbc_choices(), passes);
    // What is narrow among the slower instructions would take what is short from the faster ones.
    const auto is_of_first = [&](const Sm4CbcKernel* kernel) {
      return needs_of(kernel) == needs_of(found.front());
    };
    std::erase_if(found, [&](const Sm4CbcKernel* kernel) { return !is_of_first(kernel); });
    return found;
  }();
  return usable;
}

}  // namespace

void expand_sm4_key(const unsigned char* key, Sm4Schedule& schedule) {
  constexpr uint32_t kFamilyKey[4] = {0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC};
  uint32_t k[4];
  for (size_t i = 0; i < 4; ++i) {
    const unsigned char* const at = key + 4 * i;
    k[i] = kFamilyKey[i] ^
           (uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]});
  }
  for (uint32_t i = 0; i < 32; ++i) {
    uint32_t constant = 0;  // CK[i]
    for (uint32_t j = 0; j < 4; ++j) constant = constant << 8 | ((4 * i + j) * 7 & 0xFF);
    const uint32_t sum = sub_word(k[1] ^ k[2] ^ k[3] ^ constant);
    const uint32_t round_key = k[0] ^ sum ^ std::rotl(sum, 13) ^ std::rotl(sum, 23);
    k[0] = k[1];
    k[1] = k[2];
    k[2] = k[3];
    k[3] = round_key;
    const uint32_t in_kernel = kernel_key(round_key);
    schedule.encrypt[i] = schedule.decrypt[31 - i] = in_kernel;
    for (uint32_t j = 0; j < 4; ++j) {
      const uint32_t byte = (in_kernel >> (8 * j) & 0xFF) * 0x01010101;
      schedule.encrypt_bytes[4 * i + j] = schedule.decrypt_bytes[4 * (31 - i) + j] = byte;
    }
  }
  wipe(k, sizeof(k));
}

std::span<const Sm4CbcChoice> sm4_cbc_choices() {
  static const Sm4CbcChoice choices[] = {
#if defined(__x86_64__)
      {&kSm4CbcGfni512, CpuFeature::kGfni | CpuFeature::kAvx512},
      {&kSm4CbcGfni512Narrow, CpuFeature::kGfni | CpuFeature::kAvx512},
      {&kSm4CbcGfni256, CpuFeature::kGfni | CpuFeature::kAvx2},
      {&kSm4CbcGfni256Narrow, CpuFeature::kGfni | CpuFeature::kAvx2},
      {&kSm4CbcVaes256, CpuFeature::kVaes | CpuFeature::kAvx2},
      {&kSm4CbcVaes256Narrow, CpuFeature::kVaes | CpuFeature::kAvx2},
      {&kSm4CbcAesni, CpuFeature::kAes | CpuFeature::kAvx2},
      {&kSm4CbcAesniNarrow, CpuFeature::kAes | CpuFeature::kAvx2},
#elif defined(__aarch64__)
      {&kSm4CbcNeon, CpuFeature::kAes},
#endif
  };
  return choices;
}

std::unique_ptr<CbcTransform> make_lane_sm4_cbc(ByteView key) {
  if (usable_kernels().empty()) return nullptr;
  return std::make_unique<LaneCbc<Sm4Schedule>>(
      usable_kernels(), [&](Sm4Schedule& schedule) { expand_sm4_key(uchars(key), schedule); });
}

}  // namespace mindckpt
