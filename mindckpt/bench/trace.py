"""Traces of saves for chrome://tracing and ui.perfetto.dev.

The format is the JSON of Chrome's "Trace Event Format": complete events (ph "X") with times in
microseconds, named processes and threads by metadata events (ph "M").
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mindckpt.bench.cases import Case
from mindckpt.bench.measure import prepare

# Tracks of a save, one below the other; those of its workers follow.
_CALLER, _MILESTONES, _COPIES, _FIRST_WORKER = range(4)
_DEVICE_WORKER = -1  # what SaveJob.trace calls a device's copies


@dataclass(frozen=True)
class TracedSave:
    """What is known of one save.

    Attributes:
        name: Mode and snapshot policy.
        blocks: Of the file.
        milestones: Name -> seconds from the call; 'blocked' is the call itself.
        spans: What SaveJob.trace returned: stage, worker, block, begin and end in seconds.
    """

    name: str
    blocks: int
    milestones: dict[str, float]
    spans: list[tuple[str, int, int, float, float]]


def traced(case: Case) -> TracedSave:
    """Saves once, remembering when each stage of each block was worked on.

    Raises:
        ValueError: The case saves synchronously: there is no job to ask.
    """
    prepare(case.source.payload.nbytes)
    begin = time.perf_counter()
    job = case.start(trace=True)
    blocked = time.perf_counter() - begin
    if job is None:
        raise ValueError(f"{case.name}: a synchronous save has no trace")
    stats = job.result()
    case.path.unlink()
    milestones = {
        "blocked": blocked,
        "staged": stats["staged_seconds"],
        "written": stats["written_seconds"],
    }
    if stats["durable"]:
        milestones["durable"] = stats["durable_seconds"]
    return TracedSave(case.name, stats["blocks"], milestones, job.trace())


def chrome_trace(saves: Iterable[TracedSave]) -> dict[str, Any]:
    """The saves as one trace: a process each, all from time 0.

    Each has a track for its caller, its milestones, the device's copies and each worker.
    """
    events: list[dict[str, Any]] = []
    for process, save in enumerate(saves, 1):
        tracks = {_CALLER: "caller", _MILESTONES: "milestones"}
        events.append(_metadata("process_name", process, 0, save.name))
        # Of what begins at once, the longest encloses the others and comes first.
        for name, seconds in sorted(save.milestones.items(), key=lambda item: -item[1]):
            track = _CALLER if name == "blocked" else _MILESTONES
            shown = "save_checkpoint" if name == "blocked" else f"until {name}"
            events.append(_span(shown, process, track, 0.0, seconds, {"blocks": save.blocks}))
        for stage, worker, block, begin, end in sorted(save.spans, key=lambda span: span[3]):
            is_copy = worker == _DEVICE_WORKER
            track = _COPIES if is_copy else _FIRST_WORKER + worker
            tracks[track] = "device to host" if is_copy else f"worker {worker}"
            events.append(_span(stage, process, track, begin, end, {"block": block}))
        for track, name in tracks.items():
            events.append(_metadata("thread_name", process, track, name))
            events.append(_metadata("thread_sort_index", process, track, track))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _span(
    name: str, process: int, track: int, begin: float, end: float, arguments: dict[str, int]
) -> dict[str, Any]:
    """A complete event; times in seconds."""
    return {
        "name": name,
        "cat": "save",
        "ph": "X",
        "ts": 1e6 * begin,
        "dur": 1e6 * (end - begin),
        "pid": process,
        "tid": track,
        "args": arguments,
    }


def _metadata(kind: str, process: int, track: int, value: str | int) -> dict[str, Any]:
    key = "sort_index" if kind == "thread_sort_index" else "name"
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {key: value}}
