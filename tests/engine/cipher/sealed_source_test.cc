#include "cipher/sealed_source.h"

#include <doctest/doctest.h>

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

Bytes opened(const SealedSource& source, std::span<const Frame> frames) {
  uint64_t nbytes = 0;
  for (const Frame& frame : frames) nbytes += frame.plain_nbytes;
  Bytes plain(nbytes);
  source.open(frames, plain);
  return plain;
}

Bytes part_of(const Bytes& plain, const Frame& frame) {
  const auto begin = plain.begin() + static_cast<ptrdiff_t>(frame.plain_begin);
  return {begin, begin + static_cast<ptrdiff_t>(frame.plain_nbytes)};
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
      CHECK(frame.plain_begin == begin);
      CHECK(opened(source, {&frame, 1}) == part_of(file.plain, frame));
      begin += frame.plain_nbytes;
    }
    CHECK(begin == file.plain.size());
  }
}

TEST_CASE("neighbouring blocks of any lengths open together") {
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    std::vector<size_t> sizes{5, 64, 1, 300, 16, 17, 31};
    if (kind.mode != CipherMode::kAesGcm) sizes.insert(sizes.begin() + 2, 0);  // padding only
    const EncryptedFile file(kind, sizes, 92);
    const MemorySource bytes = file.source();
    const SealedSource source(bytes, *file.cipher);
    const std::span<const Frame> frames = source.frames();
    for (size_t first = 0; first < frames.size(); ++first) {
      Bytes expected;
      for (size_t last = first; last < frames.size(); ++last) {
        const Bytes more = part_of(file.plain, frames[last]);
        expected.insert(expected.end(), more.begin(), more.end());
        CHECK(opened(source, frames.subspan(first, last - first + 1)) == expected);
      }
    }
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

// Counts the reads, and cancels at one.
class WatchedSource final : public Source {
 public:
  explicit WatchedSource(const Source& source, int cancel_at = -1)
      : source_(source), cancel_at_(cancel_at) {}
  uint64_t nbytes() const override { return source_.nbytes(); }
  size_t window_nbytes() const override { return source_.window_nbytes(); }
  void read_at(uint64_t offset, ByteSpan out) const override {
    if (reads_++ == cancel_at_) cancel.store(true);
    source_.read_at(offset, out);
  }

  int reads() const { return reads_; }
  mutable CancelFlag cancel{false};

 private:
  const Source& source_;
  int cancel_at_;
  mutable int reads_ = 0;
};

TEST_CASE("finding the blocks can be cancelled on the way") {
  constexpr size_t kBlocks = 500;
  const EncryptedFile file({CipherMode::kAesGcm, 16}, std::vector<size_t>(kBlocks, 64), 91);
  const MemorySource bytes = file.source();
  for (const int cancel_at : {0, 100}) {
    const WatchedSource watched(bytes, cancel_at);
    CHECK(error_of([&] { SealedSource(watched, *file.cipher, {}, &watched.cancel); }).kind() ==
          ErrorKind::kCancelled);
    CHECK(watched.reads() <= cancel_at + 4);
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
  const std::span<const Frame> frames = source.frames();
  opened(source, frames.subspan(2, 1));
  for (const auto& run : {frames.subspan(1, 1), frames}) {
    const Error error = error_of([&] { opened(source, run); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(test::message(error) == doctest::Contains("(block 1, at byte 88 of the file)"));
  }
}

TEST_CASE("a read past the plaintext is a bug that is reported") {
  const EncryptedFile file({CipherMode::kAesGcm, 16}, {10}, 91);
  const MemorySource bytes = file.source();
  const SealedSource source(bytes, *file.cipher);
  Bytes read(5);
  CHECK(error_of([&] { source.read_at(6, read); }).kind() == ErrorKind::kInternal);
}

constexpr size_t kOddPlaces[] = {1, 2, 300, 598, 599};

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
    const FrameHeader header = decode_frame_header(file.frames[i], file.cipher->mode());
    CHECK(frame.ciphertext_nbytes == header.ciphertext_nbytes);
    CHECK((frame.number == file.cipher->number_of(header.iv)));
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
      Bytes around(nbytes + 64, std::byte{0x77});
      const ByteSpan place = ByteSpan(around).subspan(32, nbytes);
      source.open(source.frames(), place);
      CHECK(test::same(place, file.plain));
      CHECK(test::same(ByteView(around).first(32), Bytes(32, std::byte{0x77})));
      CHECK(test::same(ByteView(around).last(32), Bytes(32, std::byte{0x77})));
      // A shorter place is refused before it is written past.
      const Bytes before = around;
      CHECK(error_of([&] {
              file.cipher->open(decode_frame_header(file.frames[0], kind.mode),
                                ByteView(file.frames[0]).subspan(frame_header_nbytes(kind.mode)),
                                ByteSpan(around).first(nbytes - 1));
            }).kind() == ErrorKind::kDecryption);
      CHECK(test::same(around, before));
    }
  }
}

// A file whose first block tells of the others: it is numbered on, and all but the last block have
// one length.
struct NumberedFile {
  NumberedFile(const CipherKind& kind, size_t frame_nbytes, size_t plain_nbytes)
      : random(93), cipher(kind.make(random.bytes(kind.key_nbytes))) {
    plain = random.bytes(plain_nbytes);
    run = {cipher->random_base(), 0, plain_nbytes};
    for (size_t at = 0; at < plain_nbytes; at += frame_nbytes) {
      const ByteView part = ByteView(plain).subspan(at, std::min(frame_nbytes, plain_nbytes - at));
      frames.push_back(sealed(part, run.count++));
    }
  }

  Bytes sealed(ByteView part, uint64_t place) const {
    Bytes frame(cipher->frame_nbytes(part.size()));
    cipher->seal(part, cipher->iv_of(cipher->block_number(run.first_number, place)), frame);
    return frame;
  }
  MemorySource source() const { return MemorySource(test::join(frames)); }
  FindFrameRun telling(FrameRun told) const {
    return [told, this](ByteView first_plain) {
      CHECK(test::same(first_plain, ByteView(plain).first(first_plain.size())));
      return told;
    };
  }

  Random random;
  std::unique_ptr<Cipher> cipher;
  Bytes plain;
  FrameRun run;
  std::vector<Bytes> frames;
};

void check_same_frames(const SealedSource& a, const SealedSource& b) {
  CHECK(a.nbytes() == b.nbytes());
  REQUIRE(a.frames().size() == b.frames().size());
  for (size_t i = 0; i < a.frames().size(); ++i) {
    CAPTURE(i);
    const Frame& x = a.frames()[i];
    const Frame& y = b.frames()[i];
    CHECK(x.ciphertext_begin == y.ciphertext_begin);
    CHECK(x.ciphertext_nbytes == y.ciphertext_nbytes);
    CHECK(x.plain_begin == y.plain_begin);
    CHECK(x.plain_nbytes == y.plain_nbytes);
    CHECK((x.number == y.number));
  }
}

TEST_CASE("blocks that the first one tells of are those that a walk finds, and it is not walked") {
  for (const CipherKind& kind : test::every_kind()) {
    CAPTURE(kind.label());
    for (const size_t frame_nbytes : {16u, 100u}) {
      for (size_t plain_nbytes = 1; plain_nbytes <= 3 * frame_nbytes + 1; ++plain_nbytes) {
        CAPTURE(plain_nbytes);
        const NumberedFile file(kind, frame_nbytes, plain_nbytes);
        const MemorySource bytes = file.source();
        const WatchedSource watched(bytes);
        const SealedSource told(watched, *file.cipher, file.telling(file.run));
        // What a walk reads is all of the first block and something of each of the others.
        if (told.frames().size() > 2) CHECK(watched.reads() <= 5);
        check_same_frames(told, SealedSource(bytes, *file.cipher));
        CHECK(opened(told, told.frames()) == file.plain);
        Bytes read(plain_nbytes);
        told.read_at(0, read);
        CHECK(read == file.plain);
      }
    }
  }
}

TEST_CASE("what does not fit the file is not believed: its blocks are walked") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const NumberedFile file(kind, 40, 130);
    const MemorySource bytes = file.source();
    const SealedSource walked(bytes, *file.cipher);
    const auto check_walked = [&](FrameRun told) {
      CAPTURE(told.count);
      CAPTURE(told.plain_nbytes);
      check_same_frames(SealedSource(bytes, *file.cipher, file.telling(told)), walked);
    };
    for (const uint64_t count :
         {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{5}, uint64_t{1} << 60, ~uint64_t{0}}) {
      check_walked({file.run.first_number, count, 130});
    }
    for (const uint64_t nbytes :
         {uint64_t{0}, uint64_t{40}, uint64_t{120}, uint64_t{160}, uint64_t{161}, ~uint64_t{0}}) {
      check_walked({file.run.first_number, 4, nbytes});
    }
    check_walked({file.cipher->block_number(file.run.first_number, 1), 4, 130});
  }
}

