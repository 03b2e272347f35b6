#pragma once

#include <pybind11/pybind11.h>

// The parts of the module _core, whose interface is documented in mindckpt/_core.pyi. This folder
// is what knows pybind11, NumPy and the GIL; the engine below it knows none of them.
namespace mindckpt {

void bind_devices(pybind11::module_& module);
void bind_saving(pybind11::module_& module);
void bind_loading(pybind11::module_& module);
void bind_dlpack(pybind11::module_& module);

}  // namespace mindckpt
