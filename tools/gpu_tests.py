"""The step 'tests' of `make gpu`: tests/gpu, file by file, and what became of each test at once.

One pytest for all files: frameworks take seconds to import. After one that hung or died another
goes on with the tests that are left.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpu_worker import Worker

ROOT = Path(__file__).resolve().parent.parent

# Of a failure's report; the rest is in the log.
_TOLD_CHARACTERS = 3000
_TAKEN = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)
# Less than this, and the next test is left for the next run.
_LEAST_SECONDS = 2.0


class Teller:
    """A pytest plugin that tells of each test, and of each file that is through."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._outcome: dict[str, Any] = {}
        self._broken: set[str] = set()
        self._ends_file = ""
        self._began = 0.0

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Leaves out what was done before."""
        done = [item for item in items if item.nodeid in self._worker.done]
        items[:] = [item for item in items if item.nodeid not in self._worker.done]
        config.hook.pytest_deselected(items=done)
        for file in (item.name for item in self._worker.items):
            if file not in self._broken and not any(item.path.name == file for item in items):
                self._worker.tell(name=file, status="ok")

    def pytest_collectreport(self, report: Any) -> None:
        """A file that can't be imported is a failure."""
        if report.failed:
            why = report.longreprtext[-_TOLD_CHARACTERS:]
            file = report.nodeid.rpartition("/")[2]
            self._broken.add(file)
            self._worker.tell(name=file or "collection", status="failed", why=why)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> bool | None:
        """Begins a test, or leaves it where there is no time."""
        self._outcome = {"status": "ok"}
        is_last = nextitem is None or nextitem.path != item.path
        self._ends_file = item.path.name if is_last else ""
        self._began = time.monotonic()
        if self._worker.left() < _LEAST_SECONDS:
            self._worker.tell(name=item.nodeid, status="left out", why="no time was left")
            return True
        self._worker.tell(started=item.nodeid)
        return None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remembers the worst of set-up, call and tear-down."""
        if report.failed:
            self._outcome = {
                "status": "failed",
                "why": report.longreprtext[-_TOLD_CHARACTERS:],
            }
        elif report.skipped and self._outcome["status"] == "ok":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self._outcome = {"status": "skipped", "why": str(reason)}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Tells what became of it."""
        seconds = round(time.monotonic() - self._began, 2)
        self._worker.tell(name=nodeid, seconds=seconds, **self._outcome)
        if self._ends_file:
            self._worker.tell(name=self._ends_file, status="ok")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """All tests were taken, or left; unless pytest itself failed."""
        if exitstatus in _TAKEN:  # a file that is broken counts as a failure
            self._worker.tell(end=True)


if __name__ == "__main__":
    worker = Worker()
    # Its modules would be found before those of tests, of which one has the same name.
    sys.path = [path for path in sys.path if Path(path) != ROOT / "tools"]
    # Without the conftest.py of tests, which puts the stand-ins in the place of the drivers.
    arguments = ["--confcutdir=tests/gpu", "-p", "no:cacheprovider", "--tb=short", "-q"]
    arguments += ["--continue-on-collection-errors"]
    # Other plugins of the machine, and what its packages warn of, are none of the tests'.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments += ["-p", "_hypothesis_pytestplugin", "-W", "ignore"]
    paths = [item.options["path"] for item in worker.items]
    sys.exit(pytest.main([*arguments, *paths], plugins=[Teller(worker)]))
