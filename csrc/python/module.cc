#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <string>

#include "base/error.h"
#include "checksum/crc32.h"
#include "cipher/sm4.h"
#include "image/element_type.h"
#include "python/bind.h"
#include "python/errors.h"

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
  mindckpt::bind_devices(module);
  mindckpt::bind_saving(module);
  mindckpt::bind_loading(module);
  mindckpt::bind_dlpack(module);
  module.def("itemsizes", &mindckpt::itemsizes);
  module.def("sm4_provider", [] { return std::string(mindckpt::sm4_provider()); });
}
