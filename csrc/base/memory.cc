#include "base/memory.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <new>
#include <string>

#include "base/error.h"

namespace mindckpt {

Pages::Pages(size_t nbytes) {
  if (nbytes == 0) return;
  if (nbytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
  const size_t wanted = round_up_to_pages(nbytes);
  const size_t mapped = wanted + kHugePageBytes;
  void* const found =
      ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) throw std::bad_alloc();
  // What is not wanted before and behind the aligned part was never touched.
  auto* const begin = static_cast<std::byte*>(found);
  const auto misaligned = reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  const size_t before = misaligned == 0 ? 0 : kHugePageBytes - misaligned;
  if (before > 0) ::munmap(begin, before);
  if (mapped > before + wanted) ::munmap(begin + before + wanted, mapped - before - wanted);
  data_ = begin + before;
  nbytes_ = wanted;
  // No more than a wish: small pages do where the system has no huge ones to give.
  if (const size_t huge = wanted / kHugePageBytes * kHugePageBytes; huge > 0) {
    ::madvise(data_, huge, MADV_HUGEPAGE);
  }
}

Pages::~Pages() {
  // A hole needs an entry more in the system's table of mappings, which may be full. Then the
  // memory goes back all the same, and only its addresses do not.
  if (data_ != nullptr && ::munmap(data_, nbytes_) != 0) ::madvise(data_, nbytes_, MADV_DONTNEED);
}

Pages Pages::take_front(size_t nbytes) {
  const size_t taken = round_up_to_pages(nbytes);
  MINDCKPT_CHECK(taken <= nbytes_);
  Pages front;
  if (taken == 0) return front;
  front.data_ = data_;
  front.nbytes_ = taken;
  nbytes_ -= taken;
  data_ = nbytes_ > 0 ? data_ + taken : nullptr;
  return front;
}

bool has_huge_pages() {
  if (::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) return false;
  std::ifstream setting("/sys/kernel/mm/transparent_hugepage/enabled");  // such as "[never]"
  std::string text;
  std::getline(setting, text);
  return !text.empty() && text.find("[never]") == std::string::npos;
}

void make_resident(ByteSpan bytes) noexcept {
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, of Linux 5.14; older ones say EINVAL
  constexpr auto kMask = uintptr_t{kMapBytes - 1};
  const auto data = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t begin = (data + kMask) & ~kMask;
  const uintptr_t end = (data + bytes.size()) & ~kMask;
  if (begin >= end) return;
  const int saved_errno = errno;
  ::madvise(reinterpret_cast<void*>(begin), end - begin, kPopulateWrite);
  errno = saved_errno;
}

Buffer::Buffer(size_t nbytes) : nbytes_(nbytes) {
  if (nbytes == 0) return;
  if (nbytes >= kHugePageBytes) {
    pages_ = Pages(nbytes);
    return;
  }
  void* data = nullptr;
  if (::posix_memalign(&data, kPageBytes, nbytes) != 0) throw std::bad_alloc();
  data_.reset(static_cast<std::byte*>(data));
}

void Buffer::Free::operator()(std::byte* data) const noexcept { std::free(data); }

}  // namespace mindckpt
