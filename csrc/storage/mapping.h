#pragma once

#include <cstddef>

#include "base/bytes.h"

namespace mindckpt {

// A file's bytes in memory, copy-on-write: writing to them does not change the file. They are read
// when they are touched; a file that another process cuts short then ends in SIGBUS, as with any
// mapping.
class Mapping {
 public:
  Mapping(int fd, size_t nbytes, const char* path);  // throws Error(kIo)
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const noexcept { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t nbytes_;
};

}  // namespace mindckpt
