#pragma once

#include <cstddef>
#include <new>
#include <type_traits>

#include "base/bytes.h"

namespace mindckpt {

// Memory for keys, in pages of its own: wiped when it is given back, left out of core dumps, and
// zeros in every child that is forked meanwhile, which must not keep a key that its parent wipes
// (MADV_WIPEONFORK, from Linux 4.14 on; an older kernel leaves the child its copy).
class KeyPages {
 public:
  explicit KeyPages(size_t nbytes);  // zeros; throws std::bad_alloc
  ~KeyPages();
  KeyPages(const KeyPages&) = delete;
  KeyPages& operator=(const KeyPages&) = delete;

  // Throws Error(kUnavailable) in a child that was forked since: zeros are no key to encrypt under.
  ByteSpan bytes() const;

 private:
  // What stands at the front, so that it is wiped with the rest.
  struct Mark {
    bool is_here;
  };
  static constexpr size_t kFrontBytes = 64;

  std::byte* mapped_;
  size_t mapped_nbytes_;
  size_t nbytes_;
};

// One value in such memory. `T` is plain data, such as an expanded key; it begins as zeros.
template <typename T>
class KeyMemory {
 public:
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
  static_assert(alignof(T) <= 64);

  KeyMemory() : pages_(sizeof(T)), value_(::new (pages_.bytes().data()) T{}) {}

  // As KeyPages::bytes.
  T& operator*() const {
    pages_.bytes();
    return *value_;
  }
  T* operator->() const { return &**this; }

 private:
  KeyPages pages_;
  T* value_;
};

}  // namespace mindckpt
