"""One way of saving, timed as its caller sees it, and what it is held to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindckpt.bench import limits, raw
from mindckpt.bench.limits import Limit, Samples
from mindckpt.bench.measure import prepare
from mindckpt.bench.modes import Mode
from mindckpt.bench.source import CPU, Source
from mindckpt.checkpoint import load_checkpoint, save_checkpoint
from mindckpt.job import SaveJob

if TYPE_CHECKING:
    from mindckpt._core import SaveStats

# What a save comes to, in this order. `blocked`: save_checkpoint has returned; the others are the
# milestones of SaveJob.
MILESTONES = ("blocked", "staged", "written", "durable")

# Not a snapshot policy: async_save=False.
SYNC = "sync"


@dataclass
class Case:
    """A mode and a snapshot policy.

    Attributes:
        mode: What is written.
        snapshot: The `snapshot` of an asynchronous save; 'sync' for a synchronous one.
        source: What is saved.
        path: Where to.
        durable: Whether a save is on storage when it ends.
        stats: Of the latest save; None before it, and with 'sync'.
    """

    mode: Mode
    snapshot: str
    source: Source
    path: Path
    durable: bool
    stats: SaveStats | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """As in tables: 'CRC, lazy'."""
        return f"{self.mode.name}, {self.snapshot}"

    def sample_name(self, milestone: str) -> str:
        """What the times to a milestone are called among samples."""
        return f"{self.name}: {milestone}"

    def start(self, trace: bool = False) -> SaveJob | None:
        """Saves, or starts to: None when it is done already."""
        options = {**self.mode.save_options, "durable": self.durable}
        if self.snapshot == SYNC:
            return save_checkpoint(self.source.save_obj, self.path, **options)
        options |= {"async_save": True, "snapshot": self.snapshot, "trace": trace}
        return save_checkpoint(self.source.save_obj, self.path, **options)

    def take(self) -> dict[str, float]:
        """Times one save: seconds from its call to every milestone that its caller can see."""
        prepare(self.source.payload.nbytes)
        begin = time.perf_counter()
        job = self.start()
        times = {"blocked": time.perf_counter() - begin}
        if job is not None:
            for name in ("staged", "written"):
                getattr(job, name).wait()
                times[name] = time.perf_counter() - begin
            self.stats = job.result()
            if self.durable:
                times["durable"] = time.perf_counter() - begin
        self.path.unlink()
        return times

    def check(self) -> None:
        """Saves values that were not saved before, loads and compares.

        Raises:
            AssertionError: Something else was saved.
        """
        self.source.overwrite()
        job = self.start()
        if job is not None:
            job.result()
        loaded = load_checkpoint(self.path, **self.mode.load_options)
        self.path.unlink()
        tensors = self.source.payload.tensors
        assert list(loaded) == list(tensors), f"{self.name}: other names were saved"
        for name, tensor in tensors.items():
            parameter = loaded[name]
            assert not isinstance(parameter, (str, list))
            same = np.array_equal(parameter.asnumpy(), tensor)
            assert same, f"{self.name}: other values were saved in {name}"

    def limit(self, milestone: str, samples: Samples) -> Limit | None:
        """What bounds the time to a milestone: the slowest of the stages on the way to it.

        None where nothing does, as when only copies are put into a device's stream. Call it after
        a save, whose stats say what the snapshot was.
        """
        copy, staging = self._copies()
        stages = [limits.CRC] if self.mode.crc else []
        stages += [raw.cipher_name(self.mode)] if self.mode.cipher else []
        written = [*copy, *stages, limits.WRITE]
        durable = [*copy, *stages, limits.DURABLE_WRITE]
        names = {
            "blocked": self._blocking(staging, durable if self.durable else written),
            # Without a copy the tensors are read to the last block.
            "staged": staging or written,
            "written": written,
            "durable": durable,
        }[milestone]
        known = tuple(name for name in names if limits.measured(samples, name))
        return Limit(known) if known else None

    @property
    def taken(self) -> str:
        """The snapshot that was made: what 'auto' picked; 'none' of a synchronous save."""
        return "none" if self.stats is None else self.stats["snapshot"]

    def _copies(self) -> tuple[list[str], list[str]]:
        """How the bytes come into blocks, and how out of the tensors, where that is a copy."""
        if self.source.device != CPU:
            if self.taken == "device":
                return [limits.DEVICE_COPY, limits.PINNED_COPY], [limits.DEVICE_COPY]
            return [limits.PINNED_COPY], [limits.PINNED_COPY]
        copy = [limits.MEMCPY] if self.taken == "host" else []
        return copy, copy

    def _blocking(self, staging: list[str], whole: list[str]) -> list[str]:
        """What the caller has to wait for."""
        if self.snapshot == SYNC:
            return whole
        # From a device only copies are put into a stream, unless there was no memory for any.
        waits = self.source.device == CPU or self.taken == "none"
        return staging if waits else []


def checked(cases: Iterable[Case]) -> tuple[list[Case], dict[str, str]]:
    """Saves once in every case and compares what was saved, which also warms what is kept.

    Returns:
        The cases that this machine can do, and why it can't do the others, by their names.

    Raises:
        AssertionError: Something else was saved.
    """
    usable: list[Case] = []
    left_out: dict[str, str] = {}
    for case in cases:
        try:
            case.check()
        except (RuntimeError, MemoryError) as error:  # no SM4, no device memory for a copy
            left_out[case.name] = str(error)
        else:
            usable.append(case)
    return usable, left_out


def take_round(cases: Sequence[Case], samples: Samples) -> None:
    """Adds one sample of each case."""
    for case in cases:
        for milestone, seconds in case.take().items():
            samples.setdefault(case.sample_name(milestone), []).append(seconds)
