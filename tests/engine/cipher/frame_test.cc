#include "cipher/frame.h"

#include <doctest/doctest.h>

#include "support/bytes.h"
#include "support/errors.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::error_of;
using test::from_hex;
using test::hex;

constexpr const char* kIv = "000102030405060708090a0b0c0d0e0f";
constexpr const char* kTag = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

FrameHeader header_of(CipherMode mode, uint64_t ciphertext_nbytes) {
  return {mode, test::array_of<kTagBytes>(from_hex(kTag)), test::array_of<kIvBytes>(from_hex(kIv)),
          ciphertext_nbytes};
}

Bytes encoded(const FrameHeader& header) {
  Bytes bytes(frame_header_nbytes(header.mode));
  encode_frame_header(header, bytes);
  return bytes;
}

Error refusal(CipherMode mode, const Bytes& bytes) {
  return error_of([&] { decode_frame_header(bytes, mode); });
}

TEST_CASE("frame headers match the bytes of the format's documentation") {
  CHECK(encoded(header_of(CipherMode::kAesGcm, 5)) ==
        from_hex("d85e3a7f f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff 1d000000 10000000"
                 "000102030405060708090a0b0c0d0e0f 05000000"));
  CHECK(encoded(header_of(CipherMode::kAesCbc, 0x010200)) ==
        from_hex("d95e3a7f 18020100 10000000 000102030405060708090a0b0c0d0e0f 00020100"));
  CHECK(encoded(header_of(CipherMode::kSm4Cbc, 16)) ==
        from_hex("da5e3a7f 28000000 10000000 000102030405060708090a0b0c0d0e0f 10000000"));
}

TEST_CASE("frame headers read back as they were written") {
  for (const auto mode : {CipherMode::kAesGcm, CipherMode::kAesCbc, CipherMode::kSm4Cbc}) {
    for (const uint64_t nbytes : {uint64_t{16}, uint64_t{4096}, kMaxBlockBytes}) {
      const FrameHeader read = decode_frame_header(encoded(header_of(mode, nbytes)), mode);
      CHECK((read.mode == mode));
      CHECK(hex(read.iv) == kIv);
      CHECK(read.ciphertext_nbytes == nbytes);
      if (mode == CipherMode::kAesGcm) CHECK(hex(read.tag) == kTag);
    }
  }
}

TEST_CASE("a header of another mode is refused by both names") {
  Bytes bytes = encoded(header_of(CipherMode::kSm4Cbc, 16));
  const Error as_cbc = refusal(CipherMode::kAesCbc, bytes);
  CHECK(as_cbc.kind() == ErrorKind::kDecryption);
  CHECK(test::message(as_cbc) == "a block is encrypted with SM4-CBC, not with AES-CBC");
  bytes.resize(frame_header_nbytes(CipherMode::kAesGcm));
  const Error as_gcm = refusal(CipherMode::kAesGcm, bytes);
  CHECK(as_gcm.kind() == ErrorKind::kDecryption);
  CHECK(test::message(as_gcm) == "a block is encrypted with SM4-CBC, not with AES-GCM");
}

TEST_CASE("bytes that begin no block are refused") {
  for (const auto mode : {CipherMode::kAesGcm, CipherMode::kAesCbc, CipherMode::kSm4Cbc}) {
    for (const size_t at : {0u, 1u, 2u, 3u}) {
      Bytes bytes = encoded(header_of(mode, 16));
      bytes[at] ^= std::byte{0x80};
      CHECK(refusal(mode, bytes).kind() == ErrorKind::kDecryption);
    }
    CHECK(refusal(mode, Bytes(48)).kind() == ErrorKind::kDecryption);
  }
}

TEST_CASE("any wrong length in a header is refused") {
  for (const auto mode : {CipherMode::kAesGcm, CipherMode::kAesCbc, CipherMode::kSm4Cbc}) {
    const size_t lengths = mode == CipherMode::kAesGcm ? 20 : 4;
    for (const size_t length_at : {lengths, lengths + 4, lengths + 24}) {
      for (size_t i = 0; i < 32; ++i) {
        Bytes bytes = encoded(header_of(mode, 32));
        bytes[length_at + i / 8] ^= static_cast<std::byte>(1 << i % 8);
        CHECK(refusal(mode, bytes).kind() == ErrorKind::kFormat);
      }
    }
  }
}

TEST_CASE("blocks of no bytes and those over MindSpore's 64 MiB are refused") {
  const auto kind_of = [](CipherMode mode, uint64_t nbytes) {
    return refusal(mode, encoded(header_of(mode, nbytes))).kind();
  };
  CHECK(kind_of(CipherMode::kAesGcm, 0) == ErrorKind::kFormat);
  CHECK(kind_of(CipherMode::kAesCbc, 0) == ErrorKind::kFormat);
  CHECK(kind_of(CipherMode::kAesGcm, kMaxBlockBytes + 1) == ErrorKind::kFormat);
  CHECK(kind_of(CipherMode::kAesCbc, kMaxBlockBytes + 32) == ErrorKind::kFormat);
  CHECK(kind_of(CipherMode::kAesCbc, 0xFFFFFFF0 - 32) == ErrorKind::kFormat);
  // A full block of plaintext and its padding.
  const Bytes full = encoded(header_of(CipherMode::kSm4Cbc, kMaxBlockBytes + 16));
  CHECK(decode_frame_header(full, CipherMode::kSm4Cbc).ciphertext_nbytes == kMaxBlockBytes + 16);
}

TEST_CASE("CBC blocks that are no whole number of cipher blocks are refused") {
  for (const uint64_t nbytes : {1u, 15u, 17u, 31u}) {
    CHECK(refusal(CipherMode::kAesCbc, encoded(header_of(CipherMode::kAesCbc, nbytes))).kind() ==
          ErrorKind::kFormat);
    const Bytes gcm = encoded(header_of(CipherMode::kAesGcm, nbytes));
    CHECK(decode_frame_header(gcm, CipherMode::kAesGcm).ciphertext_nbytes == nbytes);
  }
}

TEST_CASE("the mode of a file is known by its first four bytes") {
  CHECK((encrypted_mode(from_hex("d85e3a7f")) == CipherMode::kAesGcm));
  CHECK((encrypted_mode(from_hex("d95e3a7f00")) == CipherMode::kAesCbc));
  CHECK((encrypted_mode(from_hex("da5e3a7f")) == CipherMode::kSm4Cbc));
  for (const auto first : {"", "d8", "d85e3a", "db5e3a7f", "7f3a5ed8", "0a2c0a01"}) {
    CHECK_FALSE(encrypted_mode(from_hex(first)).has_value());
  }
}

TEST_CASE("modes have MindSpore's names and no others") {
  for (const auto mode : {CipherMode::kAesGcm, CipherMode::kAesCbc, CipherMode::kSm4Cbc}) {
    CHECK((parse_cipher_mode(cipher_mode_name(mode)) == mode));
  }
  CHECK((parse_cipher_mode("AES-GCM") == CipherMode::kAesGcm));
  for (const auto name : {"", "aes-gcm", "AES-GCM ", "AES", "SM4-GCM"}) {
    CHECK(error_of([&] { parse_cipher_mode(name); }).kind() == ErrorKind::kInvalidArgument);
  }
}

}  // namespace
}  // namespace mindckpt
