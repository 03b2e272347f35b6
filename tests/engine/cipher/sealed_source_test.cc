#include "cipher/sealed_source.h"

#include <doctest/doctest.h>

#include <mutex>
#include <set>
#include <thread>

#include "support/bytes.h"
#include "support/ciphers.h"
#include "support/errors.h"
#include "support/memory.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::CipherKind;
using test::error_of;
using test::MemorySource;
using test::mindspore_frame;
using test::Random;

// An encrypted file as MindSpore makes them: blocks with random IVs, here of the sizes given.
struct EncryptedFile {
  EncryptedFile(const CipherKind& kind, const std::vector<size_t>& block_sizes, uint64_t seed)
      : random(seed), key(random.bytes(kind.key_nbytes)), cipher(kind.make(key)) {
    for (const size_t nbytes : block_sizes) {
      const Bytes block = random.bytes(nbytes);
      plain.insert(plain.end(), block.begin(), block.end());
      frames.push_back(mindspore_frame(kind.mode, key, test::random_iv(random), block));
    }
  }
  MemorySource source() const { return MemorySource(test::join(frames)); }

  Random random;
  Bytes key;
  std::unique_ptr<Cipher> cipher;
  Bytes plain;
  std::vector<Bytes> frames;
};

std::vector<size_t> random_sizes(Random& random) {
  std::vector<size_t> sizes(random.between(1, 12));
  for (size_t& nbytes : sizes) {
    nbytes = random.pick<size_t>({1, 2, 15, 16, 17, 31, 32, 33, 100, random.between(1, 500)});
  }
  return sizes;
}

void check_random_reads(const EncryptedFile& file, const SealedSource& source, Random& random) {
  for (int i = 0; i < 60; ++i) {
    const size_t offset = random.below(file.plain.size() + 1);
    Bytes read(random.below(file.plain.size() - offset + 1));
    source.read_at(offset, read);
    CHECK(test::same(read, ByteView(file.plain).subspan(offset, read.size())));
  }
}

TEST_CASE("random ranges of blocks of mixed sizes equal those of the plaintext") {
  Random random(81);
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    for (uint64_t seed = 0; seed < 8; ++seed) {
      const EncryptedFile file(kind, random_sizes(random), seed);
      const MemorySource bytes = file.source();
      const SealedSource source(bytes, *file.cipher);
      CHECK(source.nbytes() == file.plain.size());
      check_random_reads(file, source, random);
    }
  }
}

TEST_CASE("every block opens to its part of the plaintext") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const EncryptedFile file(kind, {5, 64, 1, 300, 16}, 82);
    const MemorySource bytes = file.source();
    const SealedSource source(bytes, *file.cipher);
    REQUIRE(source.frames().size() == 5);
    uint64_t begin = 0;
    for (const Frame& frame : source.frames()) {
      Bytes staging(frame.header.ciphertext_nbytes);
      const ByteView plain = source.open(frame, staging);
      CHECK(frame.plain_begin == begin);
      CHECK(test::same(plain, ByteView(file.plain).subspan(begin, frame.plain_nbytes)));
      begin += frame.plain_nbytes;
    }
    CHECK(begin == file.plain.size());
  }
}

TEST_CASE("a place in the plaintext belongs to the first block that ends after it") {
  const EncryptedFile file({CipherMode::kAesCbc, 16}, {10, 20, 0, 5}, 83);
  const MemorySource bytes = file.source();
  const SealedSource source(bytes, *file.cipher);
  const auto frame_at = [&](uint64_t offset) { return source.frame_at(offset); };
  CHECK(frame_at(0) == 0);
  CHECK(frame_at(9) == 0);
  CHECK(frame_at(10) == 1);
  CHECK(frame_at(29) == 1);
  CHECK(frame_at(30) == 3);  // block 2 is padding only
  CHECK(frame_at(34) == 3);
}

TEST_CASE("blocks of padding only are read over wherever they stand") {
  Random random(84);
  for (const CipherKind& kind : test::every_mode()) {
    if (kind.mode == CipherMode::kAesGcm) continue;
    const EncryptedFile file(kind, {0, 40, 0, 0, 7, 0}, 84);
    const MemorySource bytes = file.source();
    const SealedSource source(bytes, *file.cipher);
    CHECK(source.nbytes() == 47);
    check_random_reads(file, source, random);
  }
}

// Tells who reads, and cancels at a read.
class WatchedSource final : public Source {
 public:
  explicit WatchedSource(const Source& source, int cancel_at = -1)
      : source_(source), cancel_at_(cancel_at) {}
  uint64_t nbytes() const override { return source_.nbytes(); }
  size_t window_nbytes() const override { return source_.window_nbytes(); }
  void read_at(uint64_t offset, ByteSpan out) const override {
    {
      const std::lock_guard lock(mutex_);
      threads_.insert(std::this_thread::get_id());
      if (reads_++ == cancel_at_) cancel.store(true);
    }
    source_.read_at(offset, out);
  }

