#include "base/memory.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

namespace mindckpt {
namespace {

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

// Whether all of the pages belong to this process, by the kernel's word.
bool is_mapped(std::byte* data, size_t nbytes) {
  std::vector<unsigned char> resident(nbytes / kPageBytes);
  return ::mincore(data, nbytes, resident.data()) == 0;
}

TEST_CASE("pages begin on a huge page, are whole, and are 0") {
  for (const size_t nbytes : {size_t{1}, kPageBytes, kHugePageBytes, 2 * kHugePageBytes + 1}) {
    CAPTURE(nbytes);
    const Pages pages(nbytes);
    CHECK(reinterpret_cast<uintptr_t>(pages.data()) % kHugePageBytes == 0);
    CHECK(pages.size() == round_up_to_pages(nbytes));
    CHECK(pages.data()[0] == std::byte{0});
    CHECK(pages.data()[pages.size() - 1] == std::byte{0});
  }
  CHECK(Pages(0).data() == nullptr);
}

TEST_CASE("pages that were taken off go back by themselves, in any order") {
  Pages rest(3 * kHugePageBytes);
  std::byte* const begin = rest.data();
  Pages first = rest.take_front(kHugePageBytes + 1);
  Pages second = rest.take_front(kMapBytes);
  CHECK(first.data() == begin);
  CHECK(first.size() == kHugePageBytes + kMapBytes);
  CHECK(second.data() == begin + first.size());
  CHECK(rest.data() == second.data() + kMapBytes);
  CHECK(rest.size() == 3 * kHugePageBytes - first.size() - second.size());
  std::memset(begin, 0x5A, 3 * kHugePageBytes);

  const std::pair<std::byte*, size_t> gone{second.data(), second.size()};
  {
    const Pages dying = std::move(second);
  }
  CHECK_FALSE(is_mapped(gone.first, gone.second));
  CHECK(is_mapped(first.data(), first.size()));
  CHECK(is_mapped(rest.data(), rest.size()));
  CHECK(first.data()[first.size() - 1] == std::byte{0x5A});
  CHECK(rest.data()[0] == std::byte{0x5A});

  const size_t left = rest.size();
  const Pages last = rest.take_front(left);
  CHECK(rest.size() == 0);
  CHECK(rest.data() == nullptr);
  CHECK_THROWS(rest.take_front(1));
}

TEST_CASE("a buffer's pages go back to the system with it") {
  std::byte* data = nullptr;
  {
    const Buffer buffer(4 * kHugePageBytes);
    data = buffer.data();
    CHECK(is_mapped(data, 4 * kHugePageBytes));
  }
  CHECK_FALSE(is_mapped(data, 4 * kHugePageBytes));
}

TEST_CASE("more memory than the machine has is std::bad_alloc") {
  CHECK_THROWS_AS(Buffer(std::numeric_limits<size_t>::max() / 4), std::bad_alloc);
  CHECK_THROWS_AS(Pages{std::numeric_limits<size_t>::max()}, std::bad_alloc);
}

TEST_CASE("a process that may have no huge pages is told so") {
  const int before = ::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
  REQUIRE(before >= 0);
  REQUIRE(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
  CHECK_FALSE(has_huge_pages());
  REQUIRE(::prctl(PR_SET_THP_DISABLE, before, 0, 0, 0) == 0);
}

TEST_CASE(
    "memory is made resident where its pages lie whole in what is named, and keeps its bytes") {
  Pages pages(kHugePageBytes);
  ::madvise(pages.data(), pages.size(), MADV_NOHUGEPAGE);
  const size_t num_maps = pages.size() / kMapBytes;
  const auto resident_maps = [&] {
    std::vector<unsigned char> resident(pages.size() / kPageBytes);
    REQUIRE(::mincore(pages.data(), pages.size(), resident.data()) == 0);
    std::vector<bool> maps(num_maps);
    for (size_t i = 0; i < resident.size(); ++i) {
      if ((resident[i] & 1) != 0) maps[i * kPageBytes / kMapBytes] = true;
    }
    return maps;
  };
  std::byte* const middle = pages.data() + 5 * kMapBytes;
  *middle = std::byte{7};
  make_resident({});
  make_resident({pages.data() + 1, kMapBytes});  // all of no page
  std::vector<bool> expected(num_maps);
  expected[5] = true;
  CHECK(resident_maps() == expected);

  constexpr int kPopulateWrite = 23;
  if (::madvise(middle, kPageBytes, kPopulateWrite) != 0) {
    MESSAGE("skipped: this kernel makes no pages resident");
    return;
  }
  errno = ENOENT;
  make_resident({pages.data() + kMapBytes + 1, 9 * kMapBytes});
  CHECK(errno == ENOENT);
  for (size_t i = 2; i < 10; ++i) expected[i] = true;
  CHECK(resident_maps() == expected);
  CHECK(*middle == std::byte{7});
  CHECK(middle[1] == std::byte{0});
}

}  // namespace
}  // namespace mindckpt
