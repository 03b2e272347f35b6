#include "python/arguments.h"

namespace py = pybind11;

namespace mindckpt {

std::string file_system_path(const py::str& path) {
  const auto bytes = py::reinterpret_steal<py::bytes>(PyUnicode_EncodeFSDefault(path.ptr()));
  if (!bytes) throw py::error_already_set();
  return bytes;
}

std::shared_ptr<const Cipher> make_cipher(const std::optional<py::bytes>& key,
                                          const std::string& mode) {
  if (!key) return nullptr;
  return Cipher::create(parse_cipher_mode(mode), as_bytes(std::string_view(*key)));
}

py::str decoded_path(const std::string& path) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size())));
}

}  // namespace mindckpt
