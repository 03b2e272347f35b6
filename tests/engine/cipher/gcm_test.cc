#include "cipher/gcm.h"

#include <doctest/doctest.h>

#include <string>

#include "cipher/kernels.h"

// ctest runs these cases once for each level of features too, see CMakeLists.txt.
namespace mindckpt {
namespace {

using test::Bytes;
using test::Guarded;
using test::Random;

// What `make` makes equals OpenSSL's GCM: apart and in place, at any alignment, and nothing is
// written beside the message.
template <typename Make>
void check_against_openssl(const Make& make, Random& random) {
  for (const size_t key_nbytes : {16u, 24u, 32u}) {
    CAPTURE(key_nbytes);
    const Bytes key = random.bytes(key_nbytes);
    const std::unique_ptr<GcmTransform> gcm = make(key);
    const auto openssl = make_openssl_aes_gcm(key);
    for (size_t i = 0; i < 400; ++i) {
      // Every length up to more than a chunk, then any, and one of a save's.
      const size_t nbytes = i < 290 ? i : i < 399 ? random.below(5000) : (size_t{2} << 20) + 5;
      CAPTURE(nbytes);
      const Bytes plain = random.bytes(nbytes);
      const Iv iv = random_iv(random);
      Bytes expected(nbytes);
      const Tag tag = openssl->encrypt(iv, plain, expected);
      Guarded sealed(random, nbytes);
      CHECK(gcm->encrypt(iv, plain, sealed.span()) == tag);
      CHECK(test::same(sealed.span(), expected));
      CHECK(sealed.is_intact());
      Guarded opened(random, nbytes);
      CHECK(gcm->decrypt(iv, tag, sealed.span(), opened.span()));
      CHECK(test::same(opened.span(), plain));
      CHECK(opened.is_intact());
      CHECK(gcm->encrypt(iv, opened.span(), opened.span()) == tag);
      CHECK(test::same(opened.span(), expected));
      CHECK(gcm->decrypt(iv, tag, opened.span(), opened.span()));
      CHECK(test::same(opened.span(), plain));
      CHECK(opened.is_intact());
    }
  }
}

TEST_CASE("every GCM kernel equals OpenSSL over random keys, lengths and alignments") {
  Random random(301);
  for (const GcmChoice& choice : gcm_choices()) {
    CAPTURE(std::string(choice.kernel->name));
    if (!cpu_features().contains(choice.needs)) {
      MESSAGE("not run: no " << cpu_feature_names(choice.needs) << " here for "
                             << std::string(choice.kernel->name));
      continue;
    }
    check_against_openssl([&](ByteView key) { return make_kernel_aes_gcm(*choice.kernel, key); },
                          random);
  }
}

TEST_CASE("GCM as it is picked here equals OpenSSL") {
  Random random(302);
  check_against_openssl([](ByteView key) { return make_aes_gcm(key); }, random);
}

TEST_CASE("GCM comes from a kernel wherever the processor has the instructions") {
  bool expected = false;
  for (const GcmChoice& choice : gcm_choices()) expected |= cpu_features().contains(choice.needs);
  CHECK((make_kernel_aes_gcm(Bytes(16)) != nullptr) == expected);
}

TEST_CASE("a change of any one bit of tag or ciphertext is noticed") {
  Random random(303);
  const Bytes key = random.bytes(32);
  const auto gcm = make_aes_gcm(key);
  const Iv iv = random_iv(random);
  for (const size_t nbytes : {0u, 1u, 15u, 16u, 100u, 256u, 300u, 700u}) {
    CAPTURE(nbytes);
    const Bytes plain = random.bytes(nbytes);
    Bytes text(nbytes);
    Tag tag = gcm->encrypt(iv, plain, text);
    Bytes opened(nbytes);
    REQUIRE(gcm->decrypt(iv, tag, text, opened));
    const auto flip = [](std::byte& byte, size_t bit) { byte ^= std::byte{1} << bit % 8; };
    for (size_t bit = 0; bit < 8 * kTagBytes; ++bit) {
      flip(tag[bit / 8], bit);
      CHECK_FALSE(gcm->decrypt(iv, tag, text, opened));
      flip(tag[bit / 8], bit);
    }
    for (size_t bit = 0; bit < 8 * nbytes; ++bit) {
      flip(text[bit / 8], bit);
      CHECK_FALSE(gcm->decrypt(iv, tag, text, opened));
      flip(text[bit / 8], bit);
    }
  }
}

TEST_CASE("a kernel that gives a wrong tag, or does not give back the text, is found out") {
  for (const GcmChoice& choice : gcm_choices()) {
    if (!cpu_features().contains(choice.needs)) continue;
    CHECK(gives_known_tags(*choice.kernel));
    GcmKernel no_text = *choice.kernel;
    no_text.open = no_text.seal;
    CHECK_FALSE(gives_known_tags(no_text));
    GcmKernel no_powers = *choice.kernel;
    no_powers.expand = [](GcmKey& key) {
      for (auto& power : key.powers) {
        for (uint8_t& byte : power) byte = 0;
      }
    };
    CHECK_FALSE(gives_known_tags(no_powers));
  }
}

}  // namespace
}  // namespace mindckpt
