#include "image/record.h"

#include <doctest/doctest.h>

#include <limits>

#include "support/bytes.h"
#include "support/message.h"
#include "support/random.h"

namespace mindckpt {
namespace {

using test::hex;

std::string varint(uint64_t value) {
  std::string out;
  append_varint(out, value);
  return hex(out);
}

std::string header(std::string_view name, std::string_view type, const std::vector<int64_t>& dims,
                   uint64_t content_nbytes) {
  std::string out;
  append_record_header(out, name, type, dims, content_nbytes);
  return out;
}

TEST_CASE("varints match those of the protobuf documentation and their limits") {
  CHECK(varint(0) == "00");
  CHECK(varint(1) == "01");
  CHECK(varint(127) == "7f");
  CHECK(varint(128) == "8001");
  CHECK(varint(150) == "9601");  // the documentation's example
  CHECK(varint(300) == "ac02");
  CHECK(varint(16383) == "ff7f");
  CHECK(varint(16384) == "808001");
  CHECK(varint(std::numeric_limits<uint32_t>::max()) == "ffffffff0f");
  CHECK(varint(uint64_t{1} << 63) == "80808080808080808001");
  CHECK(varint(std::numeric_limits<uint64_t>::max()) == "ffffffffffffffffff01");
}

TEST_CASE("varints of every bit length match the tests' own encoder") {
  for (int shift = 0; shift < 64; ++shift) {
    for (const uint64_t value : {uint64_t{1} << shift, (uint64_t{1} << shift) - 1}) {
      CHECK(varint(value) == hex(test::Message().number(value).text()));
    }
  }
}

TEST_CASE("a field tag is number and wire type as one varint") {
  std::string out;
  append_tag(out, 1, WireType::kBytes);
  append_tag(out, 3, WireType::kBytes);
  append_tag(out, 1, WireType::kVarint);
  append_tag(out, field::kSeal, WireType::kBytes);
  CHECK(hex(out) == "0a1a08c23e");
}

TEST_CASE("the record of a 2 by 3 Float32 matches bytes written by hand") {
  CHECK(hex(header("w", "Float32", {2, 3}, 24)) ==
        "0a2c"                // Checkpoint.value of 44 bytes
        "0a0177"              // tag "w"
        "1227"                // tensor of 39 bytes
        "08020803"            // dims 2 and 3
        "1207466c6f61743332"  // tensor_type "Float32"
        "1a18");              // tensor_content of 24 bytes, which follow
}

TEST_CASE("the record of a number without dims matches bytes written by hand") {
  CHECK(hex(header("s", "Int64", {}, 8)) ==
        "0a160a01731211"
        "1205496e743634"
        "1a08");
}

TEST_CASE("a record without content matches bytes written by hand") {
  CHECK(hex(header("e", "Bool", {0}, 0)) ==
        "0a0f0a0165120a"
        "0800"
        "1204426f6f6c"
        "1a00");
}

TEST_CASE("a negative dim takes ten bytes as protobuf's int64 does") {
  CHECK(hex(header("", "", {-1}, 0)) ==
        "0a130a00120f"
        "08ffffffffffffffffff01"
        "1200"
        "1a00");
}

// The lengths of the enclosing messages change their own lengths at these sizes.
TEST_CASE("headers around every varint limit match the tests' own encoder") {
  test::Random random(21);
  for (const size_t limit : {0u, 128u, 16384u}) {
    for (size_t nbytes = limit > 60 ? limit - 60 : 0; nbytes < limit + 10; ++nbytes) {
      const std::string content(nbytes, 'c');
      const std::string name(random.below(300), 'n');
      const std::string expected =
          test::record(name, test::tensor_message({1, 1, 200, -5}, "Float16", content));
      CHECK((header(name, "Float16", {1, 1, 200, -5}, nbytes) + content == expected));
    }
  }
}

TEST_CASE("the header of a content over 4 GiB claims its whole length") {
  constexpr uint64_t kContent = uint64_t{5} << 30;
  const std::string bytes = header("big", "Int8", {int64_t{kContent}}, kContent);
  CHECK(bytes.ends_with(test::Message().tag(3, 2).number(kContent).text()));
  // 0A, five bytes of length, and then what that length counts, but for the content itself.
  const uint64_t value_nbytes = bytes.size() - 6 + kContent;
  CHECK(bytes.starts_with(test::Message().tag(1, 2).number(value_nbytes).text()));
}

TEST_CASE("the CRC trailer is crc_num and ten bytes big-endian") {
  CHECK(hex(crc_trailer(0x01020304)) == "6372635f6e756d00000000000001020304");
  CHECK(crc_trailer(0xCBF43926) == test::trailer(0xCBF43926));
  CHECK(crc_trailer(0).size() == kCrcTrailerBytes);
}

}  // namespace
}  // namespace mindckpt
