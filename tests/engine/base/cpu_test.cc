#include "base/cpu.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "support/errors.h"

namespace mindckpt {
namespace {

TEST_CASE("a list of processor features is read and written") {
  CHECK(parse_cpu_features("") == CpuFeatures());
  CHECK(parse_cpu_features("none") == CpuFeatures());
  CHECK(parse_cpu_features("avx2,aes") == (CpuFeature::kAes | CpuFeature::kAvx2));
  CHECK(cpu_feature_names(CpuFeature::kVaes | CpuFeature::kAes) == "aes,vaes");
  CHECK(cpu_feature_names({}) == "none");
}

TEST_CASE("a feature that there is not is named with those there are") {
  const Error error = test::error_of([] { parse_cpu_features("aes,avx3"); });
  CHECK(error.kind() == ErrorKind::kInvalidArgument);
  CHECK(test::message(error) ==
        "MINDCKPT_CPU: 'avx3' is no feature; there are aes,avx2,vaes,gfni,avx512,neon");
}

TEST_CASE("the environment's list takes features away and adds none") {
  const char* const only = std::getenv(kCpuVariable);
  if (only == nullptr) {
    MESSAGE("skipped: the environment names no features");
    return;
  }
  CHECK(parse_cpu_features(only).contains(cpu_features()));
}

}  // namespace
}  // namespace mindckpt
