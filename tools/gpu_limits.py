"""The step 'limits' of `make gpu`: what the machine gives to loops that do one thing only.

Copies by the driver itself, ciphers and checksums alone, and files written and read in every way by
several threads. The fastest of them is what a save is held to.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_room import fitting
from gpu_worker import Item, UnavailableError, Worker
from mindckpt.bench import modes, raw
from mindckpt.bench.driver import Driver
from mindckpt.bench.measure import sample

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import raw_loops

# Twice is enough to know the fastest: each is a loop over gigabytes.
_TAKES = 2
_PATTERN_BYTES = 64 << 20
# The source, what is read into, what is warmed; a file in memory takes one more.
_MEMORY_FACTOR = 3.5

_WAYS = {
    "pwrite": raw_loops.Write(0),
    "O_DIRECT": raw_loops.Write.DIRECT | raw_loops.Write.WITHOUT_COPY,
    "mapping": raw_loops.Write.MAPPED,
}


class Limits:
    """Takes the items. A file that one of them wrote is read by the next."""

    def __init__(self, worker: Worker) -> None:
        self._places = {name: Path(path) for name, path in worker.options["places"].items()}
        self._scratch: str = worker.options["scratch"]
        self._folders: dict[str, Path] = {}
        self._written: Path | None = None
        self._fitting: dict[str, int | str] = {}

    def prepare(self, item: Item) -> None:
        """Makes what is copied and written, before the clock runs."""
        if item.options["kind"] == "copy":
            _ = self._driver
        elif item.options["kind"] in ("write", "read"):
            self._nbytes(item)
            if item.options["kind"] == "read" and self._path(item) != self._written:
                self._written = None
                self._write(item, "pwrite", raw_loops.cores())
        elif item.options["kind"] == "cipher" and item.options["mode"] == "crc":
            _ = self._crc_data

    def take(self, item: Item) -> dict[str, Any]:
        """Takes one of them."""
        takes: dict[str, Callable[[Item], dict[str, Any]]] = {
            "copy": self._take_copy,
            "cipher": self._take_cipher,
            "write": self._take_write,
            "read": self._take_read,
        }
        return takes[item.options["kind"]](item)

    def close(self) -> None:
        """Gives back what the driver gave, and removes the files."""
        if "_driver" in self.__dict__:
            self._driver.close()
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    @functools.cached_property
    def _driver(self) -> Driver:
        return Driver()

    @functools.cached_property
    def _crc_data(self) -> npt.NDArray[np.uint8]:
        return np.ones(1 << 26, np.uint8)

    def _take_copy(self, item: Item) -> dict[str, Any]:
        options = item.options
        nbytes, chunk = options["nbytes"], options["chunk_bytes"]
        takes = [
            self._driver.copy_seconds(options["direction"], chunk, nbytes) for _ in range(_TAKES)
        ]
        return {"bytes_per_second": nbytes / min(takes), "takes": takes}

    def _take_cipher(self, item: Item) -> dict[str, Any]:
        mode, nbytes = item.options["mode"], item.options["nbytes"]
        takes = []
        for _ in range(_TAKES):
            if mode == "crc":
                data = self._crc_data
                takes.append(raw.crc32_seconds(data) * nbytes / data.nbytes)
                continue
            seconds = raw.cipher_seconds(modes.BY_NAME[mode], nbytes)
            if seconds is None:
                raise UnavailableError("neither OpenSSL nor GmSSL offers SM4 on this machine")
            takes.append(seconds)
        return {"bytes_per_second": nbytes / min(takes), "takes": takes}

    def _take_write(self, item: Item) -> dict[str, Any]:
        nbytes = self._nbytes(item)
        written, durable = self._write(item, item.options["way"], item.options["threads"])
        found = {"nbytes": nbytes, "bytes_per_second": nbytes / written}
        return found | {"durable_bytes_per_second": nbytes / durable}

    def _take_read(self, item: Item) -> dict[str, Any]:
        nbytes, path = self._nbytes(item), self._path(item)
        how, threads = _WAYS[item.options["way"]], item.options["threads"]
        how &= raw_loops.Write.DIRECT | raw_loops.Write.MAPPED
        to = self._buffers[1][:nbytes]
        seconds = raw_loops.read(path, nbytes, raw_loops.Memory.RESIDENT, to, how, threads)
        return {"nbytes": nbytes, "bytes_per_second": nbytes / seconds}

    def _write(self, item: Item, way: str, threads: int) -> tuple[float, float]:
        """Writes a new file, in memory that is warm; seconds until written, and until durable."""
        nbytes, path = self._nbytes(item), self._path(item)
        if self._written is not None:
            self._written.unlink(missing_ok=True)  # in memory it would take the next one's room
            self._written = None
        path.unlink(missing_ok=True)
        how = _WAYS[way] | raw_loops.Write.FDATASYNC
        if item.options["place"] != "tmpfs" and way != "mapping":
            how |= raw_loops.Write.FALLOCATE  # as saves do; in memory it would be filled twice
        data = self._buffers[0][:nbytes]
        times: tuple[float, float] = sample(
            lambda: raw_loops.write_and_sync(path, data, how, threads), nbytes
        )[1]
        self._written = path
        return times

    def _path(self, item: Item) -> Path:
        place = item.options["place"]
        if place not in self._folders:
            made = tempfile.mkdtemp(prefix=self._scratch, dir=self._places[place])
            self._folders[place] = Path(made)
        return self._folders[place] / "raw"

    def _nbytes(self, item: Item) -> int:
        """What its place has room for, as it was before the first item."""
        if not self._fitting:
            self._fitting = {
                place: fitting(item.options["nbytes"], folder, place, _MEMORY_FACTOR)
                for place, folder in self._places.items()
            }
        found = self._fitting[item.options["place"]]
        if isinstance(found, str):
            raise UnavailableError(found)
        return found

    @functools.cached_property
    def _buffers(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """What is written, and what is read into: resident, and aligned as O_DIRECT wants it."""
        nbytes = max(found for found in self._fitting.values() if isinstance(found, int))
        pattern = np.random.default_rng(1).integers(0, 256, _PATTERN_BYTES, np.uint8)

        def filled(buffer: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            def fill(begin: int) -> None:
                part = buffer[begin : begin + _PATTERN_BYTES]
                part[:] = pattern[: part.nbytes]

            with ThreadPoolExecutor(raw_loops.cores()) as pool:
                list(pool.map(fill, range(0, nbytes, _PATTERN_BYTES)))
            return buffer

        return filled(_aligned(nbytes)), filled(_aligned(nbytes))


def _aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


if __name__ == "__main__":
    worker = Worker()
    limits = Limits(worker)
    try:
        worker.run(limits.take, limits.prepare)
    finally:
        limits.close()
