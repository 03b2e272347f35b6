#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "base/cpu.h"
#include "cipher/cbc.h"
#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/random.h"

namespace mindckpt::test {

// A place in memory at any alignment, with bytes around it that must stay as they are.
class Guarded {
 public:
  Guarded(Random& random, size_t nbytes)
      : bytes_(nbytes + 2 * kGuard, std::byte{0xC5}), begin_(random.below(kGuard)), size_(nbytes) {}
  ByteSpan span() { return ByteSpan(bytes_).subspan(begin_, size_); }
  bool is_intact() const {
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + size_) && bytes_[i] != std::byte{0xC5}) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  Bytes bytes_;
  size_t begin_;
  size_t size_;
};

// Batches of random messages, encrypted by `cbc` at once, in random splits, equal what OpenSSL
// makes of each; and decrypting, in place and apart, gives them back.
inline void check_against_openssl(const std::string& name, ByteView key, const CbcTransform& cbc,
                                  Random& random) {
  for (size_t count : {1u, 2u, 3u, 7u, 8u, 9u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 130u}) {
    CAPTURE(count);
    const bool equal = random.one_in(2);
    const size_t most = random.pick<size_t>({8, 90, 300});
    const size_t same_nbytes = random.below(most) * kIvBytes;
    std::vector<Bytes> plain, expected;
    std::vector<Guarded> out;
    std::vector<CbcMessage> messages;
    std::vector<Iv> ivs;
    for (size_t i = 0; i < count; ++i) {
      plain.push_back(random.bytes(equal ? same_nbytes : random.below(most) * kIvBytes));
      ivs.push_back(random_iv(random));
      expected.push_back(openssl_encrypt(name, key, ivs[i], plain[i]));
      out.emplace_back(random, plain[i].size());
    }
    for (size_t i = 0; i < count; ++i) {
      const size_t first = random.below(plain[i].size() / kIvBytes + 1) * kIvBytes;
      messages.push_back({ivs[i], ByteView(plain[i]).first(first), out[i].span()});
    }
    cbc.encrypt_all(messages);
    for (size_t i = 0; i < count; ++i) {
      const size_t first = messages[i].plain.size();
      messages[i].plain = ByteView(plain[i]).subspan(first);
      messages[i].ciphertext = out[i].span().subspan(first);
    }
    cbc.encrypt_all(messages);
    for (size_t i = 0; i < count; ++i) {
      CHECK(test::same(out[i].span(), expected[i]));
      CHECK(out[i].is_intact());
      if (!expected[i].empty()) {
        CHECK(test::same(messages[i].chain, ByteView(expected[i]).last(kIvBytes)));
      }
      Guarded opened(random, plain[i].size());
      cbc.decrypt(ivs[i], expected[i], opened.span());
      CHECK(test::same(opened.span(), plain[i]));
      CHECK(opened.is_intact());
      cbc.decrypt(ivs[i], out[i].span(), out[i].span());
      CHECK(test::same(out[i].span(), plain[i]));
      CHECK(out[i].is_intact());
      Bytes in_place = plain[i];
      cbc.encrypt(ivs[i], in_place, in_place);
      CHECK(in_place == expected[i]);
    }
  }
}

}  // namespace mindckpt::test
