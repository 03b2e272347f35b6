#include "image/element_type.h"

#include <doctest/doctest.h>

#include <string_view>

namespace mindckpt {
namespace {

TEST_CASE("tensor types have the sizes that MindSpore gives them") {
  const auto nbytes = [](std::string_view name) { return element_nbytes(tensor_types(), name); };
  for (const auto name :
       {"Int8", "UInt8", "Bool", "Int4", "HiFloat8", "Float8E4M3FN", "Float8E5M2"}) {
    CHECK(nbytes(name) == 1);
  }
  for (const auto name : {"Int16", "UInt16", "Float16", "BFloat16"}) CHECK(nbytes(name) == 2);
  for (const auto name : {"Int32", "UInt32", "Float32"}) CHECK(nbytes(name) == 4);
  for (const auto name : {"Int64", "UInt64", "Float64", "Complex64"}) CHECK(nbytes(name) == 8);
  CHECK(nbytes("Complex128") == 16);
  CHECK(tensor_types().size() == 19);
}

TEST_CASE("the parts of map tensors carry NumPy's names") {
  const auto nbytes = [](std::string_view name) { return element_nbytes(map_part_types(), name); };
  for (const auto name : {"int8", "uint8", "bool"}) CHECK(nbytes(name) == 1);
  for (const auto name : {"int16", "uint16", "float16"}) CHECK(nbytes(name) == 2);
  for (const auto name : {"int32", "uint32", "float32"}) CHECK(nbytes(name) == 4);
  for (const auto name : {"int64", "uint64", "float64"}) CHECK(nbytes(name) == 8);
  CHECK(map_part_types().size() == 12);
}

TEST_CASE("a name that is none of them has no size") {
  for (const auto name : {"", "float32", "Float3", "Float32 ", "FLOAT32", "str", "Object"}) {
    CHECK(element_nbytes(tensor_types(), name) == 0);
  }
  CHECK(element_nbytes(map_part_types(), "Float32") == 0);
}

}  // namespace
}  // namespace mindckpt
