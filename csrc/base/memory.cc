#include "base/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace mindckpt {

namespace {
constexpr size_t kHugePageBytes = size_t{2} << 20;
}

Buffer::Buffer(size_t nbytes) : nbytes_(nbytes) {
  if (nbytes == 0) return;
  const size_t alignment = nbytes >= kHugePageBytes ? kHugePageBytes : kPageBytes;
  void* data = nullptr;
  if (::posix_memalign(&data, alignment, nbytes) != 0) throw std::bad_alloc();
  data_.reset(static_cast<std::byte*>(data));
  // Only whole huge pages are advised: the tail stays in small ones, so no memory is taken beyond
  // it.
  if (alignment == kHugePageBytes) {
    ::madvise(data, nbytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  }
}

void Buffer::Free::operator()(std::byte* data) const noexcept { std::free(data); }

}  // namespace mindckpt
