"""Saves and loads from host memory in every mode, against what this machine can do at most.

Large tensors (2 GB in pieces of 64 MiB) and small ones (10,000 of 4 KiB), round-robin with raw
loops and OpenSSL's own speed, and with the real MindSpore where it is installed. Prints Markdown;
README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import contest
import memory
from contest import MINDCKPT, Entry, Library, RoundTrip
from mindckpt.bench import modes
from mindckpt.bench.limits import Samples, measured
from mindckpt.bench.measure import MIB, Payload, machine, median_and_spread, table

LARGE_TENSOR_BYTES = 64 * MIB
SMALL_TENSOR_BYTES = 4096
SMALL_TENSORS = 10_000


@dataclass(frozen=True)
class Floor:
    """What an entry must reach: a ratio to its limit, or a time."""

    ratio: float | None = None
    seconds: float | None = None

    def verdict(self, result: Result) -> str:
        """The floor, and whether the result's median reaches it."""
        if self.ratio is not None:
            reached = bool(result.ratios) and statistics.median(result.ratios) >= self.ratio
            floor = f"{self.ratio}"
        elif self.seconds is not None:
            reached = statistics.median(result.seconds) <= self.seconds
            floor = f"{1000 * self.seconds:.0f} ms"
        else:
            return ""
        return f"{floor}: {'reached' if reached else 'MISSED'}"


NO_FLOOR = Floor()


@dataclass(frozen=True)
class Result:
    """What came out for one entry, over all rounds."""

    name: str
    limit: str
    seconds: list[float]
    ratios: list[float]
    extra_bytes: int | None

    def cells(self, nbytes: int, floor: Floor) -> list[str]:
        """A row of the table."""
        milliseconds = [1000 * seconds for seconds in self.seconds]
        extra = "" if self.extra_bytes is None else f"{self.extra_bytes / MIB:.0f}"
        return [
            self.name,
            median_and_spread(milliseconds, digits=0 if min(milliseconds) >= 100 else 1),
            f"{nbytes / 1e9 / statistics.median(self.seconds):.2f}",
            median_and_spread(self.ratios) if self.ratios else "",
            self.limit,
            floor.verdict(self),
            extra,
        ]


HEADER = ["", "ms", "GB/s", "ratio", "to", "floor", "extra MiB"]


@dataclass(frozen=True)
class Scenario:
    """A payload, and the floors of the entries that have one."""

    title: str
    count: int
    tensor_bytes: int
    floors: Mapping[str, Floor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return self.count * self.tensor_bytes

    def run(self, libraries: Sequence[Library], rounds: int, folder: Path) -> list[Result]:
        """Measures every mode of every library."""
        payload = Payload.of_size(self.count, self.tensor_bytes)
        trips = [
            RoundTrip(library, mode, payload, folder)
            for library, mode in itertools.product(libraries, modes.ALL)
            # MindSpore never syncs.
            if library is MINDCKPT or not mode.durable
        ]
        entries = contest.raw_entries(payload, folder) + contest.cipher_entries(payload)
        entries += [entry for trip in trips for entry in (trip.save, trip.load)]
        samples = contest.run(entries, rounds)
        extra_bytes = self._extra_bytes(trips, folder)
        return [
            _result(entry, samples, extra_bytes.get(entry.name))
            for entry in entries
            if measured(samples, entry.name)
        ]

    def _extra_bytes(self, trips: Sequence[RoundTrip], folder: Path) -> dict[str, int]:
        extra_bytes = {}
        for trip in trips:
            if trip.library is not MINDCKPT:
                continue
            size = self.count, self.tensor_bytes
            peak = memory.peak(trip.library.name, trip.mode, *size, folder)
            extra_bytes[trip.save.name] = peak.save_bytes
            extra_bytes[trip.load.name] = peak.load_bytes
        return extra_bytes

    def table(self, results: Sequence[Result]) -> str:
        """The results as Markdown."""
        rows = [r.cells(self.nbytes, self.floors.get(r.name, NO_FLOOR)) for r in results]
        return f"## {self.title}\n\n{table(HEADER, rows)}\n"


def _result(entry: Entry, samples: Samples, extra_bytes: int | None) -> Result:
    return Result(
        name=entry.name,
        limit="" if entry.limit is None else str(entry.limit),
        seconds=measured(samples, entry.name),
        ratios=[] if entry.limit is None else entry.limit.ratios(samples, entry.name),
        extra_bytes=extra_bytes,
    )


def scenarios(gigabytes: float) -> list[Scenario]:
    """The two payloads."""
    count = max(1, round(gigabytes * 1e9 / LARGE_TENSOR_BYTES))
    large = Scenario(
        f"{count} tensors of 64 MiB ({count * LARGE_TENSOR_BYTES / 1e9:.2f} GB)",
        count,
        LARGE_TENSOR_BYTES,
        {
            "mindckpt save plain": Floor(ratio=0.7),
            "mindckpt save AES-256-GCM": Floor(ratio=0.6),
            "mindckpt load plain": Floor(ratio=0.6),
        },
    )
    small = Scenario(
        f"{SMALL_TENSORS:,} tensors of 4 KiB",
        SMALL_TENSORS,
        SMALL_TENSOR_BYTES,
        {"mindckpt save plain": Floor(seconds=0.1), "mindckpt load plain": Floor(seconds=0.1)},
    )
    return [large, small]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=2, help="size of the large payload; default 2")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write; default .")
    parser.add_argument("--json", type=Path, help="write all samples to this file too")
    parser.add_argument(
        "--mindspore",
        action=argparse.BooleanOptionalAction,
        default=importlib.util.find_spec("mindspore") is not None,
        help="measure the real MindSpore too; default: where it is installed",
    )
    return parser.parse_args()


def main() -> None:
    """Measures, and prints."""
    options = arguments()
    os.environ.setdefault("GLOG_v", "4")  # MindSpore warns at every save
    libraries = [MINDCKPT, *([contest.mindspore()] if options.mindspore else [])]
    report: dict[str, Any] = {"rounds": options.rounds, "scenarios": {}}
    with tempfile.TemporaryDirectory(prefix="host-save-", dir=options.dir) as name:
        folder = Path(name)
        report["machine"] = machine(folder)
        print(f"# host_save: {report['machine']}; {options.rounds} rounds\n")
        for scenario in scenarios(options.gb):
            results = scenario.run(libraries, options.rounds, folder)
            report["scenarios"][scenario.title] = {
                "nbytes": scenario.nbytes,
                "results": [asdict(result) for result in results],
            }
            print(scenario.table(results), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
