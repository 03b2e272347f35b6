"""What was measured as tables, as JSON, and as a picture."""

from __future__ import annotations

import importlib
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindckpt.bench.cases import MILESTONES, Case
from mindckpt.bench.limits import Samples, measured
from mindckpt.bench.loop import LoopResult, overhead
from mindckpt.bench.measure import median_and_spread, table

_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Timing:
    """The times to one milestone of one case.

    Attributes:
        milestone: 'blocked', 'staged', 'written' or 'durable'.
        seconds: From the call of save_checkpoint, round by round.
        median: Of the seconds, as `p95` and `p99` are the percentiles.
        p95: See median; of few rounds it lies between the two longest.
        p99: See median.
        bytes_per_second: Of the payload, in the median time.
        limits: The raw limits of the stages on the way.
        bottleneck: The slowest of them.
        ratios: The slowest limit's time / the save's, round by round: 1.0 is as fast as the limit.
        ratio: Their median; None where there is no limit.
    """

    milestone: str
    seconds: list[float]
    median: float
    p95: float
    p99: float
    bytes_per_second: float
    limits: list[str]
    bottleneck: str
    ratios: list[float]
    ratio: float | None

    @classmethod
    def of(cls, case: Case, milestone: str, samples: Samples) -> Timing:
        """From the samples of a case and of the limits."""
        name = case.sample_name(milestone)
        seconds = measured(samples, name)
        median, p95, p99 = percentiles(seconds)
        limit = case.limit(milestone, samples)
        ratios = limit.ratios(samples, name) if limit else []
        return cls(
            milestone=milestone,
            seconds=seconds,
            median=median,
            p95=p95,
            p99=p99,
            bytes_per_second=case.source.payload.nbytes / median,
            limits=list(limit.names) if limit else [],
            bottleneck=limit.picked(samples) if limit else "",
            ratios=ratios,
            ratio=statistics.median(ratios) if ratios else None,
        )


@dataclass(frozen=True)
class SaveResult:
    """One case.

    Attributes:
        mode: As modes are named.
        snapshot: The policy asked for.
        snapshot_taken: The one that was used: of 'auto', what it picked.
        snapshot_reason: Why, where it was picked.
        timings: Those of the milestones that can be seen.
    """

    mode: str
    snapshot: str
    snapshot_taken: str
    snapshot_reason: str
    timings: list[Timing]

    @classmethod
    def of(cls, case: Case, samples: Samples) -> SaveResult:
        """From the samples of a case and of the limits."""
        return cls(
            mode=case.mode.name,
            snapshot=case.snapshot,
            snapshot_taken=case.taken,
            snapshot_reason=case.stats["snapshot_reason"] if case.stats else "",
            timings=[
                Timing.of(case, milestone, samples)
                for milestone in MILESTONES
                if case.sample_name(milestone) in samples
            ],
        )

    @property
    def title(self) -> str:
        """'CRC, auto (host)'."""
        picked = f" ({self.snapshot_taken})" if self.snapshot == "auto" else ""
        return f"{self.mode}, {self.snapshot}{picked}"


