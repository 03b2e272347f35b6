"""The preloaded library of fault_shim.cc: where it is, and how a process that has it rules it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
LIBRARY = TESTS.parent / "build" / "release" / "tests" / "crash" / "libfault_shim.so"
ENGINE = "/mindckpt/_core."  # in the path of the compiled module

# Actions and kinds of calls, as in fault_shim.cc.
NONE, FAIL, FAIL_FROM_NOW, SHORT, END, KILL, COMMIT = range(7)
FILES, THREADS, MEMORY = 1, 2, 4

is_torture = bool(os.environ.get("MINDCKPT_TORTURE"))
tried: Counter[str] = Counter()  # how many of what, by this process's tests


@dataclass(frozen=True)
class Call:
    """A line of the log: what the engine called, and about what."""

    name: str
    about: str

    @property
    def path(self) -> str:
        """The file; of a rename, where from."""
        return self.about.split(" ")[0]


class Shim:
    """Rules the library in this process, which was started by `start`."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=False)
        self._library.faults_disarm.restype = ctypes.c_int64
        self._library.faults_log.restype = ctypes.c_char_p
        self._library.faults_arm.argtypes = (
            ctypes.c_char_p,
            ctypes.c_uint,
            ctypes.c_int64,
            ctypes.c_int,
            ctypes.c_int,
        )
        self._library.faults_keep_log(1)

    def skip_syncs(self) -> None:
        """Has syncs do nothing, and succeed, from now on."""
        self._library.faults_sync(0, 0)

    def skip_write_back(self) -> None:
        """Has sync_file_range do nothing, and succeed, from now on."""
        self._library.faults_sync(1, 0)

    @contextmanager
    def armed(
        self, kinds: int = FILES, nth: int = 0, action: int = NONE, error: int = 0
    ) -> Iterator[None]:
        """Counts the engine's calls of these kinds; something happens at the Nth, from 1 on."""
        assert self._library.faults_arm(ENGINE.encode(), kinds, nth, action, error) == 0
        try:
            yield
        finally:
            self._library.faults_disarm()

    def tell(self, fd: int) -> None:
        """Writes the name of each call to `fd`, and waits for a byte before it is made."""
        self._library.faults_tell(fd)

    def log(self) -> list[Call]:
        """The calls since the library was last armed."""
        lines = os.fsdecode(self._library.faults_log()).splitlines()
        return [Call(*line.split(" ", 1)) for line in lines]


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a module of this folder as a program, with the library; skips where there is none."""
    if not LIBRARY.exists():
        pytest.skip(f"{LIBRARY.name} is not built: run `cmake --workflow --preset release`")
    return subprocess.Popen(
        [sys.executable, "-m", f"crash.{module}", *map(str, arguments)],
        env={
            **os.environ,
            "LD_PRELOAD": str(LIBRARY),
            "PYTHONPATH": str(TESTS),
            # A process that forks has one thread.
            "OPENBLAS_NUM_THREADS": "1",
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
