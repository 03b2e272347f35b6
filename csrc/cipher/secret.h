#pragma once

#include <algorithm>

#include "base/bytes.h"
#include "cipher/key_memory.h"

namespace mindckpt {

// A key's bytes, wiped when they are no longer needed. Never printed, never compared.
class Secret {
 public:
  explicit Secret(ByteView bytes) : pages_(bytes.size()) {
    std::ranges::copy(bytes, pages_.bytes().begin());
  }

  ByteView view() const { return pages_.bytes(); }  // throws as KeyPages::bytes does

 private:
  KeyPages pages_;
};

}  // namespace mindckpt
