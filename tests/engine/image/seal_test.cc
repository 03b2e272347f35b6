#include "image/seal.h"

#include <doctest/doctest.h>

#include "support/bytes.h"
#include "support/errors.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::bytes_of;
using test::error_of;

const Seal kSeal{test::array_of<kIvBytes>(test::from_hex("00112233445566778899aabbccddeeff")),
                 0x0102030405060708, 0x1112131415161718};

// The payload of an opening seal, with bytes [at, at + 1) replaced.
Bytes payload_with(size_t at, uint8_t value) {
  Bytes payload = bytes_of(encode_seal(kSeal, Seal::Position::kOpening).substr(3));
  payload.at(at) = std::byte{value};
  return payload;
}

TEST_CASE("a seal record matches the bytes of the format's documentation") {
  CHECK(test::hex(encode_seal(kSeal, Seal::Position::kClosing)) ==
        "c23e30"                            // field 1000 of 48 bytes
        "6d696e64636b7074"                  // "mindckpt"
        "01000000"                          // version 1
        "02000000"                          // closing
        "00112233445566778899aabbccddeeff"  // base of the IVs
        "0807060504030201"                  // number of blocks
        "1817161514131211");                // bytes of plaintext
}

TEST_CASE("a seal record reads back as it was written") {
  for (const auto position : {Seal::Position::kOpening, Seal::Position::kClosing}) {
    const std::string record = encode_seal(kSeal, position);
    CHECK(record.size() == kSealRecordBytes);
    const auto placed = decode_seal(as_bytes(record).subspan(3));
    REQUIRE(placed.has_value());
    CHECK((placed->seal == kSeal));
    CHECK((placed->position == position));
  }
}

TEST_CASE("an opening seal is found at the front of a plaintext, and nothing else") {
  const std::string opening = encode_seal(kSeal, Seal::Position::kOpening);
  for (const auto* behind : {"", "more"}) {
    const auto found = find_opening_seal(as_bytes(opening + behind));
    REQUIRE(found.has_value());
    CHECK((*found == kSeal));
  }
  for (size_t nbytes = 0; nbytes < opening.size(); ++nbytes) {
    CHECK_FALSE(find_opening_seal(as_bytes(opening).first(nbytes)).has_value());
  }
  CHECK_FALSE(find_opening_seal(as_bytes(" " + opening)).has_value());
  CHECK_FALSE(
      find_opening_seal(as_bytes(encode_seal(kSeal, Seal::Position::kClosing))).has_value());
  for (const size_t at : {0u, 1u, 2u, 3u}) {  // another field, length or mark
    std::string other = opening;
    other[at] ^= 1;
    CHECK_FALSE(find_opening_seal(as_bytes(other)).has_value());
  }
  std::string later = opening;
  later[11] = 2;
  CHECK(error_of([&] { find_opening_seal(as_bytes(later)); }).kind() == ErrorKind::kFormat);
}

TEST_CASE("somebody else's field of that number is no seal") {
  CHECK_FALSE(decode_seal({}).has_value());
  CHECK_FALSE(decode_seal(as_bytes("mindckp")).has_value());
  CHECK_FALSE(decode_seal(Bytes(kSealPayloadBytes)).has_value());
  CHECK_FALSE(decode_seal(payload_with(0, 'M')).has_value());
}

TEST_CASE("a seal of a later version is refused") {
  Bytes longer = payload_with(8, 1);
  longer.push_back({});
  for (const Bytes& payload :
       {payload_with(8, 2), payload_with(11, 1), bytes_of("mindckpt"), longer}) {
    CHECK(error_of([&] { decode_seal(payload); }).kind() == ErrorKind::kFormat);
  }
}

TEST_CASE("a seal in a place that is neither first nor last is refused") {
  for (const uint8_t position : {uint8_t{0}, uint8_t{3}, uint8_t{255}}) {
    const Bytes payload = payload_with(12, position);
    CHECK(error_of([&] { decode_seal(payload); }).kind() == ErrorKind::kFormat);
  }
}

}  // namespace
}  // namespace mindckpt
