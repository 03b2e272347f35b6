#include "base/cpu.h"

#include <cstdlib>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mindckpt {

namespace {

struct Named {
  std::string_view name;
  CpuFeature feature;
};

constexpr Named kNames[] = {
    {"aes", CpuFeature::kAes},   {"avx2", CpuFeature::kAvx2},     {"vaes", CpuFeature::kVaes},
    {"gfni", CpuFeature::kGfni}, {"avx512", CpuFeature::kAvx512}, {"neon", CpuFeature::kNeon},
};

#if defined(__x86_64__)

// The state that the operating system saves: XCR0.
uint64_t saved_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Intel's Software Developer's Manual, volume 1, chapters 12 and 15, and volume 2, CPUID.
CpuFeatures detect() {
  const auto all_of = [](uint64_t word, uint64_t bits) { return (word & bits) == bits; };
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  CpuFeatures found;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return found;
  if (all_of(ecx, bit_AES | bit_SSSE3)) found = found | CpuFeature::kAes;
  if (!all_of(ecx, bit_AVX | bit_OSXSAVE)) return found;
  const uint64_t saved = saved_state();
  constexpr uint64_t kYmm = 0x06;  // SSE and AVX
  constexpr uint64_t kZmm = 0xE6;  // and the masks, the upper halves, and the upper 16 registers
  if (!all_of(saved, kYmm) || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return found;
  if (!all_of(ebx, bit_AVX2)) return found;
  found = found | CpuFeature::kAvx2;
  if (all_of(ecx, bit_VAES | bit_VPCLMULQDQ)) found = found | CpuFeature::kVaes;
  if (all_of(ecx, bit_GFNI)) found = found | CpuFeature::kGfni;
  if (all_of(saved, kZmm) && all_of(ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512VL)) {
    found = found | CpuFeature::kAvx512;
  }
  return found;
}

#elif defined(__aarch64__)

CpuFeatures detect() {
  CpuFeatures found = CpuFeature::kNeon;  // ARMv8 has it
  if ((getauxval(AT_HWCAP) & HWCAP_AES) != 0) found = found | CpuFeature::kAes;
  return found;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

CpuFeatures parse_cpu_features(std::string_view names) {
  CpuFeatures features;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    const std::string_view name = names.substr(0, comma);
    names = comma == std::string_view::npos ? "" : names.substr(comma + 1);
    if (name.empty() || name == "none") continue;
    bool known = false;
    for (const Named& candidate : kNames) {
      if (candidate.name != name) continue;
      features = features | candidate.feature;
      known = true;
    }
    if (!known) {
      throw Error(ErrorKind::kInvalidArgument,
                  std::string(kCpuVariable) + ": '" + std::string(name) +
                      "' is no feature; there are " +
                      cpu_feature_names(parse_cpu_features("aes,avx2,vaes,gfni,avx512,neon")));
    }
  }
  return features;
}

std::string cpu_feature_names(CpuFeatures features) {
  std::string names;
  for (const Named& candidate : kNames) {
    if (!features.contains(candidate.feature)) continue;
    if (!names.empty()) names += ',';
    names += candidate.name;
  }
  return names.empty() ? "none" : names;
}

CpuFeatures cpu_features() {
  static const CpuFeatures features = [] {
    const char* const only = std::getenv(kCpuVariable);
    return only == nullptr ? detect() : detect() & parse_cpu_features(only);
  }();
  return features;
}

}  // namespace mindckpt
