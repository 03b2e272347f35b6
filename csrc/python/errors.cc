#include "python/errors.h"

#include <pybind11/pybind11.h>

#include <new>

#include "base/error.h"
#include "python/arguments.h"
#include "python/gil.h"

namespace py = pybind11;

namespace mindckpt {
namespace {

void set_python_error(const Error& error) {
  const auto raise = [&](const char* name) {
    const auto module = py::reinterpret_steal<py::object>(
        call_or_park([] { return PyImport_ImportModule("mindckpt.errors"); }));
    if (!module) throw py::error_already_set();
    const py::object type = module.attr(name);
    py::str message(error.what());
    if (!error.path().empty()) message = decoded_path(error.path()) + py::str(": ") + message;
    PyErr_SetObject(type.ptr(), message.ptr());
  };
  switch (error.kind()) {
    case ErrorKind::kInvalidArgument:
      PyErr_SetString(PyExc_ValueError, error.what());
      return;
    case ErrorKind::kIo: {
      // Called with an errno, OSError makes itself the subclass that fits, such as PermissionError.
      const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError)(
          error.error_number(), error.what(), decoded_path(error.path()));
      PyErr_SetObject(py::type::handle_of(os_error).ptr(), os_error.ptr());
      return;
    }
    case ErrorKind::kFormat:
      return raise("CheckpointError");
    case ErrorKind::kChecksum:
      return raise("ChecksumError");
    case ErrorKind::kDecryption:
      return raise("DecryptionError");
    case ErrorKind::kUnavailable:
    case ErrorKind::kDevice:
    case ErrorKind::kCancelled:
    case ErrorKind::kInternal:
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return;
  }
}

}  // namespace

void translate_error(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const Error& error) {
    try {
      set_python_error(error);
    } catch (py::error_already_set& failed) {
      failed.restore();
    }
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "the system gives this process no more memory");
  }
}

}  // namespace mindckpt
