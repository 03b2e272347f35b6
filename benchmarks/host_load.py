"""Loads to host memory in every mode, from the page cache, against what this machine can do.

The tensors of host_save.py. Prints Markdown; README.md beside this file says how to read it.
"""

from __future__ import annotations

from pathlib import Path

import contest
import limits
from contest import Entry, Floor
from libraries import MINDCKPT, RoundTrip
from mindckpt.bench import modes
from mindckpt.bench.limits import Limit
from mindckpt.bench.measure import Payload

FLOORS = {modes.PLAIN: 0.85, modes.GCM: 0.6, modes.CBC: 0.6, modes.SM4: 0.35}


def large_entries(payload: Payload, folder: Path) -> list[Entry]:
    """Raw loops, then every mode, held to reading into fresh huge pages."""

    def trip(mode: modes.Mode) -> RoundTrip:
        return RoundTrip(MINDCKPT, mode, payload, folder)

    return [
        *limits.reads(payload, folder),
        *limits.ciphers(payload, [modes.GCM, modes.CBC, modes.SM4], opening=True),
        *(
            trip(mode).load(Limit((limits.READ_HUGE,)), Floor(ratio=FLOORS.get(mode)))
            for mode in (modes.PLAIN, modes.CRC, modes.GCM, modes.CBC, modes.SM4)
        ),
        trip(modes.PLAIN).load(floor=Floor(seconds=0.02), mmap=True),
    ]


def small_entries(payload: Payload, folder: Path) -> list[Entry]:
    """Every mode, to a time."""
    floors = {modes.PLAIN: Floor(seconds=0.04)}
    return [
        *limits.reads(payload, folder),
        *(
            RoundTrip(MINDCKPT, mode, payload, folder).load(floor=floors.get(mode, Floor()))
            for mode in (modes.PLAIN, modes.CRC, modes.GCM, modes.CBC, modes.SM4)
        ),
    ]


if __name__ == "__main__":
    chosen = contest.options(__doc__.splitlines()[0])
    scenarios = [contest.large(chosen.gb, large_entries), contest.small(small_entries)]
    contest.run("host_load", scenarios, chosen)
