"""The raw loops of raw_loops.cc, which everything is held to.

`make bench` builds them: `cmake --workflow --preset bench`.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Buffer = npt.NDArray[np.uint8]

LIBRARY = Path(__file__).resolve().parent.parent / "build/bench/benchmarks/libmindckpt_raw_loops.so"


class Write(enum.IntFlag):
    """How `write` does it, and of DIRECT and MAPPED, `read`."""

    FALLOCATE = 1
    OVER = 2
    SYNC_FILE_RANGE = 4
    FDATASYNC = 8
    DIRECT = 16
    WITHOUT_COPY = 32
    MAPPED = 64


class Memory(enum.IntEnum):
    """What `read` and `touch` fill."""

    RESIDENT = 0
    HUGE_PAGES = 1
    SMALL_PAGES = 2


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def write(path: Path, data: Buffer, how: Write, threads: int = 1) -> float:
    """Seconds to write `data` in pieces of 4 MiB; with SYNC_FILE_RANGE on one thread only."""
    return write_and_sync(path, data, how, threads)[1]


def write_and_sync(path: Path, data: Buffer, how: Write, threads: int) -> tuple[float, float]:
    """Seconds until all was with the file system, and until `write` ended, synced or not."""
    written = ctypes.c_double()
    seconds = _library().raw_write(
        bytes(path), data.ctypes.data, data.nbytes, int(how), threads, ctypes.byref(written)
    )
    return written.value, _seconds(seconds, path)


def read(
    path: Path,
    nbytes: int,
    memory: Memory,
    resident: Buffer | None = None,
    how: Write | None = None,
    threads: int | None = None,
) -> float:
    """Seconds to read a file, by pread unless `how` says otherwise, on all cores or `threads`.

    DIRECT takes resident memory that is aligned.
    """
    to = None if resident is None else resident.ctypes.data
    threads = threads or cores()
    return _seconds(
        _library().raw_read(bytes(path), nbytes, int(how or 0), threads, int(memory), to), path
    )


def memcpy(to: Buffer, data: Buffer, threads: int) -> float:
    """Seconds to copy into memory that is there."""
    return _seconds(_library().raw_memcpy(to.ctypes.data, data.ctypes.data, data.nbytes, threads))


def touch(nbytes: int, memory: Memory, threads: int) -> float:
    """Seconds to make fresh memory resident."""
    return _seconds(_library().raw_touch(nbytes, int(memory), threads))


def evp(cipher: str, nbytes: int, *, opening: bool) -> float | None:
    """Seconds that OpenSSL's EVP takes for a cipher on all cores; None where it lacks it."""
    seconds = _library().raw_evp(cipher.encode(), int(opening), nbytes, cores())
    return None if seconds == -errno.ENOTSUP else _seconds(seconds)


def _seconds(result: float, path: Path | None = None) -> float:
    if result < 0:
        number = int(-result)
        raise OSError(number, os.strerror(number), None if path is None else str(path))
    return result


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(LIBRARY))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for name, arguments in {
        "raw_write": [ctypes.c_char_p, pointer, size, number, number, pointer],
        "raw_read": [ctypes.c_char_p, size, number, number, number, pointer],
        "raw_memcpy": [pointer, pointer, size, number],
        "raw_touch": [size, number, number],
        "raw_evp": [ctypes.c_char_p, number, size, number],
    }.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_double
    return library
