#include "python/array_interface.h"

#include <array>
#include <charconv>
#include <utility>

#include "python/gil.h"

namespace py = pybind11;

namespace mindckpt {

namespace {

// The keys of __cuda_array_interface__, made once.
struct Names {
  PyObject* interface = PyUnicode_InternFromString("__cuda_array_interface__");
  PyObject* version = PyUnicode_InternFromString("version");
  PyObject* typestr = PyUnicode_InternFromString("typestr");
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* data = PyUnicode_InternFromString("data");
  PyObject* strides = PyUnicode_InternFromString("strides");
  PyObject* mask = PyUnicode_InternFromString("mask");
  PyObject* stream = PyUnicode_InternFromString("stream");
};

const Names& names() {
  static const auto* const made = new Names;
  return *made;
}

// What an array interface calls the elements of a type.
constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kTypes = {{
    {"<f4", "Float32"},
    {"<f2", "Float16"},
    {"<i4", "Int32"},
    {"<i8", "Int64"},
    {"|i1", "Int8"},
    {"<i2", "Int16"},
    {"|u1", "UInt8"},
    {"<u2", "UInt16"},
    {"<u4", "UInt32"},
    {"<u8", "UInt64"},
    {"<f8", "Float64"},
    {"|b1", "Bool"},
    {"<c8", "Complex64"},
    {"<c16", "Complex128"},
}};

std::string_view type_of(std::string_view typestr) {
  for (const auto& [shown, type] : kTypes) {
    if (shown == typestr) return type;
  }
  return {};
}

// 0 where the type string tells none.
uint64_t itemsize_of(std::string_view typestr) {
  uint64_t itemsize = 0;
  if (typestr.size() < 3 || typestr[0] == '>') return 0;
  const char* const end = typestr.data() + typestr.size();
  const auto parsed = std::from_chars(typestr.data() + 2, end, itemsize);
  return parsed.ec == std::errc() && parsed.ptr == end ? itemsize : 0;
}

// Elements times their size; 0 where a length is none, or the product is beyond any memory.
uint64_t product(const py::tuple& shape, uint64_t itemsize) {
  constexpr uint64_t kMost = uint64_t{1} << 62;
  uint64_t nbytes = itemsize;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape.ptr()) && nbytes > 0; ++i) {
    PyObject* const dim = PyTuple_GET_ITEM(shape.ptr(), i);
    const long long length = PyLong_CheckExact(dim) ? PyLong_AsLongLong(dim) : -1;
    nbytes = length > 0 && static_cast<uint64_t>(length) <= kMost / nbytes
                 ? nbytes * static_cast<uint64_t>(length)
                 : 0;
  }
  return nbytes;
}

std::optional<ArrayInterface> parse(PyObject* interface) {
  const auto item = [&](PyObject* key) { return PyDict_GetItemWithError(interface, key); };
  const auto is_absent = [](PyObject* object) { return object == nullptr || object == Py_None; };
  PyObject* const version = item(names().version);
  PyObject* const typestr = item(names().typestr);
  PyObject* const shape = item(names().shape);
  PyObject* const data = item(names().data);
  PyObject* const stream = item(names().stream);
  const bool is_simple = version != nullptr && PyLong_Check(version) &&
                         PyLong_AsLong(version) == 3 && typestr != nullptr &&
                         PyUnicode_Check(typestr) && shape != nullptr &&
                         PyTuple_CheckExact(shape) && data != nullptr && PyTuple_Check(data) &&
                         PyTuple_GET_SIZE(data) == 2 && PyLong_Check(PyTuple_GET_ITEM(data, 0)) &&
                         is_absent(item(names().strides)) && is_absent(item(names().mask)) &&
                         (is_absent(stream) || PyLong_Check(stream));
  if (!is_simple) return std::nullopt;

  Py_ssize_t length = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(typestr, &length);
  if (text == nullptr) return std::nullopt;
  const std::string_view type(text, static_cast<size_t>(length));
  ArrayInterface shown{PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(data, 0)), std::nullopt, 0,
                       type_of(type), py::reinterpret_borrow<py::tuple>(shape)};
  shown.nbytes = product(shown.shape, itemsize_of(type));
  if (!is_absent(stream)) shown.stream = PyLong_AsUnsignedLongLong(stream);
  if (PyErr_Occurred() != nullptr || shown.nbytes == 0 || shown.pointer == 0) return std::nullopt;
  return shown;
}

}  // namespace

std::optional<ArrayInterface> ArrayInterface::read(py::handle value) {
  // A property of the value's is Python code.
  PyObject* const got =
      call_or_park([&] { return PyObject_GetAttr(value.ptr(), names().interface); });
  const auto interface = py::reinterpret_steal<py::object>(got);
  std::optional<ArrayInterface> shown;
  if (interface && PyDict_CheckExact(interface.ptr())) shown = parse(interface.ptr());
  // Any number that makes no sense, too, is left to whoever can say what is wrong with it.
  if (PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
    PyErr_Clear();
  }
  return shown;
}

}  // namespace mindckpt
