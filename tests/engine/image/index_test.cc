#include "image/index.h"

#include <doctest/doctest.h>

#include <numeric>

#include "image/file_image.h"
#include "image/sound_index.h"
#include "support/message.h"
#include "support/parameters.h"

namespace mindckpt {
namespace {

using test::checkpoint;
using test::map_record;
using test::MemorySource;
using test::Message;
using test::Parameters;
using test::Random;
using test::read_index;
using test::record;
using test::tensor_message;

const std::string kTensor = tensor_message({2}, "Int8", "ab");

// The file of `bytes` holds one tensor "w": [2] Int8 "ab".
void check_holds_w(const std::string& bytes) {
  const Index index = read_index(bytes);
  CHECK(test::unsoundness(index, bytes) == "");
  REQUIRE(index.entries.size() == 1);
  const Entry& entry = index.entries[0];
  CHECK(entry.name == "w");
  CHECK(entry.type == "Int8");
  CHECK(entry.dims == std::vector<int64_t>{2});
  CHECK(test::content_of(entry, bytes) == "ab");
}

// One field of every wire type: with numbers that the schema has not, and a group of them all.
Message unknown_fields() {
  Message fields;
  for (const uint32_t number : {15u, 1000u, (1u << 29) - 1}) {
    fields.varint(number, ~uint64_t{0}).fixed64(number, 7).fixed32(number, 7);
    fields.bytes(number, "padding").bytes(number, "");
  }
  const Message inside = fields;
  return fields.group(15, Message(inside).group(1, inside)).group(16, Message());
}

TEST_CASE("what an image plans reads back as it was") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Parameters parameters(seed);
    parameters.add_random(seed % 14);
    const FileImage image = FileImage::plan(parameters.refs(), {100, false, std::nullopt});
    const std::string bytes = test::text_of(test::read_image(image));
    const Index index = read_index(bytes);
    test::check_entries(index.entries, parameters, bytes);
    CHECK(test::unsoundness(index, bytes) == "");
    CHECK_FALSE(index.crc.has_value());
    CHECK(index.records_nbytes == bytes.size());
  }
}

TEST_CASE("headers and contents together are the whole file and nothing twice") {
  Parameters parameters(5);
  const std::string bytes = parameters.add_random(20).file(true);
  const Index index = read_index(bytes);
  uint64_t nbytes = parameters.payload_nbytes();
  for (const Index::Header& header : index.headers) nbytes += header.nbytes;
  CHECK(nbytes == bytes.size());
  CHECK(test::unsoundness(index, bytes) == "");
}

TEST_CASE("windows of any size read the same records") {
  Parameters parameters(6);
  const std::string bytes = parameters.add_random(30).file(true);
  for (const size_t window : {48u, 49u, 63u, 64u, 100u, 1000u, 1u << 20u}) {
    CAPTURE(window);
    const Index index = Index::read(MemorySource(test::bytes_of(bytes), window));
    test::check_entries(index.entries, parameters, bytes);
    CHECK(test::unsoundness(index, bytes) == "");
  }
}

// A file of equal records, which counts what is read of it.
class CountedRecords final : public Source {
 public:
  CountedRecords(int count, size_t content_nbytes) {
    std::string bytes;
    for (int i = 0; i < count; ++i) {
      const auto dim = static_cast<int64_t>(content_nbytes);
      bytes += record(std::to_string(i),
                      tensor_message({dim}, "Int8", std::string(content_nbytes, 'x')));
    }
    file_ = MemorySource(bytes);
  }
  uint64_t nbytes() const override { return file_.nbytes(); }
  size_t window_nbytes() const override { return file_.window_nbytes(); }
  void read_at(uint64_t offset, ByteSpan out) const override {
    ++reads;
    nbytes_read += out.size();
    file_.read_at(offset, out);
  }

  mutable uint64_t reads = 0;
  mutable uint64_t nbytes_read = 0;

 private:
  MemorySource file_{""};
};

TEST_CASE("short records are read many at a time, and the content of long ones is not") {
  const CountedRecords small(2000, 4096);
  CHECK(Index::read(small).entries.size() == 2000);
  CHECK(small.reads < 2000 / 8);
  CHECK(small.nbytes_read <= small.nbytes());

  const CountedRecords large(50, size_t{1} << 20);
  CHECK(Index::read(large).entries.size() == 50);
  CHECK(large.nbytes_read <= 50 * 2 * large.window_nbytes());
}

TEST_CASE("a file of no bytes has no records") {
  const Index index = read_index("");
  CHECK(index.entries.empty());
  CHECK_FALSE(index.crc.has_value());
}

