#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace mindckpt {

// What the __cuda_array_interface__ of a value shows, where it is of the simplest kind: version 3,
// contiguous and without a mask, not empty. For saves of thousands of tensors, in which Python
// would take longer than everything else.
struct ArrayInterface {
  uintptr_t pointer;
  std::optional<uintptr_t> stream;
  uint64_t nbytes;
  std::string_view type;  // as a record has it; "" for one that NumPy has no name for
  pybind11::tuple shape;  // of ints

  // Nothing for any other kind, and where there is none at all. What a property of the value's
  // raises is left to whoever looks the slow way; what is no Exception is thrown on.
  static std::optional<ArrayInterface> read(pybind11::handle value);
};

}  // namespace mindckpt
