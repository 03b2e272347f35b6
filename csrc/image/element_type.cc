#include "image/element_type.h"

#include <algorithm>

namespace mindckpt {

namespace {

constexpr ElementType kTensorTypes[] = {
    {"Float32", 4},     {"Float16", 2},  {"BFloat16", 2},   {"Float64", 8},      {"Int8", 1},
    {"Int16", 2},       {"Int32", 4},    {"Int64", 8},      {"UInt8", 1},        {"UInt16", 2},
    {"UInt32", 4},      {"UInt64", 8},   {"Bool", 1},       {"Int4", 1},         {"Complex64", 8},
    {"Complex128", 16}, {"HiFloat8", 1}, {"Float8E5M2", 1}, {"Float8E4M3FN", 1},
};

constexpr ElementType kMapPartTypes[] = {
    {"int8", 1},   {"int16", 2},  {"int32", 4},   {"int64", 8},   {"uint8", 1},   {"uint16", 2},
    {"uint32", 4}, {"uint64", 8}, {"float16", 2}, {"float32", 4}, {"float64", 8}, {"bool", 1},
};

}  // namespace

std::span<const ElementType> tensor_types() { return kTensorTypes; }
std::span<const ElementType> map_part_types() { return kMapPartTypes; }

uint64_t element_nbytes(std::span<const ElementType> types, std::string_view name) {
  const auto found = std::ranges::find(types, name, &ElementType::name);
  return found == types.end() ? 0 : found->nbytes;
}

}  // namespace mindckpt
