#include <doctest/doctest.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "checksum/crc32.h"
#include "engine/saving.h"
#include "support/errors.h"
#include "support/message.h"

namespace {

// A file that is cut short just before the read of that number.
std::atomic<const char*> cut_path{nullptr};
std::atomic<int> reads_before_cut{0};

}  // namespace

// Stands before the C library's.
extern "C" ssize_t preadv64(int fd, const iovec* pieces, int count, off64_t offset) {
  const char* const path = cut_path;
  if (path != nullptr && reads_before_cut.fetch_sub(1) == 0) {
    if (::truncate(path, 10) != 0) return -1;
    cut_path = nullptr;
  }
  return ::syscall(SYS_preadv, fd, pieces, count, offset, long{0});
}

// Reading part of a file, and files that are damaged or change.
namespace mindckpt {
namespace {

using test::Bytes;
using test::cipher_of;
using test::CipherKind;
using test::error_of;
using test::Parameters;
using test::Random;
using test::read_all;
using test::read_entries;
using test::saved;
using test::SaveFixture;
using test::SharedCipher;

const CancelFlag kNever{false};

// Three tensors of 1000 bytes in encrypted blocks of 100.
struct SealedFixture {
  SealedFixture() {
    parameters.add("a", "Int8", {1000}).add("b", "Int8", {1000}).add("c", "Int8", {1000});
    file = saved(parameters, {cipher, true, kBlockBytes, 2});
    test::write_file(path, file);
    const CheckpointFile opened(path, cipher);
    for (const Entry& entry : opened.entries()) {
      content_begins.push_back(entry.slices.at(0).begin);
    }
  }

  // Flips a bit of the ciphertext of byte `at` of the plaintext.
  void damage(uint64_t at) {
    const uint64_t frame = at / kBlockBytes * cipher->frame_nbytes(kBlockBytes);
    file.at(frame + frame_header_nbytes(cipher->mode()) + at % kBlockBytes) ^= std::byte{1};
    test::write_file(path, file);
  }
  ErrorKind kind_of_read(const std::vector<size_t>& entries, bool check_crc = false) {
    return error_of([&] { read_entries(CheckpointFile(path, cipher), entries, check_crc); }).kind();
  }
  const std::string& payload(size_t i) const { return parameters.all()[i].payload; }

