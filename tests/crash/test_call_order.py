"""What is on storage before what. Oracle: the log of the engine's system calls, in their order.

A sync that is left out shows in nothing else than a power cut; see also test_power_cuts.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash import shim
from crash.scenarios import RETIRED, SAVES
from crash.shim import Call

DURABLE = [name for name, save in SAVES.items() if save.is_durable]
CHANGES = ("fallocate", "ftruncate", "pwrite", "pwritev", "pwritev2")


@dataclass(frozen=True)
class Log:
    """The system calls of a save; its folder, and the one where a retired file was."""

    folder: Path
    elsewhere: Path
    calls: list[Call]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Log]:
    """By the name of the scenario."""
    caller = shim.start("caller", tmp_path_factory.mktemp("calls"))
    printed, said = caller.communicate(timeout=300)
    assert caller.returncode == 0, said
    return {
        name: Log(
            Path(log["folder"]), Path(log["elsewhere"]), [Call(*call) for call in log["calls"]]
        )
        for name, log in json.loads(printed).items()
    }


def places(calls: list[Call], *names: str, of: Path | None = None) -> list[int]:
    """Where in the log calls of these names are, of one path."""
    return [
        at
        for at, call in enumerate(calls)
        if call.name in names and (of is None or call.path == str(of))
    ]


def publishing(calls: list[Call], target: Path) -> int:
    """Where the new file gets its name."""
    (at,) = (
        at
        for at, call in enumerate(calls)
        if call.name in ("renameat", "renameat2") and call.about.endswith(f" {target}")
    )
    return at


@pytest.mark.parametrize("scenario", DURABLE)
def test_a_durable_save_syncs_the_bytes_before_the_rename_and_the_folder_after(
    logs: dict[str, Log], scenario: str
) -> None:
    log = logs[scenario]
    renamed = publishing(log.calls, log.folder / "a.ckpt")
    temporary = Path(log.calls[renamed].path)
    changes = places(log.calls, *CHANGES, of=temporary)
    synced = places(log.calls, "fdatasync", "fsync", of=temporary)
    assert changes
    assert synced, "the bytes are never synced"
    assert max(changes) < synced[-1] < renamed
    folder_synced = [at for at in places(log.calls, "fsync", of=log.folder) if at > renamed]
    assert folder_synced, "the folder is not synced after the rename"
    # What is to be removed then goes when the new file can't be lost any more.
    assert all(at > folder_synced[0] for at in places(log.calls, "unlink", of=log.elsewhere))


@pytest.mark.parametrize(
    "scenario", ["over retired blocks", "over retired blocks, past the page cache"]
)
def test_both_folders_are_synced_before_the_first_byte_of_a_retired_file_is_written_over(
    logs: dict[str, Log], scenario: str
) -> None:
    """The folder where it lay, and the one where it lies now."""
    log = logs[scenario]
    (taken,) = places(log.calls, "renameat", "renameat2", of=log.elsewhere / RETIRED)
    temporary = Path(log.calls[taken].about.split(" ")[1])
    first_change = min(places(log.calls, *CHANGES, of=temporary))
    for folder in (log.folder, log.elsewhere):
        synced = [at for at in places(log.calls, "fsync", of=folder) if taken < at < first_change]
        assert synced, f"{folder} is not synced"


@pytest.mark.parametrize("scenario", ["not durable", "retired but not durable"])
def test_a_save_that_is_not_durable_waits_for_no_storage(
    logs: dict[str, Log], scenario: str
) -> None:
    log = logs[scenario]
    assert publishing(log.calls, log.folder / "a.ckpt")
    assert places(log.calls, "fsync", "fdatasync", "sync_file_range") == []
