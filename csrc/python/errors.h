#pragma once

#include <exception>

namespace mindckpt {

// Makes an Error the Python exception that mindckpt documents for its kind, and std::bad_alloc a
// MemoryError.
void translate_error(std::exception_ptr thrown);

}  // namespace mindckpt