  static constexpr uint64_t kBlockBytes = 100;
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
  Parameters parameters;
  SharedCipher cipher = cipher_of({CipherMode::kAesGcm, 32});
  Bytes file;
  std::vector<uint64_t> content_begins;
};

TEST_CASE_FIXTURE(SaveFixture, "any selection of entries reads back in every mode") {
  std::vector<SharedCipher> ciphers{nullptr};
  for (const CipherKind& kind : test::every_mode()) ciphers.push_back(cipher_of(kind));
  for (const SharedCipher& cipher : ciphers) {
    test::write_file(path, saved(parameters, {cipher, true, 40, 2}));
    const CheckpointFile file(path, cipher);
    for (unsigned set = 0; set < 1u << parameters.all().size(); ++set) {
      CAPTURE(set);
      std::vector<size_t> wanted;
      std::vector<std::string> expected;
      for (size_t i = 0; i < parameters.all().size(); ++i) {
        if ((set >> i & 1) == 0) continue;
        wanted.push_back(i);
        expected.push_back(parameters.all()[i].payload);
      }
      CHECK((read_entries(file, wanted, false, 3) == expected));
      CHECK((read_entries(file, wanted, true, 1) == expected));
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a tensor in many slices and a map tensor read back") {
  const auto slice = [](std::string_view content) {
    return test::record("w", test::tensor_message({6}, "Int8", content));
  };
  const std::string part = test::tensor_message({2}, "int8", "kv");
  test::write_file(
      path, slice("ab") + slice("") + slice("cdef") + test::map_record("m", {part, part, part}));
  const CheckpointFile file(path, nullptr);
  CHECK((read_all(file) == std::vector<std::string>{"abcdef", "kv", "kv", "kv"}));
  CHECK((read_entries(file, {0, 2}) == std::vector<std::string>{"abcdef", "kv"}));
}

TEST_CASE_FIXTURE(SealedFixture, "a damaged block does not matter to those who do not read it") {
  damage(content_begins[1] + 500);
  const CheckpointFile opened(path, cipher);
  const auto others = read_entries(opened, {0, 2});
  CHECK((others[0] == payload(0)));
  CHECK((others[1] == payload(2)));
  CHECK(kind_of_read({1}) == ErrorKind::kDecryption);
  CHECK(kind_of_read({0, 1, 2}) == ErrorKind::kDecryption);
}

TEST_CASE_FIXTURE(SealedFixture, "swapped blocks do not matter to those who do not read them") {
  std::vector<Bytes> frames = test::split_frames(cipher->mode(), file);
  const size_t inside_b = content_begins[1] / kBlockBytes + 2;
  std::swap(frames.at(inside_b), frames.at(inside_b + 1));
  test::write_file(path, test::join(frames));
  const auto others = read_entries(CheckpointFile(path, cipher), {0, 2});
  CHECK((others[0] == payload(0)));
  CHECK((others[1] == payload(2)));
  CHECK(kind_of_read({1}) == ErrorKind::kDecryption);
  CHECK(kind_of_read({0}, true) == ErrorKind::kDecryption);
}

// It begins inside a tensor, so that a parser is the first to stumble.
TEST_CASE_FIXTURE(SealedFixture, "a last block alone is known to be ours by its closing seal") {
  for (const bool crc : {false, true}) {
    const std::vector<Bytes> frames =
        test::split_frames(cipher->mode(), saved(parameters, {cipher, crc, 2000, 2}));
    REQUIRE(frames.size() == 2);
    test::write_file(path, frames[1]);
    const Error error = error_of([&] { CheckpointFile(path, cipher); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(test::message(error) == doctest::Contains("the first one is gone"));
  }
}

TEST_CASE_FIXTURE(SealedFixture, "a damaged block of content matters where everything is summed") {
  damage(content_begins[1] + 500);
  CHECK(kind_of_read({0}, true) == ErrorKind::kDecryption);
}

TEST_CASE_FIXTURE(SealedFixture, "a damaged block with a record's header is refused by any read") {
  // In the content of a, in the block where b's header begins.
  damage(content_begins[1] / kBlockBytes * kBlockBytes);
  for (const size_t entry : {0u, 1u, 2u}) CHECK(kind_of_read({entry}) == ErrorKind::kDecryption);
  CHECK(kind_of_read({}) == ErrorKind::kDecryption);
}

TEST_CASE_FIXTURE(SealedFixture, "a damaged block is named by the path of its file") {
  damage(content_begins[2] + 500);
  const CheckpointFile opened(path, cipher);
  CHECK(error_of([&] { read_entries(opened, {2}); }).path() == path);
}

TEST_CASE_FIXTURE(SealedFixture, "any damaged byte of a GCM file is noticed by a whole read") {
  Random random(141);
  for (int i = 0; i < 200; ++i) {
    Bytes damaged = file;
    const size_t at = random.below(damaged.size());
    const uint64_t in_frame = at % cipher->frame_nbytes(kBlockBytes);
    damaged[at] ^= static_cast<std::byte>(1 << random.below(8));
    if (in_frame >= 40 && in_frame < 44) continue;  // the unused bytes of the IV
    CAPTURE(at);
    test::write_file(path, damaged);
    const ErrorKind kind = error_of([&] { read_all(CheckpointFile(path, cipher)); }).kind();
    CHECK((kind == ErrorKind::kDecryption || kind == ErrorKind::kFormat));
  }
}

TEST_CASE_FIXTURE(SaveFixture, "any damaged byte of a file with a CRC is noticed by its check") {
  const std::string good = parameters.file(true);
  for (size_t at = 0; at < good.size(); ++at) {
    CAPTURE(at);
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << at % 8);
    test::write_file(path, damaged);
    const ErrorKind kind = error_of([&] { read_all(CheckpointFile(path, nullptr), true); }).kind();
    CHECK((kind == ErrorKind::kChecksum || kind == ErrorKind::kFormat));
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a CRC that does not match is a checksum error with the path") {
  for (const uint64_t crc :
       {uint64_t{0}, (uint64_t{1} << 32) + crc32_update(0, as_bytes(parameters.records()))}) {
    test::write_file(path, parameters.records() + test::trailer(crc));
    const CheckpointFile file(path, nullptr);
    const Error error = error_of([&] { read_all(file, true); });
    CHECK(error.kind() == ErrorKind::kChecksum);
    CHECK(error.path() == path);
    CHECK(read_all(file, false).size() == parameters.all().size());
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a CRC to be checked of a file without is a checksum error") {
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    test::write_file(path, saved(parameters, {cipher, false}));
    const CheckpointFile file(path, cipher);
    CHECK(error_of([&] { read_all(file, true); }).kind() == ErrorKind::kChecksum);
  }
}

// A writer may begin with a block of padding, or end with one.
TEST_CASE_FIXTURE(SaveFixture, "blocks of padding only do not matter wherever they stand") {
  Random random(142);
  for (const CipherKind& kind : test::every_mode()) {
    if (kind.mode == CipherMode::kAesGcm) continue;
    const Bytes key = random.bytes(kind.key_nbytes);
    const Bytes plain = test::bytes_of(parameters.file(true));
    const auto frame = [&](ByteView part) {
      return test::mindspore_frame(kind.mode, key, test::random_iv(random), part);
    };
    const Bytes first = frame(ByteView(plain).first(50));
    const Bytes rest = frame(ByteView(plain).subspan(50));
    for (const auto& frames : {std::vector<Bytes>{frame({}), first, rest},
                               {first, frame({}), rest},
                               {first, rest, frame({})},
                               {frame({}), first, frame({}), frame({}), rest, frame({})}}) {
      test::write_file(path, test::join(frames));
      test::check_loads(path, kind.make(key), parameters, false);
      test::check_loads(path, kind.make(key), parameters, true);
    }
  }
}

// Nothing there says how long the blocks between have to be, on which all places depend.
TEST_CASE_FIXTURE(SaveFixture, "of a file by MindSpore every block is checked by any read") {
  Random random(143);
  const Bytes key = random.bytes(32);
  const Bytes plain = test::bytes_of(parameters.file(false));
  std::vector<Bytes> frames;
  for (size_t at = 0; at < plain.size(); at += 50) {
    const ByteView block = ByteView(plain).subspan(at, std::min<size_t>(50, plain.size() - at));
    frames.push_back(
        test::mindspore_frame(CipherMode::kAesGcm, key, test::random_iv(random), block));
  }
  const SharedCipher cipher = Cipher::create(CipherMode::kAesGcm, key);
  for (size_t damaged = 0; damaged < frames.size(); ++damaged) {
    CAPTURE(damaged);
    std::vector<Bytes> changed = frames;
    changed[damaged][4] ^= std::byte{1};  // the tag
    test::write_file(path, test::join(changed));
    const Error error = error_of([&] { read_entries(CheckpointFile(path, cipher), {0}); });
    CHECK(error.kind() == ErrorKind::kDecryption);
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a file that changed since it was opened is noticed") {
  const std::string good = parameters.file(true);
  test::write_file(path, good);
  const CheckpointFile file(path, nullptr);
  std::string renamed = good;
  renamed[renamed.find("step")] = 'S';
  test::write_file(path, renamed);
  const ErrorKind kind = error_of([&] { read_all(file, true); }).kind();
  CHECK((kind == ErrorKind::kFormat || kind == ErrorKind::kChecksum));
}

TEST_CASE_FIXTURE(SealedFixture, "a block that changed since the file was opened is noticed") {
  const CheckpointFile opened(path, cipher);
  test::write_file(path, saved(parameters, {cipher, true, kBlockBytes, 2}));
  CHECK(error_of([&] { read_all(opened); }).kind() == ErrorKind::kDecryption);
}

// CBC vouches for nothing itself: the same IV with other bytes still opens.
TEST_CASE_FIXTURE(SaveFixture, "a CBC block that changed since the file was opened is noticed") {
  const Bytes key(16);
  const auto write_block = [&](const std::string& plain) {
    test::write_file(path, test::mindspore_frame(CipherMode::kAesCbc, key, Iv{}, as_bytes(plain)));
  };
  const std::string good = test::record("w", test::tensor_message({4}, "Int8", "abcd"));
  const std::string renamed = test::record("v", test::tensor_message({4}, "Int8", "abcd"));
  for (const std::string& changed : {renamed, good + "x"}) {
    write_block(good);
    const CheckpointFile file(path, Cipher::create(CipherMode::kAesCbc, key));
    write_block(changed);
    const Error error = error_of([&] { read_all(file); });
    CHECK((error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kDecryption));
    CHECK(test::message(error) == doctest::Contains("changed while it was read"));
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a file that became shorter since it was opened is noticed") {
  test::write_file(path, parameters.file(false));
  const CheckpointFile file(path, nullptr);
  REQUIRE(::truncate(path.c_str(), 10) == 0);
  const Error error = error_of([&] { read_all(file); });
  CHECK(error.kind() == ErrorKind::kFormat);
  CHECK(error.path() == path);
}

// CBC's other errors say that the key may be wrong: not so this one.
TEST_CASE_FIXTURE(SaveFixture,
                  "a file cut short while it is opened or read says so in every mode") {
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    const Bytes whole = saved(parameters, {cipher, true, 100, 1});
    for (int reads = 0;; ++reads) {
      CAPTURE(reads);
      test::write_file(path, whole);
      cut_path = path.c_str();
      reads_before_cut = reads;
      try {
        read_all(CheckpointFile(path, cipher));
        REQUIRE(cut_path.load() != nullptr);  // by now there were enough reads before it
        cut_path = nullptr;
        CHECK(reads > 8);
        break;
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kFormat);
        CHECK(error.path() == path);
        CHECK(test::message(error) == doctest::Contains("became shorter while it was read"));
      }
    }
  }
}

TEST_CASE_FIXTURE(SaveFixture, "a file that is opened after it was cancelled says so") {
  const CancelFlag cancelled{true};
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    test::write_file(path, saved(parameters, {cipher}));
    CHECK(error_of([&] { CheckpointFile(path, cipher, &cancelled); }).kind() ==
          ErrorKind::kCancelled);
  }
}

TEST_CASE_FIXTURE(SealedFixture, "a read that is cancelled says so") {
  const CheckpointFile opened(path, cipher);
  const CancelFlag cancelled{true};
  Bytes content(1000);
  const Target target{0, content.data()};
  CHECK(error_of([&] { opened.read({&target, 1}, false, {2, cancelled, nullptr, {}}); }).kind() ==
        ErrorKind::kCancelled);
}

TEST_CASE_FIXTURE(SealedFixture, "targets out of order are a bug that is reported") {
  const CheckpointFile opened(path, cipher);
  Bytes content(1000);
  const Target targets[] = {{1, content.data()}, {0, content.data()}};
  CHECK(error_of([&] { opened.read(targets, false, {1, kNever, nullptr, {}}); }).kind() ==
        ErrorKind::kInternal);
}

TEST_CASE_FIXTURE(SealedFixture, "several threads may read one open file at once") {
  const CheckpointFile opened(path, cipher);
  std::atomic<int> wrong{0};
  std::vector<std::jthread> threads;
  for (const size_t entry : {0u, 1u, 2u, 0u}) {
    threads.emplace_back([&, entry] {
      for (int i = 0; i < 10; ++i) {
        if (read_entries(opened, {entry})[0] != payload(entry)) ++wrong;
      }
    });
  }
  threads.clear();
  CHECK(wrong.load() == 0);
}

TEST_CASE_FIXTURE(SaveFixture, "a missing file and one that is no checkpoint are named by path") {
  const Error missing = error_of([&] { CheckpointFile(path, nullptr); });
  CHECK(missing.kind() == ErrorKind::kIo);
  CHECK(missing.error_number() == ENOENT);
  CHECK(missing.path() == path);
  test::write_file(path, "this is no checkpoint");
  const Error text = error_of([&] { CheckpointFile(path, nullptr); });
  CHECK(text.kind() == ErrorKind::kFormat);
  CHECK(text.path() == path);
}

TEST_CASE_FIXTURE(SaveFixture, "an encrypted file without a key says which mode it is in") {
  for (const CipherKind& kind : test::every_mode()) {
    test::write_file(path, saved(parameters, {cipher_of(kind)}));
    const Error error = error_of([&] { CheckpointFile(path, nullptr); });
    CHECK(error.kind() == ErrorKind::kDecryption);
    CHECK(test::message(error) == ("the file is encrypted with " +
                                   std::string(cipher_mode_name(kind.mode)) + ": a key is needed")
                                      .c_str());
  }
}

// As MindSpore makes them, up to 64 MiB.
TEST_CASE_FIXTURE(SaveFixture, "blocks too large for a worker's buffer read back in every mode") {
  Parameters large(7);
  large.add("a", "Int8", {3}).add("b", "Int8", {21'000'000}).add("c", "Int8", {1'000'001});
  large.add("d", "Int8", {9'000'000});
  for (const CipherKind& kind : test::every_mode()) {
    CAPTURE(kind.label());
    const SharedCipher cipher = cipher_of(kind);
    test::write_file(path, saved(large, {cipher, true, uint64_t{6} << 20, 2}));
    const CheckpointFile file(path, cipher);
    for (const bool crc : {false, true}) {
      CAPTURE(crc);
      CHECK((read_entries(file, {0, 2}, crc) ==
             std::vector{large.all()[0].payload, large.all()[2].payload}));
      CHECK((read_entries(file, {1, 3}, crc, 3) ==
             std::vector{large.all()[1].payload, large.all()[3].payload}));
    }
  }
}

}  // namespace
}  // namespace mindckpt