TEST_CASE("a block that is not the one that was told of is noticed when it is opened") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const NumberedFile whole(kind, 48, 48 * 4);
    const size_t frame_nbytes = whole.frames[0].size();
    const auto check_noticed = [&](const std::vector<Bytes>& frames) {
      const MemorySource bytes(test::join(frames));
      const SealedSource source(bytes, *whole.cipher, whole.telling(whole.run));
      const std::span<const Frame> all = source.frames();
      REQUIRE(all.size() == 4);
      CHECK(opened(source, all.first(2)) == Bytes(whole.plain.begin(), whole.plain.begin() + 96));
      for (const auto& run : {all.subspan(2, 1), all}) {
        const Error error = error_of([&] { opened(source, run); });
        CHECK(error.kind() == ErrorKind::kDecryption);
        const std::string place =
            "(block 2, at byte " + std::to_string(2 * frame_nbytes) + " of the file)";
        CHECK(test::message(error) == doctest::Contains(place.c_str()));
      }
      if (source.authenticates()) return;
      Bytes part(16);
      CHECK(error_of([&] { source.open_part(all[2], 2 * 48 + 16, part); }).kind() ==
            ErrorKind::kDecryption);
    };
    std::vector<Bytes> frames = whole.frames;
    std::swap(frames[2], frames[3]);
    check_noticed(frames);
    frames[2] = frames[3] = whole.frames[1];
    check_noticed(frames);
    frames[2] = NumberedFile(kind, 48, 48).frames[0];  // of another file
    check_noticed(frames);
    frames[2] = Bytes(frame_nbytes);
    check_noticed(frames);
    if (kind.mode == CipherMode::kAesGcm) continue;
    frames[2] = whole.sealed(ByteView(whole.plain).first(50), 2);  // as long, with less padding
    const MemorySource bytes(test::join(frames));
    const SealedSource source(bytes, *whole.cipher, whole.telling(whole.run));
    CHECK(error_of([&] { opened(source, std::span(source.frames()).subspan(2, 1)); }).kind() ==
          ErrorKind::kDecryption);
    Bytes part(16);
    source.open_part(source.frames()[2], 2 * 48, part);
    CHECK(error_of([&] { source.open_part(source.frames()[2], 2 * 48 + 32, part); }).kind() ==
          ErrorKind::kDecryption);
  }
}

TEST_CASE("parts of a block are parts of the plaintext") {
  for (const CipherKind& kind : test::every_mode()) {
    if (kind.mode == CipherMode::kAesGcm) continue;
    CAPTURE(kind.label());
    const EncryptedFile file(kind, {20, 100, 7}, 94);
    const MemorySource bytes = file.source();
    const SealedSource source(bytes, *file.cipher);
    for (uint64_t begin = 20; begin < 120; ++begin) {
      for (uint64_t end = begin + 1; end <= 120; ++end) {
        Bytes part(end - begin);
        source.open_part(source.frames()[1], begin, part);
        CHECK(test::same(part, ByteView(file.plain).subspan(begin, end - begin)));
      }
    }
  }
}

}  // namespace
}  // namespace mindckpt