@dataclass
class SizeReport:
    """All that was measured with one payload.

    Attributes:
        nbytes: Of the payload.
        tensors: How many there are.
        limits: Raw limits: name -> seconds for the payload, round by round.
        saves: Saves one by one.
        loops: Training loops, the one without saves first.
        left_out: Case -> why it can't be measured here.
    """

    nbytes: int
    tensors: int
    limits: Samples = field(default_factory=dict)
    saves: list[SaveResult] = field(default_factory=list)
    loops: list[LoopResult] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Title, tables and what was left out."""
        tensor_bytes = self.nbytes // self.tensors
        parts = [f"## {size(self.nbytes)} in {self.tensors} tensors of {size(tensor_bytes)}"]
        if self.limits:
            parts.append(self._limits_table())
        if self.saves:
            parts.append(self._saves_table())
            reasons = {s.snapshot_reason: s for s in self.saves if s.snapshot_reason}
            parts += [f"auto took {s.snapshot_taken}: {why}" for why, s in reasons.items()]
        if self.loops:
            parts.append(self._loops_table())
        parts += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        return asdict(self)

    def _limits_table(self) -> str:
        rows = []
        for name in self.limits:
            seconds = measured(self.limits, name)
            if seconds:
                speed = f"{self.nbytes / 1e9 / statistics.median(seconds):.2f}"
                rows.append([name, *map(duration, percentiles(seconds)), speed])
            else:
                rows.append([name, "can't be measured here", "", "", ""])
        return table(["limit", "median", "p95", "p99", "GB/s"], rows)

    def _saves_table(self) -> str:
        rows = []
        for save in self.saves:
            for timing in save.timings:
                times = (timing.median, timing.p95, timing.p99)
                rows.append(
                    [
                        save.title,
                        timing.milestone,
                        *map(duration, times),
                        f"{timing.bytes_per_second / 1e9:.2f}" if timing.limits else "",
                        median_and_spread(timing.ratios) if timing.ratios else "",
                        timing.bottleneck,
                    ]
                )
        header = ["mode, snapshot", "until", "median", "p95", "p99", "GB/s", "ratio", "to limit"]
        return table(header, rows)

    def _loops_table(self) -> str:
        rows = []
        for loop in self.loops:
            steps = [*itertools.chain(*loop.steps)]
            percents = [100 * fraction for fraction in loop.overheads]
            saved = duration(statistics.median(loop.save_seconds)) if loop.save_seconds else ""
            rows.append(
                [
                    loop.name,
                    *map(duration, percentiles(steps)),
                    duration(max(steps)),
                    median_and_spread(percents, digits=1) if percents else "",
                    str(loop.saves),
                    saved,
                ]
            )
        header = ["loop", "step", "p95", "p99", "longest", "overhead %", "saves", "save"]
        return table(header, rows)


def percentiles(seconds: Sequence[float]) -> list[float]:
    """Median, 95th and 99th percentile, interpolated linearly."""
    return [float(value) for value in np.percentile(seconds, _PERCENTILES)]


def duration(seconds: float) -> str:
    """'12.3 ms', '1.23 s'."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.{_digits(seconds)}f} ms"


def _digits(seconds: float) -> int:
    return 0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2


def size(nbytes: int) -> str:
    """'1.5 GiB', '64 MiB', '4 KiB'."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes} bytes"


def plot(reports: Sequence[SizeReport], title: str, path: Path) -> None:
    """Draws the saves' speeds and what their caller waits for, or the loops' steps.

    Args:
        reports: One a size: a column of the picture.
        title: Written above.
        path: A file of a type that matplotlib writes.

    Raises:
        ImportError: There is no matplotlib.
    """
    has_loops = any(report.loops for report in reports)
    figure_class = importlib.import_module("matplotlib.figure").Figure  # not needed otherwise
    figure = figure_class(figsize=(9 * len(reports), 5 if has_loops else 9), layout="constrained")
    columns = figure.subplots(1 if has_loops else 2, len(reports), squeeze=False).T
    for report, axes in zip(reports, columns, strict=True):
        if has_loops:
            _draw_loops(axes[0], report)
        else:
            _draw_saves(axes[0], axes[1], report)
        axes[0].set_title(size(report.nbytes), loc="left")
    figure.suptitle(title, fontsize=7, wrap=True)
    figure.savefig(path)


def _draw_saves(speeds: Any, waits: Any, report: SizeReport) -> None:
    """GB/s to the end of each save with its limit as a line, and the time its caller waited."""
    for place, save in enumerate(report.saves):
        last = save.timings[-1]
        speeds.bar(place, last.bytes_per_second / 1e9, color="#1f6f8b")
        if last.ratio is not None:
            limit = last.bytes_per_second / 1e9 / last.ratio
            speeds.hlines(limit, place - 0.4, place + 0.4, color="#b03a2e")
        waits.bar(place, 1000 * save.timings[0].median, color="#c9c9c9")
        waits.vlines(
            place, 1000 * save.timings[0].median, 1000 * save.timings[0].p99, color="black"
        )
    names = [save.title for save in report.saves]
    for axes in (speeds, waits):
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    speeds.set_ylabel("GB/s; lines: the slowest limit")
    waits.set_ylabel("ms the caller waited: median, p99")
    waits.set_yscale("log")


def _draw_loops(axes: Any, report: SizeReport) -> None:
    """The steps of each loop, sorted by length: how many are held up, and for how long."""
    for loop in report.loops:
        steps = sorted(1000 * seconds for seconds in itertools.chain(*loop.steps))
        mean = overhead(loop)
        label = loop.name if mean is None else f"{loop.name}: {100 * mean:+.1f}%"
        axes.plot(np.linspace(0, 100, len(steps)), steps, label=label)
    axes.set_xlabel("percent of the steps")
    axes.set_ylabel("ms a step, at most")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
