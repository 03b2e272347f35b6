"""What the machine can do: loops that copy, write and read; checksums and ciphers by themselves."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mindckpt import _core
from mindckpt.bench.modes import Mode

Buffer: TypeAlias = npt.NDArray[np.uint8]

PIECE_BYTES = 4_000_000
SYNC_EVERY_BYTES = 32 << 20
READ_BYTES = 16 << 20

_SYNC_FILE_RANGE_WRITE = 2


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def write(data: Buffer, path: Path) -> None:
    """Writes 4 MB pieces to a new file, into the page cache: the raw loop."""
    with path.open("wb", buffering=0) as file:
        for piece in _pieces(data):
            file.write(piece)


def write_fdatasync(data: Buffer, path: Path) -> None:
    """The raw loop, durable when it returns: one sync at the end."""
    with path.open("wb", buffering=0) as file:
        for piece in _pieces(data):
            file.write(piece)
        os.fdatasync(file.fileno())


def write_sync_file_range(data: Buffer, path: Path) -> None:
    """Reserved space, writeback started every 32 MiB, one sync at the end: durable."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, data.nbytes)
        started = written = 0
        for piece in _pieces(data):
            written += file.write(piece)
            if written - started >= SYNC_EVERY_BYTES:
                length = written - started
                libc.sync_file_range(file.fileno(), started, length, _SYNC_FILE_RANGE_WRITE)
                started = written
        os.fdatasync(file.fileno())


def sync(path: Path) -> None:
    """Waits till a file is on the disk, so that its writeback is not under what comes next."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())


def into_page_cache(path: Path) -> None:
    """Reads a file through once it is on the disk: what wrote it may have gone past the cache."""
    sync(path)
    piece = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def copy_parallel(source: Buffer, target: Buffer) -> None:
    """Copies a buffer on all cores, into memory that is resident already."""

    def copy_part(part: slice) -> None:
        np.copyto(target[part], source[part])

    _on_all_cores(copy_part, source.nbytes)


def crc32_seconds(data: Buffer) -> float:
    """Seconds to sum a buffer on all cores, by the library that saves use."""
    return _core.crc32_seconds(data, cores())


def cipher_name(mode: Mode, *, opening: bool = False) -> str:
    """What a mode's cipher alone is called in tables."""
    return f"{'open' if opening else 'seal'} {mode.cipher} alone x {cores()}"


def cipher_seconds(mode: Mode, nbytes: int, *, opening: bool = False) -> float | None:
    """Seconds to seal `nbytes`, or open them, on all cores, block by block, in cache.

    None where this machine lacks the cipher.
    """
    key_bytes, name = mode.key_bytes_and_name
    if name == "SM4-CBC" and not _core.sm4_provider():
        return None
    return _core.cipher_seconds(name, bytes(key_bytes), nbytes, cores(), opening)


def _on_all_cores(work: Callable[[slice], object], nbytes: int) -> None:
    """Calls `work` with equal parts of `nbytes`, one a core, at the same time."""
    step = -(-nbytes // cores())
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, [slice(i, i + step) for i in range(0, nbytes, step)]))


def _pieces(data: Buffer) -> Iterator[Any]:
    return (data[i : i + PIECE_BYTES].data for i in range(0, data.nbytes, PIECE_BYTES))
