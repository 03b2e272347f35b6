"""What was found on a machine: kept line by line, so that a cut loses the last line only.

A result is a line of JSON, on storage before the next one is waited for: in build/gpu, from which a
second run goes on, and beside the page. The first line of the latter says what machine it was.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_machine import digest_of
from gpu_plan import Plan, Step
from gpu_worker import LEFT

_PAGE_SECONDS = 1.0


class Results:
    """The results of one machine.

    Attributes:
        facts: What the machine and the versions are.
        note: Of the plan.
        lines: Step and name -> the latest result, of these sources.
    """

    def __init__(
        self, state: Path, folder: Path, chosen: Plan, page: Callable[[Results], str], *, anew: bool
    ) -> None:
        """Reads what was found before.

        Args:
            state: The file to go on from.
            folder: Where results.jsonl and results.md are written.
            chosen: The plan, which says what sources each step's results come from.
            page: Makes the page of results.
            anew: Whether to forget what was found before.
        """
        self.facts: dict[str, Any] = {}
        self.note = chosen.note
        self.lines: dict[str, dict[str, Any]] = {}
        self._page = page
        self._page_time = 0.0
        self._state, self._folder = state, folder
        self._sources = {step.name: digest_of(step.sources) for step in chosen.steps}
        for line in [] if anew else _lines_of(state):
            if line.get("sources") == self._sources.get(line["step"]):
                self.lines[_key(line)] = line
        state.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        _write_all(state, self.lines.values())

    def begin(self, facts: dict[str, Any]) -> None:
        """Writes what the machine is, and what was found before."""
        self.facts = facts
        _write_all(self._folder / "results.jsonl", [{"facts": facts}, *self.lines.values()])
        self.write_page()

    def add(self, step: str, result: dict[str, Any]) -> None:
        """Keeps a result; it is on storage when this returns."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = {"step": step, **result, "time": now, "sources": self._sources[step]}
        line["commit"] = self.facts.get("commit", "")
        self.lines.pop(_key(line), None)
        self.lines[_key(line)] = line
        for path in (self._state, self._folder / "results.jsonl"):
            _append(path, line)
        if time.monotonic() - self._page_time > _PAGE_SECONDS:
            self.write_page()

    def write_page(self) -> None:
        """Writes the page anew, whole or not at all."""
        path = self._folder / "results.md"
        unfinished = path.with_suffix(".md.tmp")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(self._page(self))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        self._page_time = time.monotonic()

    def of(self, step: str) -> dict[str, dict[str, Any]]:
        """Name -> result, of a step."""
        return {line["name"]: line for line in self.lines.values() if line["step"] == step}

    def done(self, step: Step) -> set[str]:
        """Names of the results of a step that need not be taken again."""
        return {name for name, line in self.of(step.name).items() if line["status"] not in LEFT}

    def with_status(self, *statuses: str) -> list[dict[str, Any]]:
        """The results of all steps with one of these."""
        return [line for line in self.lines.values() if line["status"] in statuses]


def _key(line: dict[str, Any]) -> str:
    return f"{line['step']}: {line['name']}"


def _lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; nothing where there is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    for line in text.split("\n")[:-1]:  # what follows the last newline was cut
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _write_all(path: Path, lines: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
