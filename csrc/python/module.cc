#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <string>

#include "base/cpu.h"
#include "base/error.h"
#include "base/workers.h"
#include "checksum/crc32.h"
#include "cipher/sm4.h"
#include "engine/speed.h"
#include "image/element_type.h"
#include "python/arguments.h"
#include "python/bind.h"
#include "python/errors.h"
#include "python/gil.h"

#define MINDCKPT_STRINGIFY(text) #text
#define MINDCKPT_STRING(text) MINDCKPT_STRINGIFY(text)

namespace py = pybind11;

namespace mindckpt {
namespace {

std::map<std::string, uint64_t> itemsizes() {
  std::map<std::string, uint64_t> sizes;
  for (const ElementType& type : tensor_types()) sizes.emplace(type.name, type.nbytes);
  return sizes;
}

int checked_num_threads(int num_threads) {
  if (num_threads < 1) throw py::value_error("num_threads must be at least 1");
  return num_threads;
}

double cipher_seconds_of(const std::string& mode, const py::bytes& key, uint64_t nbytes,
                         int num_threads, bool opening) {
  const auto cipher = make_cipher(key, mode);
  const int threads = checked_num_threads(num_threads);
  const GilRelease release;
  return cipher_seconds(*cipher, nbytes, threads, opening);
}

double crc32_seconds_of(const py::buffer& data, int num_threads) {
  const py::buffer_info info = data.request();
  if (PyBuffer_IsContiguous(info.view(), 'C') == 0) {
    throw py::value_error("the array must be contiguous");
  }
  const ByteView bytes(static_cast<const std::byte*>(info.ptr),
                       static_cast<size_t>(info.size * info.itemsize));
  const int threads = checked_num_threads(num_threads);
  const GilRelease release;
  return crc32_seconds(bytes, threads);
}

}  // namespace
}  // namespace mindckpt

PYBIND11_MODULE(_core, module) {
  module.attr("__version__") = MINDCKPT_STRING(MINDCKPT_VERSION);
  py::register_local_exception_translator(&mindckpt::translate_error);
  // Picked here and not by a thread of a save's: a fork meanwhile would leave it half picked for
  // ever in the child. What is wrong with the environment is said by the first save.
  try {
    mindckpt::crc32_provider();
  } catch (const mindckpt::Error&) {
  }
  // At the very end of the interpreter, when daemon threads are gone but not what they had begun.
  mindckpt::allow_threads();
  Py_AtExit(mindckpt::end_threads);
  mindckpt::bind_devices(module);
  mindckpt::bind_saving(module);
  mindckpt::bind_loading(module);
  mindckpt::bind_dlpack(module);
  module.def("itemsizes", &mindckpt::itemsizes);
  module.def("cipher_seconds", &mindckpt::cipher_seconds_of, py::arg("mode"), py::arg("key"),
             py::arg("nbytes"), py::arg("num_threads"), py::arg("opening"));
  module.def("crc32_seconds", &mindckpt::crc32_seconds_of, py::arg("data"), py::arg("num_threads"));
  module.def("cpu_features", [] { return mindckpt::cpu_feature_names(mindckpt::cpu_features()); });
  module.def("sm4_provider", [] { return std::string(mindckpt::sm4_provider()); });
}
