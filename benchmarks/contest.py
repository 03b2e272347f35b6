"""Round-robin contests: each round measures the raw limits first, then all that is held to them.

A ratio compares samples of one round, minutes apart at most; a machine that others use too slows
down and speeds up between rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindckpt.bench.limits import Limit, Samples, measured
from mindckpt.bench.measure import (
    MIB,
    Payload,
    last_was_stolen_from,
    machine,
    median_and_spread,
    table,
)

LARGE_TENSOR_BYTES = 64 * MIB
SMALL_TENSOR_BYTES = 4096
SMALL_TENSORS = 10_000

HEADER = ["", "ms", "GB/s", "ratio", "to", "floor", "extra MiB"]


@dataclass(frozen=True)
class Floor:
    """What an entry must reach: a ratio to its limit, or a time."""

    ratio: float | None = None
    seconds: float | None = None

    def verdict(self, result: Result) -> str:
        """The floor, and whether the result's median reaches it."""
        if self.ratio is not None:
            reached = bool(result.ratios) and statistics.median(result.ratios) >= self.ratio
            floor = f"{self.ratio:.2g}"
        elif self.seconds is not None:
            reached = statistics.median(result.seconds) <= self.seconds
            floor = f"{1000 * self.seconds:.0f} ms"
        else:
            return ""
        return f"{floor}: {'reached' if reached else 'MISSED'}"


NO_FLOOR = Floor()


@dataclass(frozen=True)
class Entry:
    """One line of a contest.

    Attributes:
        name: As printed, and as limits call it.
        take: Takes one sample and returns its seconds; None where it can't be measured here.
        limit: What it is held to, if anything.
        floor: What it is to reach.
        extra_bytes: Measures the memory that it takes beyond what it has to.
    """

    name: str
    take: Callable[[], float | None]
    limit: Limit | None = None
    floor: Floor = NO_FLOOR
    extra_bytes: Callable[[], int] | None = None


@dataclass(frozen=True)
class Result:
    """What came out for one entry, over all rounds."""

    name: str
    limit: str
    seconds: list[float]
    ratios: list[float]
    floor: Floor
    extra_bytes: int | None

    def cells(self, nbytes: int) -> list[str]:
        """A row of the table."""
        milliseconds = [1000 * seconds for seconds in self.seconds]
        extra = "" if self.extra_bytes is None else f"{self.extra_bytes / MIB:.0f}"
        return [
            self.name,
            median_and_spread(milliseconds, digits=0 if min(milliseconds) >= 100 else 1),
            f"{nbytes / 1e9 / statistics.median(self.seconds):.2f}",
            median_and_spread(self.ratios) if self.ratios else "",
            self.limit,
            self.floor.verdict(self),
            extra,
        ]


# A sample that lost time to the machine's host is taken again, up to so many times.
MOST_RETAKES = 3


def samples(entries: Sequence[Entry], rounds: int) -> Samples:
    """Samples every entry once a round, in the order given."""
    taken: Samples = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            seconds = entry.take()
            for _ in range(MOST_RETAKES):
                if not last_was_stolen_from():
                    break
                seconds = entry.take()
            taken[entry.name].append(seconds)
    return taken


@dataclass(frozen=True)
class Scenario:
    """A payload, and what is measured with it.

    Attributes:
        title: As printed.
        count: How many tensors.
        tensor_bytes: Bytes of each.
        entries: Makes the lines, of the payload and a folder to write in.
    """

    title: str
    count: int
    tensor_bytes: int
    entries: Callable[[Payload, Path], Sequence[Entry]]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return self.count * self.tensor_bytes

    def run(self, rounds: int, folder: Path) -> list[Result]:
        """Measures every entry once a round, in their order."""
        payload = Payload.of_size(self.count, self.tensor_bytes)
        entries = self.entries(payload, folder)
        taken = samples(entries, rounds)
        return [
            Result(
                name=entry.name,
                limit="" if entry.limit is None else str(entry.limit),
                seconds=measured(taken, entry.name),
                ratios=[] if entry.limit is None else entry.limit.ratios(taken, entry.name),
                floor=entry.floor,
                extra_bytes=None if entry.extra_bytes is None else entry.extra_bytes(),
            )
            for entry in entries
            if measured(taken, entry.name)
        ]

    def table(self, results: Sequence[Result]) -> str:
        """The results as Markdown."""
        return f"## {self.title}\n\n{table(HEADER, [r.cells(self.nbytes) for r in results])}\n"


def large(gigabytes: float, entries: Callable[[Payload, Path], Sequence[Entry]]) -> Scenario:
    """Tensors of 64 MiB, so many gigabytes in all."""
    count = max(1, round(gigabytes * 1e9 / LARGE_TENSOR_BYTES))
    title = f"{count} tensors of 64 MiB ({count * LARGE_TENSOR_BYTES / 1e9:.2f} GB)"
    return Scenario(title, count, LARGE_TENSOR_BYTES, entries)


def small(entries: Callable[[Payload, Path], Sequence[Entry]]) -> Scenario:
    """10,000 tensors of 4 KiB."""
    return Scenario(
        f"{SMALL_TENSORS:,} tensors of 4 KiB", SMALL_TENSORS, SMALL_TENSOR_BYTES, entries
    )


def options(description: str, gigabytes: float = 2) -> argparse.Namespace:
    """The command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--gb",
        type=float,
        default=gigabytes,
        help=f"size of the large payload; default {gigabytes}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each line; default 5")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write; default .")
    parser.add_argument(
        "--results", type=Path, help="write NAME.json (every sample) and NAME.md there, too"
    )
    return parser.parse_args()


def run(name: str, scenarios: Sequence[Scenario], chosen: argparse.Namespace) -> None:
    """Measures, prints Markdown, and keeps the results where that was asked for."""
    report: dict[str, Any] = {"rounds": chosen.rounds, "scenarios": {}}
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=chosen.dir) as made:
        folder = Path(made)
        report["machine"] = machine(folder)
        parts = [f"# {name}: {report['machine']}; {chosen.rounds} rounds\n"]
        print(parts[0])
        for scenario in scenarios:
            results = scenario.run(chosen.rounds, folder)
            report["scenarios"][scenario.title] = _as_json(scenario, results)
            parts.append(scenario.table(results))
            print(parts[-1], flush=True)
    if chosen.results:
        chosen.results.mkdir(parents=True, exist_ok=True)
        (chosen.results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (chosen.results / f"{name}.md").write_text("\n".join(parts))


def _as_json(scenario: Scenario, results: Sequence[Result]) -> Mapping[str, Any]:
    return {"nbytes": scenario.nbytes, "results": [asdict(result) for result in results]}
