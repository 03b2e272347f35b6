#pragma once

#include <openssl/crypto.h>

#include <vector>

#include "base/bytes.h"

namespace mindckpt {

// A key's bytes, wiped when they are no longer needed. Never printed, never compared.
class Secret {
 public:
  explicit Secret(ByteView bytes) : bytes_(bytes.begin(), bytes.end()) {}
  ~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;

  ByteView view() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace mindckpt
