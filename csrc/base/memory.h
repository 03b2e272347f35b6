#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "base/bytes.h"

namespace mindckpt {

inline constexpr size_t kPageBytes = 4096;  // of files, and what memory for them is aligned to
// Memory is mapped and cut in these: the system's own pages are of 4, 16 or 64 KiB (on aarch64),
// and what is cut within one goes with its neighbour, or not at all.
inline constexpr size_t kMapBytes = size_t{64} << 10;
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// Whole pages straight from the system, which has them back when this is destroyed, and not when
// some allocator finds it worth while. They begin on a huge page and are advised to be huge ones
// (faulting 4 KiB pages costs more than the reads that fill them); only where all of a huge page
// was asked for, so that no memory is taken beyond it. Their first bytes are 0.
class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t nbytes);  // rounded up to kMapBytes; throws std::bad_alloc
  Pages(Pages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), nbytes_(std::exchange(other.nbytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(nbytes_, other.nbytes_);
    return *this;
  }
  ~Pages();

  // Its first pages, as many as hold `nbytes`, as pages of their own: each part is given back by
  // itself. A huge page that both lie in goes when the system needs it, or with the second.
  Pages take_front(size_t nbytes);

  std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return nbytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t nbytes_ = 0;
};

// Whether the system gives this process huge pages where it is asked to.
bool has_huge_pages();

// Has the system provide the pages that `bytes` fill, all at once: where it has no huge pages, that
// takes half as long as to fault one after the other in the middle of a read into them. No more
// than a wish, and nothing where they are there. The contents stay.
void make_resident(ByteSpan bytes) noexcept;

constexpr size_t round_up_to_pages(size_t nbytes) {
  return (nbytes + kMapBytes - 1) / kMapBytes * kMapBytes;
}

// Uninitialised memory whose start is page-aligned: Pages from one huge page on, else of the
// allocator.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t nbytes);  // throws std::bad_alloc

  std::byte* data() const noexcept { return pages_.size() > 0 ? pages_.data() : data_.get(); }
  size_t size() const noexcept { return nbytes_; }
  ByteSpan span() const noexcept { return {data(), nbytes_}; }

  // Makes room for at least `nbytes`; what was there before is lost when it has to grow.
  void reserve(size_t nbytes) {
    if (nbytes > nbytes_) *this = Buffer(nbytes);
  }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  Pages pages_;
  size_t nbytes_ = 0;
};

}  // namespace mindckpt
