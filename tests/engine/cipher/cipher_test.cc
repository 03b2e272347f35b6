#include "cipher/cipher.h"

#include <doctest/doctest.h>

#include <numeric>
#include <thread>

#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/errors.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::CipherKind;
using test::error_of;
using test::mindspore_frame;
using test::Random;

Bytes sealed(const Cipher& cipher, ByteView plain, const Iv& iv) {
  Bytes frame(cipher.frame_nbytes(plain.size()));
  cipher.seal(plain, iv, frame);
  return frame;
}

// Opens a whole frame, in place.
Bytes opened(const Cipher& cipher, ByteView frame) {
  const FrameHeader header = decode_frame_header(frame, cipher.mode());
  const ByteView ciphertext = frame.subspan(frame_header_nbytes(cipher.mode()));
  Bytes text(ciphertext.begin(), ciphertext.end());
  text.resize(cipher.open(header, text, text));
  return text;
}

// 1 to 70, and the sizes around the limits of what a library may do at once.
std::vector<size_t> interesting_sizes() {
  std::vector<size_t> sizes(70);
  std::iota(sizes.begin(), sizes.end(), size_t{1});
  for (const size_t limit : {128u, 256u, 4096u, 65536u}) {
    for (const size_t nbytes : {limit - 1, limit, limit + 1}) sizes.push_back(nbytes);
  }
  return sizes;
}

TEST_CASE("sealed blocks equal those that OpenSSL makes as MindSpore does") {
  Random random(61);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const Bytes key = random.bytes(kind.key_nbytes);
    const auto cipher = kind.make(key);
    for (const size_t nbytes : interesting_sizes()) {
      CAPTURE(nbytes);
      const Bytes plain = random.bytes(nbytes);
      const Iv iv = test::random_iv(random);
      CHECK(sealed(*cipher, plain, iv) == mindspore_frame(kind.mode, key, iv, plain));
    }
  }
}

TEST_CASE("blocks as MindSpore writes them open in place and apart") {
  Random random(62);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const Bytes key = random.bytes(kind.key_nbytes);
    const auto cipher = kind.make(key);
    for (const size_t nbytes : interesting_sizes()) {
      CAPTURE(nbytes);
      const Bytes plain = random.bytes(nbytes);
      const Bytes frame = mindspore_frame(kind.mode, key, test::random_iv(random), plain);
      CHECK(opened(*cipher, frame) == plain);
      const ByteView ciphertext = ByteView(frame).subspan(frame_header_nbytes(kind.mode));
      Bytes apart(ciphertext.size());
      const FrameHeader header = decode_frame_header(frame, kind.mode);
      apart.resize(cipher->open(header, ciphertext, apart));
      CHECK(apart == plain);
    }
  }
}

TEST_CASE("a block of no bytes is padding in CBC and still opens") {
  for (const CipherKind& kind : test::every_mode()) {
    if (kind.mode == CipherMode::kAesGcm) continue;
    const auto cipher = kind.make(Bytes(kind.key_nbytes));
    CHECK(opened(*cipher, sealed(*cipher, {}, Iv{})).empty());
  }
}

TEST_CASE("the length of a block's plaintext is known from the tail of its ciphertext") {
  Random random(63);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    for (const size_t nbytes : interesting_sizes()) {
      const Bytes frame = sealed(*cipher, random.bytes(nbytes), test::random_iv(random));
      const ByteView ciphertext = ByteView(frame).subspan(frame_header_nbytes(kind.mode));
      const FrameHeader header = decode_frame_header(frame, kind.mode);
      CHECK(cipher->tail_nbytes(header) <= 2 * kCipherBlockBytes);
      const ByteView tail = ciphertext.last(cipher->tail_nbytes(header));
      CHECK(cipher->plain_nbytes(header, tail) == nbytes);
    }
  }
}

