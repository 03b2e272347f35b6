"""A training loop that saves every so often: what its steps take, with saving and without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mindckpt.bench.cases import Case
from mindckpt.bench.measure import prepare
from mindckpt.bench.source import Source
from mindckpt.job import SaveJob

NO_SAVES = "no saves"

_MATRIX_ROWS = 512
_CALIBRATION_SECONDS = 0.2


class Training:
    """The work of a step: products of two matrices, on all cores, then new values for all tensors.

    Args:
        source: The tensors.
        compute_seconds: About how long the products of a step are to take when nothing else runs.

    Attributes:
        products: How many products a step has.
    """

    def __init__(self, source: Source, compute_seconds: float) -> None:
        self.source = source
        numbers = np.random.default_rng(7).random((2, _MATRIX_ROWS, _MATRIX_ROWS), np.float32)
        self._left, self._right = numbers
        self._product = np.empty_like(self._left)
        self.products = 1
        self._multiply()
        count = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < _CALIBRATION_SECONDS:
            self._multiply()
            count += 1
        rate = count / (time.perf_counter() - begin)
        self.products = max(1, round(rate * compute_seconds))

    def step(self, to_fence: SaveJob | None) -> None:
        """One step.

        Args:
            to_fence: A save that reads the tensors until they are written, if there is one.
        """
        self._multiply()
        if to_fence is not None:
            self.source.fence(to_fence)
        self.source.overwrite()

    def _multiply(self) -> None:
        for _ in range(self.products):
            np.matmul(self._left, self._right, out=self._product)


@dataclass
class LoopResult:
    """What a loop took, over all rounds.

    Attributes:
        name: The mode and policy of its saves, or 'no saves'.
        saves: Saves in a round.
        steps: Seconds of each step, round by round.
        overheads: For each round, the loop's time beyond that of the one without saves, as a
            fraction of the latter.
        save_seconds: How long saves took, from the call to the end.
    """

    name: str
    saves: int
    steps: list[list[float]] = field(default_factory=list)
    overheads: list[float] = field(default_factory=list)
    save_seconds: list[float] = field(default_factory=list)


def run(
    training: Training, cases: Sequence[Case], steps: int, every: int, rounds: int
) -> list[LoopResult]:
    """Runs the loop without saves and then with those of each case, in every round.

    A save that is due while the one before is running waits for it, within the step. What the last
    save takes after the last step is not counted.

    Args:
        training: The work of a step.
        cases: How to save.
        steps: Steps of a loop.
        every: A save comes after every so many steps.
        rounds: How often all loops are run.
    """
    without = LoopResult(NO_SAVES, 0)
    results = [LoopResult(case.name, steps // every) for case in cases]
    for _ in range(rounds):
        without.steps.append(_run(training, None, steps, every, []))
        for case, result in zip(cases, results, strict=True):
            seconds = _run(training, case, steps, every, result.save_seconds)
            result.steps.append(seconds)
            result.overheads.append(sum(seconds) / sum(without.steps[-1]) - 1)
    return [without, *results]


def _run(
    training: Training, case: Case | None, steps: int, every: int, save_seconds: list[float]
) -> list[float]:
    """One loop: the seconds of its steps. Adds those of its saves to `save_seconds`."""
    prepare(training.source.payload.nbytes)
    job: SaveJob | None = None
    to_fence: SaveJob | None = None
    seconds = []
    for step in range(1, steps + 1):
        begin = time.perf_counter()
        training.step(to_fence)
        to_fence = None
        if case is not None and step % every == 0:
            _finish(job, save_seconds)
            called = time.perf_counter()
            job = case.start()
            if job is None:
                save_seconds.append(time.perf_counter() - called)
            to_fence = job if case.snapshot == "lazy" else None
        seconds.append(time.perf_counter() - begin)
    _finish(job, save_seconds)
    if case is not None:
        case.path.unlink()
    return seconds


def _finish(job: SaveJob | None, save_seconds: list[float]) -> None:
    if job is not None:
        save_seconds.append(job.result()["seconds"])


def overhead(result: LoopResult) -> float | None:
    """The median of the rounds' overheads; None of the loop without saves."""
    return statistics.median(result.overheads) if result.overheads else None
