#include "storage/file_writer.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "support/errors.h"
#include "support/random.h"
#include "support/system_calls.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::Random;

struct Fixture {
  test::TemporaryFolder folder;
  Refusals refused;
  FileDescriptor directory{::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};

  FileWriter writer(uint64_t nbytes, const WriteOptions& options) {
    return FileWriter(
        FileDescriptor(::openat(directory.get(), "x", O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        folder.path("x"), directory.get(), "x", nbytes, options);
  }
  std::string written() const { return test::read_file(folder.path("x")); }

  bool takes_direct_writes() const {
    struct statfs status{};
    REQUIRE(::statfs(folder.path().c_str(), &status) == 0);
    return status.f_type == EXT4_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC;
  }
};

std::vector<WriteOptions> all_options() {
  std::vector<WriteOptions> all;
  for (const bool durable : {false, true}) {
    for (const int writers : {1, 3}) {
      for (const WriteMode mode : {WriteMode::kAuto, WriteMode::kBuffered, WriteMode::kDirect}) {
        all.push_back({durable, writers, mode, false});
      }
    }
  }
  return all;
}

TEST_CASE_FIXTURE(Fixture, "random cuts of random bytes arrive at their places in every mode") {
  Random random(211);
  // Lengths around pages, and around what is staged at once.
  for (const size_t nbytes : {size_t{1}, size_t{511}, size_t{4095}, size_t{4096}, size_t{4097},
                              size_t{123'457}, (size_t{4} << 20) + 777}) {
    CAPTURE(nbytes);
    const Bytes memory = random.bytes(nbytes + 64);
    for (const WriteOptions& options : all_options()) {
      CAPTURE(options.durable);
      CAPTURE(options.num_writers);
      CAPTURE(static_cast<int>(options.mode));
      const ByteView bytes = ByteView(memory).subspan(random.below(64), nbytes);
      FileWriter file = writer(nbytes, options);
      std::vector<std::pair<size_t, size_t>> cuts;
      for (size_t at = 0; at < nbytes;) {
        const size_t n = std::min(nbytes - at, 1 + random.below(nbytes));
        cuts.emplace_back(at, n);
        at += n;
      }
      random.shuffle(cuts);
      for (const auto& [at, n] : cuts) {
        const size_t first = random.below(n + 1);
        const ByteView pieces[] = {
            bytes.subspan(at, first), {}, bytes.subspan(at + first, n - first)};
        file.write_at(at, pieces);
      }
      file.sync(refused);
      CHECK((written() == test::text_of(bytes)));
      std::filesystem::remove(folder.path("x"));
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "threads that share pages in every mode do not undo each other") {
  Random random(212);
  constexpr size_t kBlock = (size_t{1} << 20) - 48;  // no block but the first begins with a page
  constexpr size_t kBlocks = 5;
  const Bytes bytes = random.bytes(kBlocks * kBlock);
  for (const WriteOptions& options : all_options()) {
    FileWriter file = writer(bytes.size(), options);
    std::atomic<size_t> next{0};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&] {
        for (size_t block; (block = next++) < kBlocks;) {
          const ByteView piece = ByteView(bytes).subspan(block * kBlock, kBlock);
          file.write_at(block * kBlock, {&piece, 1});
        }
      });
    }
    threads.clear();
    file.sync(refused);
    CHECK((written() == test::text_of(bytes)));
    std::filesystem::remove(folder.path("x"));
  }
}

TEST_CASE_FIXTURE(Fixture, "whole pages go the way that was asked for and the rest is buffered") {
  if (!takes_direct_writes()) {
    MESSAGE("skipped: the temporary folder's file system is not known to take direct writes");
    return;
  }
  const Bytes bytes = Random(213).bytes(3 * kPageBytes);
  const ByteView piece = bytes;
  FileWriter buffered = writer(bytes.size(), {false, 2, WriteMode::kBuffered, false});
  buffered.write_at(0, {&piece, 1});
  CHECK(buffered.way() == WriteWay::kBuffered);
  FileWriter direct = writer(bytes.size(), {false, 2, WriteMode::kDirect, false});
  direct.write_at(kPageBytes - 1, {&piece, 1});
  CHECK(direct.way() == WriteWay::kDirect);
  FileWriter small = writer(100, {true, 2, WriteMode::kDirect, false});
  const ByteView little = piece.first(100);
  small.write_at(0, {&little, 1});
  CHECK(small.way() == WriteWay::kBuffered);
}

TEST_CASE_FIXTURE(
    Fixture, "auto writes over the blocks of a large file directly and else through the cache") {
  if (!takes_direct_writes()) {
    MESSAGE("skipped: the temporary folder's file system is not known to take direct writes");
    return;
  }
  const Bytes bytes = Random(214).bytes(2 * kPageBytes);
  const ByteView piece = bytes;
  struct Case {
    uint64_t nbytes;
    bool over_old_blocks;
    int writers;
    WriteWay way;
  };
  for (const Case& given : {Case{uint64_t{1} << 30, true, 2, WriteWay::kDirect},
                            Case{uint64_t{1} << 30, true, 1, WriteWay::kBuffered},
                            Case{uint64_t{1} << 30, false, 2, WriteWay::kBuffered},
                            Case{uint64_t{1} << 20, true, 2, WriteWay::kBuffered}}) {
    CAPTURE(given.nbytes);
    CAPTURE(given.over_old_blocks);
    CAPTURE(given.writers);
    FileWriter file =
        writer(given.nbytes, {true, given.writers, WriteMode::kAuto, given.over_old_blocks});
    file.write_at(0, {&piece, 1});
    CHECK(file.way() == given.way);
  }
}

TEST_CASE_FIXTURE(Fixture, "memory that direct writes can't read goes through the page cache") {
  // A driver's, of which the kernel can't pin the pages; or EINVAL where more than pages is wanted.
  const Bytes bytes = Random(217).bytes(40 * kPageBytes + 5);
  const ByteView piece = bytes;
  for (const int error : {EFAULT, EINVAL, EOPNOTSUPP}) {
    CAPTURE(error);
    FileWriter file = writer(bytes.size(), {true, 2, WriteMode::kDirect, false});
    int refusals = 0;
    const test::Intercepted pwrite(test::SystemCall::kPwrite,
                                   [&](int) { return ++refusals, error; });
    file.write_at(0, {&piece, 1});
    file.sync(refused);
    CHECK((written() == test::text_of(bytes)));
    CHECK(file.way() == WriteWay::kBuffered);
    if (takes_direct_writes()) CHECK(refusals > 0);
  }
  FileWriter file = writer(bytes.size(), {true, 2, WriteMode::kDirect, false});
  const test::Refused pwrite(test::SystemCall::kPwrite, EIO);
  if (takes_direct_writes()) {
    CHECK(test::error_of([&] { file.write_at(0, {&piece, 1}); }).error_number() == EIO);
  }
}

TEST_CASE_FIXTURE(Fixture, "memory that can't be read at all is not blamed on the file") {
  void* const pages =
      ::mmap(nullptr, 2 * kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(pages != MAP_FAILED);
  REQUIRE(::mprotect(static_cast<std::byte*>(pages) + kPageBytes, kPageBytes, PROT_NONE) == 0);
  const ByteView piece(static_cast<const std::byte*>(pages), 2 * kPageBytes);
  for (const WriteOptions& options : all_options()) {
    FileWriter file = writer(piece.size(), options);
    const Error error = test::error_of([&] { file.write_at(0, {&piece, 1}); });
    CHECK(error.kind() == ErrorKind::kInvalidArgument);
    CHECK(error.path().empty());
    CHECK(std::string(error.what()).find("memory of a tensor") != std::string::npos);
  }
  ::munmap(pages, 2 * kPageBytes);
}

TEST_CASE("a file system without direct writes is written to through the page cache") {
  // Of memory, so nothing is ever direct there, whatever open() says.
  struct statfs status{};
  if (::statfs("/dev/shm", &status) != 0 || status.f_type != TMPFS_MAGIC) {
    MESSAGE("skipped: /dev/shm is no tmpfs");
    return;
  }
  const std::string path = "/dev/shm/mindckpt-test-" + std::to_string(::getpid());
  const Bytes bytes = Random(215).bytes(3 * kPageBytes + 5);
  const ByteView piece = bytes;
  for (const WriteMode mode : {WriteMode::kAuto, WriteMode::kDirect}) {
    Refusals refused;
    FileWriter file(FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)), path,
                    AT_FDCWD, path, uint64_t{1} << 30, {true, 2, mode, false});
    file.write_at(0, {&piece, 1});
    file.sync(refused);
    CHECK((test::read_file(path) == test::text_of(bytes)));
    if (mode == WriteMode::kAuto) CHECK(file.way() == WriteWay::kBuffered);
  }
  ::unlink(path.c_str());
}

TEST_CASE("a full device is an error with path and errno") {
  if (::access("/dev/full", W_OK) != 0) {
    MESSAGE("skipped: there is no /dev/full");
    return;
  }
  const Bytes bytes = Random(216).bytes(kPageBytes);
  const ByteView piece = bytes;
  for (const WriteMode mode : {WriteMode::kAuto, WriteMode::kBuffered, WriteMode::kDirect}) {
    FileWriter file(FileDescriptor(::open("/dev/full", O_WRONLY | O_CLOEXEC)), "x.ckpt", AT_FDCWD,
                    "/dev/full", bytes.size(), {false, 2, mode, false});
    const Error error = test::error_of([&] { file.write_at(0, {&piece, 1}); });
    CHECK(error.kind() == ErrorKind::kIo);
    CHECK(error.error_number() == ENOSPC);
    CHECK(error.path() == "x.ckpt");
  }
}

}  // namespace
}  // namespace mindckpt
