#include "storage/mapping.h"

#include <sys/mman.h>

#include "storage/fd.h"

namespace mindckpt {

Mapping::Mapping(int fd, size_t nbytes, const char* path) : nbytes_(nbytes) {
  if (nbytes == 0) return;
  // No swap is reserved for pages that will hardly ever be written to.
  void* data = ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  if (data == MAP_FAILED) throw_errno("mmap", path);
  data_ = static_cast<std::byte*>(data);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, nbytes_);
}

}  // namespace mindckpt
