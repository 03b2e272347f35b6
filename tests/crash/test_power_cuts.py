"""The power fails while a durable save is under way, on real file systems.

Oracle: the bytes of the old file and of the new one, after the file system's own recovery.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crash import shim
from crash.power import FILE_SYSTEMS, all_cuts, problems_after, record, skip_unless_possible
from crash.scenarios import SAVES

NAMES = [name for name in FILE_SYSTEMS if shim.is_torture or name != "btrfs"]
# The durable ways of saving that differ to a disk.
SCENARIOS = ["over an old file", "over retired blocks"]
if shim.is_torture:
    SCENARIOS += ["a new file", "AES-GCM", "asynchronous", "by two threads", "past the page cache",
                  "over retired blocks, past the page cache", "beside a leftover"]  # fmt: skip
# A file system may write down what was done, by a timer of its own, after any call.
COMMITS = {"when it is told to": None, "at each call": 0}
CUTS = 120 if shim.is_torture else 16  # of each recording; there are up to 700
COMMITS_TO_PICK, CUTS_OF_EACH = (2, 20) if shim.is_torture else (1, 10)


@pytest.mark.parametrize("commits", COMMITS)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
def test_a_power_cut_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, name: str, scenario: str, commits: str
) -> None:
    """And the new one, once save_checkpoint has returned."""
    file_system, save = FILE_SYSTEMS[name], SAVES[scenario]
    skip_unless_possible(file_system, tmp_path)
    recording = record(file_system, save, tmp_path, COMMITS[commits])
    cuts = all_cuts(recording, random_ones=3 if shim.is_torture else 1)
    at_the_end = [cut for cut in cuts if cut.at > recording.returned()]
    cuts = [*random.Random(1).sample(cuts, min(CUTS, len(cuts))), *at_the_end[:3]]
    assert problems_after(cuts, save, file_system, recording, tmp_path) == []


@pytest.mark.parametrize("scenario", SCENARIOS if shim.is_torture else ["over retired blocks"])
@pytest.mark.parametrize("name", NAMES if shim.is_torture else ["xfs"])
def test_a_file_system_that_commits_once_by_itself_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, name: str, scenario: str
) -> None:
    """After a call picked at random, as its own timer may have it."""
    file_system, save = FILE_SYSTEMS[name], SAVES[scenario]
    skip_unless_possible(file_system, tmp_path)
    calls = record(file_system, save, tmp_path).calls()
    for commit_at in random.Random(scenario).sample(range(2, calls + 1), COMMITS_TO_PICK):
        recording = record(file_system, save, tmp_path, commit_at)
        possible = all_cuts(recording, random_ones=1)
        cuts = random.Random(commit_at).sample(possible, min(CUTS_OF_EACH, len(possible)))
        problems = problems_after(cuts, save, file_system, recording, tmp_path)
        assert problems == [], f"committed before call {commit_at}"