TEST_CASE("a peek at random ranges shows what opening the block gives") {
  Random random(64);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    for (int i = 0; i < 200; ++i) {
      const Bytes plain = random.bytes(random.between(1, 700));
      const Bytes frame = sealed(*cipher, plain, test::random_iv(random));
      const FrameHeader header = decode_frame_header(frame, kind.mode);
      const ByteView ciphertext = ByteView(frame).subspan(frame_header_nbytes(kind.mode));
      const size_t blocks = (ciphertext.size() + 15) / 16;
      const size_t first = random.below(blocks);
      const size_t begin = first * 16;
      const size_t end = std::min(random.between(first + 1, blocks) * 16, ciphertext.size());
      const size_t before = begin > 0 ? 16 : 0;
      CAPTURE(begin);
      CAPTURE(end);
      Bytes shown(end - begin);
      cipher->peek(header, begin, ciphertext.subspan(begin - before, end - begin + before), shown);
      const ByteView expected =
          ByteView(plain).first(std::min(end, plain.size())).subspan(std::min(begin, plain.size()));
      CHECK(test::same(ByteView(shown).first(expected.size()), expected));  // padding may follow
    }
  }
}

// In GCM the counter is 32 bits of 16 bytes, after an IV that a carry must not reach.
TEST_CASE("a peek far into a GCM block counts as OpenSSL does") {
  Random random(65);
  const Bytes key = random.bytes(32);
  const auto cipher = Cipher::create(CipherMode::kAesGcm, key);
  const Bytes plain = random.bytes(size_t{300} << 12);
  const Iv iv = test::array_of<kIvBytes>(Bytes(16, std::byte{0xFF}));
  const Bytes frame = mindspore_frame(CipherMode::kAesGcm, key, iv, plain);
  const FrameHeader header = decode_frame_header(frame, CipherMode::kAesGcm);
  for (const size_t begin : {size_t{253} * 16, size_t{65533} * 16}) {
    Bytes shown(64);
    cipher->peek(header, begin, ByteView(frame).subspan(48 + begin - 16, 80), shown);
    CHECK(test::same(shown, ByteView(plain).subspan(begin, 64)));
  }
}

TEST_CASE("a GCM block with any bit of tag or ciphertext or used IV flipped is refused") {
  Random random(66);
  const auto cipher = Cipher::create(CipherMode::kAesGcm, random.bytes(16));
  const Bytes frame = sealed(*cipher, random.bytes(21), test::random_iv(random));
  const auto flipped = [&](size_t at, int bit) {
    Bytes copy = frame;
    copy[at] ^= static_cast<std::byte>(1 << bit);
    return copy;
  };
  const auto is_in = [](size_t at, size_t begin, size_t nbytes) {
    return at >= begin && at < begin + nbytes;
  };
  for (size_t at = 0; at < frame.size(); ++at) {
    if (!is_in(at, 4, 16) && !is_in(at, 28, 12) && !is_in(at, 48, 21)) continue;
    for (int bit = 0; bit < 8; ++bit) {
      CAPTURE(at);
      CHECK(error_of([&] { opened(*cipher, flipped(at, bit)); }).kind() == ErrorKind::kDecryption);
    }
  }
  // What MindSpore stores there plays no part.
  for (size_t at = 40; at < 44; ++at) CHECK(opened(*cipher, flipped(at, 0)).size() == 21);
}

TEST_CASE("a GCM block that is shorter or longer by a byte is refused") {
  Random random(67);
  const auto cipher = Cipher::create(CipherMode::kAesGcm, random.bytes(16));
  const Bytes frame = sealed(*cipher, random.bytes(40), test::random_iv(random));
  for (const int more : {-1, 1}) {
    Bytes changed = frame;
    changed.resize(static_cast<size_t>(static_cast<int>(frame.size()) + more));
    FrameHeader header = decode_frame_header(frame, CipherMode::kAesGcm);
    encode_frame_header({header.mode, header.tag, header.iv, changed.size() - 48}, changed);
    CHECK(error_of([&] { opened(*cipher, changed); }).kind() == ErrorKind::kDecryption);
  }
}

