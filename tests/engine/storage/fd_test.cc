#include "storage/fd.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "support/bytes.h"
#include "support/errors.h"
#include "support/random.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::error_of;
using test::Random;

// Buffers of random sizes, empty ones among them, and the iovecs over them.
struct Pieces {
  Pieces(Random& random, size_t count) : buffers(count) {
    for (Bytes& buffer : buffers) {
      buffer.resize(random.one_in(4) ? 0 : random.below(40));
      total += buffer.size();
      iovecs.push_back({buffer.data(), buffer.size()});
    }
  }
  Bytes joined() const {
    Bytes whole;
    for (const Bytes& buffer : buffers) whole.insert(whole.end(), buffer.begin(), buffer.end());
    return whole;
  }

  std::vector<Bytes> buffers;
  std::vector<iovec> iovecs;
  size_t total = 0;
};

// Fills the front of `count` iovecs from `file`, at most `most` bytes.
ssize_t read_some(const Bytes& file, const iovec* iovecs, int count, size_t offset, size_t most) {
  size_t moved = 0;
  for (int i = 0; i < count && moved < most; ++i) {
    const size_t nbytes = std::min({iovecs[i].iov_len, most - moved, file.size() - offset - moved});
    std::copy_n(file.data() + offset + moved, nbytes, static_cast<std::byte*>(iovecs[i].iov_base));
    moved += nbytes;
  }
  return static_cast<ssize_t>(moved);
}

TEST_CASE("transfers that stop short and are interrupted arrive whole") {
  Random random(91);
  for (int i = 0; i < 200; ++i) {
    Pieces pieces(random, random.below(20));
    const size_t offset = random.below(100);
    const Bytes file = random.bytes(offset + pieces.total);
    const uint64_t moved = transfer_all(
        [&](const iovec* iovecs, int count, int64_t at) -> ssize_t {
          if (random.one_in(3)) {
            errno = EINTR;
            return -1;
          }
          return read_some(file, iovecs, count, static_cast<size_t>(at), random.between(1, 30));
        },
        pieces.iovecs, offset, "read", "a file");
    CHECK(moved == pieces.total);
    CHECK(test::same(pieces.joined(), ByteView(file).subspan(offset)));
  }
}

TEST_CASE("no call is given more pieces than the system takes") {
  Random random(92);
  Pieces pieces(random, 5000);
  const Bytes file = random.bytes(pieces.total);
  int most_pieces = 0;
  transfer_all(
      [&](const iovec* iovecs, int count, int64_t at) {
        most_pieces = std::max(most_pieces, count);
        return read_some(file, iovecs, count, static_cast<size_t>(at), file.size());
      },
      pieces.iovecs, 0, "read", "a file");
  CHECK(most_pieces == IOV_MAX);
  CHECK(pieces.joined() == file);
}

TEST_CASE("a transfer that gets no further returns what it moved") {
  Random random(93);
  Pieces pieces(random, 10);
  const Bytes file = random.bytes(pieces.total);
  size_t calls = 0;
  const uint64_t moved = transfer_all(
      [&](const iovec* iovecs, int count, int64_t at) {
        return ++calls == 3 ? 0 : read_some(file, iovecs, count, static_cast<size_t>(at), 5);
      },
      pieces.iovecs, 0, "read", "a file");
  CHECK(moved == 10);
}

TEST_CASE("nothing to move calls nothing") {
  iovec empty{nullptr, 0};
  const Transfer never = [](const iovec*, int, int64_t) -> ssize_t { throw 1; };
  CHECK(transfer_all(never, {}, 0, "read", "a file") == 0);
  CHECK(transfer_all(never, {&empty, 1}, 0, "read", "a file") == 0);
}

TEST_CASE("a failing transfer throws what the system said with the path") {
  Random random(94);
  Pieces pieces(random, 4);
  const Error error = error_of([&] {
    const auto fails = [](const iovec*, int, int64_t) -> ssize_t {
      errno = ENOSPC;
      return -1;
    };
    transfer_all(fails, pieces.iovecs, 0, "write", "/some/file");
  });
  CHECK(error.kind() == ErrorKind::kIo);
  CHECK(error.error_number() == ENOSPC);
  CHECK(error.path() == "/some/file");
  CHECK(test::message(error) == "write: No space left on device");
}

TEST_CASE("a descriptor is closed by its last owner and once") {
  const int number = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    FileDescriptor first(number);
    FileDescriptor second(std::move(first));
    CHECK_FALSE(first.is_open());  // NOLINT(bugprone-use-after-move)
    FileDescriptor third;
    third = std::move(second);
    CHECK(third.get() == number);
    CHECK(::fcntl(number, F_GETFD) >= 0);
  }
  CHECK(::fcntl(number, F_GETFD) == -1);
}

}  // namespace
}  // namespace mindckpt
