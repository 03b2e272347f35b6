#pragma once

#include <memory>
#include <string_view>

#include "base/bytes.h"
#include "cipher/cbc.h"

namespace mindckpt {

// Set to "openssl" or "gmssl" for that one alone, as where there is no other; for tests.
inline constexpr char kSm4ProviderVariable[] = "MINDCKPT_SM4_PROVIDER";

// SM4-CBC by kernels of our own where the processor has the instructions, else from OpenSSL, else
// from GmSSL's library; nullptr where there is none of them.
std::unique_ptr<CbcTransform> make_sm4_cbc(ByteView key);

// Which of them make_sm4_cbc takes: "lanes", "openssl", "gmssl", or "" for none.
std::string_view sm4_provider();

}  // namespace mindckpt
