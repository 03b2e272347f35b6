"""What `make gpu` does, as data: steps in their order, each with its share of the time.

A new step is a line in `plan`; a new file of tests is a line in TESTS; another measurement is a
line in the function that lists its step's items. The most important things come first: what there
is no time for is left for the next run.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_build import ENVIRONMENT, STAND_INS
from gpu_worker import Item
from system_packages import SetupError

MIB, GIB = 1 << 20, 1 << 30

# A command of ten minutes ends with some of it to spare.
TOTAL_SECONDS = 540
# For what comes between the steps, and after them.
RESERVED_SECONDS = 10

# Files of tests/gpu and about how long they take: right values first, large tensors last.
TESTS = {
    "test_values.py": 40,
    "test_streams.py": 40,
    "test_memory.py": 20,
    "test_large_tensors.py": 40,
}

CHUNKS_MIB = (64, 16, 4, 1, 256)
THREADS = (16, 4, 1)
WAYS = ("pwrite", "O_DIRECT", "mapping")
PLACES = ("tmpfs", "disk")
MODES = ("plain", "gcm", "cbc", "sm4")
# What 'auto' takes was measured before it.
POLICIES = ("sync", "device", "host", "lazy", "auto")
# Rounds of the bench beyond the first come when everything was measured once.
ROUNDS = 2

# About how many bytes a second a file takes, and what comes before each sample: warm memory.
_FILE_SPEED = {"tmpfs": 3e9, "disk": 1.2e9}
_SAVE_SPEED = {"tmpfs": 4e9, "disk": 1.2e9}
_WARM_SECONDS = 3.5
# What the least of things takes on a busy machine.
_LEAST_SECONDS = 0.2


@dataclass(frozen=True)
class Step:
    """Items that one worker takes, one after the other.

    Attributes:
        name: As results call it.
        seconds: Its share. A step may go on in what those before it left of theirs.
        worker: A program of tools/.
        items: What it takes, the most important first.
        sources: Files and folders that results come from: others make them stale.
        patience: So long may an item take before it counts as hung, and the next one is taken.
        options: What all items share.
        is_build: It makes the environment for the others and runs each time. What is needed of it
            must pass.
    """

    name: str
    seconds: float
    worker: str
    items: tuple[Item, ...]
    sources: tuple[str, ...]
    patience: float
    options: dict[str, Any] = field(default_factory=dict)
    is_build: bool = False

    @property
    def expected(self) -> float:
        """Seconds that all items take, about."""
        return sum(item.seconds for item in self.items)


@dataclass(frozen=True)
class Plan:
    """All steps.

    Attributes:
        steps: In their order.
        seconds: That all of it may take.
        python: The interpreter of all workers but the build's.
        variables: Environment variables of all workers.
        library: The driver.
        note: What the page says of it first; '' for a real one.
    """

    steps: tuple[Step, ...]
    seconds: float
    python: Path
    variables: dict[str, str]
    library: str
    note: str = ""


def scratch_prefix(state: Path) -> str:
    """How the folders begin that the runs of one state make in /dev/shm and on the disk.

    What a killed one leaves is removed by the next one of that state, and by no other run.
    """
    return f"mindckpt-gpu-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]}-"


def plan(carry: Path, disk: Path, state: Path, seconds: float, *, dry: bool) -> Plan:
    """The plan for a GPU, or a dry one: the same on the stand-ins, a thousandth of the size.

    Args:
        carry: The folder of --collect.
        disk: A folder on a disk.
        state: Where what was found is kept from run to run.
        seconds: That all of it may take.
        dry: Whether it is a dry one, in the environment of this interpreter.

    Raises:
        SetupError: There are no stand-ins for a dry one.
    """
    if dry and not (STAND_INS / "libcuda.so.1").exists():
        raise SetupError("the stand-ins are not built: run `cmake --workflow --preset release`")
    scale = 1024 if dry else 1
    python = Path(sys.executable) if dry else ENVIRONMENT / "bin" / "python"
    carried = {"carry": str(carry), "python": str(python)}
    places = {
        "places": {"tmpfs": "/dev/shm", "disk": str(disk)},
        "scratch": scratch_prefix(state),
    }
    engine = ("CMakeLists.txt", "csrc", "mindckpt", "pyproject.toml")
    share = (seconds - RESERVED_SECONDS * seconds / TOTAL_SECONDS) / 530
    steps = (
        Step(
            "build", 120 * share, "gpu_build.py", _build(carried, dry), engine, 600, is_build=True
        ),
        Step("limits", 110 * share, "gpu_limits.py", _limits(scale), _LOOPS, 100, places),
        Step("tests", 130 * share, "gpu_tests.py", _tests(scale), (*engine, "tests/gpu"), 90),
        Step(
            "bench",
            170 * share,
            "gpu_bench.py",
            _bench(scale, 1 if dry else ROUNDS),
            engine,
            90,
            places,
        ),
    )
    variables = {"LD_LIBRARY_PATH": str(STAND_INS), "MINDCKPT_GPU_DRY_RUN": "1"} if dry else {}
    library = str(STAND_INS / "libcuda.so.1") if dry else "libcuda.so.1"
    note = _DRY_NOTE if dry else ""
    return Plan(steps, seconds, python, variables, library, note)


_DRY_NOTE = "A dry run, on stand-ins and a thousandth of the sizes named: it tells of no machine."
_LOOPS = ("benchmarks/raw_loops.cc", "mindckpt/bench", "tools/gpu_limits.py")


def _build(options: dict[str, str], dry: bool) -> tuple[Item, ...]:
    package = Item("package", 60, {"kind": "package", **options})
    loops = Item("raw loops", 1 if dry else 8, {"kind": "loops", **options}, needed=False)
    return (loops,) if dry else (package, loops)


def _limits(scale: int) -> tuple[Item, ...]:
    def copy(direction: str, chunk: int) -> Item:
        name = f"copy {direction.replace('_', ' ')}, {chunk} MiB"
        sizes = {"chunk_bytes": chunk * MIB // scale, "nbytes": 4 * GIB // scale}
        return _item(name, 1, scale, kind="copy", direction=direction, **sizes)

    def cipher(mode: str) -> Item:
        return _item(f"{mode} alone", 1, scale, kind="cipher", mode=mode, nbytes=8 * GIB // scale)

    def write(place: str, way: str, threads: int) -> Item:
        seconds = _WARM_SECONDS + (1.5 if threads == 1 else 1) * 8 * GIB / _FILE_SPEED[place]
        return file("write", place, way, threads, seconds)

    def read(place: str, way: str, threads: int) -> Item:
        return file("read", place, way, threads, 4 if threads == 1 else 2)

    def file(action: str, place: str, way: str, threads: int, seconds: float) -> Item:
        options = {"place": place, "way": way, "threads": threads, "nbytes": 8 * GIB // scale}
        return _item(
            f"{action}, {place}, {way} x {threads}", seconds, scale, kind=action, **options
        )

    return (
        *(copy("to_host", chunk) for chunk in CHUNKS_MIB),
        *(copy("to_device", chunk) for chunk in CHUNKS_MIB),
        copy("on_device", 64),
        *(cipher(mode) for mode in ("gcm", "cbc", "sm4", "crc")),
        # A file is read by the item after the one that wrote it.
        *(
            action(place, way, threads)
            for threads in THREADS
            for place in PLACES
            for way in WAYS
            for action in (write, read)
        ),
    )


def _tests(scale: int) -> tuple[Item, ...]:
    def file(name: str, seconds: float) -> Item:
        return _item(name, seconds, min(scale, 10), path=f"tests/gpu/{name}")

    return tuple(file(name, seconds) for name, seconds in TESTS.items())


def _bench(scale: int, rounds: int) -> tuple[Item, ...]:
    def check(mode: str, policy: str) -> Item:
        name, nbytes = f"values of {mode}, {policy}", 512 * MIB // scale
        return _item(name, 0.8, scale, kind="check", mode=mode, policy=policy, nbytes=nbytes)

    def save(mode: str, place: str, policy: str, number: int) -> Item:
        name = f"{mode}, {place}, {policy}" + (f", round {number}" if number > 1 else "")
        seconds = _WARM_SECONDS + 8 * GIB / _SAVE_SPEED[place]
        sizes = {"nbytes": 8 * GIB // scale, "tensor_bytes": 64 * MIB // scale}
        options = {"kind": "save", "mode": mode, "place": place, "policy": policy}
        return _item(name, seconds, scale, **options, **sizes)

    def saves(modes: Sequence[str], policies: Sequence[str], number: int) -> list[Item]:
        return [save(m, place, p, number) for place in PLACES for m in modes for p in policies]

    return (
        *(check(mode, policy) for mode in MODES for policy in POLICIES),
        *(
            item
            for number in range(1, rounds + 1)
            for item in (
                *saves(MODES[:2], POLICIES[:-1], number),
                *saves(MODES[2:], POLICIES[:-1], number),
                *saves(MODES, POLICIES[-1:], number),
            )
        ),
    )


def _item(name: str, seconds: float, scale: int, **options: Any) -> Item:
    """Options are of its size already; the time is for a scale of 1."""
    return Item(name, max(seconds / scale, _LEAST_SECONDS), options)


def told(chosen: Plan, done: Sequence[str]) -> str:
    """The plan as it is printed before it starts.

    Args:
        chosen: All of it.
        done: Names of results that are there already, 'step: item'.
    """
    lines = [f"The plan, within {chosen.seconds:.0f} s:"]
    for number, step in enumerate(chosen.steps, 1):
        again = step.is_build
        left = [item for item in step.items if again or f"{step.name}: {item.name}" not in done]
        expected = sum(item.seconds for item in left)
        lines.append(
            f" {number}. {step.name}: {len(left)} of {len(step.items)} items left, about "
            f"{expected:.0f} s; its share is {step.seconds:.0f} s"
        )
        lines += [f"      {item.seconds:6.1f} s  {item.name}" for item in left]
    return "\n".join(lines)
