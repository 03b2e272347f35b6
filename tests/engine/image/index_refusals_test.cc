#include <doctest/doctest.h>

#include "image/index.h"
#include "image/seal.h"
#include "image/sound_index.h"
#include "support/errors.h"
#include "support/message.h"

// Every reason that Index::read gives for refusing a file, with small files that meet it.
namespace mindckpt {
namespace {

using test::checkpoint;
using test::map_record;
using test::Message;
using test::record;
using test::tensor_message;

const std::string kTensor = tensor_message({2}, "Int8", "ab");
const std::string kMap = Message().bytes(1, kTensor).text();

// Checks that each of `files` is refused, alone and after a sound record, and the reason.
void check_refused(std::string_view reason, std::initializer_list<std::string> files) {
  const std::string before = record("first", kTensor);
  for (const std::string& file : files) {
    CAPTURE(test::hex(file));
    for (const std::string& bytes : {file, before + file}) {
      const Error error = test::error_of([&] { test::read_index(bytes); });
      CHECK(error.kind() == ErrorKind::kFormat);
      CHECK(test::message(error) == doctest::Contains(std::string(reason).c_str()));
    }
  }
}

// The record "w" with this body of its tensor.
std::string tensor(const Message& body) { return record("w", body.text()); }

TEST_CASE("a number that is cut off or has no end is refused") {
  const std::string endless(10, '\x80');
  check_refused("a number is cut off or too long",
                {"\x80", "\x0A", "\x0A\x80", "\x08", endless, endless + "\x01",
                 Message().tag(15, 0).raw(endless).raw("\x01").text(), tensor(Message().tag(1, 0)),
                 tensor(Message().bytes(1, "\x80"))});
}

TEST_CASE("field numbers that protobuf has not are refused") {
  check_refused("a bad field number",
                {std::string(1, '\0'), "\x02", "\x07",
                 Message().number(uint64_t{1} << 32 | 2).number(0).text(),
                 Message().number(~uint64_t{0}).text(), tensor(Message().number(2).number(0))});
}

TEST_CASE("wire types that protobuf has not are refused") {
  check_refused("a bad wire type",
                {Message().tag(1, 6).text(), Message().tag(1, 7).text(), Message().tag(9, 6).text(),
                 checkpoint(Message().tag(1, 7)), tensor(Message().tag(3, 6))});
}

TEST_CASE("the end of a group that never began is refused") {
  check_refused("a bad wire type", {Message().tag(1, 4).text(), checkpoint(Message().tag(15, 4))});
}

TEST_CASE("groups that end wrongly are refused") {
  const Message crossed = Message().tag(2, 3).tag(3, 4);
  const Message begun = Message().tag(15, 3);
  check_refused("a group ends wrongly", {crossed.text(), Message().group(15, crossed).text()});
  check_refused("a number is cut off", {begun.text(), Message(begun).varint(1, 1).text()});
}

TEST_CASE("groups nested over a hundred deep are refused") {
  Message nested;
  for (int depth = 0; depth < 101; ++depth) nested = Message().group(15, nested);
  std::string endless;
  for (int depth = 0; depth < 100'000; ++depth) endless += Message().tag(15, 3).text();
  check_refused("groups are nested too deep", {nested.text(), endless});
}

TEST_CASE("lengths that go past the end of their message are refused") {
  const auto claim = [](uint32_t field, uint64_t nbytes) {
    return Message().tag(field, 2).number(nbytes).raw("abc");
  };
  for (const uint64_t nbytes : {uint64_t{4}, uint64_t{1} << 31, uint64_t{1} << 62, ~uint64_t{0}}) {
    const Message map_part = Message().bytes(1, claim(3, nbytes).text());
    check_refused(
        "a length goes past the end",
        {claim(1, nbytes).text(), claim(15, nbytes).text(), claim(1000, nbytes).text(),
         checkpoint(claim(1, nbytes)), checkpoint(claim(2, nbytes)), checkpoint(claim(3, nbytes)),
         tensor(claim(1, nbytes)), tensor(claim(2, nbytes)), tensor(claim(3, nbytes)),
         tensor(claim(9, nbytes)), checkpoint(Message().bytes(3, map_part.text()))});
  }
}

TEST_CASE("a length that only the file could hold and not its message is refused") {
  Message value;
  value.bytes(1, "w").tag(2, 2).number(kTensor.size() + 1).raw(kTensor);
  check_refused("a length goes past the end",
                {Message().bytes(1, value.text()).bytes(15, "more").text()});
}

TEST_CASE("fixed-size fields that are cut off are refused") {
  check_refused("a field is cut off",
                {Message().tag(15, 1).raw("1234567").text(), Message().tag(15, 5).raw("123").text(),
                 Message().tag(15, 1).text(), checkpoint(Message().tag(15, 5).raw("123")),
                 tensor(Message().tag(15, 1).raw("1234567"))});
}

TEST_CASE("a record without a name is refused") {
  check_refused("a record has no name",
                {checkpoint(Message()), checkpoint(Message().bytes(2, kTensor)),
                 checkpoint(Message().varint(1, 0).bytes(2, kTensor))});
}

TEST_CASE("a record with two names is refused") {
  check_refused("a record has two names",
                {checkpoint(Message().bytes(1, "v").bytes(2, kTensor).bytes(1, "w"))});
}

TEST_CASE("a name that is not UTF-8 is refused") {
  constexpr std::string_view kNames[] = {// stray bytes
                                         "\x80", "\xBF", "a\xFF", "\xFE",
                                         // characters cut off
                                         "\xC3", "\xC3(", "\xE2\x82", "\xE2(\xA1", "\xF0\x9F\x98",
                                         // overlong ones
                                         "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF",
                                         // surrogates
                                         "\xED\xA0\x80", "\xED\xBF\xBF",
                                         // beyond U+10FFFF
                                         "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                         "\xF8\x88\x80\x80\x80"};
  for (const std::string_view name : kNames) {
    check_refused("name is not UTF-8", {record(name, kTensor)});
  }
}

TEST_CASE("a record without a tensor is refused") {
  check_refused("record 'w' has no tensor", {checkpoint(Message().bytes(1, "w"))});
}

TEST_CASE("a record with two tensors is refused") {
  check_refused("a record has two tensors",
                {checkpoint(Message().bytes(1, "w").bytes(2, kTensor).bytes(2, kTensor)),
                 checkpoint(Message().bytes(1, "w").bytes(2, kTensor).bytes(3, kMap)),
                 checkpoint(Message().bytes(1, "w").bytes(3, kMap).bytes(2, kTensor)),
                 checkpoint(Message().bytes(1, "w").bytes(3, "").bytes(3, ""))});
}

TEST_CASE("a tensor without a type or content is refused") {
  check_refused("record 'w' has no type", {tensor(Message().bytes(3, "ab")), tensor(Message())});
  check_refused("record 'w' has no content", {tensor(Message().varint(1, 2).bytes(2, "Int8"))});
}

TEST_CASE("a tensor with two types or contents is refused") {
  check_refused("a tensor has two types", {tensor(Message().bytes(2, "Int8").bytes(2, "Int8"))});
  check_refused("a tensor has two contents", {tensor(Message().bytes(3, "a").bytes(3, "b"))});
}

TEST_CASE("a type that is not known is refused") {
  check_refused("has the unknown type 'Object'", {record("w", tensor_message({}, "Object", ""))});
  check_refused("has the unknown type", {record("w", tensor_message({2}, "float32", "12345678")),
                                         record("w", tensor_message({}, "", ""))});
  check_refused("a tensor's type is not known",
                {record("w", tensor_message({}, std::string(65, 'T'), ""))});
}

TEST_CASE("a refusal is text though the type it quotes is none") {
  for (const std::string_view type : {"\xFF\xFE", "Float\xC0", "\x1B[31m"}) {
    const Error error =
        test::error_of([&] { test::read_index(record("w", tensor_message({}, type, ""))); });
    const std::string_view text = error.what();
    CHECK(text.find_first_of("\xFF\xFE\xC0\x1B") == text.npos);
  }
}

TEST_CASE("a long name is cut in a refusal between two characters") {
  const auto refusal = [](const std::string& name) {
    return test::message(test::error_of([&] { test::read_index(record(name, "")); }));
  };
  const std::string a77(77, 'a');
  CHECK(refusal(a77 + "aaa") == ("record '" + a77 + "aaa' has no type at byte 0").c_str());
  CHECK(refusal(a77 + "aaaa") == ("record '" + a77 + "aaa...' has no type at byte 0").c_str());
  CHECK(refusal(a77 + "a\xE5\x8F\x82\xE5\x8F\x82") ==
        ("record '" + a77 + "a...' has no type at byte 0").c_str());
}

TEST_CASE("a map tensor of any number of parts but three is refused") {
  const std::string part = tensor_message({2}, "int8", "ab");
  check_refused("map tensor 'm' has not three parts",
                {map_record("m", {}), map_record("m", {part}), map_record("m", {part, part})});
  check_refused("a map tensor has more than three parts",
                {map_record("m", {part, part, part, part})});
}

TEST_CASE("a part of a map tensor that is not an array is refused") {
  const std::string good = tensor_message({2}, "int8", "ab");
  const auto with = [&](size_t place, const std::string& part) {
    std::vector<std::string> parts(3, good);
    parts[place] = part;
    return map_record("m", parts);
  };
  for (const size_t place : {0u, 1u, 2u}) {
    check_refused("has the unknown type", {with(place, kTensor)});
    check_refused("has no content", {with(place, Message().bytes(2, "int8").text())});
    check_refused("bytes of content", {with(place, tensor_message({2}, "int8", "abc"))});
    // Strings are records of their own.
    check_refused("has the unknown type", {with(place, tensor_message({0}, "str", "abcd"))});
  }
}

TEST_CASE("a name that comes twice is refused") {
  const std::string other = record("other", kTensor);
  const std::string part = tensor_message({2}, "int8", "ab");
  const std::string map = map_record("w", {part, part, part});
  check_refused("parameter 'w' comes twice",
                {record("w", kTensor) + other + record("w", kTensor), map + map,
                 record("w", kTensor) + map, map + record("w", kTensor)});
}

TEST_CASE("slices of one tensor with another between them are refused") {
  const auto slice = [](std::string_view name, std::string_view content) {
    return record(name, tensor_message({4}, "Int8", content));
  };
  check_refused("its slices are not adjacent",
                {slice("w", "abcd") + slice("v", "abcd") + slice("w", "")});
}

TEST_CASE("slices that differ in type or dims are refused") {
  const auto slice = [](std::string_view type, const std::vector<int64_t>& dims) {
    return record("w", tensor_message(dims, type, "ab"));
  };
  check_refused(
      "two slices of 'w' differ in type or dims",
      {slice("Int8", {4}) + slice("UInt8", {4}), slice("Int8", {4}) + slice("Int8", {2, 2}),
       slice("Int8", {4}) + slice("Int8", {})});
}

TEST_CASE("content that does not fit type and dims is refused with both numbers") {
  check_refused("parameter 'w': 3 bytes of content, its type and dims need 4",
                {record("w", tensor_message({4}, "Int8", "abc")),
                 record("w", tensor_message({2}, "Int16", "abc")),
                 record("w", tensor_message({}, "Float32", "abc"))});
  check_refused(
      "bytes of content, its type and dims need",
      {record("w", tensor_message({2}, "Int8", "abc")),
       record("w", tensor_message({2}, "Int8", "")), record("w", tensor_message({0}, "Int8", "ab")),
       record("w", tensor_message({0, 4}, "Int8", "a"))});
}

TEST_CASE("negative dims are refused") {
  check_refused("parameter 'w' has a negative dim",
                {record("w", tensor_message({-1}, "Int8", "a")),
                 record("w", tensor_message({0, -1}, "Int8", "")),
                 record("w", tensor_message({-2, -1}, "Int8", "ab")),
                 record("w", tensor_message({std::numeric_limits<int64_t>::min()}, "Int8", ""))});
}

TEST_CASE("dims whose product overflows are refused though a zero is among them") {
  constexpr int64_t k32 = int64_t{1} << 32, k62 = int64_t{1} << 62;
  check_refused("the dims of parameter 'w' are too large",
                {record("w", tensor_message({k32, k32}, "Int8", "")),
                 record("w", tensor_message({k62, 2}, "Int8", "")),
                 record("w", tensor_message({k62, 1}, "Float64", "")),
                 record("w", tensor_message({0, k32, k32}, "Int8", "")),
                 record("w", tensor_message({k32, k32, 0}, "Int8", ""))});
}

TEST_CASE("more dims than any array has are refused") {
  check_refused("a tensor has too many dims",
                {record("w", tensor_message(std::vector<int64_t>(65, 1), "Int8", "a")),
                 tensor(Message().bytes(1, std::string(65, '\x01')))});
}

TEST_CASE("a string that is not UTF-32 is refused") {
  check_refused("string 's' is not UTF-32", {record("s", tensor_message({0}, "str", "")),
                                             record("s", tensor_message({0}, "str", "abc")),
                                             record("s", tensor_message({0}, "str", "abcde"))});
}

TEST_CASE("seals out of place are refused") {
  const auto seal = [](Seal::Position position) { return encode_seal({}, position); };
  const std::string w = record("w", kTensor);
  const auto refusal = [](const std::string& file) {
    return test::message(test::error_of([&] { test::read_index(file); }));
  };
  CHECK(refusal(w + seal(Seal::Position::kOpening)) ==
        doctest::Contains("an opening seal record stands inside the file"));
  CHECK(refusal(seal(Seal::Position::kOpening) + seal(Seal::Position::kOpening)) ==
        doctest::Contains("an opening seal record stands inside the file"));
  const std::string closing = seal(Seal::Position::kClosing);
  for (const std::string& more : {w, closing, Message().varint(15, 1).text()}) {
    CHECK(refusal(w + closing + more) ==
          doctest::Contains("records follow the closing seal record"));
  }
}

TEST_CASE("a seal of an unknown version is refused") {
  std::string seal = encode_seal({}, Seal::Position::kOpening);
  seal[3 + 8] = 2;
  check_refused("a seal record of a version that this release does not know", {seal});
}

TEST_CASE("a refusal says at which byte") {
  const std::string before = record("first", kTensor);
  const auto refusal = [&](const std::string& file) {
    return test::message(test::error_of([&] { test::read_index(before + file); }));
  };
  const std::string at = " at byte " + std::to_string(before.size());
  CHECK(refusal(checkpoint(Message().bytes(1, "w"))) == ("record 'w' has no tensor" + at).c_str());
  CHECK(refusal("\x80") == ("a number is cut off or too long" + at).c_str());
}

}  // namespace
}  // namespace mindckpt