TEST_CASE("unknown fields of every wire type are passed over at every level") {
  const Message unknown = unknown_fields();
  Message tensor(unknown);
  tensor.varint(1, 2).raw(unknown.text()).bytes(2, "Int8").raw(unknown.text());
  tensor.bytes(3, "ab").raw(unknown.text());
  Message value(unknown);
  value.bytes(1, "w").raw(unknown.text()).bytes(2, tensor.text()).raw(unknown.text());
  check_holds_w(Message(unknown).bytes(1, value.text()).raw(unknown.text()).text());
}

TEST_CASE("unknown fields inside a map tensor are passed over") {
  const std::string part = tensor_message({1}, "int8", "k");
  const Message unknown = unknown_fields();
  Message map(unknown);
  map.bytes(1, part).raw(unknown.text()).bytes(1, part).bytes(1, part).raw(unknown.text());
  const std::string bytes = checkpoint(Message().bytes(1, "m").bytes(3, map.text()));
  CHECK(read_index(bytes).entries.size() == 3);
}

TEST_CASE("a known number of another wire type is an unknown field as in protobuf's parsers") {
  const Message outer = Message().varint(1, 5).fixed32(1, 5).fixed64(1, 5).group(1, Message());
  const Message value =
      Message().varint(1, 5).varint(2, 5).fixed64(3, 5).group(2, Message()).bytes(1, "w");
  const Message tensor =
      Message().fixed32(1, 5).fixed64(1, 5).varint(2, 5).varint(3, 5).group(3, Message());
  check_holds_w(
      Message(outer).bytes(1, Message(value).bytes(2, tensor.text() + kTensor).text()).text());
}

TEST_CASE("fields in any order make the same record") {
  std::vector<std::string> fields = {Message().varint(1, 2).text(),
                                     Message().bytes(2, "Int8").text(),
                                     Message().bytes(3, "ab").text()};
  std::ranges::sort(fields);
  do {
    const std::string tensor = std::accumulate(fields.begin(), fields.end(), std::string());
    check_holds_w(record("w", tensor));
    check_holds_w(checkpoint(Message().bytes(2, tensor).bytes(1, "w")));
  } while (std::ranges::next_permutation(fields).found);
}

TEST_CASE("packed dims and single ones mix") {
  Message tensor;
  tensor.bytes(1, Message().number(1).number(2).text()).varint(1, 1).bytes(1, "").bytes(2, "Int8");
  const std::string bytes = record("w", tensor.bytes(1, "\x01").bytes(3, "ab").text());
  REQUIRE(read_index(bytes).entries.size() == 1);
  CHECK(read_index(bytes).entries[0].dims == std::vector<int64_t>{1, 2, 1, 1});
}

TEST_CASE("varints of any length up to ten bytes are taken") {
  for (int nbytes = 1; nbytes <= 10; ++nbytes) {
    CAPTURE(nbytes);
    const auto field = [nbytes](uint64_t number, std::string_view value) {
      Message message;
      return message.number(number * 8 + 2, nbytes).number(value.size(), nbytes).raw(value).text();
    };
    const std::string tensor = Message().number(1 * 8, nbytes).number(2, nbytes).text() +
                               field(2, "Int8") + field(3, "ab");
    check_holds_w(field(1, field(1, "w") + field(2, tensor)));
  }
}

TEST_CASE("bits of a varint beyond the 64th are dropped as protobuf's parsers do") {
  std::string two = Message().number(2, 10).text();
  two.back() = 0x7E;  // bit 63 is 0, bits 64 to 69 are not
  check_holds_w(record("w", Message().tag(1, 0).raw(two).bytes(2, "Int8").bytes(3, "ab").text()));
}

TEST_CASE("groups nest a hundred deep as in protobuf's parsers") {
  Message nested;
  for (int depth = 0; depth < 100; ++depth) nested = Message().group(15, nested);
  check_holds_w(nested.text() + record("w", kTensor));
}

TEST_CASE("slices of one tensor are put together and may be empty") {
  const auto slice = [](std::string_view content) {
    return record("w", tensor_message({6}, "Int8", content));
  };
  const std::string bytes = slice("") + slice("abc") + slice("") + slice("def") + slice("");
  const Index index = read_index(bytes);
  REQUIRE(index.entries.size() == 1);
  CHECK(index.entries[0].nbytes == 6);
  CHECK(test::content_of(index.entries[0], bytes) == "abcdef");
}

TEST_CASE("a map tensor is three entries of one name in the order key and value and status") {
  const std::string key = tensor_message({2}, "int32", "kkkkkkkk");
  const std::string value = tensor_message({1, 2}, "float16", "vvvv");
  const std::string status = tensor_message({1}, "int8", "s");
  const std::string bytes = map_record("m", {key, value, status});
  const Index index = read_index(bytes);
  CHECK(test::unsoundness(index, bytes) == "");
  REQUIRE(index.entries.size() == 3);
  CHECK((index.entries[0].role == EntryRole::kMapKey));
  CHECK((index.entries[1].role == EntryRole::kMapValue));
  CHECK((index.entries[2].role == EntryRole::kMapStatus));
  CHECK(test::content_of(index.entries[1], bytes) == "vvvv");
}

