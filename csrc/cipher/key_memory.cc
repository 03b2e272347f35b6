#include "cipher/key_memory.h"

#include <sys/mman.h>

#include <limits>

#include "base/error.h"
#include "base/memory.h"
#include "base/wipe.h"

namespace mindckpt {

KeyPages::KeyPages(size_t nbytes) : nbytes_(nbytes) {
  if (nbytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
  mapped_nbytes_ = round_up_to_pages(kFrontBytes + nbytes);
  void* const mapped =
      ::mmap(nullptr, mapped_nbytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  mapped_ = static_cast<std::byte*>(mapped);
  // No more than wishes: an old kernel knows neither.
  ::madvise(mapped_, mapped_nbytes_, MADV_WIPEONFORK);
  ::madvise(mapped_, mapped_nbytes_, MADV_DONTDUMP);
  ::new (mapped_) Mark{true};
}

KeyPages::~KeyPages() {
  wipe(mapped_, kFrontBytes + nbytes_);
  ::munmap(mapped_, mapped_nbytes_);
}

ByteSpan KeyPages::bytes() const {
  if (!reinterpret_cast<const Mark*>(mapped_)->is_here) {
    throw Error(ErrorKind::kUnavailable,
                "a forked process does not have its parent's keys: begin the save or load in it");
  }
  return {mapped_ + kFrontBytes, nbytes_};
}

}  // namespace mindckpt
