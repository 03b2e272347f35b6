#include "python/interrupt.h"

#include <unistd.h>

#include <cstdio>

#include "base/process.h"

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

void leave_if_forked(pid_t process, const Interrupt& interrupt) {
  if (process == process_id()) return;
  try {
    interrupt.raise();
    std::fputs("mindckpt: a child that was forked inside a save or load came back into it\n",
               stderr);
  } catch (pybind11::error_already_set& raised) {
    if (raised.matches(PyExc_SystemExit)) {
      const pybind11::object code = raised.value().attr("code");
      ::_exit(code.is_none()                               ? 0
              : pybind11::isinstance<pybind11::int_>(code) ? code.cast<int>()
                                                           : 1);
    }
    raised.restore();
    PyErr_Print();
  }
  ::_exit(1);
}

}  // namespace mindckpt
