#pragma once

#include <cstddef>

namespace mindckpt::test {

// From its `nth` allocation on, counted from 0, this thread gets no memory for as long as this
// lives.
class OutOfMemory {
 public:
  explicit OutOfMemory(size_t nth) noexcept;
  ~OutOfMemory();
  OutOfMemory(const OutOfMemory&) = delete;
  OutOfMemory& operator=(const OutOfMemory&) = delete;

  // Whether an allocation was refused.
  bool came_about() const noexcept;
};

}  // namespace mindckpt::test
