#pragma once

#include <doctest/doctest.h>

#include <concepts>
#include <stdexcept>
#include <string>

#include "base/error.h"

namespace mindckpt {

// For what a failed check prints.
inline doctest::String toString(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "kInvalidArgument";
    case ErrorKind::kIo:
      return "kIo";
    case ErrorKind::kFormat:
      return "kFormat";
    case ErrorKind::kChecksum:
      return "kChecksum";
    case ErrorKind::kDecryption:
      return "kDecryption";
    case ErrorKind::kUnavailable:
      return "kUnavailable";
    case ErrorKind::kDevice:
      return "kDevice";
    case ErrorKind::kCancelled:
      return "kCancelled";
    case ErrorKind::kInternal:
      return "kInternal";
  }
  return "not a kind";
}

}  // namespace mindckpt

namespace mindckpt::test {

// The Error that `body` throws. Throws itself, which fails the case, when it throws none.
template <std::invocable Body>
Error error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("an Error was expected, and nothing was thrown");
}

inline doctest::String message(const Error& error) { return error.what(); }

}  // namespace mindckpt::test
