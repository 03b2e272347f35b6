"""Saves from host memory in every mode, against what this machine can do at most.

Large tensors (2 GB in pieces of 64 MiB) and small ones (10,000 of 4 KiB), round-robin with raw
loops and with the ciphers alone. Prints Markdown; README.md beside this file says how to read it.
"""

from __future__ import annotations

from pathlib import Path

import contest
import limits
from contest import Entry, Floor
from libraries import MINDCKPT, RoundTrip, blocked
from mindckpt.bench import modes, raw
from mindckpt.bench.limits import Limit
from mindckpt.bench.measure import Payload
from mindckpt.bench.modes import Mode

PLAIN = "mindckpt save plain"
DURABLE = "mindckpt save plain, durable"

# At least this much of what it is held to: plain of the raw loop, all others of plain.
SEALED_FLOORS = {
    modes.GCM: 0.85,
    modes.CBC: 0.85,
    modes.SM4: 0.5,
    modes.DURABLE_GCM: 0.9,
    modes.DURABLE_CBC: 0.9,
    modes.DURABLE_SM4: 0.75,
}


def large_entries(payload: Payload, folder: Path) -> list[Entry]:
    """Raw loops, then every mode."""

    def save(mode: Mode, limit: Limit, floor: float) -> Entry:
        return RoundTrip(MINDCKPT, mode, payload, folder).save(limit, Floor(ratio=floor))

    def sealed(mode: Mode) -> Entry:
        names = (DURABLE,) if mode.durable else (PLAIN,)
        if mode is modes.GCM:
            names += (raw.cipher_name(mode),)
        return save(mode, Limit(names), SEALED_FLOORS[mode])

    return [
        *limits.writes(payload, folder, limits.BUFFERED | limits.DURABLE),
        # Beside each other: copies are slower for a while after a save that computed for a second.
        *limits.copies(payload),
        blocked(payload, folder, Limit((limits.MEMCPY,)), Floor(ratio=1 / 1.3)),
        blocked(payload, folder, Limit((limits.MEMCPY,)), first=True),
        *limits.ciphers(payload, [modes.GCM, modes.CBC, modes.SM4]),
        save(modes.PLAIN, Limit(tuple(limits.BUFFERED), min), 0.9),
        save(modes.CRC, Limit((PLAIN,)), 0.9),
        *map(sealed, (modes.GCM, modes.CBC, modes.SM4)),
        save(modes.DURABLE, Limit(tuple(limits.DURABLE), min), 0.9),
        *map(sealed, (modes.DURABLE_GCM, modes.DURABLE_CBC, modes.DURABLE_SM4)),
    ]


def small_entries(payload: Payload, folder: Path) -> list[Entry]:
    """Every mode, to a time."""
    floors = {modes.PLAIN: Floor(seconds=0.04)}
    return [
        *limits.writes(payload, folder, limits.BUFFERED),
        *(
            RoundTrip(MINDCKPT, mode, payload, folder).save(floor=floors.get(mode, Floor()))
            for mode in modes.ALL
        ),
    ]


if __name__ == "__main__":
    chosen = contest.options(__doc__.splitlines()[0])
    scenarios = [contest.large(chosen.gb, large_entries), contest.small(small_entries)]
    contest.run("host_save", scenarios, chosen)
