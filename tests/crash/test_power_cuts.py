"""The power fails while a durable save is under way, on real file systems.

Oracle: the bytes of the old file and of the new one, after the file system's own recovery.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crash import shim
from crash.power import FILE_SYSTEMS, Remains, cuts, record, saves_to_cut, skip_unless_possible
from crash.scenarios import SAVES

# Every call of a save may be followed by a commit of the file system, by its own timer.
COMMITS = {"committed at its end": None, "committed at each call": 0}
CUTS_IN_CI = 6


@pytest.mark.parametrize("commits", COMMITS)
@pytest.mark.parametrize("scenario", saves_to_cut())
@pytest.mark.parametrize(
    "name", ["ext4", "xfs", *(["btrfs"] if shim.is_torture else [])]
)
def test_a_power_cut_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, name: str, scenario: str, commits: str
) -> None:
    """And the new one, once save_checkpoint has returned."""
    file_system, save = FILE_SYSTEMS[name], SAVES[scenario]
    skip_unless_possible(file_system, tmp_path)
    recording = record(file_system, save, tmp_path, COMMITS[commits])
    possible = cuts(recording, random_ones=3 if shim.is_torture else 1)
    chosen = possible
    if not shim.is_torture:
        last = [cut for cut in possible if cut.at > recording.returned()]
        chosen = [*random.Random(1).sample(possible, CUTS_IN_CI), *last[:3]]
    remains = Remains(file_system, recording, tmp_path)
    problems = [
        f"{cut}, before which came {recording.log[cut.at - 1]!r:.80}: {problem}"
        for cut in chosen
        for problem in remains.problems_after(cut, save)
    ]
    assert problems == []
    print(f"{name}, {scenario}, {commits}: {len(chosen)} of {len(possible)} power cuts")
