"""The side of a step that does the work: a process that takes items, and tells of each at once.

What it tells goes through a pipe, a line of JSON at a time, to gpu_run.py, which keeps it:

    {"started": "write, tmpfs, pwrite x 16"}
    {"name": "write, tmpfs, pwrite x 16", "status": "ok", "seconds": 5.1, "written": 0.9}
    {"end": true}

Standard library only: the step 'build' runs before there is anything else.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TASK = "MINDCKPT_GPU_TASK"

_PR_SET_PDEATHSIG = 1

# What there is no time for, and what was under way when the time was up: left for the next run.
LEFT = ("left out", "cut")


@dataclass(frozen=True)
class Item:
    """One thing to measure, or to do.

    Attributes:
        name: As results call it; each name is there once in a plan.
        seconds: How long it takes, about.
        options: What the step's worker has to know of it; 'kind' and 'place' say which items take
            times in proportion to their estimates.
        needed: Whether other steps need it, of the build.
    """

    name: str
    seconds: float
    options: dict[str, Any] = field(default_factory=dict)
    needed: bool = True


class UnavailableError(Exception):
    """The machine can't do what an item asks for; the message says why."""


class Worker:
    """Takes the items of the task that the environment names.

    Attributes:
        items: Those that are left, in their order.
        done: Names of results that are there already.
        options: Of the step: sizes, folders.
    """

    def __init__(self) -> None:
        # Nobody hears it any more when the one who started it was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        task = json.loads(os.environ[TASK])
        self.items = [Item(**item) for item in task["items"]]
        self.done = set(task["done"])
        self.options: dict[str, Any] = task["options"]
        self._deadline: float = task["deadline"]
        self._pipe = os.fdopen(task["pipe"], "w", encoding="utf-8")
        self._pace: dict[str, float] = {}

    def left(self) -> float:
        """Seconds until the step is cut."""
        return self._deadline - time.monotonic()

    def tell(self, **line: Any) -> None:
        """Sends a line."""
        self._pipe.write(json.dumps(line) + "\n")
        self._pipe.flush()

    def run(
        self,
        take: Callable[[Item], dict[str, Any]],
        prepare: Callable[[Item], None] = lambda item: None,
        failures: tuple[type[Exception], ...] = (AssertionError,),
    ) -> None:
        """Takes every item that there is time for, as far as those before let expect.

        Args:
            take: Does it, and returns what is kept of it.
            prepare: Makes what an item needs, before its clock runs.
            failures: Errors that fail an item; after others the machine is said not to be able.
        """
        for item in self.items:
            expected = item.seconds * self._pace.get(self._kind(item), 1.0)
            if expected > self.left():
                why = f"takes about {expected:.0f} s, {max(0.0, self.left()):.0f} s are left"
                self.tell(name=item.name, status="left out", why=why)
                continue
            self.tell(started=item.name)
            begin = time.monotonic()
            try:
                prepare(item)
                begin = time.monotonic()
                found = {"status": "ok", **take(item)}
            except failures as error:
                found = {"status": "failed", "why": str(error) or type(error).__name__}
            except (UnavailableError, OSError, RuntimeError, MemoryError) as error:
                found = {"status": "unavailable", "why": str(error) or type(error).__name__}
            seconds = time.monotonic() - begin
            if found["status"] == "ok" and item.seconds > 0:
                self._pace[self._kind(item)] = seconds / item.seconds
            self.tell(name=item.name, seconds=round(seconds, 2), **found)
        self.tell(end=True)

    @staticmethod
    def _kind(item: Item) -> str:
        return f"{item.options.get('kind')} {item.options.get('place')}"
