#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace mindckpt {

// Where a tensor's elements lie in host memory. Borrowed: the owner keeps them alive and unchanged.
struct HostLayout {
  const std::byte* data = nullptr;
  uint64_t element_nbytes = 1;        // at most 16
  std::vector<int64_t> shape;         // in elements
  std::vector<int64_t> stride_bytes;  // may be negative or 0; empty: C-contiguous
  uint64_t swap_nbytes = 0;           // reverse the bytes of each unit of this many; 0: do not

  bool is_payload() const noexcept { return stride_bytes.empty() && swap_nbytes == 0; }
};

// Copies bytes [offset, offset + out.size()) of the payload that `layout` describes, its elements
// in C order and little-endian, to `out`. The range must lie inside it. Safe from any thread.
void copy_payload(const HostLayout& layout, uint64_t offset, ByteSpan out);

}  // namespace mindckpt
