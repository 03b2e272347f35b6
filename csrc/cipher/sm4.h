#pragma once

#include <memory>
#include <string_view>

#include "base/bytes.h"
#include "cipher/cbc.h"

namespace mindckpt {

// Set to "gmssl" to pass OpenSSL's SM4 over, as where it was built without; for tests.
inline constexpr char kSm4ProviderVariable[] = "MINDCKPT_SM4_PROVIDER";

// SM4-CBC from OpenSSL, else from GmSSL's library; nullptr where neither has it.
std::unique_ptr<CbcTransform> make_sm4_cbc(ByteView key);

// Which of them make_sm4_cbc takes: "openssl", "gmssl", or "" for none.
std::string_view sm4_provider();

}  // namespace mindckpt
