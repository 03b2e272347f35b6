"""Runs the steps of a plan within its time: each in processes of its own, cut when it is up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bootstrap import ROOT
from gpu_plan import Plan, Step
from gpu_results import Results
from gpu_worker import TASK, Item

_DYING_SECONDS = 5.0


class Runner:
    """Takes the steps of a plan, one after the other.

    Args:
        chosen: The plan.
        results: Where what is found is kept.
        log: Where what the steps print is kept, beside showing it.
        begin: When the time began to run, of time.monotonic().
    """

    def __init__(self, chosen: Plan, results: Results, log: IO[bytes], begin: float) -> None:
        self._plan, self._results, self._log, self._begin = chosen, results, log, begin

    def run(self) -> None:
        """Takes all steps; those after a build that failed are left."""
        deadline = self._begin
        why = ""
        for step in self._plan.steps:
            deadline += step.seconds
            done = set() if step.is_build else self._results.done(step)
            if why:
                self._leave(step, [item for item in step.items if item.name not in done], why)
                continue
            self._say(f"=== {step.name}: until {deadline - self._begin:.0f} s")
            self._take(step, deadline, done)
            self._results.write_page()
            if step.is_build and self._failed(step):
                why = "the build failed"

    def _failed(self, step: Step) -> bool:
        found = self._results.of(step.name)
        needed = [item.name for item in step.items if item.needed]
        return any(found.get(name, {}).get("status") != "ok" for name in needed)

    def _take(self, step: Step, deadline: float, done: set[str]) -> None:
        """Takes a step's items. A process that hangs or dies is followed by one for the rest."""
        was_cut = {n for n, line in self._results.of(step.name).items() if line["status"] == "cut"}
        while True:
            left = [item for item in step.items if item.name not in done]
            left.sort(key=lambda item: item.name in was_cut)  # may be cut again
            if not left:
                return
            if time.monotonic() >= deadline:
                self._leave(step, left, "the time was up before")
                return
            worker = _Worker(step, self._plan, left, done, deadline)
            ended = ""
            try:
                ended = self._follow(worker, step, deadline)
            finally:
                self._show(worker.end(_DYING_SECONDS if ended in ("end", "died") else 0))
                _remove_scratch(step)
            if ended == "end":
                return
            if ended == "time":
                self._say(f"--- {step.name}: its time was up: cut")
                self._settle(step, worker, "cut", "the time was up")
                return
            if ended == "hung":
                why = f"nothing came for {step.patience:.0f} s: killed"
                self._settle(step, worker, "hung", why)
            else:
                self._settle(step, worker, "failed", f"the process {worker.how_it_ended()}")
            if worker.current is None:
                return  # it would happen again
            done |= {worker.current, *worker.finished}

    def _follow(self, worker: _Worker, step: Step, deadline: float) -> str:
        """Keeps what a worker tells until it ends: 'end', 'died', 'hung' or 'time'."""
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "time"
            if now - heard >= step.patience:
                return "hung"
            until = min(deadline, heard + step.patience)
            is_through = False
            for line in worker.lines(until - now):
                if isinstance(line, bytes):
                    self._show(line)
                    continue
                heard = time.monotonic()
                if line.get("end"):
                    is_through = True
                elif "started" in line:
                    worker.current = line["started"]
                    self._say(f"    {worker.current} ...")
                else:
                    worker.current = None
                    worker.finished.add(line["name"])
                    self._results.add(step.name, line)
                    self._say(f"    {line['name']}: {_shown(line)}")
            if is_through or worker.is_silent:
                return "end" if is_through else "died"

    def _settle(self, step: Step, worker: _Worker, status: str, why: str) -> None:
        """Says what became of the item that was under way, and of those that were not taken."""
        name = worker.current or step.name
        self._results.add(step.name, {"name": name, "status": status, "why": why})
        self._say(f"    {name}: {status}: {why}")
        if status == "cut" or worker.current is None:
            settled = {name, *worker.finished}
            rest = [item for item in worker.items if item.name not in settled]
            self._leave(step, rest, "the step was cut before")

    def _leave(self, step: Step, items: list[Item], why: str) -> None:
        for item in items:
            self._results.add(step.name, {"name": item.name, "status": "left out", "why": why})

    def _say(self, text: str) -> None:
        self._show(f"[{time.monotonic() - self._begin:5.1f} s] {text}\n".encode())

    def _show(self, data: bytes) -> None:
        for file in (sys.stdout.buffer, self._log):
            file.write(data)
            file.flush()


class _Worker:
    """The process of a step, in a session of its own.

    Attributes:
        items: What it was given.
        current: The name of what it has begun and not ended.
        finished: The names of what it told.
        is_silent: It has closed all that it could be heard by.
    """

    def __init__(
        self, step: Step, chosen: Plan, items: list[Item], done: set[str], deadline: float
    ) -> None:
        self.items = items
        self.current: str | None = None
        self.finished: set[str] = set()
        reader, writer = os.pipe()
        task = {
            "items": [asdict(item) for item in items],
            "done": sorted(done),
            "options": step.options,
            "deadline": deadline,
            "pipe": writer,
        }
        # The build makes the environment of the others.
        python = Path(sys.executable) if step.is_build else chosen.python
        self._process = subprocess.Popen(
            [python, ROOT / "tools" / step.worker],
            cwd=ROOT,
            env={**os.environ, **chosen.variables, TASK: json.dumps(task), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            start_new_session=True,
        )
        os.close(writer)
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(reader, selectors.EVENT_READ, b"")
        self._selector.register(self._process.stdout.fileno(), selectors.EVENT_READ, None)
        self._reader = reader

    @property
    def is_silent(self) -> bool:
        return not self._selector.get_map()

    def lines(self, seconds: float) -> list[Any]:
        """What comes within some time: lines that it tells, as dicts; what it prints, as bytes."""
        came: list[Any] = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._selector.unregister(key.fd)
            elif key.data is None:
                came.append(data)
            else:
                *whole, rest = (key.data + data).split(b"\n")
                self._selector.modify(key.fd, selectors.EVENT_READ, rest)
                came += map(json.loads, whole)
        return came

    def end(self, patience: float) -> bytes:
        """Kills what is left of it, with all that it started.

        Args:
            patience: So long it has to end by itself.

        Returns:
            What it had printed last.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(_DYING_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"process {self._process.pid} does not end", flush=True)
        self._selector.close()
        os.close(self._reader)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            os.set_blocking(output.fileno(), False)
            return output.read() or b""

    def how_it_ended(self) -> str:
        """'ended with exit status 3', 'was ended by signal 11'."""
        status = self._process.returncode
        if status is not None and status < 0:
            return f"was ended by signal {-status}"
        return f"ended with exit status {status}"


def _shown(line: dict[str, Any]) -> str:
    """A result in a few words."""
    numbers = [f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, float) and k != "seconds"]
    why = str(line.get("why", "")).splitlines()
    return "; ".join([line["status"], *numbers, *why[:1]])


def _remove_scratch(step: Step) -> None:
    """What a worker leaves when it is killed."""
    for place in step.options.get("places", {}).values():
        for path in Path(place).glob(f"{step.options['scratch']}*"):
            shutil.rmtree(path, ignore_errors=True)
