#include "device/host.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "support/bytes.h"
#include "support/errors.h"
#include "support/random.h"

namespace mindckpt {
namespace {

using test::Bytes;
using test::Random;

// A view into `memory` as array libraries make them: a C-contiguous array whose axes are then
// permuted, sliced with steps, reversed and broadcast.
struct View {
  Bytes memory;
  HostLayout layout;

  uint64_t num_elements() const {
    return std::accumulate(layout.shape.begin(), layout.shape.end(), uint64_t{1},
                           [](uint64_t n, int64_t dim) { return n * static_cast<uint64_t>(dim); });
  }
  uint64_t nbytes() const { return num_elements() * layout.element_nbytes; }
};

View random_view(Random& random, uint64_t element_nbytes) {
  View view;
  view.layout.element_nbytes = element_nbytes;
  const size_t ndim = random.below(6);
  std::vector<int64_t> strides(ndim);
  std::vector<int64_t> extents(ndim);
  auto stride = static_cast<int64_t>(element_nbytes);
  for (size_t axis = ndim; axis-- > 0;) {
    extents[axis] = static_cast<int64_t>(random.between(1, 6));
    strides[axis] = stride;
    stride *= extents[axis];
  }
  view.memory = random.bytes(static_cast<size_t>(stride));

  std::vector<size_t> order(ndim);
  std::iota(order.begin(), order.end(), size_t{0});
  if (random.one_in(2)) random.shuffle(order);
  view.layout.data = view.memory.data();
  for (const size_t axis : order) {
    const int64_t step = random.one_in(3) ? 2 : 1;
    int64_t dim = (extents[axis] + step - 1) / step;
    int64_t stride_bytes = strides[axis] * step;
    if (random.one_in(3)) {  // reversed
      view.layout.data += (dim - 1) * stride_bytes;
      stride_bytes = -stride_bytes;
    }
    if (random.one_in(5)) {  // broadcast
      dim = static_cast<int64_t>(random.between(1, 4));
      stride_bytes = 0;
    }
    view.layout.shape.push_back(dim);
    view.layout.stride_bytes.push_back(stride_bytes);
  }
  return view;
}

// The payload by its definition: every index in C order, one element at a time.
void append_elements(const HostLayout& layout, size_t axis, const std::byte* from, Bytes& payload) {
  if (axis == layout.shape.size()) {
    Bytes element(from, from + layout.element_nbytes);
    for (uint64_t at = 0; layout.swap_nbytes > 0 && at < element.size(); at += layout.swap_nbytes) {
      const auto unit = element.begin() + static_cast<ptrdiff_t>(at);
      std::reverse(unit, unit + static_cast<ptrdiff_t>(layout.swap_nbytes));
    }
    payload.insert(payload.end(), element.begin(), element.end());
    return;
  }
  for (int64_t i = 0; i < layout.shape[axis]; ++i) {
    append_elements(layout, axis + 1, from + i * layout.stride_bytes[axis], payload);
  }
}

Bytes reference_payload(const HostLayout& layout) {
  HostLayout strided = layout;
  if (layout.stride_bytes.empty()) {
    strided.stride_bytes.resize(layout.shape.size());
    auto stride = static_cast<int64_t>(layout.element_nbytes);
    for (size_t axis = layout.shape.size(); axis-- > 0;) {
      strided.stride_bytes[axis] = stride;
      stride *= layout.shape[axis];
    }
  }
  Bytes payload;
  append_elements(strided, 0, layout.data, payload);
  return payload;
}

// The whole payload, copied in random parts that may begin and end inside an element.
Bytes copied_in_parts(const HostLayout& layout, size_t nbytes, Random& random) {
  Bytes payload(nbytes);
  for (size_t begin = 0; begin < nbytes;) {
    const size_t part = random.between(1, std::min<size_t>(nbytes - begin, 100));
    copy_payload(layout, begin, ByteSpan(payload).subspan(begin, part));
    begin += part;
  }
  return payload;
}

void check_against_reference(const View& view, Random& random) {
  const Bytes expected = reference_payload(view.layout);
  REQUIRE(expected.size() == view.nbytes());
  Bytes whole(expected.size());
  copy_payload(view.layout, 0, whole);
  CHECK(whole == expected);
  CHECK(copied_in_parts(view.layout, expected.size(), random) == expected);
}

TEST_CASE("random strided views are copied as an element by element walk does") {
  Random random(11);
  for (int i = 0; i < 600; ++i) {
    CAPTURE(i);
    check_against_reference(random_view(random, random.between(1, 16)), random);
  }
}

TEST_CASE("random byte-swapped views are copied as an element by element walk does") {
  Random random(12);
  for (int i = 0; i < 600; ++i) {
    CAPTURE(i);
    const uint64_t unit = random.pick<uint64_t>({1, 2, 4, 8, 16});
    View view = random_view(random, unit * random.between(1, 16 / unit));
    view.layout.swap_nbytes = unit;
    check_against_reference(view, random);
  }
}

TEST_CASE("contiguous arrays are copied as an element by element walk does") {
  Random random(13);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    View view = random_view(random, random.pick<uint64_t>({1, 2, 4, 8, 16}));
    view.layout.stride_bytes.clear();
    view.layout.data = view.memory.data();
    view.memory.resize(std::max<size_t>(view.nbytes(), 1));
    view.layout.data = view.memory.data();
    view.layout.swap_nbytes = random.one_in(2) ? view.layout.element_nbytes : 0;
    check_against_reference(view, random);
  }
}

TEST_CASE("a transposed matrix of 3 by 2 comes out by columns") {
  const Bytes memory = test::from_hex("01 02 03 04 05 06");
  const HostLayout transposed{memory.data(), 1, {3, 2}, {1, 3}, 0};
  Bytes payload(6);
  copy_payload(transposed, 0, payload);
  CHECK(test::hex(payload) == "010402050306");
}

TEST_CASE("a big-endian complex number has each of its halves swapped") {
  const Bytes memory = test::from_hex("3f800000 40000000");  // 1 + 2j
  const HostLayout complex{memory.data(), 8, {}, {}, 4};
  Bytes payload(8);
  copy_payload(complex, 0, payload);
  CHECK(test::hex(payload) == "0000803f00000040");
}

TEST_CASE("no bytes are copied of an empty array") {
  for (const std::vector<int64_t>& strides : {std::vector<int64_t>{}, {0, 4}, {-8, 4}}) {
    const HostLayout empty{nullptr, 4, {0, 3}, strides, 0};
    copy_payload(empty, 0, {});  // UndefinedBehaviorSanitizer is the oracle
  }
}

TEST_CASE("a payload as it will be stored is told from one that has to be rearranged") {
  CHECK(HostLayout{nullptr, 4, {2, 3}, {}, 0}.is_payload());
  CHECK_FALSE(HostLayout{nullptr, 4, {2, 3}, {12, 4}, 0}.is_payload());
  CHECK_FALSE(HostLayout{nullptr, 4, {2, 3}, {}, 4}.is_payload());
}

TEST_CASE("elements over 16 bytes are a bug that is reported") {
  const Bytes memory(64);
  const HostLayout wide{memory.data(), 17, {2}, {17}, 0};
  Bytes payload(34);
  CHECK(test::error_of([&] { copy_payload(wide, 0, payload); }).kind() == ErrorKind::kInternal);
}

}  // namespace
}  // namespace mindckpt
