"""CuPy, torch and JAX behind one interface: tensors from bytes, bytes of tensors, streams."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import mindckpt
from gpu.stand_ins import StandInLibrary

Array = npt.NDArray[Any]

# A dry run of `make gpu` has a stand-in in the driver's place, which no framework works with.
DRY_RUN = "MINDCKPT_GPU_DRY_RUN" in os.environ
NAMES = ["stand_in"] if DRY_RUN else ["cupy", "torch", "jax"]
# Those with streams, and tensors that change.
STREAMED = ["stand_in"] if DRY_RUN else ["cupy", "torch"]

# How long a stream is kept busy, in the GPU's clocks: a few tenths of a second.
BUSY_CLOCKS = 400_000_000

_SPIN = r"""
extern "C" __global__ void spin(long long clocks) {
  long long begin = clock64();
  while (clock64() - begin < clocks) {}
}
"""


@cache
def no_gpu() -> str:
    """Why there is nothing to test on; '' where there is."""
    maps = Path("/proc/self/maps").read_text()
    if "/tests/plugins/" in maps and not DRY_RUN:
        return "a stand-in has the driver's place: run pytest with --confcutdir=tests/gpu"
    (cuda,) = (backend for backend in mindckpt.devices() if backend["name"] == "cuda")
    return cuda["unusable"]


@cache
def framework(name: str) -> Any:
    """The framework, or skips the test in one line where it is missing or sees no GPU."""
    if name == "stand_in":
        return StandInLibrary()
    why = "a dry run has stand-ins only" if DRY_RUN else _trouble(name)
    if why:
        pytest.skip(f"{name}: {why}")
    return {"cupy": Cupy, "torch": Torch, "jax": Jax}[name]()


@cache
def _trouble(name: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
            if name == "cupy":
                return "" if module.cuda.is_available() else "sees no GPU"
            if name == "torch":
                return "" if module.cuda.is_available() else "sees no GPU"
            module.config.update("jax_enable_x64", True)
            return "" if module.devices("gpu") else "sees no GPU"
    except (ImportError, RuntimeError) as error:
        return str(error).splitlines()[0]


def raw(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The bytes of an array, in C order."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


class Cupy:
    """CuPy: arrays of any stride; whose stream is the current one."""

    name = loads_as = "cupy"
    policies = ("auto", "device", "host", "lazy")

    def __init__(self) -> None:
        self.module = importlib.import_module("cupy")
        self._kernel = self.module.RawKernel(_SPIN, "spin")
        self._kernel((1,), (1,), (np.int64(1),))  # compiled now

    def array(self, values: npt.ArrayLike, device: int = 0) -> Any:
        values = np.asarray(values)
        with self.module.cuda.Device(device):
            if values.size == 0:
                return self.module.empty(values.shape, values.dtype)
            array = self.module.asarray(raw(values)).view(values.dtype).reshape(values.shape)
            self.module.cuda.get_current_stream().synchronize()
            return array

    def host(self, tensor: Any) -> Array:
        with tensor.device:
            flat = self.module.ascontiguousarray(tensor).reshape(-1)
            return flat.view(np.uint8).get().view(tensor.dtype).reshape(tensor.shape)

    def supports(self, dtype: np.dtype[Any]) -> bool:
        try:
            self.module.empty(1, dtype)
        except (TypeError, ValueError):
            return False
        return True

    def pointer(self, tensor: Any) -> int:
        return int(tensor.data.ptr)

    def stream(self) -> Any:
        """One that does not wait for the default stream."""
        return self.module.cuda.Stream(non_blocking=True)

    def within(self, stream: Any) -> Any:
        return stream

    def spin(self) -> None:
        """Keeps the current stream busy."""
        self._kernel((1,), (1,), (np.int64(BUSY_CLOCKS),))

    def fill(self, tensor: Any, value: int) -> None:
        tensor.fill(value)

    def idle(self, stream: Any) -> bool:
        return bool(stream.done)

    def synchronize(self) -> None:
        self.module.cuda.runtime.deviceSynchronize()

    def free_cache(self) -> None:
        self.module.get_default_memory_pool().free_all_blocks()
        self.module.get_default_pinned_memory_pool().free_all_blocks()


class Torch:
    """torch: tensors of any positive stride; whose stream is the current one."""

    name = loads_as = "torch"
    policies = ("auto", "device", "host", "lazy")

    def __init__(self) -> None:
        self.module = importlib.import_module("torch")

    def _type(self, dtype: np.dtype[Any]) -> Any:
        return getattr(self.module, dtype.name, None)

    def array(self, values: npt.ArrayLike, device: int = 0) -> Any:
        values = np.asarray(values)
        kind = self._type(values.dtype)
        where = f"cuda:{device}"
        if values.size == 0:
            return self.module.empty(values.shape, dtype=kind, device=where)
        flat = self.module.from_numpy(raw(values).copy()).to(where)
        self.module.cuda.current_stream(device).synchronize()
        return flat.view(kind).reshape(values.shape)

    def host(self, tensor: Any) -> Array:
        dtype = np.dtype(_numpy_type(str(tensor.dtype).removeprefix("torch.")))
        flat = tensor.detach().contiguous().reshape(-1)
        return flat.view(self.module.uint8).cpu().numpy().view(dtype).reshape(tuple(tensor.shape))

    def supports(self, dtype: np.dtype[Any]) -> bool:
        return self._type(dtype) is not None

    def pointer(self, tensor: Any) -> int:
        return int(tensor.data_ptr())

    def stream(self) -> Any:
        return self.module.cuda.Stream()

    def within(self, stream: Any) -> Any:
        return self.module.cuda.stream(stream)

    def spin(self) -> None:
        self.module.cuda._sleep(BUSY_CLOCKS)

    def fill(self, tensor: Any, value: int) -> None:
        tensor.fill_(value)

    def idle(self, stream: Any) -> bool:
        return bool(stream.query())

    def synchronize(self) -> None:
        self.module.cuda.synchronize()

    def free_cache(self) -> None:
        self.module.cuda.empty_cache()


class Jax:
    """JAX: arrays that don't change, and tell nothing of streams."""

    name = loads_as = "jax"

    def __init__(self) -> None:
        self.module = importlib.import_module("jax")

    def array(self, values: npt.ArrayLike, device: int = 0) -> Any:
        placed = self.module.device_put(np.asarray(values), self.module.devices("gpu")[device])
        return placed.block_until_ready()

    def host(self, tensor: Any) -> Array:
        return np.asarray(tensor)

    def supports(self, dtype: np.dtype[Any]) -> bool:
        try:
            return bool(self.module.numpy.zeros(1, dtype).dtype == dtype)
        except TypeError:
            return False

    def pointer(self, tensor: Any) -> int:
        return int(tensor.unsafe_buffer_pointer())

    def free_cache(self) -> None:
        pass


def _numpy_type(name: str) -> Any:
    import ml_dtypes

    return getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else np.dtype(name)


@contextlib.contextmanager
def staging_limit(nbytes: int) -> Iterator[None]:
    """A limit of the staging pools for a while."""
    mindckpt.release_staging()
    mindckpt.set_staging_limit(nbytes)
    try:
        yield
    finally:
        mindckpt.set_staging_limit(256 << 20)
