"""Values and tensors of them, and how much room there is for more."""

import ctypes
import re
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu.frameworks import DRY_RUN, NAMES, Array, framework

POLICIES = ["auto", "device", "host", "lazy"]
MIB = 1 << 20
# Elements of a tensor whose copy takes a while; a stand-in's takes long enough with fewer.
MANY = 1 << (14 if DRY_RUN else 20)


def any_framework() -> Any:
    """The first one that is here, or skips the test."""
    for name in NAMES[:-1]:
        try:
            return framework(name)
        except pytest.skip.Exception:
            continue
    return framework(NAMES[-1])


def samples(dtype: np.dtype[Any], count: int = 3000) -> Array:
    """Values of all bit patterns, of bool the two that there are."""
    rng = np.random.default_rng(count)
    if dtype == np.bool_:
        return rng.integers(0, 2, count).astype(np.bool_).reshape(3, -1)
    drawn = rng.integers(0, 256, count * dtype.itemsize, np.uint8)
    return drawn.view(dtype).reshape(3, -1)


def model() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {
        "embedding": rng.random((3000, 257), np.float32),
        "bias": rng.integers(0, 9, 3).astype(np.int8),
        "scale": np.array(0.5, np.float16),
        "half": rng.random((5, 7)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((2, 0, 3), np.float32),
    }


def on_device(library: Any, values: dict[str, Array], device: int = 0) -> dict[str, Any]:
    return {name: library.array(value, device) for name, value in values.items()}


def result_of(job: Any) -> Any:
    assert job is not None
    return job.result(timeout=300)


def free_memory() -> int:
    """Bytes that the driver says are free on the first device, whoever freed them."""
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxPushCurrent_v2(context) == 0
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    assert cuda.cuCtxPopCurrent_v2(ctypes.byref(context)) == 0
    assert cuda.cuDevicePrimaryCtxRelease_v2(device) == 0
    return free.value


def needs(folder: Path, disk: int, host: int) -> None:
    """Skips the test where there is too little of something."""
    if shutil.disk_usage(folder).free < disk:
        pytest.skip(f"takes {disk / 2**30:.1f} GiB in {folder}")
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    if found and int(found[1]) << 10 < host:
        pytest.skip(f"takes {host / 2**30:.1f} GiB of memory")
