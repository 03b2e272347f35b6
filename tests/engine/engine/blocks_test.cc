#include <doctest/doctest.h>

#include "engine/saving.h"
#include "support/errors.h"

// Files whose encrypted blocks were tampered with as wholes. Every block here holds one record, so
// that the rest is a sound checkpoint to a parser: only the seals and the IVs can tell.
namespace mindckpt {
namespace {

using test::Bytes;
using test::cipher_of;
using test::CipherKind;
using test::error_of;
using test::Parameters;
using test::SharedCipher;

constexpr uint64_t kRecordBytes = kSealRecordBytes;
constexpr size_t kRecords = 6;

// An encrypted file taken apart: one seal, kRecords records, one seal.
struct SealedFile {
  CipherKind kind;
  SharedCipher cipher;
  std::vector<Bytes> frames;
};

struct Fixture {
  Fixture() {
    for (size_t i = 0; i < kRecords; ++i) parameters.add("p0" + std::to_string(i), "Int8", {32});
    REQUIRE(parameters.records().size() == kRecords * kRecordBytes);
    for (const CipherKind& kind : test::every_mode()) files.push_back(save(kind, cipher_of(kind)));
  }

  SealedFile save(const CipherKind& kind, const SharedCipher& cipher) const {
    const Bytes file = test::saved(parameters, {cipher, false, kRecordBytes, 2});
    return {kind, cipher, test::split_frames(kind.mode, file)};
  }

  // Entries that are read.
  size_t count_entries(const std::vector<Bytes>& frames, const SharedCipher& cipher) const {
    test::write_file(path, test::join(frames));
    return test::read_all(CheckpointFile(path, cipher)).size();
  }

