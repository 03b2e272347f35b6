#include <doctest/doctest.h>

#include <cerrno>
#include <limits>

#include "engine/saving.h"
#include "storage/atomic_file.h"
#include "support/errors.h"

// The real file layer, wrapped to fail: whichever call it is, the old file stays and nothing else.
namespace mindckpt {
namespace {

using test::cipher_of;
using test::error_of;
using test::Save;
using test::SaveFixture;
using test::SharedCipher;

// Calls that fail; the others are writes, counted from 0.
constexpr int kCommit = std::numeric_limits<int>::max();
constexpr int kSync = kCommit - 1;
constexpr int kNone = kCommit - 2;

// Passes everything on to an atomic file until the call that fails as on a full disk.
class FaultySink final : public Sink {
 public:
  FaultySink(const std::string& path, uint64_t nbytes, int fails_at,
             const AtomicFile::Options& options = {})
      : path_(path), file_(path, nbytes, options), fails_at_(fails_at) {}

  void write_at(uint64_t offset, std::span<const ByteView> pieces) override {
    const int call = calls_++;
    // A disk that is full stays full.
    if (call >= fails_at_ && fails_at_ < kNone) {
      throw Error(ErrorKind::kIo, "write: disk full", path_, ENOSPC);
    }
    file_.write_at(offset, pieces);
  }
  void sync() override {
    if (fails_at_ == kSync) throw Error(ErrorKind::kIo, "fdatasync: bad disk", path_, EIO);
    file_.sync();
  }
  void commit() override {
    if (fails_at_ == kCommit) throw Error(ErrorKind::kIo, "rename: gone", path_, EROFS);
    file_.commit();
  }
  int calls() const { return calls_; }

 private:
  std::string path_;
  AtomicFile file_;
  int fails_at_;
  std::atomic<int> calls_{0};
};

struct Fixture : SaveFixture {
  // Saves over an old file with a failure at `fails_at`.
  void check_old_file_stays(const test::SaveOptions& options, int fails_at, int error_number,
                            const AtomicFile::Options& writing = {}) {
    CAPTURE(fails_at);
    CAPTURE(options.num_threads);
    test::write_file(path, "the old file");
    {
      Save save(parameters, options);
      FaultySink sink(path, save.file_nbytes(), fails_at, writing);
      const Error error = error_of([&] { save.run(sink); });
      CHECK(error.kind() == ErrorKind::kIo);
      CHECK(error.error_number() == error_number);
      CHECK(error.path() == path);
    }
    CHECK(test::read_file(path) == "the old file");
    CHECK(folder.names() == std::vector<std::string>{"x.ckpt"});
  }

  int count_writes(const test::SaveOptions& options) {
    Save save(parameters, options);
    FaultySink sink(path, save.file_nbytes(), kNone);
    save.run(sink);
    std::filesystem::remove(path);
    return sink.calls();
  }
};

TEST_CASE_FIXTURE(Fixture, "a full disk in any block leaves the old file") {
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    for (const bool crc : {false, true}) {
      for (const int threads : {1, 3}) {
        const test::SaveOptions options{cipher, crc, 25, threads};
        const int writes = count_writes(options);
        CHECK(writes > 10);
        for (int at = 0; at < writes; ++at) check_old_file_stays(options, at, ENOSPC);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a failure at any call leaves the old file however it is written") {
  // Blocks of several pages, and so whole pages in each.
  parameters.add("large", "Float32", {30'000});
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    for (const uint64_t block_bytes : {uint64_t{16'384}, uint64_t{16'384 - 48}, uint64_t{10'001}}) {
      const test::SaveOptions options{cipher, true, block_bytes, 3};
      const int writes = count_writes(options);
      CHECK(writes > 6);
      for (const bool durable : {false, true}) {
        for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
          AtomicFile::Options writing;
          writing.durable = durable;
          writing.num_writers = options.num_threads;
          writing.mode = mode;
          for (int at = 0; at < writes; ++at) check_old_file_stays(options, at, ENOSPC, writing);
          check_old_file_stays(options, kSync, EIO, writing);
          check_old_file_stays(options, kCommit, EROFS, writing);
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture,
                  "a failure over a retired file leaves the old file and no temporary one") {
  parameters.add("large", "Float32", {30'000});
  const test::SaveOptions options{nullptr, true, 16'384, 3};
  const int writes = count_writes(options);
  for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
    AtomicFile::Options writing;
    writing.durable = true;
    writing.mode = mode;
    writing.reuse = folder.path("retired.ckpt");
    std::vector<int> calls = {kSync, kCommit};
    for (int at = 0; at < writes; ++at) calls.push_back(at);
    for (const int at : calls) {
      test::write_file(writing.reuse, std::string(200'000, 'r'));
      check_old_file_stays(options, at,
                           at == kSync     ? EIO
                           : at == kCommit ? EROFS
                                           : ENOSPC,
                           writing);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a save is the same file however it is written") {
  parameters.add("large", "Float32", {30'000});
  for (const uint64_t block_bytes : {uint64_t{16'384}, uint64_t{10'001}, uint64_t{1} << 20}) {
    for (const bool durable : {false, true}) {
      for (const bool reuse : {false, true}) {
        for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
          AtomicFile::Options writing;
          writing.durable = durable;
          writing.num_writers = 2;
          writing.mode = mode;
          if (reuse) {
            writing.reuse = folder.path("retired.ckpt");
            test::write_file(writing.reuse, std::string(200'000, 'r'));
          }
          Save save(parameters, {nullptr, true, block_bytes, 2});
          FaultySink sink(path, save.file_nbytes(), kNone, writing);
          save.run(sink);
          CHECK((test::read_file(path) == parameters.file(true)));
          CHECK(folder.names() == std::vector<std::string>{"x.ckpt"});
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a failing sync or commit leaves the old file") {
  for (const SharedCipher& cipher : {SharedCipher(), cipher_of({CipherMode::kAesGcm, 16})}) {
    check_old_file_stays({cipher, true, 25, 2}, kSync, EIO);
    check_old_file_stays({cipher, true, 25, 2}, kCommit, EROFS);
  }
}

TEST_CASE_FIXTURE(Fixture, "a sink that does not fail publishes the file") {
  CHECK(count_writes({nullptr, true, 25, 2}) > 10);
  Save save(parameters, {nullptr, true, 25, 2});
  FaultySink sink(path, save.file_nbytes(), kNone);
  save.run(sink);
  CHECK(test::read_file(path) == parameters.file(true));
}

}  // namespace
}  // namespace mindckpt
