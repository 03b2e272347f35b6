#include "cipher/sm4.h"

#include <array>
#include <cstdlib>
#include <utility>

#include "cipher/frame.h"

namespace mindckpt {

namespace {

struct Provider {
  std::string_view name;
  std::unique_ptr<CbcTransform> (*make)(ByteView key);
};

constexpr Provider kProviders[] = {
    {"lanes", make_lane_sm4_cbc},
    {"openssl", make_openssl_sm4_cbc},
    {"gmssl", make_gmssl_sm4_cbc},
};

// The first provider that has SM4, with what it made.
std::pair<std::string_view, std::unique_ptr<CbcTransform>> pick(ByteView key) {
  const char* only = std::getenv(kSm4ProviderVariable);
  for (const Provider& provider : kProviders) {
    if (only != nullptr && provider.name != only) continue;
    if (auto cbc = provider.make(key)) return {provider.name, std::move(cbc)};
  }
  return {"", nullptr};
}

}  // namespace

std::unique_ptr<CbcTransform> make_sm4_cbc(ByteView key) { return pick(key).second; }

std::string_view sm4_provider() {
  const std::array<std::byte, kCipherBlockBytes> key{};
  return pick(key).first;
}

}  // namespace mindckpt