  size_t num_threads() const { return threads_.size(); }
  int reads() const { return reads_; }
  mutable CancelFlag cancel{false};

 private:
  const Source& source_;
  int cancel_at_;
  mutable std::mutex mutex_;
  mutable std::set<std::thread::id> threads_;
  mutable int reads_ = 0;
};

TEST_CASE(
    "finding the blocks takes the threads that it is given, and can be cancelled on the way") {
  constexpr size_t kBlocks = 5000;
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    const EncryptedFile file(kind, std::vector<size_t>(kBlocks, 64), 91);
    const MemorySource bytes = file.source();
    for (const size_t num_threads : {1u, 3u}) {
      const WatchedSource watched(bytes);
      const SealedSource source(watched, *file.cipher,
                                {static_cast<int>(num_threads), &watched.cancel});
      CHECK(source.frames().size() == kBlocks);
      CHECK(watched.num_threads() <= num_threads);
      CHECK(watched.reads() > static_cast<int>(kBlocks));
    }
    // At the first block, and while threads look for those that are like it.
    for (const int cancel_at : {0, 1000}) {
      const WatchedSource watched(bytes, cancel_at);
      CHECK(error_of([&] { SealedSource(watched, *file.cipher, {2, &watched.cancel}); }).kind() ==
            ErrorKind::kCancelled);
      CHECK(watched.reads() < static_cast<int>(kBlocks));
    }
  }
}

TEST_CASE("a file of no bytes holds no plaintext") {
  const EncryptedFile file({CipherMode::kAesGcm, 16}, {}, 85);
  const MemorySource bytes = file.source();
  CHECK(SealedSource(bytes, *file.cipher).nbytes() == 0);
}

TEST_CASE("a wrong key is noticed at the first block") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const EncryptedFile file(kind, {100, 100}, 86);
    const MemorySource bytes = file.source();
    const auto wrong = kind.make(Bytes(kind.key_nbytes, std::byte{'w'}));
    const Error error = error_of([&] { SealedSource(bytes, *wrong); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(test::message(error) == doctest::Contains("(block 0, at byte 0 of the file)"));
  }
}

TEST_CASE("a file cut off anywhere but between blocks is refused and the place is named") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const EncryptedFile file(kind, {33, 20}, 87);
    const Bytes whole = test::join(file.frames);
    for (size_t nbytes = 1; nbytes < whole.size(); ++nbytes) {
      if (nbytes == file.frames[0].size()) continue;
      CAPTURE(nbytes);
      const MemorySource bytes(test::text_of(ByteView(whole).first(nbytes)));
      const Error error = error_of([&] { SealedSource(bytes, *file.cipher); });
      CHECK((error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kDecryption));
      CHECK(test::message(error) ==
            doctest::Contains(nbytes < file.frames[0].size() ? "(block 0, " : "(block 1, "));
    }
  }
}

TEST_CASE("bytes after the last block are refused") {
  const EncryptedFile file({CipherMode::kAesGcm, 16}, {10}, 88);
  const std::string whole = test::text_of(test::join(file.frames));
  for (const size_t more : {1u, 47u, 48u, 100u}) {
    const MemorySource source(whole + std::string(more, '\0'));
    const Error error = error_of([&] { SealedSource(source, *file.cipher); });
    CHECK(error.kind() == (more < 48 ? ErrorKind::kFormat : ErrorKind::kDecryption));
    CHECK(test::message(error) == doctest::Contains("(block 1, at byte 58 of the file)"));
  }
}

TEST_CASE("a block in another mode is refused") {
  EncryptedFile file({CipherMode::kAesGcm, 16}, {10, 10}, 89);
  file.frames[1] = mindspore_frame(CipherMode::kAesCbc, file.key, Iv{}, test::bytes_of("a block"));
  const MemorySource bytes = file.source();
  const Error error = error_of([&] { SealedSource(bytes, *file.cipher); });
  CHECK(error.kind() == ErrorKind::kDecryption);
  CHECK(test::message(error) == doctest::Contains("encrypted with AES-CBC, not with AES-GCM"));
}

TEST_CASE("a damaged GCM block is noticed when it is opened and not by a look into it") {
  EncryptedFile file({CipherMode::kAesGcm, 32}, {40, 40, 40}, 90);
  file.frames[1].back() ^= std::byte{1};
  const MemorySource bytes = file.source();
  const SealedSource source(bytes, *file.cipher);
  Bytes read(120);
  source.read_at(0, read);
  Bytes staging(40);
  source.open(source.frames()[2], staging);
  CHECK(error_of([&] { source.open(source.frames()[1], staging); }).kind() ==
        ErrorKind::kDecryption);
}

