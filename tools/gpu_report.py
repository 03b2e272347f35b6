"""The page of results: what a person reads of them, and what each save is held to."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpu_plan import CHUNKS_MIB, PLACES, THREADS, WAYS
from gpu_results import Results
from gpu_worker import LEFT

_MILESTONES = ("blocked", "staged", "written", "durable")
_MIB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """The fastest loop of a stage."""

    bytes_per_second: float
    name: str


def page(results: Results) -> str:
    """All of it as Markdown."""
    parts = [_head(results), _left(results), _copies(results), _files(results), _ciphers(results)]
    parts += [_tests(results), _saves(results), _build(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def limit_of_save(
    limits: dict[str, dict[str, Any]], mode: str, place: str, taken: str
) -> Limit | None:
    """What bounds a save: the slowest of its stages, each by the fastest loop that was measured.

    Args:
        limits: The results of the step 'limits'.
        mode: As the bench names it.
        place: 'tmpfs' or 'disk'.
        taken: The snapshot that was made; 'none' of a synchronous save.

    Returns:
        Limit. None where a stage was not measured.
    """
    stages = [
        _fastest(limits, "copy to host"),
        _fastest(limits, f"write, {place}, ", "durable_bytes_per_second"),
    ]
    if mode != "plain":
        stages.append(_fastest(limits, f"{mode} alone"))
    if taken == "device":
        stages.append(_fastest(limits, "copy on device"))
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages):
        return None
    return min(known, key=lambda stage: stage.bytes_per_second)


def _fastest(
    limits: dict[str, dict[str, Any]], prefix: str, key: str = "bytes_per_second"
) -> Limit | None:
    found = [
        Limit(line[key], name)
        for name, line in limits.items()
        if name.startswith(prefix) and line["status"] == "ok"
    ]
    return max(found, key=lambda limit: limit.bytes_per_second, default=None)


def _head(results: Results) -> str:
    gpu, machine = results.facts["gpu"], results.facts["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in results.facts["versions"].items())
    lines = [
        f"# {gpu['name']}",
        "",
        *([results.note, ""] if results.note else []),
        f"{gpu['count']} x {gpu['memory_gib']} GiB, driver {gpu['driver']}; "
        f"{machine['processor']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}.",
        f"{versions}; commit {results.facts['commit']}.",
        "",
        "Written by `make gpu`, which goes on with what is left when it is run again. Every result",
        "with its time is in results.jsonl. Speeds are in GB/s.",
    ]
    return "\n".join(lines)


def _left(results: Results) -> str:
    """What was not run, by name, and what failed."""
    lines = []
    for title, statuses in (
        ("Failed", ("failed", "hung")),
        ("Left for the next run", LEFT),
        ("Not possible here", ("unavailable",)),
    ):
        found = results.with_status(*statuses)
        if found:
            lines += [f"## {title}: {len(found)}", ""]
            lines += [f"- {line['step']}: {line['name']}: {_why(line)}" for line in found]
            lines.append("")
    return "\n".join(lines).rstrip()


def _why(line: dict[str, Any]) -> str:
    """The line of a report that says most: pytest's begin with E."""
    text = str(line.get("why", "")).splitlines()
    errors = [part[1:].strip() for part in text if part.startswith("E ")]
    told = (errors or text or [line["status"]])[0]
    return f"hung: {told}" if line["status"] == "hung" else told


def _copies(results: Results) -> str:
    limits = results.of("limits")
    rows = []
    for chunk in sorted(CHUNKS_MIB):
        ways = [f"copy {way}, {chunk} MiB" for way in ("to host", "to device", "on device")]
        if any(way in limits for way in ways):
            rows.append([f"{chunk} MiB", *(_speed(limits.get(way)) for way in ways)])
    header = ["chunk", "to the host", "to the device", "on the device"]
    return _section("Raw limits: copies of the driver, pinned, in one stream", header, rows)


