"""Round-robin contests: each round measures the raw limits first, then all that is held to them.

A ratio compares samples of one round, minutes apart at most; a machine that others use too slows
down and speeds up between rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mindckpt
from mindckpt.bench import modes, raw
from mindckpt.bench.limits import Limit, Samples
from mindckpt.bench.measure import Payload, sample
from mindckpt.bench.modes import Mode

WRITE = "raw write"
WRITE_FALLOCATED = "raw write, fallocated"
WRITE_FDATASYNC = "raw write + fdatasync"
WRITE_SYNC_FILE_RANGE = "raw write + sync_file_range"
READ = "raw pread, parallel"


@dataclass(frozen=True)
class Entry:
    """One line of a contest.

    Attributes:
        name: As printed, and as limits call it.
        take: Takes one sample and returns its seconds.
        limit: What it is held to, if anything.
    """

    name: str
    take: Callable[[], float | None]
    limit: Limit | None = None


def run(entries: Sequence[Entry], rounds: int) -> Samples:
    """Samples every entry once a round, in the order given."""
    samples: Samples = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            samples[entry.name].append(entry.take())
    return samples


@dataclass(frozen=True)
class Library:
    """A library that saves and loads checkpoints.

    Attributes:
        name: As printed.
        save_object: Makes of arrays what `save` takes, without a copy.
        save: Saves the object in a mode.
        load: Loads a file of that mode into a dict of Parameters.
    """

    name: str
    save_object: Callable[[Payload], dict[str, Any]]
    save: Callable[[dict[str, Any], Path, Mode], None]
    load: Callable[[Path, Mode], dict[str, Any]]


def _save(save_obj: dict[str, Any], path: Path, mode: Mode) -> None:
    mindckpt.save_checkpoint(save_obj, path, durable=mode.durable, **mode.save_options)


def _load(path: Path, mode: Mode) -> dict[str, Any]:
    return mindckpt.load_checkpoint(path, **mode.load_options)


MINDCKPT = Library("mindckpt", lambda payload: dict(payload.tensors), _save, _load)


def mindspore() -> Library:
    """The real MindSpore; ImportError where it is not installed."""
    import mindspore as ms

    def save_object(payload: Payload) -> dict[str, Any]:
        return {
            name: ms.Parameter(ms.Tensor.from_numpy(array), name=name)
            for name, array in payload.tensors.items()
        }

    def save(save_obj: dict[str, Any], path: Path, mode: Mode) -> None:
        ms.save_checkpoint(save_obj, str(path), **mode.save_options)

    def load(path: Path, mode: Mode) -> dict[str, Any]:
        return ms.load_checkpoint(str(path), **mode.load_options)

    return Library("MindSpore", save_object, save, load)


# By name, for a process that is to measure one of them.
LIBRARIES: dict[str, Callable[[], Library]] = {
    "mindckpt": lambda: MINDCKPT,
    "MindSpore": mindspore,
}


def raw_entries(payload: Payload, folder: Path) -> list[Entry]:
    """The loops that everything is held to."""
    path = folder / "raw"
    to_page_cache = Limit((WRITE,))

    def write(name: str, loop: Callable[[raw.Buffer, Path], None]) -> Entry:
        def take() -> float:
            seconds, _ = sample(lambda: loop(payload.buffer, path), payload.nbytes)
            path.unlink()
            return seconds

        return Entry(name, take, to_page_cache)

    def take_read() -> float:
        raw.write(payload.buffer, path)
        raw.sync(path)
        target = np.ones_like(payload.buffer)
        read = sample(lambda: raw.read_parallel(path, target, raw.cores()), payload.nbytes)
        path.unlink()
        return read[0]

    return [
        write(WRITE, raw.write),
        write(WRITE_FALLOCATED, raw.write_fallocated),
        write(WRITE_FDATASYNC, raw.write_fdatasync),
        write(WRITE_SYNC_FILE_RANGE, raw.write_sync_file_range),
        Entry(READ, take_read),
    ]


def cipher_entries(payload: Payload) -> list[Entry]:
    """Seconds that OpenSSL needs for the payload on all cores, were there nothing else to do."""

    def entry(cipher: str, decrypt: bool) -> Entry:
        def take() -> float | None:
            return raw.openssl_seconds(cipher, payload.nbytes, decrypt=decrypt)

        return Entry(raw.openssl_name(cipher, decrypt=decrypt), take)

    ciphers = [mode.cipher for mode in modes.ALL if mode.cipher]
    return [entry(cipher, decrypt) for cipher in ciphers for decrypt in (False, True)]


class RoundTrip:
    """A save in one mode, and the load of what it saved, which is compared and removed.

    Attributes:
        library: Who saves and loads.
        mode: The mode.
        save: The entry of the save; run it before `load`.
        load: The entry of the load.
        file_bytes: Length of the file, once it has been saved.
    """

    def __init__(self, library: Library, mode: Mode, payload: Payload, folder: Path) -> None:
        self.library = library
        self.mode = mode
        self.save = Entry(f"{library.name} save {mode.name}", self._take_save, _save_limit(mode))
        self.load = Entry(f"{library.name} load {mode.name}", self._take_load, _load_limit(mode))
        self.file_bytes = 0
        self._payload = payload
        self._save_object = library.save_object(payload)
        self._path = folder / "mode.ckpt"

    def _take_save(self) -> float:
        def save() -> None:
            self.library.save(self._save_object, self._path, self.mode)

        seconds, _ = sample(save, self._payload.nbytes)
        self.file_bytes = self._path.stat().st_size
        return seconds

    def _take_load(self) -> float | None:
        def load() -> dict[str, Any]:
            return self.library.load(self._path, self.mode)

        raw.sync(self._path)
        try:
            seconds, loaded = sample(load, self._payload.nbytes)
        except Exception as error:
            if self.library is MINDCKPT:
                raise
            # MindSpore refuses what is larger than the memory it takes for free, page cache apart.
            print(f"{self.load.name}: {error}", file=sys.stderr)
            return None
        finally:
            self._path.unlink()
        _check_equal(self._payload, loaded)
        return seconds


def _save_limit(mode: Mode) -> Limit:
    """A save can't be faster than the file is written, nor than all cores encrypt."""
    if mode.durable:
        return Limit((WRITE_FDATASYNC, WRITE_SYNC_FILE_RANGE), min)
    if mode.cipher:
        return Limit((WRITE, raw.openssl_name(mode.cipher)))
    return Limit((WRITE,))


def _load_limit(mode: Mode) -> Limit:
    """A load can't be faster than the file is read, nor than all cores decrypt."""
    if mode.cipher:
        return Limit((READ, raw.openssl_name(mode.cipher, decrypt=True)))
    return Limit((READ,))


def _check_equal(payload: Payload, loaded: dict[str, Any]) -> None:
    """Raises AssertionError when a load did not bring back what was saved."""
    assert list(loaded) == list(payload.tensors), "other names, or another order"
    for name, tensor in payload.tensors.items():
        assert np.array_equal(loaded[name].asnumpy(), tensor), f"other values in {name}"
