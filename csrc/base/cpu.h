#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mindckpt {

// What the kernels ask of a processor. A feature is there when the processor has it and the
// operating system saves the registers that it needs.
enum class CpuFeature : uint32_t {
  kAes,     // x86: AES-NI with SSSE3; aarch64: the AES instructions
  kAvx2,    // x86
  kVaes,    // x86: AES and carry-less products on 256-bit registers, with kAvx512 on 512-bit ones
  kGfni,    // x86: likewise
  kAvx512,  // x86: F, BW and VL
  kNeon,    // aarch64
};

class CpuFeatures {
 public:
  constexpr CpuFeatures() = default;
  constexpr CpuFeatures(CpuFeature feature)  // NOLINT(google-explicit-constructor): a set of one
      : bits_(uint32_t{1} << static_cast<uint32_t>(feature)) {}

  constexpr bool contains(CpuFeatures others) const noexcept {
    return (others.bits_ & ~bits_) == 0;
  }
  friend constexpr CpuFeatures operator|(CpuFeatures a, CpuFeatures b) noexcept {
    return CpuFeatures(a.bits_ | b.bits_);
  }
  friend constexpr CpuFeatures operator&(CpuFeatures a, CpuFeatures b) noexcept {
    return CpuFeatures(a.bits_ & b.bits_);
  }
  bool operator==(const CpuFeatures&) const = default;

 private:
  constexpr explicit CpuFeatures(uint32_t bits) : bits_(bits) {}

  uint32_t bits_ = 0;
};

constexpr CpuFeatures operator|(CpuFeature a, CpuFeature b) noexcept {
  return CpuFeatures(a) | CpuFeatures(b);
}

// For tests: a comma-separated list of the only features to be used, of those that are there, such
// as "aes,avx2"; "" and "none" leave none. It can't add any.
inline constexpr char kCpuVariable[] = "MINDCKPT_CPU";

// What is there and the environment leaves. Asked once: what changes later is not seen. Throws
// Error(kInvalidArgument) for a name in kCpuVariable that is no feature's.
CpuFeatures cpu_features();

// Reads such a list.
CpuFeatures parse_cpu_features(std::string_view names);
// Writes one.
std::string cpu_feature_names(CpuFeatures features);

}  // namespace mindckpt
