#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace mindckpt {

// A tensor type as MindSpore names it in a record.
struct ElementType {
  std::string_view name;
  uint64_t nbytes;  // of one element
};

// Strings are records too: type 'str', dims [0], content UTF-32LE.
inline constexpr std::string_view kStringType = "str";

// Every type of a tensor that can be read, and of the parts of a map tensor, which carry NumPy's
// names.
std::span<const ElementType> tensor_types();
std::span<const ElementType> map_part_types();

// Bytes of one element of `name`, 0 when it is not among `types`.
uint64_t element_nbytes(std::span<const ElementType> types, std::string_view name);

}  // namespace mindckpt