TEST_CASE("a read past the plaintext is a bug that is reported") {
  const EncryptedFile file({CipherMode::kAesGcm, 16}, {10}, 91);
  const MemorySource bytes = file.source();
  const SealedSource source(bytes, *file.cipher);
  Bytes read(5);
  CHECK(error_of([&] { source.read_at(6, read); }).kind() == ErrorKind::kInternal);
}

// Where threads that look for equal frames begin and end, and beside it.
constexpr size_t kOddPlaces[] = {1, 2, 255, 256, 257, 512, 599};

void check_frames(const EncryptedFile& file, const std::vector<size_t>& sizes) {
  const MemorySource bytes = file.source();
  const SealedSource source(bytes, *file.cipher);
  REQUIRE(source.frames().size() == sizes.size());
  uint64_t in_plain = 0;
  uint64_t in_file = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    CAPTURE(i);
    const Frame& frame = source.frames()[i];
    CHECK(frame.plain_begin == in_plain);
    CHECK(frame.plain_nbytes == sizes[i]);
    CHECK(frame.ciphertext_begin == in_file + frame_header_nbytes(file.cipher->mode()));
    CHECK((frame.number == file.cipher->number_of(frame.header.iv)));
    in_plain += sizes[i];
    in_file += file.frames[i].size();
  }
  CHECK(source.nbytes() == in_plain);
}

TEST_CASE("hundreds of blocks are found, each by its header, wherever one has another length") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    std::vector<size_t> sizes(600, 20);
    check_frames(EncryptedFile(kind, sizes, 85), sizes);
    for (const size_t odd : kOddPlaces) {
      CAPTURE(odd);
      // 25 and 20 bytes are ciphertexts of one length in CBC, not so 40 and 3.
      for (const size_t nbytes : {size_t{25}, size_t{40}, size_t{3}}) {
        sizes.assign(600, 20);
        sizes[odd] = nbytes;
        check_frames(EncryptedFile(kind, sizes, 86), sizes);
      }
    }
  }
}

TEST_CASE("a bad header among hundreds of blocks is refused by its place") {
  const CipherKind kind{CipherMode::kAesGcm, 16};
  for (const size_t odd : kOddPlaces) {
    CAPTURE(odd);
    EncryptedFile file(kind, std::vector<size_t>(600, 20), 87);
    const size_t frame_nbytes = file.frames[0].size();
    file.frames[odd][0] ^= std::byte{1};
    const MemorySource bytes = file.source();
    const Error error = error_of([&] { const SealedSource source(bytes, *file.cipher); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    const std::string place = "(block " + std::to_string(odd) + ", at byte " +
                              std::to_string(odd * frame_nbytes) + " of the file)";
    CHECK(test::message(error) == doctest::Contains(place.c_str()));
  }
}

TEST_CASE("hundreds of blocks and a part of one end inside a block") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const EncryptedFile file(kind, std::vector<size_t>(600, 20), 88);
    Bytes bytes = test::join(file.frames);
    bytes.pop_back();
    const MemorySource cut(bytes);
    const Error error = error_of([&] { const SealedSource source(cut, *file.cipher); });
    CHECK(error.kind() == ErrorKind::kFormat);
    CHECK(test::message(error) == doctest::Contains("(block 599, "));
  }
}

TEST_CASE("a block opens into exactly its place, and beside it nothing is written") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    for (const size_t nbytes : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{300}}) {
      CAPTURE(nbytes);
      const EncryptedFile file(kind, {nbytes}, 89);
      const MemorySource bytes = file.source();
      const SealedSource source(bytes, *file.cipher);
      const Frame& frame = source.frames()[0];
      Bytes staging(frame.header.ciphertext_nbytes);
      Bytes around(nbytes + 64, std::byte{0x77});
      const ByteSpan place = ByteSpan(around).subspan(32, nbytes);
      source.open_into(frame, staging, place);
      CHECK(test::same(place, file.plain));
      CHECK(test::same(ByteView(around).first(32), Bytes(32, std::byte{0x77})));
      CHECK(test::same(ByteView(around).last(32), Bytes(32, std::byte{0x77})));
      // A shorter place is refused before it is written past.
      const Bytes before = around;
      CHECK(error_of([&] {
              file.cipher->open(frame.header, ByteView(file.frames[0]).last(staging.size()),
                                ByteSpan(around).first(nbytes - 1));
            }).kind() == ErrorKind::kDecryption);
      CHECK(test::same(around, before));
    }
  }
}

}  // namespace
}  // namespace mindckpt
