"""Tensors on the stand-in devices of tests/plugins: what a framework would hold there.

The libraries are those that `cmake --workflow --preset release` built. A stand-in that was loaded
once is what the package then finds under the real library's name.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import mindckpt

FOLDER = Path(__file__).resolve().parent.parent / "build" / "release" / "tests" / "plugins"
LIBRARIES = {
    "cuda": "libcuda.so.1",
    "ascend": "libascendcl.so",
    "sim": "libmindckpt_sim.so",
    "minimal": "libmindckpt_minimal.so",
}
TO_HOST, TO_DEVICE, ON_DEVICE = range(3)
POLICIES = ["auto", "device", "host", "lazy"]

_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "reset": (None, ()),
    "fail": (None, (ctypes.c_char_p, ctypes.c_int64)),
    "calls": (ctypes.c_int64, (ctypes.c_char_p,)),
    "live": (ctypes.c_int64, (ctypes.c_char_p,)),
    "set_memory": (None, (ctypes.c_uint64,)),
    "set_speed": (None, (ctypes.c_int32, ctypes.c_double, ctypes.c_double)),
    "set_random_delay": (None, (ctypes.c_uint64, ctypes.c_double)),
    "copied": (ctypes.c_uint64, (ctypes.c_int32, ctypes.c_int32)),
    "busy_seconds": (ctypes.c_double, (ctypes.c_int32, ctypes.c_int32)),
    "allocate": (_POINTER, (ctypes.c_int32, ctypes.c_size_t)),
    "release": (None, (_POINTER,)),
    "write": (None, (_POINTER, _POINTER, ctypes.c_size_t)),
    "read": (None, (_POINTER, _POINTER, ctypes.c_size_t)),
    "stream_create": (_POINTER, (ctypes.c_int32,)),
    "stream_destroy": (None, (_POINTER,)),
    "stream_sync": (None, (_POINTER,)),
    "stream_write": (None, (_POINTER, _POINTER, _POINTER, ctypes.c_size_t)),
    "stream_fill": (None, (_POINTER, _POINTER, ctypes.c_int, ctypes.c_size_t)),
    "stream_pause": (None, (_POINTER,)),
    "stream_resume": (None, (_POINTER,)),
}


def preload() -> None:
    """Loads the stand-ins, so that they are what the package finds: before it looks for drivers."""
    for name in LIBRARIES.values():
        if (FOLDER / name).exists():
            ctypes.CDLL(str(FOLDER / name))


def library(backend: str) -> Path:
    """The library of a stand-in; skips the test where it was not built."""
    path = FOLDER / LIBRARIES[backend]
    if not path.exists():
        pytest.skip(f"{path.name} is not built: run `cmake --workflow --preset release`")
    return path


class StandIn:
    """A stand-in library: `stand_in_x` of tests/plugins/stand_in.h is the method `x`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        path = library(backend)
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, f"stand_in_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        if backend == "sim":
            mindckpt.load_device_plugin(path)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def array(
        self, values: npt.ArrayLike, *, device: int = 0, stream: int | None = None
    ) -> "StandInArray":
        """A copy of an array in the memory of a device."""
        return StandInArray(self, np.asarray(values), device, stream)


@cache
def stand_in(backend: str) -> StandIn:
    """The stand-in of a backend, loaded once."""
    return StandIn(backend)


class StandInArray:
    """An array on a stand-in device, as CuPy would show it: C-contiguous, in a stream."""

    def __init__(
        self, owner: StandIn, values: npt.NDArray[Any], device: int, stream: int | None
    ) -> None:
        self.owner = owner
        self.shape = values.shape
        self.dtype = values.dtype
        self.nbytes = values.nbytes
        self.device = device
        self.stream = stream
        self.pointer = owner.allocate(device, values.nbytes) if values.nbytes else 0
        self.strides: tuple[int, ...] | None = None
        flat = np.ascontiguousarray(values)
        if values.nbytes:
            owner.write(self.pointer, flat.ctypes.data, flat.nbytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": self.strides,
            "stream": self.stream,
            "version": 3,
        }

    def __del__(self) -> None:
        if self.pointer:
            self.owner.release(self.pointer)

    def read(self) -> npt.NDArray[Any]:
        """The values as they are now, whatever the streams hold."""
        values = np.empty(self.shape, self.dtype)
        if self.nbytes:
            self.owner.read(self.pointer, values.ctypes.data, values.nbytes)
        return values

    def fill(self, byte: int) -> None:
        """Overwrites the values in stream order, as a training step does."""
        self.owner.stream_fill(self.stream, self.pointer, byte, self.nbytes)


def model(device: StandIn, stream: int | None) -> tuple[dict[str, StandInArray], dict[str, Any]]:
    """Tensors on both devices, and what they hold."""
    rng = np.random.default_rng(5)
    values = {
        "embedding": rng.random((300, 257), np.float32),
        "bias": rng.integers(0, 9, 3).astype(np.int8),
        "scale": np.array(0.5, np.float16),
        "half": rng.random((5, 7)).astype(ml_dtypes.bfloat16),
    }
    return {name: device.array(value, stream=stream) for name, value in values.items()}, values
