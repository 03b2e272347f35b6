#include "python/interrupt.h"

namespace mindckpt {

bool Interrupt::look(pybind11::handle function) {
  if (raised_) return true;
  bool good = call_or_park([] { return PyErr_CheckSignals(); }) == 0;
  if (good && function) {
    PyObject* const result = call_or_park([&] { return PyObject_CallNoArgs(function.ptr()); });
    good = result != nullptr;
    Py_XDECREF(result);
  }
  if (!good) raised_.emplace();
  return raised_.has_value();
}

}  // namespace mindckpt
