#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "base/memory.h"

namespace mindckpt {

// Memory for the arrays of one load, of the sizes given, in their order. A large array's pages are
// its own and go back to the system with it, whatever becomes of its neighbours; all of them were
// mapped at once, so that huge pages serve arrays of any size. Small ones share huge pages: one
// that is kept keeps no more than that alive.
class ArrayMemory {
 public:
  struct Place {
    std::byte* data;
    pybind11::capsule owner;
  };

  explicit ArrayMemory(std::span<const uint64_t> sizes) {
    size_t large_nbytes = 0;
    for (const uint64_t nbytes : sizes) {
      (is_large(nbytes) ? large_nbytes : small_nbytes_) += rounded(nbytes);
    }
    large_ = Pages(large_nbytes);
  }

  // For the next of the sizes.
  Place take(uint64_t nbytes) {
    if (is_large(nbytes)) return owned(large_.take_front(nbytes));
    const size_t place_nbytes = rounded(nbytes);
    if (!shared_ || used_ + place_nbytes > shared_nbytes_) {
      shared_nbytes_ = std::max(place_nbytes, std::min(kHugePageBytes, small_nbytes_));
      shared_ = owned(Pages(shared_nbytes_));
      used_ = 0;
    }
    Place place{shared_->data + used_, shared_->owner};
    used_ += place_nbytes;
    small_nbytes_ -= place_nbytes;
    return place;
  }

 private:
  static constexpr size_t kAlignment = 64;

  static bool is_large(uint64_t nbytes) { return nbytes >= kHugePageBytes / 16; }
  static size_t rounded(uint64_t nbytes) {
    return is_large(nbytes) ? round_up_to_pages(nbytes)
                            : (nbytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  static Place owned(Pages pages) {
    auto held = std::make_unique<Pages>(std::move(pages));
    std::byte* const data = held->data();
    pybind11::capsule owner(held.get(), [](void* freed) { delete static_cast<Pages*>(freed); });
    held.release();
    return {data, std::move(owner)};
  }

  Pages large_;              // what is left of it
  size_t small_nbytes_ = 0;  // yet to be taken
  std::optional<Place> shared_;
  size_t shared_nbytes_ = 0;
  size_t used_ = 0;  // of the shared one
};

}  // namespace mindckpt
