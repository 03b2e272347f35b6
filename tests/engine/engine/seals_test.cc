#include <doctest/doctest.h>

#include <functional>

#include "engine/saving.h"
#include "support/errors.h"
#include "support/message.h"

// Authentic files, as only who has the key can make them, in which one thing alone is not as the
// seal records say. So each thing that they say is held by a check of its own.
namespace mindckpt {
namespace {

using test::Bytes;
using test::CipherKind;
using test::error_of;

// An encrypted file as it is written: what its seals say, and what it is.
struct Written {
  std::optional<Seal> opening;
  std::optional<Seal> closing;
  std::vector<size_t> lengths;  // of the blocks' plaintext
  std::vector<Iv> numbers;      // of the blocks
  bool long_varint = false;     // whether the opening seal's length is coded in two bytes
};

struct Fixture : test::SaveFixture {
  // A sound file in blocks of these lengths and a last one that holds the rest.
  Written sound(const Cipher& cipher, std::vector<size_t> lengths) const {
    const uint64_t nbytes = parameters.records().size() + 2 * kSealRecordBytes;
    uint64_t rest = nbytes;
    for (const size_t length : lengths) rest -= length;
    lengths.push_back(rest);
    Written written;
    const Seal seal{cipher.random_base(), lengths.size(), nbytes};
    written.opening = written.closing = seal;
    written.lengths = lengths;
    for (size_t i = 0; i < lengths.size(); ++i) {
      written.numbers.push_back(cipher.block_number(seal.iv_base, i));
    }
    return written;
  }

  void write(const Cipher& cipher, const Written& written) const {
    std::string plain;
    if (written.opening) plain += encode_seal(*written.opening, Seal::Position::kOpening);
    if (written.long_varint) plain.replace(2, 1, {'\xB0', '\0'});
    plain += parameters.records();
    if (written.closing) plain += encode_seal(*written.closing, Seal::Position::kClosing);
    ByteView rest = as_bytes(plain);
    Bytes file;
    for (size_t i = 0; i < written.lengths.size(); ++i) {
      const ByteView part = rest.first(written.lengths[i]);
      Bytes frame(cipher.frame_nbytes(part.size()));
      cipher.seal(part, cipher.iv_of(written.numbers[i]), frame);
      file.insert(file.end(), frame.begin(), frame.end());
      rest = rest.subspan(part.size());
    }
    REQUIRE(rest.empty());
    test::write_file(path, file);
  }

  // A file that is sound but for one change opens in no mode; GCM tells why.
  void check_refused(const std::vector<size_t>& lengths,
                     const std::function<void(Written&)>& change, const char* why) const {
    for (const CipherKind& kind : test::every_mode()) {
      CAPTURE(kind.label());
      const test::SharedCipher cipher = test::cipher_of(kind);
      Written written = sound(*cipher, lengths);
      write(*cipher, written);
      test::check_loads(path, cipher, parameters);
      change(written);
      write(*cipher, written);
      const Error error = error_of([&] { CheckpointFile(path, cipher); });
      CHECK(error.kind() == ErrorKind::kDecryption);
      CHECK(test::message(error) ==
            doctest::Contains(kind.mode == CipherMode::kAesGcm ? why : "does not decrypt"));
    }
  }
  // The same for several ways to cut the file in blocks.
  void check_refused(const std::function<void(Written&)>& change, const char* why) const {
    check_refused({}, change, why);
    check_refused({100}, change, why);
    check_refused({100, 100, 100}, change, why);
  }
};

void change_both(Written& written, const std::function<void(Seal&)>& change) {
  change(*written.opening);
  change(*written.closing);
}

// In one block, which no other can be near to.
TEST_CASE_FIXTURE(Fixture, "a file without its opening seal alone is refused") {
  check_refused(
      {},
      [](Written& written) {
        written.opening.reset();
        written.closing->plain_nbytes -= kSealRecordBytes;
        written.lengths[0] -= kSealRecordBytes;
      },
      "the first one is gone");
}

TEST_CASE_FIXTURE(Fixture, "a file without its closing seal alone is refused") {
  check_refused(
      [](Written& written) {
        written.closing.reset();
        written.opening->plain_nbytes -= kSealRecordBytes;
        written.lengths.back() -= kSealRecordBytes;
      },
      "the last one is gone");
}

TEST_CASE_FIXTURE(Fixture, "a file whose seals differ in any one field alone is refused") {
  const char* const why = "the first and the last belong to different files";
  check_refused([](Written& written) { written.closing->iv_base[11] ^= std::byte{1}; }, why);
  check_refused([](Written& written) { ++written.closing->block_count; }, why);
  check_refused([](Written& written) { ++written.closing->plain_nbytes; }, why);
}

TEST_CASE_FIXTURE(Fixture, "a file of another number of blocks than its seals say is refused") {
  for (const int more : {-1, 1}) {
    check_refused(
        [&](Written& written) {
          change_both(written, [&](Seal& seal) {
            seal.block_count = static_cast<uint64_t>(static_cast<int64_t>(seal.block_count) + more);
          });
        },
        "their number is another");
  }
}

TEST_CASE_FIXTURE(Fixture, "a file of another length than its seals say is refused") {
  for (const int more : {-1, 1}) {
    check_refused(
        [&](Written& written) {
          change_both(written, [&](Seal& seal) {
            seal.plain_nbytes =
                static_cast<uint64_t>(static_cast<int64_t>(seal.plain_nbytes) + more);
          });
        },
        "their length is another");
  }
}

TEST_CASE_FIXTURE(Fixture, "a file whose blocks are numbered from another base is refused") {
  check_refused(
      [](Written& written) {
        change_both(written, [](Seal& seal) { seal.iv_base[11] ^= std::byte{1}; });
      },
      "their order is another");
}

// As somebody else's protobuf library may code it.
TEST_CASE_FIXTURE(Fixture, "an opening seal that is coded otherwise is held to all the same") {
  check_refused(
      {},
      [](Written& written) {
        written.long_varint = true;
        ++written.lengths[0];
        change_both(written, [](Seal& seal) {
          ++seal.plain_nbytes;
          seal.iv_base[11] ^= std::byte{1};
        });
      },
      "their order is another");
}

// The last block is longer than the first one, so that the seal tells of no run of equal blocks.
TEST_CASE_FIXTURE(Fixture, "a file of which one block alone has another number is refused") {
  for (size_t odd = 0; odd < 3; ++odd) {
    check_refused(
        {60, 60}, [&](Written& written) { written.numbers[odd][0] ^= std::byte{1}; },
        "their order is another");
  }
}

TEST_CASE_FIXTURE(Fixture, "a file of which one block alone has another length is refused") {
  check_refused(
      {60, 60, 60},
      [](Written& written) {
        ++written.lengths[1];
        --written.lengths.back();
      },
      "a length is another");
}

}  // namespace
}  // namespace mindckpt