TEST_CASE("a wrong key is refused") {
  Random random(68);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    Bytes key = random.bytes(kind.key_nbytes);
    const Bytes frame = sealed(*kind.make(key), random.bytes(100), test::random_iv(random));
    for (int bit = 0; bit < 8; ++bit) {
      key[random.below(key.size())] ^= static_cast<std::byte>(1 << bit);
      const auto wrong = kind.make(key);
      CHECK(error_of([&] { opened(*wrong, frame); }).kind() == ErrorKind::kDecryption);
    }
  }
}

TEST_CASE("padding that is not PKCS#7 is refused") {
  Random random(69);
  for (const CipherKind& kind : test::every_mode()) {
    if (kind.mode == CipherMode::kAesGcm) continue;
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    const auto end_with = [&](std::string_view last) {
      // One more cipher block of padding would follow; leaving it out makes `last` the end.
      Bytes frame = sealed(*cipher, test::from_hex(last), test::random_iv(random));
      frame.resize(32 + 16);
      encode_frame_header({kind.mode, {}, decode_frame_header(frame, kind.mode).iv, 16}, frame);
      return frame;
    };
    for (const auto last : {"00000000000000000000000000000000", "00000000000000000000000000000011",
                            "000000000000000000000000000000ff", "00000000000000000000000000000102",
                            "11101010101010101010101010101010"}) {
      CAPTURE(last);
      const Bytes frame = end_with(last);
      const FrameHeader header = decode_frame_header(frame, kind.mode);
      const ByteView ciphertext = ByteView(frame).subspan(32);
      CHECK(error_of([&] { opened(*cipher, frame); }).kind() == ErrorKind::kDecryption);
      CHECK(error_of([&] { cipher->plain_nbytes(header, ciphertext); }).kind() ==
            ErrorKind::kDecryption);
    }
    CHECK(opened(*cipher, end_with("00000000000000000000000000000202")).size() == 14);
    CHECK(opened(*cipher, end_with("10101010101010101010101010101010")).empty());
  }
}

TEST_CASE("keys of the wrong length are refused with the right ones and never shown") {
  for (const auto mode : {CipherMode::kAesGcm, CipherMode::kAesCbc, CipherMode::kSm4Cbc}) {
    for (size_t nbytes = 0; nbytes <= 64; ++nbytes) {
      const bool aes = mode != CipherMode::kSm4Cbc;
      if (nbytes == 16 || (aes && (nbytes == 24 || nbytes == 32))) continue;
      const Error error = error_of([&] { Cipher::create(mode, Bytes(nbytes, std::byte{'K'})); });
      CHECK(error.kind() == ErrorKind::kInvalidArgument);
      CHECK(test::message(error) ==
            (std::string(cipher_mode_name(mode)) + " needs a key of " +
             (aes ? "16, 24 or 32" : "16") + " bytes, got " + std::to_string(nbytes))
                .c_str());
    }
  }
}

TEST_CASE("only GCM notices every change to a block") {
  for (const CipherKind& kind : test::every_kind()) {
    const auto cipher = kind.make(Bytes(kind.key_nbytes));
    CHECK(cipher->authenticates() == (kind.mode == CipherMode::kAesGcm));
  }
}

TEST_CASE("one cipher serves several threads at once") {
  Random random(70);
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const auto cipher = kind.make(random.bytes(kind.key_nbytes));
    const Bytes plain = random.bytes(1000);
    const Bytes frame = sealed(*cipher, plain, Iv{});
    std::atomic<int> wrong{0};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20; ++i) {
          if (sealed(*cipher, plain, Iv{}) != frame) ++wrong;
          if (opened(*cipher, frame) != plain) ++wrong;
          const Iv number = cipher->random_base();
          if (cipher->number_of(cipher->iv_of(number)) != number) ++wrong;
        }
      });
    }
    threads.clear();
    CHECK(wrong.load() == 0);
  }
}

}  // namespace
}  // namespace mindckpt
