"""Every example runs to its end, where its framework is installed."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mindckpt import async_ckpt_thread_status, load_checkpoint
from stand_in import StandInArray, stand_in

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.parametrize(
    "framework",
    [
        pytest.param("torch", marks=pytest.mark.framework),
        pytest.param("jax", marks=pytest.mark.framework),
        "mindspore",  # which `make interop` runs
    ],
)
def test_an_example_trains_saves_and_loads(tmp_path: Path, framework: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{framework}_loop.py", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "equal to those in memory" in done.stdout
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".ckpt"}


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class StandInCupy:
    """As much of CuPy as the example needs, in a stream of the stand-in for CUDA."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> "Multiplied":
        return Multiplied(stand_in("cuda"), np.full(shape, value, dtype), 0, self._stream)


class Multiplied(StandInArray):
    """An array that is multiplied in stream order."""

    def __imul__(self, factor: float) -> "Multiplied":
        self.owner.stream_sync(self.stream)
        values = self.read() * np.float32(factor)
        flat: Any = np.ascontiguousarray(values)
        self.owner.stream_write(self.stream, self.pointer, flat.ctypes.data, flat.nbytes)
        return self


def test_the_cupy_example_saves_what_was_computed(tmp_path: Path) -> None:
    example = load_example("cupy_loop")
    cuda = stand_in("cuda")
    cuda.reset()
    stream = cuda.stream_create(0)
    weights = example.train(StandInCupy(stream), stream, tmp_path)
    loaded = load_checkpoint(tmp_path / "step20.ckpt", dec_key=example.KEY)
    assert list(loaded) == list(weights)
    cuda.stream_sync(stream)
    for name, weight in weights.items():
        assert np.array_equal(loaded[name], weight.read())
    # It waits for its last save alone, and this folder goes with the test.
    while async_ckpt_thread_status():
        time.sleep(0.01)
    cuda.stream_destroy(stream)
