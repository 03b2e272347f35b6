"""Fair samples, their statistics, and the words that go with them."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mindckpt

MIB = 1 << 20
PAGE_BYTES = 4096
# A virtual machine hands freed memory back to its host within seconds, and touching it anew costs
# more than what is measured. What a sample needs is a payload, and some.
WARM_FACTOR = 1.25
# Linux reports free memory to the host 2 s after some became free, and where that is much, some of
# it every 2 s: mm/page_reporting.c, PAGE_REPORTING_DELAY. After one time most is reported.
SETTLE_SECONDS = 2.2
# So much is taken quickly, and is touched beyond what a sample needs without harm.
LITTLE_BYTES = 1536 * MIB
_REPORTING_FEATURE = 5


@dataclass(frozen=True)
class Payload:
    """What is saved: tensors that are views of one buffer.

    Attributes:
        buffer: All bytes, for the raw loops.
        tensors: Name -> float32 tensor, for the libraries.
    """

    buffer: npt.NDArray[np.uint8]
    tensors: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def of_size(cls, count: int, tensor_bytes: int) -> Payload:
        """`count` float32 tensors of `tensor_bytes` each, of random numbers in [0, 1)."""
        rows = np.empty((count, tensor_bytes // 4), np.float32)
        parts = np.array_split(rows.reshape(-1), len(os.sched_getaffinity(0)))

        def fill(number: int) -> None:
            np.random.default_rng((2024, number)).random(out=parts[number], dtype=np.float32)

        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(fill, range(len(parts))))
        return cls._of(rows)

    @classmethod
    def of_ones(cls, count: int, tensor_bytes: int) -> Payload:
        """The same of ones, which takes less time."""
        return cls._of(np.ones((count, tensor_bytes // 4), np.float32))

    @classmethod
    def _of(cls, rows: npt.NDArray[np.float32]) -> Payload:
        tensors = {f"layers.{i}.weight": row for i, row in enumerate(rows)}
        return cls(rows.reshape(-1).view(np.uint8), tensors)

    @property
    def numbers(self) -> npt.NDArray[np.float32]:
        """All elements, one tensor after the other."""
        return self.buffer.view(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return self.buffer.nbytes


def prepare(nbytes: int) -> None:
    """Before the clock of a sample runs: collects garbage, and warms what about `nbytes` need.

    Fresh memory is touched and freed on every processor: each keeps pages that it freed for itself,
    and a save's threads run on all. Before it is freed, the host has time to take what else is
    free: it halts the processors meanwhile, and is not to do so in the sample. A sample that needs
    little seldom meets that, and one thread may take all of it.
    """
    gc.collect()
    processors = sorted(os.sched_getaffinity(0))
    needed = int(WARM_FACTOR * nbytes)
    share = max(needed, min(needed * len(processors), LITTLE_BYTES)) // len(processors)
    seconds = SETTLE_SECONDS if nbytes > LITTLE_BYTES and _host_takes_memory() else 0
    all_touched = threading.Barrier(len(processors))
    with ThreadPoolExecutor(len(processors)) as pool:
        list(pool.map(_hold_on, processors, repeat(share), repeat(seconds), repeat(all_touched)))


def _hold_on(processor: int, nbytes: int, seconds: float, all_touched: threading.Barrier) -> None:
    try:
        os.sched_setaffinity(0, {processor})  # of this thread
        # Not of the allocator, which would keep it for the next time.
        with mmap.mmap(-1, max(nbytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            with contextlib.suppress(OSError):  # a kernel without huge pages
                held.madvise(mmap.MADV_HUGEPAGE)
            np.frombuffer(held, np.uint8)[::PAGE_BYTES] = 1
            all_touched.wait()
            time.sleep(seconds)
    except threading.BrokenBarrierError:
        return  # who broke it says why
    except BaseException:
        all_touched.abort()  # the others wait for it
        raise


def _host_takes_memory() -> bool:
    """Whether this is a virtual machine whose free memory goes back to its host by itself.

    Only KVM's way to do so is known here: VIRTIO_BALLOON_F_REPORTING of the virtio specification.
    """
    balloons = Path("/sys/bus/virtio/drivers/virtio_balloon").glob("*/features")
    try:
        return any(features.read_text()[_REPORTING_FEATURE:][:1] == "1" for features in balloons)
    except OSError:  # hidden from a container
        return False


def sample(run: Callable[[], Any], nbytes: int) -> tuple[float, Any]:
    """Seconds that one call of `run` took, and its result, which lives on outside of the clock.

    What about `nbytes` need is prepared before the clock runs.
    """
    prepare(nbytes)
    stolen = _stolen_ticks()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    _last_stolen.append(_stolen_ticks() - stolen)
    return seconds, result


_last_stolen: deque[int] = deque(maxlen=1)


def last_was_stolen_from() -> bool:
    """Whether the last sample has lost time to the machine's host, which took the processors.

    It does so for itself, or to take back memory that is free, for a tenth of a second, and that
    says nothing about what was measured.
    """
    return any(_last_stolen)


def _stolen_ticks() -> int:
    """Of all processors, since the machine was started: field 8 of proc_stat(5)'s first line."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        return int(file.readline().split()[8])


def available_memory() -> int:
    """Bytes that can be had without swapping, as the kernel and the control group say."""
    meminfo = Path("/proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    available = int(found[1]) << 10 if found else sys.maxsize
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # ValueError for "max"
        return min(available, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return available


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """'1.23 (1.10-1.31)': the median, and the least and the greatest."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; all but the first are flushed right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in rest)]) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return "\n".join([line(header), rule, *map(line, rows)])


def facts(folder: Path) -> dict[str, dict[str, str]]:
    """What a result is worth nothing without: `machine` and `versions`, the commit among them."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "machine": {
            "processor": f"{_processor()} x {len(os.sched_getaffinity(0))}",
            "memory": f"{memory_gib:.0f} GiB",
            "file_system": _file_system(folder),
        },
        "versions": {
            "Linux": platform.release(),
            "Python": platform.python_version(),
            "NumPy": np.__version__,
            "mindckpt": mindckpt.__version__,
            "commit": _commit(),
        },
    }


def machine(folder: Path) -> str:
    """Processor, cores, memory, file system and versions, in one line."""
    found = facts(folder)
    versions = [f"{name} {version}" for name, version in found["versions"].items()]
    return ", ".join([*found["machine"].values(), *versions])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the deepest mount above `folder`; in a chroot there may be none to see."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        mounts = []
    above = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    unknown = ("", "", "unknown file system")
    return max(above, key=lambda mount: len(mount[1]), default=unknown)[2]


def _commit() -> str:
    """The commit of this checkout, '+' when it has changes; 'unknown' outside of one.

    Results and pictures do not count: benchmarks write them one after the other.
    """
    # Not of another project's checkout that this file is merely installed into.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return "unknown"
    commit = _git("describe", "--always")
    changes = _git("status", "--porcelain", "-uno", ":/", ":!/benchmarks/results", ":!/docs")
    return f"{commit}{'+' if changes else ''}" if commit else "unknown"


def _git(*command: str) -> str | None:
    """What git prints in this folder; None when it fails."""
    git = ["git", "-C", str(Path(__file__).parent), *command]
    try:
        run = subprocess.run(git, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
