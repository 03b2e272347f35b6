#include "base/stream_copy.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "support/bytes.h"
#include "support/errors.h"
#include "support/random.h"

namespace mindckpt {
namespace {

using test::Bytes;

TEST_CASE("a streamed copy equals its source at any length and alignment, and ends where it does") {
  constexpr size_t kGuard = 128;
  test::Random random(7);
  for (const size_t about : {size_t{0}, (size_t{64} << 10) - 100, size_t{200} << 10}) {
    for (int i = 0; i < 60; ++i) {
      const size_t nbytes = about + random.below(200);
      CAPTURE(nbytes);
      const Bytes source = random.bytes(nbytes + kGuard);
      const ByteView from = ByteView(source).subspan(random.below(kGuard), nbytes);
      Bytes around(nbytes + 2 * kGuard, std::byte{0xC5});
      const size_t begin = random.below(kGuard);
      stream_copy(from, ByteSpan(around).subspan(begin, nbytes));
      CHECK(test::same(ByteView(around).subspan(begin, nbytes), from));
      const auto untouched = [](ByteView bytes) {
        return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0xC5}; });
      };
      CHECK(untouched(ByteView(around).first(begin)));
      CHECK(untouched(ByteView(around).subspan(begin + nbytes)));
    }
  }
}

TEST_CASE("a streamed copy to a place of another length is a bug that is reported") {
  const Bytes from(10);
  Bytes to(9);
  CHECK(test::error_of([&] { stream_copy(from, to); }).kind() == ErrorKind::kInternal);
}

}  // namespace
}  // namespace mindckpt
