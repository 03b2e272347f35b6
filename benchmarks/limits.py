"""What this machine can do at most: loops in C++ that do one thing only. README.md says which.

Prints Markdown. The other benchmarks measure those that they need again, in their own rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import contest
import raw_loops
from contest import Entry, Floor
from mindckpt import _core
from mindckpt.bench import modes, raw
from mindckpt.bench.limits import CRC, Limit
from mindckpt.bench.measure import Payload, sample
from mindckpt.bench.modes import Mode
from raw_loops import Memory, Write

CORES = raw_loops.cores()

BUFFERED = {
    "raw write": Write(0),
    "raw write, fallocated": Write.FALLOCATE,
}
DURABLE = {
    "raw write + fdatasync": Write.FDATASYNC,
    "raw write, fallocated + sync_file_range": Write.FALLOCATE
    | Write.SYNC_FILE_RANGE
    | Write.FDATASYNC,
    f"raw O_DIRECT write x {CORES}": Write.FALLOCATE | Write.DIRECT | Write.FDATASYNC,
}
OVER = {
    "raw write over a file": Write.OVER,
    "raw write over a file + sync_file_range": Write.OVER | Write.SYNC_FILE_RANGE | Write.FDATASYNC,
    f"raw O_DIRECT write over a file x {CORES}": Write.OVER | Write.DIRECT | Write.FDATASYNC,
}
READ_RESIDENT = f"raw pread x {CORES}, resident memory"
READ_HUGE = f"raw pread x {CORES}, fresh huge pages"
READ_SMALL = f"raw pread x {CORES}, fresh 4 KiB pages"
MEMCPY = f"memcpy x {CORES}"


def writes(payload: Payload, folder: Path, loops: dict[str, Write]) -> list[Entry]:
    """Loops that write the payload to a file."""
    path = folder / "raw"

    def entry(name: str, how: Write) -> Entry:
        def take() -> float:
            if how & Write.OVER:
                raw_loops.write(path, payload.buffer, Write.FALLOCATE | Write.FDATASYNC)
            threads = CORES if how & Write.DIRECT else 1
            seconds = _sampled(lambda: raw_loops.write(path, payload.buffer, how, threads), payload)
            path.unlink()
            return seconds

        return Entry(name, take)

    return [entry(name, how) for name, how in loops.items()]


def reads(payload: Payload, folder: Path) -> list[Entry]:
    """Loops that read what was written just before, as loads do, from the page cache.

    A file that was read in the rounds before is read faster than a new one.
    """
    path = folder / "raw"

    def entry(name: str, memory: Memory) -> Entry:
        def take() -> float:
            raw_loops.write(path, payload.buffer, Write.FALLOCATE | Write.FDATASYNC)
            resident = np.ones_like(payload.buffer) if memory is Memory.RESIDENT else None
            seconds = _sampled(
                lambda: raw_loops.read(path, payload.nbytes, memory, resident), payload
            )
            path.unlink()
            return seconds

        return Entry(name, take)

    return [
        entry(READ_RESIDENT, Memory.RESIDENT),
        entry(READ_HUGE, Memory.HUGE_PAGES),
        entry(READ_SMALL, Memory.SMALL_PAGES),
    ]


def copies(payload: Payload, threads: Sequence[int] = (CORES,)) -> list[Entry]:
    """Memcpy into memory that is there."""

    def entry(count: int) -> Entry:
        def take() -> float:
            to = np.ones_like(payload.buffer)
            return _sampled(lambda: raw_loops.memcpy(to, payload.buffer, count), payload)

        return Entry(f"memcpy x {count}", take)

    return [entry(count) for count in threads]


def ciphers(payload: Payload, in_modes: Sequence[Mode], *, opening: bool = False) -> list[Entry]:
    """The ciphers that saves use, with nothing else to do, in cache."""

    def entry(mode: Mode) -> Entry:
        return Entry(
            raw.cipher_name(mode, opening=opening),
            lambda: raw.cipher_seconds(mode, payload.nbytes, opening=opening),
        )

    return [entry(mode) for mode in in_modes if mode.cipher]


def ciphers_beside_openssl(payload: Payload) -> list[Entry]:
    """The same, sealing and opening, held to OpenSSL's EVP.

    CBC has floors but for opening AES, which EVP does in lanes, too. OpenSSL is slow at SM4: it is
    measured with a part of the payload.
    """
    part = 16
    # What the kernels of the project's aims are for; how many times EVP's speed.
    features = set(_core.cpu_features().split(","))
    cbc = 6 if "vaes" in features else 4
    sm4 = 20 if {"gfni", "avx512"} <= features else 5
    floors = {("seal", modes.CBC): cbc, ("seal", modes.SM4): sm4, ("open", modes.SM4): sm4}

    def openssl(mode: Mode, action: str) -> Entry:
        def take() -> float | None:
            opening = action == "open"
            seconds = raw_loops.evp(mode.cipher, payload.nbytes // part, opening=opening)
            return None if seconds is None else part * seconds

        return Entry(f"OpenSSL {action} {mode.cipher} x {CORES}", take)

    lines = []
    for action in ("seal", "open"):
        for mode in (modes.GCM, modes.CBC, modes.SM4):
            theirs = openssl(mode, action)
            [ours] = ciphers(payload, [mode], opening=action == "open")
            floor = Floor(ratio=floors.get((action, mode)))
            lines += [theirs, replace(ours, limit=Limit((theirs.name,)), floor=floor)]
    return lines


def _sampled(loop: Callable[[], float], payload: Payload) -> float:
    """The seconds that a loop measured itself, in a fair sample."""
    return float(sample(loop, payload.nbytes)[1])


def _entries(payload: Payload, folder: Path) -> list[Entry]:
    def touch(name: str, memory: Memory) -> Entry:
        def take() -> float:
            return _sampled(lambda: raw_loops.touch(payload.nbytes, memory, CORES), payload)

        return Entry(name, take)

    return [
        *copies(payload, sorted({1, CORES})),
        touch(f"touch huge pages x {CORES}", Memory.HUGE_PAGES),
        touch(f"touch 4 KiB pages x {CORES}", Memory.SMALL_PAGES),
        Entry(CRC, lambda: raw.crc32_seconds(payload.buffer)),
        *ciphers_beside_openssl(payload),
        *writes(payload, folder, BUFFERED | DURABLE | OVER),
        *reads(payload, folder),
    ]


if __name__ == "__main__":
    chosen = contest.options(__doc__.splitlines()[0])
    contest.run("limits", [contest.large(chosen.gb, _entries)], chosen)
