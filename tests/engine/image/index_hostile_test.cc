#include <doctest/doctest.h>

#include <functional>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "image/sound_index.h"
#include "support/errors.h"
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

// Names of 16 ASCII characters that GCC's std::hash takes for one: MurmurHash64A with a fixed seed,
// whose last block is chosen so that every name comes to the same state.
std::vector<std::string> colliding_names(size_t count) {
  constexpr uint64_t kMultiplier = 0xC6A4A7935BD1E995;
  constexpr uint64_t kInverse = 0x5F7A0EA7E59B19BD;  // of the multiplier, modulo 2^64
  static_assert(kMultiplier * kInverse == 1);
  const auto mixed = [](uint64_t block) {
    block *= kMultiplier;
    return (block ^ block >> 47) * kMultiplier;
  };
  const auto unmixed = [](uint64_t block) {
    block *= kInverse;
    return (block ^ block >> 47) * kInverse;
  };
  constexpr uint64_t kSeed = 0xC70F6907;
  constexpr uint64_t kTarget = 0x1234567890ABCDEF;
  constexpr uint64_t kNotAscii = 0x8080808080808080;
  std::vector<std::string> names;
  for (uint64_t number = 0; names.size() < count; ++number) {
    uint64_t blocks[2] = {0, 0};  // the number in letters, from 'A' on; and what follows from it
    for (int i = 0; i < 8; ++i) blocks[0] |= (0x41 + (number >> (4 * i) & 0xF)) << (8 * i);
    const uint64_t state = (kSeed ^ sizeof(blocks) * kMultiplier ^ mixed(blocks[0])) * kMultiplier;
    blocks[1] = unmixed(state ^ kTarget);
    if ((blocks[1] & kNotAscii) != 0) continue;
    names.emplace_back(reinterpret_cast<const char*>(blocks), sizeof(blocks));
  }
  return names;
}

std::string file_of(const std::vector<std::string>& names) {
  const std::string tensor = tensor_message({1}, "Int8", "x");
  std::string file;
  for (const std::string& name : names) file += record(name, tensor);
  return file;
}

// An unseeded hash table compares each of them with all before: that takes many minutes.
TEST_CASE("300000 names that a hash takes for one are read as any others are") {
  const std::vector<std::string> names = colliding_names(300'000);
  const std::hash<std::string_view> hash;
  if (hash(names.front()) != hash(names.back())) {
    MESSAGE("skipped: this std::hash is another one");
    return;
  }
  const Index index = Index::read(test::MemorySource(file_of(names)));
  CHECK(index.entries.size() == names.size());
}

TEST_CASE("of names that a hash takes for one the first that comes twice is told") {
  std::vector<std::string> names = colliding_names(1000);
  const std::string once = file_of(names);
  names.insert(names.end(), {names[700], names[3]});
  const Error error = test::error_of([&] { Index::read(test::MemorySource(file_of(names))); });
  CHECK(error.kind() == ErrorKind::kFormat);
  CHECK(std::string(error.what()).starts_with("parameter " + quoted(names[700]) + " comes twice"));
  CHECK(std::string(error.what()).ends_with("at byte " + std::to_string(once.size())));
}

TEST_CASE("reading an index ends when it is cancelled, between fields and inside a long one") {
  const CancelFlag cancelled{true};
  const std::string many_fields = Message().varint(15, 1).text();
  const std::string long_name = record(std::string(1 << 20, 'n'), tensor_message({}, "Int8", "x"));
  for (const std::string& file : {many_fields, long_name, small_file().bytes}) {
    CHECK(test::error_of([&] { Index::read(test::MemorySource(file), &cancelled); }).kind() ==
          ErrorKind::kCancelled);
  }
  // Once the reading has begun.
  class Cancelling final : public Source {
   public:
    explicit Cancelling(std::string_view text) : source_(text) {}
    uint64_t nbytes() const override { return source_.nbytes(); }
    size_t window_nbytes() const override { return 64; }
    void read_at(uint64_t offset, ByteSpan out) const override {
      source_.read_at(offset, out);
      if (++reads == 2) cancel.store(true);
    }
    mutable CancelFlag cancel{false};
    mutable int reads = 0;

   private:
    test::MemorySource source_;
  };
  for (const std::string& file : {file_of(colliding_names(100)), long_name}) {
    const Cancelling source(file);
    CHECK(test::error_of([&] { Index::read(source, &source.cancel); }).kind() ==
          ErrorKind::kCancelled);
    CHECK(source.reads == 2);
  }
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
