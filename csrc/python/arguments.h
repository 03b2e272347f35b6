#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "cipher/cipher.h"

namespace mindckpt {

// A path as the system has it, from a Python str, and back. Any bytes can be a path: those that are
// no text come as surrogates, as Python has them everywhere.
std::string file_system_path(const pybind11::str& path);
pybind11::str decoded_path(const std::string& path);

// nullptr without a key. Throws Error(kInvalidArgument), Error(kUnavailable).
std::shared_ptr<const Cipher> make_cipher(const std::optional<pybind11::bytes>& key,
                                          const std::string& mode);

}  // namespace mindckpt
