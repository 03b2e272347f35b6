#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "image/element_type.h"
#include "python/bind.h"
#include "python/device_array.h"
#include "python/dlpack.h"
#include "python/gil.h"

namespace py = pybind11;

namespace mindckpt {
namespace {

// What NumPy calls the elements (unsigned integers where it has no name for them), and MindSpore's
// name.
std::optional<std::pair<std::string, std::string>> element_names(dlpack::DataType type) {
  const std::string bits = std::to_string(type.bits);
  const std::string bytes = std::to_string(type.bits / 8);
  if (type.lanes != 1 || type.bits % 8 != 0) return std::nullopt;
  switch (type.code) {
    case dlpack::kInt:
      return {{"i" + bytes, "Int" + bits}};
    case dlpack::kUint:
      return {{"u" + bytes, "UInt" + bits}};
    case dlpack::kFloat:
      return {{"f" + bytes, "Float" + bits}};
    case dlpack::kComplex:
      return {{"c" + bytes, "Complex" + bits}};
    case dlpack::kBool:
      return {{"?", "Bool"}};
    case dlpack::kBfloat:
      return {{"u2", "BFloat16"}};
    case dlpack::kFloat8E4M3FN:
      return {{"u1", "Float8E4M3FN"}};
    case dlpack::kFloat8E5M2:
      return {{"u1", "Float8E5M2"}};
    default:
      return std::nullopt;
  }
}

// A DLPack tensor that was taken from its capsule: `owner` keeps it.
struct TakenTensor {
  dlpack::Device device;
  std::byte* data;
  std::vector<py::ssize_t> shape;
  std::vector<py::ssize_t> stride_bytes;  // empty: C-contiguous
  std::string numpy_name;
  std::string type_name;
  py::capsule owner;
};

TakenTensor take_dlpack(const py::capsule& capsule, bool on_host) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw py::buffer_error("not a fresh DLPack capsule");
  }
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  const dlpack::Tensor& tensor = managed->tensor;
  const int32_t type = tensor.device.type;
  const bool is_on_host =
      type == dlpack::kCpu || type == dlpack::kCudaHost || type == dlpack::kRocmHost;
  if (is_on_host != on_host) {
    throw py::buffer_error(on_host ? "a DLPack tensor that is not in host memory"
                                   : "a DLPack tensor that is in host memory");
  }
  const auto names = element_names(tensor.dtype);
  const uint64_t itemsize = tensor.dtype.bits / 8u;
  if (!names || element_nbytes(tensor_types(), names->second) != itemsize) {
    throw py::buffer_error("a DLPack tensor of an element type that cannot be saved");
  }
  const bool is_empty =
      std::any_of(tensor.shape, tensor.shape + tensor.ndim, [](int64_t dim) { return dim == 0; });
  if (tensor.data == nullptr && !is_empty) {
    throw py::buffer_error("it shows elements at a null pointer: its memory is gone");
  }
  TakenTensor taken;
  taken.device = tensor.device;
  taken.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  taken.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) {
    for (int32_t i = 0; i < tensor.ndim; ++i) {
      taken.stride_bytes.push_back(tensor.strides[i] * static_cast<py::ssize_t>(itemsize));
    }
  }
  std::tie(taken.numpy_name, taken.type_name) = *names;
  // From here on the owner has the tensor, and the capsule says that it is taken.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  taken.owner = py::capsule(managed, [](void* held) {
    auto* owned = static_cast<dlpack::ManagedTensor*>(held);
    if (owned->deleter != nullptr) owned->deleter(owned);
  });
  return taken;
}

std::pair<py::array, std::string> from_dlpack(const py::capsule& capsule) {
  const TakenTensor taken = take_dlpack(capsule, true);
  return {py::array(py::dtype(taken.numpy_name), taken.shape, taken.stride_bytes, taken.data,
                    taken.owner),
          taken.type_name};
}

py::tuple device_from_dlpack(const py::capsule& capsule) {
  const TakenTensor taken = take_dlpack(capsule, false);
  const auto as_tuple = [](const std::vector<py::ssize_t>& values) {
    py::tuple tuple(values.size());
    for (size_t i = 0; i < values.size(); ++i) tuple[i] = values[i];
    return tuple;
  };
  const bool contiguous = taken.stride_bytes.empty();
  return py::make_tuple(reinterpret_cast<uintptr_t>(taken.data), taken.device.id, taken.type_name,
                        as_tuple(taken.shape),
                        contiguous ? py::object(py::none()) : as_tuple(taken.stride_bytes),
                        taken.owner);
}

// What numpy_name and type_name come from, back again.
dlpack::DataType dlpack_type(const std::string& type_name) {
  constexpr uint8_t kCodes[] = {dlpack::kInt,          dlpack::kUint,      dlpack::kFloat,
                                dlpack::kBfloat,       dlpack::kComplex,   dlpack::kBool,
                                dlpack::kFloat8E4M3FN, dlpack::kFloat8E5M2};
  constexpr uint8_t kBits[] = {8, 16, 32, 64, 128};
  for (const uint8_t code : kCodes) {
    for (const uint8_t bits : kBits) {
      const dlpack::DataType type{code, bits, 1};
      const auto names = element_names(type);
      if (names && names->second == type_name &&
          element_nbytes(tensor_types(), type_name) * 8 == bits) {
        return type;
      }
    }
  }
  throw py::buffer_error("DLPack has no element type " + type_name);
}

// A capsule over a device's memory, which it keeps alive.
py::capsule to_dlpack(const py::object& array, std::vector<int64_t> shape,
                      const std::string& type_name) {
  struct Exported {
    dlpack::ManagedTensor managed;
    std::vector<int64_t> shape;
    py::object array;
  };
  const auto* memory = py::cast<const DeviceArray*>(array);
  const dlpack::Device device{memory->dlpack_device_type(), memory->ordinal()};
  if (device.type == 0) throw py::buffer_error("DLPack does not know " + memory->device_name());
  auto exported = std::make_unique<Exported>();
  exported->shape = std::move(shape);
  exported->array = array;
  exported->managed.tensor = {reinterpret_cast<void*>(memory->pointer()),
                              device,
                              static_cast<int32_t>(exported->shape.size()),
                              dlpack_type(type_name),
                              exported->shape.data(),
                              nullptr,
                              0};
  exported->managed.manager = exported.get();
  exported->managed.deleter = [](dlpack::ManagedTensor* managed) {
    if (!Py_IsInitialized()) return;  // some are freed after the interpreter has ended
    const GilAcquire acquire;         // and some on threads of their framework
    auto* const held = static_cast<Exported*>(managed->manager);
    PyObject* const dropped = held->array.release().ptr();
    delete held;
    call_or_park(
        [&] { Py_XDECREF(dropped); });  // a framework's tensor, whose end may be Python code
  };
  py::capsule capsule(&exported->managed, "dltensor", [](PyObject* unused) {
    // Taken, it has another name, and whoever took it calls the deleter.
    if (!PyCapsule_IsValid(unused, "dltensor")) return;
    auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(unused, "dltensor"));
    managed->deleter(managed);
  });
  exported.release();
  return capsule;
}

}  // namespace

void bind_dlpack(py::module_& module) {
  using namespace py::literals;
  module.def("from_dlpack", &from_dlpack, "capsule"_a);
  module.def("to_dlpack", &to_dlpack, "array"_a, "shape"_a, "type"_a);
  module.def("device_from_dlpack", &device_from_dlpack, "capsule"_a);
}

}  // namespace mindckpt
