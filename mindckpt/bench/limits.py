"""What saves are held to: the machine's own speed at each of their stages, in the same rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mindckpt import _core
from mindckpt.bench import raw
from mindckpt.bench.measure import sample
from mindckpt.bench.modes import Mode
from mindckpt.bench.source import Source
from mindckpt.records import resolved

# What was measured -> its seconds, round by round; None where this machine cannot measure it.
Samples: TypeAlias = dict[str, list[float | None]]

WRITE = "raw write"
DURABLE_WRITE = "raw durable write"
MEMCPY = f"memcpy x {raw.cores()}"
CRC = f"CRC-32 x {raw.cores()}"
PINNED_COPY = "pinned copy to the host"
DEVICE_COPY = "copy on the device"

# Speeds that do not depend on the amount are measured with this much of the payload.
_PART_BYTES = 1 << 30


@dataclass(frozen=True)
class Limit:
    """What an entry is held to: one entry, or the slowest (or fastest) of several, of its round."""

    names: tuple[str, ...]
    pick: Callable[[Sequence[float]], float] = max

    def __str__(self) -> str:
        """As printed in a table."""
        if len(self.names) == 1:
            return self.names[0]
        return ("slowest of " if self.pick is max else "fastest of ") + "; ".join(self.names)

    def ratios(self, samples: Samples, name: str) -> list[float]:
        """Limit / `name`, round by round: 1.0 is as fast as the limit, 0.5 takes twice its time.

        A round in which one of them could not be measured is left out.
        """
        columns = [samples[limit] for limit in self.names]
        ratios = []
        for own, *limits in zip(samples[name], *columns, strict=True):
            known = [seconds for seconds in limits if seconds is not None]
            if own is not None and len(known) == len(limits):
                ratios.append(self.pick(known) / own)
        return ratios

    def picked(self, samples: Samples) -> str:
        """Which of the names it is, by their medians: the bottleneck, where it is the slowest."""
        medians = {name: statistics.median(measured(samples, name)) for name in self.names}
        return next(name for name in self.names if medians[name] == self.pick([*medians.values()]))


def measured(samples: Samples, name: str) -> list[float]:
    """The seconds of an entry in the rounds in which it could be measured."""
    return [seconds for seconds in samples[name] if seconds is not None]


def raw_limits(
    source: Source, modes: Sequence[Mode], durable: bool, folder: Path
) -> dict[str, Callable[[], float | None]]:
    """Everything that saves of `source` in these modes can be held to.

    Args:
        source: What is saved.
        modes: How.
        durable: Whether saves are to be on storage.
        folder: Where to write.

    Returns:
        dict. Name -> a function that takes a sample: the seconds for as many bytes as the payload
        has.
    """
    buffer = source.payload.buffer
    nbytes = buffer.nbytes
    path = folder / "raw"

    def write(loop: Callable[[raw.Buffer, Path], None]) -> float:
        seconds, _ = sample(lambda: loop(buffer, path), nbytes)
        path.unlink()
        return seconds

    def copy() -> float:
        part = buffer[:_PART_BYTES]
        target = np.ones_like(part)
        return sample(lambda: raw.copy_parallel(part, target), 0)[0] * nbytes / part.nbytes

    def crc() -> float:
        part = buffer[:_PART_BYTES]
        return raw.crc32_seconds(part) * nbytes / part.nbytes

    def cipher(mode: Mode) -> Callable[[], float | None]:
        return lambda: raw.cipher_seconds(mode, nbytes)

    limits: dict[str, Callable[[], float | None]] = {WRITE: lambda: write(raw.write)}
    if durable:
        loops = (raw.write_fdatasync, raw.write_sync_file_range)
        limits[DURABLE_WRITE] = lambda: min(write(loop) for loop in loops)
    if source.arrays:
        limits[PINNED_COPY] = lambda: _snapshot_seconds(source, "host", folder)
        limits[DEVICE_COPY] = lambda: _snapshot_seconds(source, "device", folder)
    else:
        limits[MEMCPY] = copy
    if any(mode.crc for mode in modes):
        limits[CRC] = crc
    limits.update({raw.cipher_name(mode): cipher(mode) for mode in modes if mode.cipher})
    return limits


def take_round(limits: Mapping[str, Callable[[], float | None]], samples: Samples) -> None:
    """Adds one sample of each limit."""
    for name, take in limits.items():
        samples.setdefault(name, []).append(take())


def _snapshot_seconds(source: Source, policy: str, folder: Path) -> float | None:
    """How long a snapshot by a policy takes the driver, while nothing is written.

    A job that is never started, whose tensors' streams are not known, copies them, in large pieces
    in one stream, waits for that, and does nothing else. The memory for a copy on the device is
    allocated within that time; pinned memory was kept from the time before. None where there is
    not enough.
    """
    records = []
    nbytes = 0
    for name, array in source.arrays.items():
        records.append((name, "Float32", (array.nbytes // 4,), array))
        nbytes += array.nbytes
        if nbytes >= _PART_BYTES:
            break
    begin = time.perf_counter()
    try:
        job = _core.prepare_save(
            records,
            resolved,
            str(folder / "never-written.ckpt"),
            crc=False,
            durable=False,
            key=None,
            mode="",
            num_threads=0,
            block_bytes=0,
            snapshot=policy,
            stream=None,
            trace=False,
        )
    except RuntimeError:
        return None
    seconds = time.perf_counter() - begin
    del job
    return seconds * source.payload.nbytes / nbytes
