#include "device/host.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace mindckpt {

namespace {

// Copies `count` elements of one row, `stride` bytes apart.
void copy_row(const std::byte* from, int64_t stride, uint64_t count, uint64_t element_nbytes,
              std::byte* to) {
  const auto copy = [&](auto element) {
    for (uint64_t i = 0; i < count; ++i, from += stride, to += sizeof(element)) {
      std::memcpy(to, from, sizeof(element));  // a fixed size: compiles to one move
    }
  };
  if (stride == static_cast<int64_t>(element_nbytes)) {
    std::memcpy(to, from, count * element_nbytes);
    return;
  }
  switch (element_nbytes) {
    case 1:
      return copy(uint8_t{});
    case 2:
      return copy(uint16_t{});
    case 4:
      return copy(uint32_t{});
    case 8:
      return copy(uint64_t{});
    default:
      for (uint64_t i = 0; i < count; ++i, from += stride, to += element_nbytes) {
        std::memcpy(to, from, element_nbytes);
      }
  }
}

// Copies whole elements [first, first + count), in C order.
void copy_elements(const HostLayout& layout, uint64_t first, uint64_t count, std::byte* to) {
  const size_t ndim = layout.shape.size();
  if (layout.stride_bytes.empty() || ndim == 0) {
    std::memcpy(to, layout.data + first * layout.element_nbytes, count * layout.element_nbytes);
    return;
  }
  std::vector<int64_t> index(ndim);
  const std::byte* from = layout.data;
  uint64_t rest = first;
  for (size_t axis = ndim; axis-- > 0;) {
    index[axis] = static_cast<int64_t>(rest % static_cast<uint64_t>(layout.shape[axis]));
    rest /= static_cast<uint64_t>(layout.shape[axis]);
    from += index[axis] * layout.stride_bytes[axis];
  }
  const size_t last = ndim - 1;
  while (true) {
    const uint64_t in_row =
        std::min(count, static_cast<uint64_t>(layout.shape[last] - index[last]));
    copy_row(from, layout.stride_bytes[last], in_row, layout.element_nbytes, to);
    to += in_row * layout.element_nbytes;
    count -= in_row;
    if (count == 0) return;
    // To the start of the next row: the last axis goes back to 0, the others count up.
    from -= index[last] * layout.stride_bytes[last];
    index[last] = 0;
    for (size_t axis = last; axis-- > 0;) {
      from += layout.stride_bytes[axis];
      if (++index[axis] < layout.shape[axis]) break;
      from -= layout.shape[axis] * layout.stride_bytes[axis];
      index[axis] = 0;
    }
  }
}

void reverse_bytes(ByteSpan bytes, uint64_t unit) {
  for (uint64_t at = 0; at < bytes.size(); at += unit) {
    std::reverse(bytes.data() + at, bytes.data() + at + unit);
  }
}

constexpr uint64_t kMaxElementBytes = 16;

}  // namespace

void copy_payload(const HostLayout& layout, uint64_t offset, ByteSpan out) {
  if (out.empty()) return;
  if (layout.is_payload()) {
    std::memcpy(out.data(), layout.data + offset, out.size());
    return;
  }
  const uint64_t element = layout.element_nbytes;
  MINDCKPT_CHECK(element <= kMaxElementBytes);

  const auto copy_whole = [&](uint64_t first, uint64_t count, std::byte* to) {
    copy_elements(layout, first, count, to);
    if (layout.swap_nbytes > 1) reverse_bytes({to, count * element}, layout.swap_nbytes);
  };
  // A range may begin or end inside an element.
  const auto copy_partial = [&](uint64_t begin, uint64_t nbytes, std::byte* to) {
    std::byte whole[kMaxElementBytes];
    copy_whole(begin / element, 1, whole);
    std::memcpy(to, whole + begin % element, nbytes);
  };

  std::byte* to = out.data();
  uint64_t rest = out.size();
  if (const uint64_t into = offset % element; into != 0) {
    const uint64_t nbytes = std::min(rest, element - into);
    copy_partial(offset, nbytes, to);
    offset += nbytes, to += nbytes, rest -= nbytes;
  }
  if (const uint64_t count = rest / element; count != 0) {
    copy_whole(offset / element, count, to);
    offset += count * element, to += count * element, rest -= count * element;
  }
  if (rest != 0) copy_partial(offset, rest, to);
}

}  // namespace mindckpt
