"""The memory that a save or a load takes at its peak, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mindckpt.bench.measure import Payload
from mindckpt.bench.modes import Mode

_RESET_PEAK = "5"  # what proc(5) says to write to clear_refs


@dataclass(frozen=True)
class Peak:
    """Bytes beyond the payload that was saved, and beyond the arrays that were loaded."""

    save_bytes: int
    load_bytes: int


@cache
def peak(library_name: str, mode: Mode, count: int, tensor_bytes: int, folder: Path) -> Peak:
    """Saves and loads a Payload of that size in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_measure, library_name, mode, count, tensor_bytes, folder).result()


def _measure(library_name: str, mode: Mode, count: int, tensor_bytes: int, folder: Path) -> Peak:
    from libraries import LIBRARIES  # which imports this module

    library = LIBRARIES[library_name]()
    path = folder / "peak.ckpt"
    # What is imported and allocated once is not a save's: a first, small one has it behind it.
    library.save(library.save_object(Payload.of_size(1, 4)), path, mode)
    library.load(path, mode)
    payload = Payload.of_ones(count, tensor_bytes)
    save_object = library.save_object(payload)
    save_bytes = _growth(lambda: library.save(save_object, path, mode))
    load_bytes = _growth(lambda: library.load(path, mode))
    path.unlink()
    return Peak(save_bytes, load_bytes - payload.nbytes)


def _growth(run: Callable[[], Any]) -> int:
    """How far the resident memory rose above where it was; the result of `run` is part of it."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    before = _status_bytes("VmRSS")
    result = run()
    growth = _status_bytes("VmHWM") - before
    del result
    return growth


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"no {field} in /proc/self/status")
