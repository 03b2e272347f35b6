#include <doctest/doctest.h>

#include <set>

#include "image/sound_index.h"
#include "support/message.h"
#include "support/parameters.h"
#include "support/random.h"

// Files that are damaged or random: Index::read gives a sound index or refuses, and the sanitizers
// find nothing.
namespace mindckpt {
namespace {

using test::map_record;
using test::Message;
using test::Parameters;
using test::Random;
using test::reads_or_refuses;
using test::record;
using test::tensor_message;

// Records of every kind, with the places where they begin and end.
struct SmallFile {
  std::string bytes;
  std::set<size_t> borders{0};

  void add(const std::string& part) {
    bytes += part;
    borders.insert(bytes.size());
  }
};

SmallFile small_file() {
  const std::string part = tensor_message({2}, "int16", "abcd");
  SmallFile file;
  file.add(record("w", tensor_message({2, 2}, "Float16", "abcdefgh")));
  file.add(record("n", tensor_message({}, "Int64", "12345678")));
  file.add(record("e", tensor_message({0}, "Int8", "")));
  file.add(map_record("m", {part, part, part}));
  file.add(record("s", tensor_message({0}, "str", "abcd")));
  file.add(Message().varint(15, 1).text());
  file.add(Message().group(15, Message().fixed64(1, 1).fixed32(1, 1)).text());
  file.add(record("p", Message().bytes(1, "\x02\x01").bytes(2, "Bool").bytes(3, "xy").text()));
  return file;
}

std::string sealed_file() {
  Parameters parameters;
  test::add_typical(parameters);
  const FileImage image = FileImage::plan(parameters.refs(), {64, true, Iv{}});
  return test::text_of(test::read_image(image));
}

TEST_CASE("a file cut off anywhere but between records is refused") {
  const SmallFile file = small_file();
  for (size_t nbytes = 0; nbytes <= file.bytes.size(); ++nbytes) {
    CAPTURE(nbytes);
    CHECK(reads_or_refuses(file.bytes.substr(0, nbytes)) == file.borders.contains(nbytes));
  }
}

TEST_CASE("a file cut off inside its CRC trailer is refused") {
  const std::string records = small_file().bytes;
  const std::string trailer = test::trailer(0xDEADBEEF);
  for (size_t nbytes = 1; nbytes < trailer.size(); ++nbytes) {
    CAPTURE(nbytes);
    CHECK_FALSE(reads_or_refuses(records + trailer.substr(0, nbytes)));
  }
  CHECK_FALSE(reads_or_refuses(records + trailer + "x"));
}

TEST_CASE("a sealed file cut off anywhere is read soundly or refused") {
  const std::string file = sealed_file();
  for (size_t nbytes = 0; nbytes < file.size(); ++nbytes) reads_or_refuses(file.substr(0, nbytes));
}

TEST_CASE("a file with any one bit flipped is read soundly or refused") {
  for (const std::string& file : {small_file().bytes, sealed_file()}) {
    for (size_t at = 0; at < file.size(); ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string flipped = file;
        flipped[at] = static_cast<char>(flipped[at] ^ 1 << bit);
        reads_or_refuses(flipped);
      }
    }
  }
}

TEST_CASE("a file with any one byte gone or repeated is read soundly or refused") {
  const std::string file = small_file().bytes;
  for (size_t at = 0; at < file.size(); ++at) {
    reads_or_refuses(file.substr(0, at) + file.substr(at + 1));
    reads_or_refuses(file.substr(0, at + 1) + file.substr(at));
  }
}

TEST_CASE("40000 files of random bytes are read soundly or refused") {
  Random random(41);
  for (int i = 0; i < 40'000; ++i) {
    reads_or_refuses(test::text_of(random.bytes(random.below(40))));
  }
}

// Bytes that a parser gets further with: tags and short lengths of the schema.
TEST_CASE("30000 files of random fields are read soundly or refused") {
  Random random(42);
  int sound = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string file;
    for (uint64_t n = random.below(40); n > 0; --n) {
      file.push_back(random.pick<char>({0x0A, 0x12, 0x1A, 0x08, 0x7B, 0x7C, 0, 1, 2, 3, 4, 8, 'w',
                                        '\x80', '\xFF', static_cast<char>(random.bits())}));
    }
    sound += reads_or_refuses(file) ? 1 : 0;
  }
  CHECK(sound > 100);
}

TEST_CASE("30000 splices of sound files are read soundly or refused") {
  Random random(43);
  const std::vector<std::string> corpus = {small_file().bytes, sealed_file(),
                                           small_file().bytes + test::trailer(1)};
  int sound = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string file = random.pick(corpus);
    for (uint64_t edits = random.between(1, 4); edits > 0; --edits) {
      const std::string& donor = random.pick(corpus);
      const size_t from = random.below(donor.size());
      const std::string_view part =
          std::string_view(donor).substr(from, random.below(random.one_in(2) ? 4 : 60));
      const size_t at = random.below(file.size() + 1);
      file.replace(at, random.one_in(2) ? part.size() : random.below(30), part);
    }
    sound += reads_or_refuses(file) ? 1 : 0;
  }
  CHECK(sound > 100);
}

}  // namespace
}  // namespace mindckpt
