"""One system call of a save or a load fails, stops short, or is the process's last, at each place.

Oracle: the contract. The target is the old file whole or the new one whole; a save is told to be
saved just when it is; an error has the documented type, errno and filename; no temporary file of a
living process stays; the next save works. A load gives the right values or an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash import shim
from crash.scenarios import LOADS, SAVES

# What `make test` leaves to `make torture`: a call is made by the same lines in each.
FAULTS_IN_CI = ("over an old file", "not durable", "AES-GCM", "asynchronous",
                "past the page cache", "over retired blocks", "retired but not durable",
                "beside a leftover", "over a large file")  # fmt: skip
KILLS_IN_CI = ("a new file", "over an old file", "asynchronous", "by two threads",
               "over retired blocks", "over retired blocks, past the page cache",
               "beside a leftover")  # fmt: skip
MEMORY_IN_CI = ("AES-GCM with CRC", "over retired blocks", "past the page cache")
LOADS_IN_CI = ("plain", "mapped", "AES-GCM", "AES-CBC")


def some(names: dict[str, object] | tuple[str, ...], in_ci: tuple[str, ...]) -> list[str]:
    """All scenarios, or those that CI has time for."""
    return [name for name in names if shim.is_torture or name in in_ci]


class Worker:
    """Carries out orders; see worker.py."""

    def __init__(self) -> None:
        self._process = shim.start("worker")

    def problems(self, folder: Path, job: str, scenario: str) -> list[str]:
        """What it found; prints how much it tried."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), job, scenario]) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, self._process.communicate()[1]
        found = json.loads(said)
        shim.tried["kills" if job == "kills" else f"failing calls ({job})"] += found["cases"]
        assert found["cases"] > 0 or job == "load threads", "nothing was tried"
        if "memory" not in job and "threads" not in job:
            expected = {"open", "fstat"} if job.startswith("load") else {"openat", "flock"}
            assert expected <= set(found["names"]), "the shim does not see the engine's calls"
        problems: list[str] = found["problems"]
        return problems

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    working = Worker()
    yield working
    working.close()


@pytest.mark.parametrize("scenario", some(SAVES, FAULTS_IN_CI))
def test_a_save_with_a_failing_call_keeps_the_contract(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "faults", scenario) == []


@pytest.mark.parametrize("scenario", some(SAVES, KILLS_IN_CI))
def test_a_save_killed_at_any_call_leaves_the_old_file_or_the_new_one(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "kills", scenario) == []


@pytest.mark.parametrize("scenario", some(SAVES, MEMORY_IN_CI))
def test_a_save_without_memory_at_any_moment_keeps_the_contract(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "memory", scenario) == []


@pytest.mark.parametrize("scenario", some(SAVES, ("by two threads", "over a large file")))
def test_a_save_that_gets_no_thread_keeps_the_contract(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "threads", scenario) == []


@pytest.mark.parametrize("scenario", some(LOADS, LOADS_IN_CI))
def test_a_load_with_a_failing_call_gives_an_error_or_the_right_values(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "load faults", scenario) == []


@pytest.mark.parametrize("scenario", some(LOADS, ("plain", "AES-GCM")))
def test_a_load_without_memory_at_any_moment_gives_an_error_or_the_right_values(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "load memory", scenario) == []


@pytest.mark.parametrize("scenario", some(LOADS, ("by two threads", "AES-GCM")))
def test_a_load_that_gets_no_thread_gives_an_error_or_the_right_values(
    worker: Worker, tmp_path: Path, scenario: str
) -> None:
    assert worker.problems(tmp_path, "load threads", scenario) == []
