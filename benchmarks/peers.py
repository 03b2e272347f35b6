"""Saves and loads beside other libraries, on the same tensors, in the same rounds.

MindSpore, safetensors, torch.save, torch.distributed.checkpoint: those that are installed. None of
them syncs to storage, so neither does ours here. Prints Markdown; README.md beside this file says
how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import contest
import libraries
import limits
from contest import Entry, Floor
from libraries import MINDCKPT, Library, RoundTrip, blocked
from mindckpt.bench import modes
from mindckpt.bench.limits import Limit
from mindckpt.bench.measure import Payload, sample

MODES = (modes.PLAIN, modes.CRC, modes.GCM, modes.CBC, modes.SM4)
# How many times as fast as MindSpore.
SAVE_FLOORS = {modes.PLAIN: 5.0, modes.GCM: 7.0, modes.CBC: 8.0, modes.SM4: 30.0}
LOAD_FLOORS = {modes.PLAIN: 15.0}


def installed() -> list[Library]:
    """All peers that can be imported; why the others can't is printed."""
    found = []
    for name, make in libraries.LIBRARIES.items():
        if name == MINDCKPT.name:
            continue
        try:
            found.append(make())
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def entries_beside(peers: list[Library], payload: Payload, folder: Path) -> list[Entry]:
    """The raw loops, the peers, and ours held to them."""
    names = {peer.name for peer in peers}
    lines = [*limits.writes(payload, folder, limits.BUFFERED), *limits.reads(payload, folder)]
    for peer in peers:
        for mode in peer.modes:
            lines += RoundTrip(peer, mode, payload, folder).both()
    for mode in MODES:
        trip = RoundTrip(MINDCKPT, mode, payload, folder)
        if "MindSpore" in names:
            to_save, to_load = (f"MindSpore {action} {mode.name}" for action in ("save", "load"))
            lines += trip.both(
                Limit((to_save,)),
                Floor(ratio=SAVE_FLOORS.get(mode)),
                Limit((to_load,)),
                Floor(ratio=LOAD_FLOORS.get(mode)),
            )
        else:
            lines += trip.both()
    if "safetensors" in names:
        lines.append(_again(RoundTrip(MINDCKPT, modes.PLAIN, payload, folder)))
    if "MindSpore" in names:
        theirs = _mindspore_async(payload, folder)
        lines += [theirs, blocked(payload, folder, Limit((theirs.name,)))]
    return lines


def _again(trip: RoundTrip) -> Entry:
    """Our plain save once more, held to safetensors'."""
    entry = trip.save(Limit(("safetensors save plain",)), Floor(ratio=1.2))
    return Entry(f"{entry.name}, against safetensors", entry.take, entry.limit, entry.floor)


def _mindspore_async(payload: Payload, folder: Path) -> Entry:
    """How long MindSpore's asynchronous save keeps its caller."""
    import mindspore as ms

    library = libraries.mindspore()
    save_obj = library.save_object(payload)
    path = folder / "async.ckpt"

    def take() -> float:
        seconds, _ = sample(
            lambda: ms.save_checkpoint(save_obj, str(path), async_save=True),
            library.copies * payload.nbytes,
        )
        _wait_for_mindspore()
        path.unlink()
        return seconds

    return Entry("MindSpore save plain, async: blocked", take)


def _wait_for_mindspore() -> None:
    import threading

    for thread in threading.enumerate():
        if thread.name == "asyn_save_ckpt":
            thread.join()


def main() -> None:
    """Measures, and prints."""
    chosen = contest.options(__doc__.splitlines()[0], gigabytes=0.27)
    peers = installed()

    def entries(payload: Payload, folder: Path) -> list[Entry]:
        return entries_beside(peers, payload, folder)

    contest.run("peers", [contest.large(chosen.gb, entries), contest.small(entries)], chosen)


if __name__ == "__main__":
    main()