def _files(results: Results) -> str:
    limits = results.of("limits")
    rows = []
    for place in PLACES:
        for way in WAYS:
            for threads in sorted(THREADS):
                name = f"{place}, {way} x {threads}"
                write, read = limits.get(f"write, {name}"), limits.get(f"read, {name}")
                if write or read:
                    size = (write or read or {}).get("nbytes")
                    durable = _speed(write, "durable_bytes_per_second")
                    cells = [f"{size / _MIB:.0f}" if size else "", _speed(write), durable]
                    rows.append([name, *cells, _speed(read)])
    header = ["file", "MiB", "written", "durable", "read"]
    return _section("Raw limits: files, written anew and read", header, rows)


def _ciphers(results: Results) -> str:
    limits = results.of("limits")
    rows = [[name, _speed(line)] for name, line in limits.items() if name.endswith(" alone")]
    return _section("Raw limits: ciphers and checksums on all cores, in cache", ["", "GB/s"], rows)


def _tests(results: Results) -> str:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, line in results.of("tests").items():
        file, is_test, _ = name.partition("::")
        if is_test:
            counts[file.rpartition("/")[2]][line["status"]] += 1
    outcomes = ("ok", "failed", "hung", "skipped", *LEFT)
    rows = [[file, *(str(count[one]) for one in outcomes)] for file, count in counts.items()]
    text = _section("Tests", ["file", "passed", *outcomes[1:]], rows)
    skipped = [one for one in results.of("tests").values() if one["status"] == "skipped"]
    reasons = Counter(_why(line).removeprefix("Skipped: ") for line in skipped)
    return "\n".join([text, *(f"\nSkipped {n}: {why}" for why, n in reasons.items())])


def _saves(results: Results) -> str:
    limits = results.of("limits")
    rounds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, line in results.of("bench").items():
        if line["status"] == "ok" and "times" in line:
            rounds[name.partition(", round")[0]].append(line)
    rows = []
    for name, lines in rounds.items():
        mode, place, policy = name.split(", ")
        taken = lines[0]["taken"]
        medians = {m: _median(line["times"].get(m) for line in lines) for m in _MILESTONES}
        speed = lines[0]["nbytes"] / max(filter(None, medians.values()))
        limit = limit_of_save(limits, mode, place, taken)
        picked = f" ({taken})" if policy == "auto" else ""
        rows.append(
            [
                f"{mode}, {place}, {policy}{picked}",
                str(len(lines)),
                f"{lines[0]['nbytes'] / _MIB:.0f}",
                *("" if s is None else f"{1000 * s:.1f}" for s in medians.values()),
                f"{speed / 1e9:.2f}",
                "" if limit is None else f"{limit.bytes_per_second / 1e9:.2f}",
                "" if limit is None else f"{speed / limit.bytes_per_second:.2f}",
                "" if limit is None else limit.name,
            ]
        )
    header = ["save", "rounds", "MiB", *(f"{m} ms" for m in _MILESTONES)]
    header += ["GB/s", "limit", "ratio", "limited by"]
    text = _section("Saves from the device", header, rows)
    if not rows:
        return ""
    return (
        f"{text}\n\nTimes are medians, from the call. The limit is the slowest of a save's stages "
        "(the copy to the host, the cipher, the durable file), each by its fastest loop above; the "
        "ratio is the save's speed to it: 1.0 is as fast."
    )


def _build(results: Results) -> str:
    rows = [[name, f"{line.get('seconds', 0):.1f}"] for name, line in results.of("build").items()]
    return _section("Build", ["", "seconds"], rows)


def _median(seconds: Iterable[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return statistics.median(known) if known else None


def _speed(line: dict[str, Any] | None, key: str = "bytes_per_second") -> str:
    if line is None or key not in line:
        return "" if line is None else line["status"]
    return f"{line[key] / 1e9:.2f}"


def _section(title: str, header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [f"## {title}", "", f"| {' | '.join(header)} |"]
    lines.append("|---" + "|---:" * (len(header) - 1) + "|")
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
