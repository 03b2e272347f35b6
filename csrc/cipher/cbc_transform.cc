#include <algorithm>

#include "cipher/cbc.h"

namespace mindckpt {

void CbcTransform::encrypt_all(std::span<CbcMessage> messages) const {
  for (CbcMessage& message : messages) {
    if (message.plain.empty()) continue;
    encrypt(message.chain, message.plain, message.ciphertext);
    std::ranges::copy(message.ciphertext.subspan(message.plain.size() - kIvBytes, kIvBytes),
                      message.chain.begin());
  }
}

}  // namespace mindckpt
