#include "storage/source.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "support/errors.h"
#include "support/memory.h"
#include "support/random.h"
#include "support/temporary_folder.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::error_of;
using test::Random;

struct Fixture {
  test::TemporaryFolder folder;
  std::string path = folder.path("x.ckpt");
};

// Opening `path` fails with this error number, and names it.
void check_does_not_open(const std::string& path, int error_number) {
  const Error error = error_of([&] { FileSource source(path); });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.error_number() == error_number);
  CHECK(error.path() == path);
}

TEST_CASE_FIXTURE(Fixture, "random ranges of a file equal those of its bytes") {
  Random random(101);
  const Bytes bytes = random.bytes(10'000);
  test::write_file(path, bytes);
  const FileSource source(path);
  CHECK(source.nbytes() == bytes.size());
  CHECK(source.path() == path);
  for (int i = 0; i < 100; ++i) {
    const size_t offset = random.below(bytes.size() + 1);
    Bytes read(random.below(bytes.size() - offset + 1));
    source.read_at(offset, read);
    CHECK(test::same(read, ByteView(bytes).subspan(offset, read.size())));
  }
}

void check_scattered_reads(const Source& source, ByteView bytes, Random& random) {
  std::vector<Bytes> parts(3000);
  std::vector<ByteSpan> pieces;
  size_t total = 0;
  for (Bytes& part : parts) {
    part.resize(random.below(30));
    total += part.size();
    pieces.emplace_back(part);
  }
  source.read_pieces_at(77, pieces);
  Bytes joined;
  for (const Bytes& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  CHECK(test::same(joined, bytes.subspan(77, total)));
}

TEST_CASE_FIXTURE(Fixture, "a scattered read equals the range it covers") {
  Random random(102);
  const Bytes bytes = random.bytes(100'000);
  test::write_file(path, bytes);
  check_scattered_reads(FileSource(path), bytes, random);
  check_scattered_reads(test::MemorySource(bytes), bytes, random);  // by what any source does
}

TEST_CASE_FIXTURE(Fixture, "a missing file is ENOENT") { check_does_not_open(path, ENOENT); }

TEST_CASE_FIXTURE(Fixture, "a file below a file is ENOTDIR") {
  test::write_file(path, "x");
  check_does_not_open(path + "/y", ENOTDIR);
}

TEST_CASE_FIXTURE(Fixture, "a folder is EISDIR") { check_does_not_open(folder.path(), EISDIR); }

TEST_CASE_FIXTURE(Fixture, "a FIFO is refused without waiting for its writer") {
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  check_does_not_open(path, EINVAL);
}

TEST_CASE("a device is refused") { check_does_not_open("/dev/null", EINVAL); }

TEST_CASE_FIXTURE(Fixture, "a file that is leased is EAGAIN and says so until it is given back") {
  test::write_file(path, "x");
  const FileDescriptor holder(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  ::fcntl(holder.get(), F_SETSIG, SIGURG);  // which is ignored by default, as SIGIO is not
  if (::fcntl(holder.get(), F_SETLEASE, F_WRLCK) != 0) {
    MESSAGE("skipped: the temporary folder's file system knows no leases");
    return;
  }
  check_does_not_open(path, EAGAIN);
  CHECK(test::message(error_of([&] { FileSource source(path); })) == doctest::Contains("lease"));
  REQUIRE(::fcntl(holder.get(), F_SETLEASE, F_UNLCK) == 0);
  CHECK(FileSource(path).nbytes() == 1);
}

TEST_CASE_FIXTURE(Fixture, "a file that became shorter is a format error with its path") {
  test::write_file(path, std::string(1000, 'x'));
  const FileSource source(path);
  REQUIRE(::truncate(path.c_str(), 500) == 0);
  Bytes read(600);
  const Error error = error_of([&] { source.read_at(0, read); });
  CHECK(error.kind() == ErrorKind::kFormat);
  CHECK(error.path() == path);
  source.read_at(0, ByteSpan(read).first(500));
}

}  // namespace
}  // namespace mindckpt