  // The tampering is noticed when the file is opened, before any part of it is read.
  void check_not_opened(const SealedFile& file, const std::vector<Bytes>& frames) const {
    CAPTURE(file.kind.label());
    test::write_file(path, test::join(frames));
    const Error error = error_of([&] { CheckpointFile(path, file.cipher); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(error.path() == path);
  }
  // At the latest when it is read; as an encrypted file is, whatever a parser makes of the rest.
  void check_refused(const SealedFile& file, const std::vector<Bytes>& frames) const {
    CAPTURE(file.kind.label());
    const Error error = error_of([&] { count_entries(frames, file.cipher); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(error.path() == path);
  }

  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
  Parameters parameters;
  std::vector<SealedFile> files;  // one of each mode
};

std::vector<Bytes> without(std::vector<Bytes> frames, std::vector<size_t> dropped) {
  std::ranges::sort(dropped, std::greater<>());
  for (const size_t i : dropped) frames.erase(frames.begin() + static_cast<ptrdiff_t>(i));
  return frames;
}

// The first `cut` frames of one file and the others of the other.
std::vector<Bytes> spliced(const std::vector<Bytes>& head, const std::vector<Bytes>& tail,
                           size_t cut) {
  std::vector<Bytes> frames(head.begin(), head.begin() + static_cast<ptrdiff_t>(cut));
  frames.insert(frames.end(), tail.begin() + static_cast<ptrdiff_t>(cut), tail.end());
  return frames;
}

TEST_CASE_FIXTURE(Fixture, "the untouched file holds every record") {
  for (const SealedFile& file : files) {
    CHECK(file.frames.size() == kRecords + 2);
    CHECK(count_entries(file.frames, file.cipher) == kRecords);
  }
}

TEST_CASE_FIXTURE(Fixture, "a file with any one block dropped is refused") {
  for (const SealedFile& file : files) {
    for (size_t i = 0; i < file.frames.size(); ++i)
      check_not_opened(file, without(file.frames, {i}));
  }
}

TEST_CASE_FIXTURE(Fixture, "a file with any two blocks dropped is refused") {
  for (const SealedFile& file : files) {
    for (size_t i = 0; i < file.frames.size(); ++i) {
      for (size_t j = i + 1; j < file.frames.size(); ++j) {
        check_not_opened(file, without(file.frames, {i, j}));
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a file with any two blocks swapped is refused") {
  for (const SealedFile& file : files) {
    const size_t last = file.frames.size() - 1;
    for (size_t i = 0; i <= last; ++i) {
      for (size_t j = i + 1; j <= last; ++j) {
        std::vector<Bytes> swapped = file.frames;
        std::swap(swapped[i], swapped[j]);
        check_refused(file, swapped);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a file with any one block repeated is refused") {
  for (const SealedFile& file : files) {
    for (size_t i = 0; i < file.frames.size(); ++i) {
      std::vector<Bytes> repeated = file.frames;
      repeated.insert(repeated.begin() + static_cast<ptrdiff_t>(i), file.frames[i]);
      check_refused(file, repeated);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a block repeated in place of another is refused") {
  for (const SealedFile& file : files) {
    for (size_t i = 0; i < file.frames.size(); ++i) {
      for (size_t j = 0; j < file.frames.size(); ++j) {
        std::vector<Bytes> replaced = file.frames;
        replaced[i] = file.frames[j];
        if (i != j) check_refused(file, replaced);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a block of another file under the same key is refused") {
  for (const SealedFile& file : files) {
    const SealedFile other = save(file.kind, file.cipher);
    for (size_t i = 0; i < file.frames.size(); ++i) {
      std::vector<Bytes> replaced = file.frames;
      replaced[i] = other.frames[i];
      check_refused(file, replaced);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "the beginning of one file with the end of another is refused") {
  for (const SealedFile& file : files) {
    const SealedFile other = save(file.kind, file.cipher);
    for (size_t cut = 1; cut < file.frames.size(); ++cut) {
      check_refused(file, spliced(file.frames, other.frames, cut));
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "two files one after the other are refused") {
  for (const SealedFile& file : files) {
    std::vector<Bytes> both = file.frames;
    for (const Bytes& frame : save(file.kind, file.cipher).frames) both.push_back(frame);
    check_refused(file, both);
  }
}

TEST_CASE_FIXTURE(Fixture, "a file cut off between any two blocks is refused") {
  for (const SealedFile& file : files) {
    std::vector<Bytes> rest = file.frames;
    for (rest.pop_back(); !rest.empty(); rest.pop_back()) check_not_opened(file, rest);
  }
}

TEST_CASE_FIXTURE(Fixture, "a file without its first and last block is refused") {
  for (const SealedFile& file : files) {
    check_not_opened(file, without(file.frames, {0, file.frames.size() - 1}));
  }
}

// docs/security.md promises it as long as two blocks are left.
TEST_CASE_FIXTURE(Fixture, "any two blocks that are left of a file are refused in either order") {
  for (const SealedFile& file : files) {
    for (size_t i = 1; i <= kRecords; ++i) {
      for (size_t j = 1; j <= kRecords; ++j) {
        CAPTURE(i);
        CAPTURE(j);
        if (i != j) check_not_opened(file, {file.frames[i], file.frames[j]});
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "every second block that is left of a file is refused") {
  for (const SealedFile& file : files) {
    check_not_opened(file, {file.frames[1], file.frames[3], file.frames[5]});
    check_not_opened(file, {file.frames[6], file.frames[4], file.frames[2]});
  }
}

TEST_CASE_FIXTURE(Fixture, "a wrong key is refused whatever it decrypts to") {
  for (SealedFile& file : files) {
    for (uint64_t seed = 2; seed < 200; ++seed) {
      file.cipher = cipher_of(file.kind, seed);
      check_refused(file, file.frames);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a file in one mode opens neither in another nor without a key") {
  for (const SealedFile& file : files) {
    for (const SealedFile& other : files) {
      if (other.kind.mode == file.kind.mode) continue;
      check_refused(other, file.frames);
    }
    check_refused({file.kind, nullptr, {}}, file.frames);
  }
}

TEST_CASE_FIXTURE(Fixture, "a plain file is refused when there is a key") {
  test::write_file(path, parameters.file(false));
  const Error error = error_of([&] { CheckpointFile(path, cipher_of({CipherMode::kAesGcm, 16})); });
  CHECK(error.kind() == ErrorKind::kDecryption);
  CHECK(test::message(error) == doctest::Contains("not encrypted"));
}

}  // namespace
}  // namespace mindckpt
