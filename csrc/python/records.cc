#include "python/records.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/text.h"
#include "image/element_type.h"
#include "python/array_interface.h"
#include "python/device_array.h"
#include "python/gil.h"
#include "python/runtime.h"

namespace py = pybind11;

namespace mindckpt {

namespace {

uint64_t swap_nbytes(const py::dtype& dtype) {
  if (dtype.byteorder() != '>') return 0;
  const auto itemsize = static_cast<uint64_t>(dtype.itemsize());
  return dtype.kind() == 'c' ? itemsize / 2 : itemsize;
}

HostLayout layout_of(const py::array& array) {
  HostLayout layout;
  layout.data = static_cast<const std::byte*>(array.data());
  layout.element_nbytes = static_cast<uint64_t>(array.itemsize());
  layout.swap_nbytes = swap_nbytes(array.dtype());
  // NumPy reports strides for axes of length 1 and for empty arrays that mean nothing.
  const bool is_c_contiguous = (array.flags() & py::array::c_style) != 0;
  if (is_c_contiguous && layout.swap_nbytes == 0) return layout;
  layout.shape.assign(array.shape(), array.shape() + array.ndim());
  layout.stride_bytes.assign(array.strides(), array.strides() + array.ndim());
  return layout;
}

std::vector<int64_t> dims_of(const py::tuple& dims) {
  std::vector<int64_t> lengths;
  lengths.reserve(dims.size());
  for (const py::handle dim : dims) {
    // pybind11's cast takes several times as long.
    lengths.push_back(PyLong_CheckExact(dim.ptr()) ? PyLong_AsLongLong(dim.ptr())
                                                   : py::cast<int64_t>(dim));
    if (lengths.back() == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  }
  return lengths;
}

bool is_device_array(const py::object& payload) {
  // Looked up once: pybind11 goes through a map of types each time.
  static const PyObject* const type = py::type::of<DeviceArray>().release().ptr();
  return reinterpret_cast<const PyObject*>(Py_TYPE(payload.ptr())) == type;
}

class Reader {
 public:
  Reader(const py::function& resolve, std::optional<uintptr_t> stream)
      : resolve_(resolve), stream_(stream) {}

  Payloads read(const py::sequence& records) {
    // Taken once: a sequence of the caller's might answer differently the second time.
    payloads_.kept = py::list(records);
    payloads_.tensors.resize(payloads_.kept.size());
    for (size_t i = 0; i < payloads_.tensors.size(); ++i) {
      const py::tuple record = as_record(payloads_.kept[i]);
      if (!read_known(i, record) && !read_shown(i, record)) resolve(i);
    }
    find_devices();
    for (const Found& found : found_) add_producers(found);
    return std::move(payloads_);
  }

 private:
  // A tensor on a device; nullptr: on which one is not known yet.
  struct Found {
    size_t index;
    const Device* device;
    std::optional<void*> stream;
    bool has_unknown_writer = false;
  };

  static py::tuple as_record(const py::handle& record) {
    auto fields = py::cast<py::tuple>(record);
    if (fields.size() != 4) throw py::value_error("a record is (name, type, dims, payload)");
    return fields;
  }

  TensorRef& start(size_t i, const py::tuple& record) {
    TensorRef& tensor = payloads_.tensors[i];
    tensor.name = py::cast<std::string>(record[0]);
    tensor.type = py::cast<std::string>(record[1]);
    tensor.dims = dims_of(py::cast<py::tuple>(record[2]));
    return tensor;
  }

  // bytes, a NumPy array, a DeviceArray.
  bool read_known(size_t i, const py::tuple& record) {
    const py::object payload = record[3];
    if (PyBytes_Check(payload.ptr())) {
      const auto text = static_cast<std::string_view>(py::reinterpret_borrow<py::bytes>(payload));
      TensorRef& tensor = start(i, record);
      tensor.layout.data = as_bytes(text).data();
      tensor.nbytes = text.size();
      return true;
    }
    if (py::isinstance<py::array>(payload)) {
      read_array(start(i, record), py::reinterpret_borrow<py::array>(payload));
      return true;
    }
    if (!is_device_array(payload)) return false;
    const auto& array = *py::cast<const DeviceArray*>(payload);
    TensorRef& tensor = start(i, record);
    tensor.layout.data = reinterpret_cast<const std::byte*>(array.pointer());
    tensor.nbytes = array.nbytes();
    found_.push_back({i, &array.device(), array.stream(), array.has_unknown_writer()});
    return true;
  }

  static void read_array(TensorRef& tensor, const py::array& array) {
    const char kind = array.dtype().kind();
    if (kind == 'O' || array.itemsize() > 16 || array.itemsize() == 0) {
      throw py::type_error("parameter " + quoted(tensor.name) + ": its elements cannot be saved");
    }
    if (!std::equal(tensor.dims.begin(), tensor.dims.end(), array.shape(),
                    array.shape() + array.ndim())) {
      throw py::value_error("parameter " + quoted(tensor.name) + ": dims and shape differ");
    }
    tensor.layout = layout_of(array);
    tensor.nbytes = static_cast<uint64_t>(array.nbytes());
  }

  // A framework's array.
  bool read_shown(size_t i, const py::tuple& record) {
    std::optional<ArrayInterface> shown = ArrayInterface::read(record[3]);
    if (!shown) return false;
    TensorRef& tensor = payloads_.tensors[i];
    if (record[1].is_none()) {
      if (shown->type.empty()) return false;
      tensor.name = py::cast<std::string>(record[0]);
      tensor.type = shown->type;
      tensor.dims = dims_of(shown->shape);
    } else {
      start(i, record);
      uint64_t nbytes = element_nbytes(tensor_types(), tensor.type);
      for (const int64_t dim : tensor.dims) nbytes *= static_cast<uint64_t>(dim);
      if (shown->nbytes != nbytes) return false;
    }
    tensor.layout.data = reinterpret_cast<const std::byte*>(shown->pointer);
    tensor.nbytes = shown->nbytes;
    std::optional<void*> stream;
    if (shown->stream) stream = reinterpret_cast<void*>(*shown->stream);
    found_.push_back({i, nullptr, stream});
    return true;
  }

  void resolve(size_t i) {
    PyObject* const made = call_or_park([&] {
      return PyObject_CallOneArg(resolve_.ptr(),
                                 PyList_GET_ITEM(payloads_.kept.ptr(), static_cast<Py_ssize_t>(i)));
    });
    if (made == nullptr) throw py::error_already_set();
    const auto record = py::reinterpret_steal<py::object>(made);
    payloads_.kept[i] = record;
    if (!read_known(i, as_record(record))) {
      throw py::type_error("a record's payload is nothing that can be saved");
    }
  }

  // All under one lock, and without the GIL: drivers are asked.
  void find_devices() {
    std::vector<const void*> pointers;
    for (const Found& found : found_) {
      if (found.device == nullptr) {
        pointers.push_back(payloads_.tensors[found.index].layout.data);
      }
    }
    if (pointers.empty()) return;
    std::vector<Device*> devices;
    {
      const GilRelease release;
      devices = runtime().devices.devices_of(pointers);
    }
    std::vector<Found> unresolved;
    size_t next = 0;
    for (Found& found : found_) {
      if (found.device == nullptr) found.device = devices[next++];
      if (found.device == nullptr) unresolved.push_back(found);
    }
    std::erase_if(found_, [](const Found& found) { return found.device == nullptr; });
    for (const Found& found : unresolved) resolve(found.index);  // or it says what is wrong
  }

  void add_producers(const Found& found) {
    payloads_.tensors[found.index].device = found.device;
    if (payloads_.first_device == nullptr) payloads_.first_device = found.device;
    if (stream_ && payloads_.first_device != found.device) {
      throw py::value_error("stream is of one device, and the tensors are on " +
                            payloads_.first_device->name() + " and " + found.device->name());
    }
    // Both, where both are known: a copy that a framework made on the way is in the tensor's own.
    if (found.stream) add_producer({found.device, *found.stream});
    if (stream_) add_producer({found.device, reinterpret_cast<void*>(*stream_)});
    if (!stream_ && !found.stream) payloads_.has_unknown_producer = true;
    if (!stream_ && found.has_unknown_writer) {
      auto& synced = payloads_.synced_devices;
      if (std::ranges::find(synced, found.device) == synced.end()) synced.push_back(found.device);
    }
  }

  void add_producer(const Producer& producer) {
    const auto same = [&](const Producer& known) {
      return known.stream == producer.stream && known.device == producer.device;
    };
    if (std::ranges::none_of(payloads_.producers, same)) payloads_.producers.push_back(producer);
  }

  const py::function& resolve_;
  std::optional<uintptr_t> stream_;
  Payloads payloads_;
  std::vector<Found> found_;
};

}  // namespace

Payloads read_records(const py::sequence& records, const py::function& resolve,
                      std::optional<uintptr_t> stream) {
  return Reader(resolve, stream).read(records);
}

}  // namespace mindckpt
