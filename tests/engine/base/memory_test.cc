#include "base/memory.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

namespace mindckpt {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

bool is_aligned(const Buffer& buffer, size_t alignment) {
  return reinterpret_cast<uintptr_t>(buffer.data()) % alignment == 0;
}

TEST_CASE("a buffer starts on a page and holds every byte it was asked for") {
  for (const size_t nbytes :
       {size_t{1}, size_t{15}, kPageBytes - 1, kPageBytes, kPageBytes + 1, kHugePageBytes - 1}) {
    CAPTURE(nbytes);
    Buffer buffer(nbytes);
    CHECK(buffer.size() == nbytes);
    CHECK(buffer.span().size() == nbytes);
    CHECK(is_aligned(buffer, kPageBytes));
    std::memset(buffer.data(), 0xA5, nbytes);  // AddressSanitizer is the oracle
  }
}

TEST_CASE("a buffer of 2 MiB and more starts on a huge page") {
  for (const size_t nbytes : {kHugePageBytes, kHugePageBytes + 1, 3 * kHugePageBytes - 1}) {
    CAPTURE(nbytes);
    Buffer buffer(nbytes);
    CHECK(is_aligned(buffer, kHugePageBytes));
    buffer.data()[nbytes - 1] = std::byte{1};
  }
}

TEST_CASE("a buffer of no bytes takes no memory") {
  CHECK(Buffer().data() == nullptr);
  CHECK(Buffer(0).data() == nullptr);
  CHECK(Buffer(0).span().empty());
}

TEST_CASE("reserve keeps the memory that suffices and takes more when it does not") {
  Buffer buffer(100);
  const std::byte* const before = buffer.data();
  buffer.reserve(100);
  buffer.reserve(1);
  CHECK(buffer.data() == before);
  CHECK(buffer.size() == 100);
  buffer.reserve(101);
  CHECK(buffer.size() == 101);
}

TEST_CASE("more memory than the machine has is std::bad_alloc") {
  CHECK_THROWS_AS(Buffer(std::numeric_limits<size_t>::max() / 4), std::bad_alloc);
}

}  // namespace
}  // namespace mindckpt
