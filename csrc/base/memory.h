#pragma once

#include <cstddef>
#include <memory>

#include "base/bytes.h"

namespace mindckpt {

inline constexpr size_t kPageBytes = 4096;

// Uninitialised memory whose start is page-aligned (2 MiB-aligned and advised to use huge pages
// when it is that large, because faulting 4 KiB pages costs more than the reads that fill them).
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t nbytes);  // throws std::bad_alloc

  std::byte* data() const noexcept { return data_.get(); }
  size_t size() const noexcept { return nbytes_; }
  ByteSpan span() const noexcept { return {data_.get(), nbytes_}; }

  // Makes room for at least `nbytes`; what was there before is lost when it has to grow.
  void reserve(size_t nbytes) {
    if (nbytes > nbytes_) *this = Buffer(nbytes);
  }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t nbytes_ = 0;
};

}  // namespace mindckpt
