// The kernels against the reference, without OpenSSL or a test framework: for processors that this
// machine can only emulate. Prints what ran; exits with 1 when something differs.
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#include "base/cpu.h"
#include "cipher/lane_aes_cbc.h"
#include "cipher/lane_sm4_cbc.h"
#include "cipher/reference.h"

namespace mindckpt {
namespace {

using reference::Key;
using Text = std::vector<uint8_t>;

std::mt19937_64 random_numbers(20240117);

size_t below(size_t end) { return random_numbers() % end; }
Text random_text(size_t nbytes) {
  Text text(nbytes);
  for (uint8_t& byte : text) byte = static_cast<uint8_t>(random_numbers());
  return text;
}

using BlockCipher = void (*)(const Key&, uint8_t*);

Text reference_cbc(BlockCipher cipher, const Key& key, const Text& iv, Text text) {
  const uint8_t* before = iv.data();
  for (size_t at = 0; at < text.size(); at += 16) {
    for (size_t i = 0; i < 16; ++i) text[at + i] = static_cast<uint8_t>(text[at + i] ^ before[i]);
    cipher(key, text.data() + at);
    before = text.data() + at;
  }
  return text;
}

template <typename Schedule>
bool equals_reference(const CbcKernel<Schedule>& kernel, const Schedule& schedule,
                      BlockCipher cipher, const Key& key) {
  for (const size_t num_blocks : {size_t{1}, 1 + below(9), 1 + below(300)}) {
    const size_t nbytes = num_blocks * 16;
    std::vector<Text> ivs, plain, expected, out;
    std::vector<size_t> skew;
    std::vector<CbcLane> lanes(kernel.num_lanes);
    for (size_t i = 0; i < lanes.size(); ++i) {
      ivs.push_back(random_text(16));
      plain.push_back(random_text(nbytes));
      expected.push_back(reference_cbc(cipher, key, ivs[i], plain[i]));
      out.emplace_back(nbytes + 32);
      skew.push_back(below(32));
    }
    for (size_t i = 0; i < lanes.size(); ++i) {
      lanes[i].in = plain[i].data();
      lanes[i].out = out[i].data() + skew[i];
      std::memcpy(lanes[i].chain, ivs[i].data(), 16);
    }
    kernel.encrypt(schedule, lanes.data(), num_blocks);
    for (size_t i = 0; i < lanes.size(); ++i) {
      uint8_t* const text = lanes[i].out;
      const uint8_t* const last = expected[i].data() + nbytes - 16;
      if (std::memcmp(text, expected[i].data(), nbytes) != 0) return false;
      if (std::memcmp(lanes[i].chain, last, 16) != 0) return false;
      Text chain = ivs[i];
      Text apart(nbytes);
      kernel.decrypt(schedule, chain.data(), expected[i].data(), apart.data(), num_blocks);
      if (apart != plain[i] || std::memcmp(chain.data(), last, 16) != 0) return false;
      chain = ivs[i];
      kernel.decrypt(schedule, chain.data(), text, text, num_blocks);
      if (std::memcmp(text, plain[i].data(), nbytes) != 0) return false;
    }
  }
  return true;
}

// FIPS 197's appendix C.1 and GB/T 32907's example.
bool reference_is_right() {
  Key key(16);
  Text block(16);
  for (size_t i = 0; i < 16; ++i) {
    key[i] = static_cast<uint8_t>(i);
    block[i] = static_cast<uint8_t>(0x11 * i);
  }
  reference::aes_encrypt(key, block.data());
  if (block != Text{0x69, 0xC4, 0xE0, 0xD8, 0x6A, 0x7B, 0x04, 0x30, 0xD8, 0xCD, 0xB7, 0x80, 0x70,
                    0xB4, 0xC5, 0x5A}) {
    return false;
  }
  key = block = {0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF,
                 0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10};
  reference::sm4_encrypt(key, block.data());
  return block == Text{0x68, 0x1E, 0xDF, 0x34, 0xD2, 0x06, 0x96, 0x5E,
                       0x86, 0xB3, 0xE9, 0x4F, 0x53, 0x6E, 0x42, 0x46};
}

int report(const char* cipher, const char* kernel, bool usable, bool right) {
  std::printf("%s by %s: %s\n", cipher, kernel,
              !usable ? "not run, the processor lacks it"
              : right ? "right"
                      : "WRONG");
  return usable && !right ? 1 : 0;
}

int run() {
  std::printf("features: %s\n", cpu_feature_names(cpu_features()).c_str());
  int wrong = report("the examples of the standards", "the reference", true, reference_is_right());
  for (const AesCbcChoice& choice : aes_cbc_choices()) {
    const bool usable = cpu_features().contains(choice.needs);
    bool right = true;
    for (const size_t key_nbytes : {16u, 24u, 32u}) {
      if (!usable) break;
      const Key key = random_text(key_nbytes);
      AesSchedule schedule;
      expand_aes_key(key.data(), key.size(), schedule);
      right &= equals_reference(*choice.kernel, schedule, reference::aes_encrypt, key);
    }
    wrong += report("AES-CBC", choice.kernel->name, usable, right);
  }
  for (const Sm4CbcChoice& choice : sm4_cbc_choices()) {
    const bool usable = cpu_features().contains(choice.needs);
    bool right = true;
    for (int i = 0; i < 3 && usable; ++i) {
      const Key key = random_text(16);
      Sm4Schedule schedule;
      expand_sm4_key(key.data(), schedule);
      right &= equals_reference(*choice.kernel, schedule, reference::sm4_encrypt, key);
    }
    wrong += report("SM4-CBC", choice.kernel->name, usable, right);
  }
  // Found usable by the answers that are kept beside the kernels, too.
  const std::vector<std::byte> key(16);
  wrong += report("AES-CBC", "the one that is picked", cpu_features().contains(CpuFeature::kAes),
                  make_lane_aes_cbc(key) != nullptr);
  return wrong;
}

}  // namespace
}  // namespace mindckpt

int main() { return mindckpt::run() == 0 ? 0 : 1; }
