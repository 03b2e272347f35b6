#include "cipher/sm4.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "cipher/cipher.h"
#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/errors.h"

// ctest runs these cases several times: with OpenSSL's SM4, and with stand-ins for GmSSL's library
// (gmssl_stand_in.cc) in place of it.
namespace mindckpt {
namespace {

using test::Bytes;
using test::from_hex;
using test::hex;
using test::Random;

constexpr const char* kKey = "0123456789abcdeffedcba9876543210";

// nullptr, and the reason said, where there is no SM4.
std::unique_ptr<CbcTransform> sm4_or_skip(ByteView key) {
  auto cbc = make_sm4_cbc(key);
  if (cbc == nullptr) MESSAGE("skipped: neither OpenSSL nor GmSSL has SM4 here");
  return cbc;
}

TEST_CASE("SM4 matches the example of GB/T 32907") {
  const auto sm4 = sm4_or_skip(from_hex(kKey));
  if (!sm4) return;
  Bytes block = from_hex(kKey);  // the standard encrypts its key
  sm4->encrypt(Iv{}, block, block);
  CHECK(hex(block) == "681edf34d206965e86b3e94f536e4246");
  sm4->decrypt(Iv{}, block, block);
  CHECK(hex(block) == kKey);
}

TEST_CASE("SM4 matches the million encryptions of GB/T 32907") {
  const auto sm4 = sm4_or_skip(from_hex(kKey));
  if (!sm4) return;
  // Each block of zeros encrypts the block before it once more.
  Bytes zeros(size_t{1'000'000} * 16);
  sm4->encrypt(test::array_of<kIvBytes>(from_hex(kKey)), zeros, zeros);
  CHECK(hex(ByteView(zeros).last(16)) == "595298c7c6fd271f0402f804c33d3f66");
}

TEST_CASE("SM4-CBC matches the example of the IETF draft ribose-cfrg-sm4") {
  const auto sm4 = sm4_or_skip(from_hex(kKey));
  if (!sm4) return;
  const Bytes plain = from_hex("aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffffaaaaaaaabbbbbbbb");
  Bytes ciphertext(32);
  sm4->encrypt(test::array_of<kIvBytes>(from_hex("000102030405060708090a0b0c0d0e0f")), plain,
               ciphertext);
  CHECK(hex(ciphertext) == "78ebb11cc40b0a48312aaeb2040244cb4cb7016951909226979b0d15dc6a8f6d");
}

TEST_CASE("SM4-CBC equals OpenSSL's over random lengths both ways and in place") {
  if (make_openssl_sm4_cbc(Bytes(16)) == nullptr) {
    MESSAGE("skipped: this OpenSSL was built without SM4");
    return;
  }
  Random random(71);
  for (int i = 0; i < 200; ++i) {
    const Bytes key = random.bytes(16);
    const Iv iv = test::random_iv(random);
    const Bytes plain = random.bytes(random.below(random.one_in(2) ? 40 : 600) * 16);
    const Bytes expected = test::openssl_encrypt("SM4-CBC", key, iv, plain);
    const auto sm4 = make_sm4_cbc(key);
    REQUIRE(sm4 != nullptr);
    CAPTURE(plain.size());
    Bytes text(plain.size());
    sm4->encrypt(iv, plain, text);
    CHECK(text == expected);
    sm4->decrypt(iv, expected, text);
    CHECK(text == plain);
    sm4->encrypt(iv, text, text);
    CHECK(text == expected);
    sm4->decrypt(iv, text, text);
    CHECK(text == plain);
  }
}

TEST_CASE("SM4 blocks as MindSpore writes them open in place") {
  if (make_openssl_sm4_cbc(Bytes(16)) == nullptr) {
    MESSAGE("skipped: this OpenSSL was built without SM4");
    return;
  }
  Random random(72);
  for (size_t nbytes = 1; nbytes <= 100; ++nbytes) {
    const Bytes key = random.bytes(16);
    const Bytes plain = random.bytes(nbytes);
    Bytes frame = test::mindspore_frame(CipherMode::kSm4Cbc, key, test::random_iv(random), plain);
    const FrameHeader header = decode_frame_header(frame, CipherMode::kSm4Cbc);
    const ByteSpan text = ByteSpan(frame).subspan(32);
    const uint64_t opened = Cipher::create(CipherMode::kSm4Cbc, key)->open(header, text, text);
    CHECK(test::same(text.first(opened), plain));
  }
}

TEST_CASE("SM4 comes from the library that the environment asks for") {
  const char* asked = std::getenv(kSm4ProviderVariable);
  if (sm4_provider().empty()) {
    MESSAGE("skipped: neither OpenSSL nor GmSSL has SM4 here");
    return;
  }
  CHECK(sm4_provider() == (asked != nullptr                          ? std::string_view(asked)
                           : make_lane_sm4_cbc(Bytes(16)) != nullptr ? "lanes"
                                                                     : "openssl"));
}

TEST_CASE("SM4 that no library has is unavailable and the message says what was missing") {
  const char* asked = std::getenv(kSm4ProviderVariable);
  const std::optional<std::string> before =
      asked != nullptr ? std::optional<std::string>(asked) : std::nullopt;
  ::setenv(kSm4ProviderVariable, "none", 1);
  CHECK(sm4_provider() == "");
  const Error error = test::error_of([] { Cipher::create(CipherMode::kSm4Cbc, Bytes(16)); });
  CHECK(error.kind() == ErrorKind::kUnavailable);
  CHECK(test::message(error) == doctest::Contains("libgmssl.so.3"));
  if (before) {
    ::setenv(kSm4ProviderVariable, before->c_str(), 1);
  } else {
    ::unsetenv(kSm4ProviderVariable);
  }
}

}  // namespace
}  // namespace mindckpt