TEST_CASE("a number that an old release stored with dims 0 has none") {
  const Index index = read_index(record("n", tensor_message({0}, "Float32", "1234")));
  REQUIRE(index.entries.size() == 1);
  CHECK(index.entries[0].dims.empty());
}

TEST_CASE("empty tensors keep their dims") {
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{0}, {3, 0}, {0, 1 << 30}}) {
    const Index index = read_index(record("e", tensor_message(dims, "Float32", "")));
    REQUIRE(index.entries.size() == 1);
    CHECK(index.entries[0].dims == dims);
    CHECK(index.entries[0].nbytes == 0);
  }
}

TEST_CASE("as many dims as NumPy has are taken") {
  const std::vector<int64_t> dims(64, 1);
  CHECK(read_index(record("w", tensor_message(dims, "Int8", "a"))).entries.at(0).dims == dims);
}

TEST_CASE("a file full of small unknown fields costs no list of them") {
  Message fields;
  for (int i = 0; i < 1000; ++i) fields.bytes(15, "padding").fixed64(16, 1).fixed32(17, 1);
  CHECK(read_index(fields.text()).headers.size() == 1);
}

TEST_CASE("a large unknown field is not read") {
  const std::string bytes = Message().bytes(15, std::string(100'000, 'p')).text();
  CHECK(read_index(bytes).header_bytes.size() < 1000);
}

TEST_CASE("names may be empty or long or any UTF-8") {
  const std::string longest(100'000, 'n');
  for (const std::string_view name :
       {std::string_view(""), std::string_view(longest), std::string_view("\0", 1),
        std::string_view("\xC2\x80"), std::string_view("\xE0\xA0\x80"),
        std::string_view("\xED\x9F\xBF\xEE\x80\x80"), std::string_view("\xF0\x90\x80\x80"),
        std::string_view("\xF4\x8F\xBF\xBF")}) {
    const Index index = read_index(record(name, kTensor));
    REQUIRE(index.entries.size() == 1);
    CHECK((index.entries[0].name == name));
  }
}

TEST_CASE("a CRC trailer is taken off and covers the records before it") {
  const std::string records = record("w", kTensor);
  const Index index = read_index(records + test::trailer(0x12345678));
  CHECK(index.crc == uint64_t{0x12345678});
  CHECK(index.records_nbytes == records.size());
  CHECK(index.entries.size() == 1);
}

TEST_CASE("a CRC of more than 32 bits is kept as a number that no sum can match") {
  CHECK(read_index(test::trailer(uint64_t{1} << 32)).crc == uint64_t{1} << 32);
  std::string widest = test::trailer(0x12345678);
  widest[7] = 1;  // bit 72
  CHECK(read_index(widest).crc > uint64_t{0xFFFFFFFF});
}

TEST_CASE("content that ends like a trailer is content") {
  const std::string content = test::trailer(1);
  const std::string bytes = record("w", tensor_message({17}, "Int8", content));
  const Index index = read_index(bytes);
  CHECK_FALSE(index.crc.has_value());
  CHECK(test::content_of(index.entries.at(0), bytes) == content);
}

TEST_CASE("seal records are found at both ends and before a trailer") {
  const Iv base{};
  Parameters parameters;
  test::add_typical(parameters);
  for (const bool crc : {false, true}) {
    const FileImage image = FileImage::plan(parameters.refs(), {64, crc, base});
    const std::string bytes = test::text_of(test::read_image(image));
    const Index index = read_index(bytes);
    REQUIRE(index.opening_seal.has_value());
    REQUIRE(index.closing_seal.has_value());
    CHECK((index.opening_seal->seal == Seal{base, image.num_blocks(), image.nbytes()}));
    CHECK((index.closing_seal->seal == index.opening_seal->seal));
    CHECK(index.crc.has_value() == crc);
    test::check_entries(index.entries, parameters, bytes);
  }
}

TEST_CASE("somebody else's field 1000 is no seal") {
  const std::string padding(48, 'p');
  const std::string bytes = Message()
                                .bytes(1000, padding)
                                .raw(record("w", kTensor))
                                .varint(1000, 1)
                                .fixed64(1000, 1)
                                .text();
  check_holds_w(bytes);
  CHECK_FALSE(read_index(bytes).opening_seal.has_value());
}

TEST_CASE("a seal inside a record is an unknown field") {
  const std::string seal = encode_seal({}, Seal::Position::kClosing);
  const std::string bytes = checkpoint(Message().raw(seal).bytes(1, "w").bytes(2, kTensor));
  check_holds_w(bytes);
  CHECK_FALSE(read_index(bytes).closing_seal.has_value());
}

}  // namespace
}  // namespace mindckpt
