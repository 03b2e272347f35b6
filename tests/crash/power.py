"""Power cuts: a save on a recorded disk, and the disks that it may have left."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from crash import shim
from crash.disk_log import Entry, Flush, Word, Write
from crash.scenarios import Folder, Save
from mindckpt import load_checkpoint, save_checkpoint
from support import temporaries

MIB = 1 << 20
# Not every user's PATH has the administrator's commands.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SECTOR = 512  # what a disk writes whole or not at all
PIECE = 4096


@dataclass(frozen=True)
class FileSystem:
    """One to save on: how it is made on an image, and how large that is."""

    name: str
    make: tuple[str, ...]
    nbytes: int
    options: str = "loop"


FILE_SYSTEMS = {
    "ext4": FileSystem("ext4", ("mkfs.ext4", "-q", "-F"), 32 * MIB),
    # xfsprogs takes small ones only where they are for tests.
    "xfs": FileSystem("xfs", ("mkfs.xfs", "-q", "--unsupported", "-f"), 64 * MIB),
    "btrfs": FileSystem("btrfs", ("mkfs.btrfs", "-q", "-f"), 128 * MIB),
}


def run(*command: object) -> None:
    """Runs a command; fails with what it says."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextmanager
def mounted(image: Path, on: Path, options: str) -> Iterator[Path]:
    """An image, mounted by a loop device."""
    on.mkdir(exist_ok=True)
    run("mount", "-o", options, image, on)
    try:
        yield on
    finally:
        run("umount", on)


def skip_unless_possible(file_system: FileSystem, folder: Path) -> None:
    """Skips the test, with the reason, where this machine can't cut the power."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount images")
    if not shutil.which(file_system.make[0], path=PATH):
        pytest.skip(f"{file_system.make[0]} is not installed")
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    if file_system.name not in known:
        pytest.skip(f"the kernel has no {file_system.name}")
    if not os.path.exists("/dev/loop-control") or not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/loop-control, or no /dev/fuse")
    probe = folder / "probe"
    with probe.open("wb") as file:
        file.truncate(file_system.nbytes)
    run(*file_system.make, probe)
    on = folder / "probe-folder"
    on.mkdir()
    for command in (["mount", "-o", file_system.options, probe, on], ["umount", on]):
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine does not let root mount an image")
    probe.unlink()


@dataclass
class Recording:
    """What a save wrote to its disk, and between which calls.

    Attributes:
        base: The disk as it was before.
        log: From the mount on.
        old, new, retired: The bytes of the files; None where there is no such file.
    """

    base: bytes
    log: list[Entry]
    old: bytes | None
    new: bytes
    retired: bytes | None

    def begin(self) -> int:
        """Where the save begins in the log."""
        return next(at for at, entry in enumerate(self.log) if isinstance(entry, Word))

    def returned(self) -> int:
        """Where save_checkpoint returned."""
        return self.log.index(Word("returned"))

    def calls(self) -> int:
        """How many calls the save made."""
        return sum(isinstance(entry, Word) for entry in self.log) - 1


def record(
    file_system: FileSystem, save: Save, folder: Path, commit_at: int | None = None
) -> Recording:
    """Saves on a recorded disk."""
    image, fuse, on = folder / "image", folder / "fuse", folder / "on"
    fuse.mkdir(exist_ok=True)
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(file_system.nbytes)
    run(*file_system.make, image)
    with mounted(image, on, file_system.options):
        (on / "saves").mkdir()
        before = Folder(on / "saves", save)
        before.prepare()
        files = {entry.name: Path(entry).read_bytes() for entry in os.scandir(on / "saves")}
    base = image.read_bytes()

    where, log = folder / "socket", folder / "log"
    where.unlink(missing_ok=True)
    disk = subprocess.Popen(
        [sys.executable, "-m", "crash.recorded_disk", fuse, image, log, where],
        env={**os.environ, "PYTHONPATH": str(shim.TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert disk.stdin is not None
    assert disk.stdout is not None
    try:
        if disk.stdout.readline() != "ready\n":
            pytest.skip("this machine does not let root mount a file system of ours")
        with mounted(fuse / "disk", on, file_system.options):
            commit = [] if commit_at is None else [commit_at]
            saver = shim.start("saver", on / "saves", save.name, where, *commit)
            _, said = saver.communicate(timeout=120)
            assert saver.returncode == 0, said
            new = (on / "saves" / "a.ckpt").read_bytes()
            disk.stdin.write("write the log\n")
            disk.stdin.flush()
            assert disk.stdout.readline() == "written\n"
    finally:
        disk.stdin.close()
        disk.wait()
        subprocess.run(["umount", fuse], check=False, capture_output=True)
        disk.stdout.close()
    return Recording(
        base, pickle.loads(log.read_bytes()), files.get("a.ckpt"), new, files.get("retired.ckpt")
    )


@dataclass(frozen=True)
class Cut:
    """A disk that the power may have left.

    Attributes:
        at: Nothing from this entry of the log on was written.
        lost: Of the pieces that no flush had asked for yet, in order, which ones are lost; 'none',
            'all', or the seed of a random choice.
    """

    at: int
    lost: str | int

    def pieces(self, log: list[Entry]) -> Iterator[tuple[int, bytes]]:
        """What was written: places and bytes, in order."""
        flushed = max(
            (at for at, entry in enumerate(log[: self.at]) if isinstance(entry, Flush)), default=0
        )
        choice = random.Random(self.lost)
        for at, entry in enumerate(log[: self.at]):
            if not isinstance(entry, Write):
                continue
            if at < flushed or self.lost == "none":
                yield entry.offset, entry.data
            elif self.lost != "all":
                for begin in range(0, len(entry.data), PIECE):
                    piece = entry.data[begin : begin + PIECE]
                    fate = choice.random()
                    if fate < 0.05:  # torn in the middle
                        yield entry.offset + begin, piece[: len(piece) // 2 // SECTOR * SECTOR]
                    elif fate < 0.5:
                        yield entry.offset + begin, piece


def problems_after(
    cuts: Iterable[Cut], save: Save, file_system: FileSystem, recording: Recording, folder: Path
) -> list[str]:
    """What is wrong after any of the cuts."""
    remains = Remains(file_system, recording, folder)
    problems = []
    for cut in cuts:
        shim.tried[f"power cuts ({file_system.name})"] += 1
        problems += [
            f"{cut}, before which came {recording.log[cut.at - 1]!r:.80}: {problem}"
            for problem in remains.problems_after(cut, save)
        ]
    return problems


def all_cuts(recording: Recording, random_ones: int) -> list[Cut]:
    """Cuts at every moment that left another disk: with nothing, all, some of its cache lost."""
    found = []
    log = recording.log
    for at in range(recording.begin(), len(log) + 1):
        before = log[at - 1] if at > 0 else None
        if before == Word("returned") or isinstance(before, Write):
            found.append(Cut(at, "none"))
            found += [Cut(at, seed) for seed in range(random_ones)]
        if before == Word("returned") or isinstance(before, Flush):
            found.append(Cut(at, "all"))
    return found


class Remains:
    """Builds the disks after cuts, mounts them and looks at what is there."""

    def __init__(self, file_system: FileSystem, recording: Recording, folder: Path) -> None:
        self._file_system = file_system
        self._recording = recording
        self._image = folder / "remains"
        self._on = folder / "remains-folder"
        step = 1 << 16
        self._base = [
            (begin, recording.base[begin : begin + step])
            for begin in range(0, len(recording.base), step)
            if any(recording.base[begin : begin + step])
        ]

    def problems_after(self, cut: Cut, save: Save) -> Iterator[str]:
        """What is wrong after a cut, once the file system has recovered."""
        self._image.unlink(missing_ok=True)
        with self._image.open("wb") as file:
            file.truncate(self._file_system.nbytes)
            for place, data in (*self._base, *cut.pieces(self._recording.log)):
                os.pwrite(file.fileno(), data, place)
        with mounted(self._image, self._on, self._file_system.options) as on:
            yield from self._problems_in(on / "saves", cut, save)

    def _problems_in(self, folder: Path, cut: Cut, save: Save) -> Iterator[str]:
        recording = self._recording
        target, retired = folder / "a.ckpt", folder / "retired.ckpt"
        has_returned = cut.at > recording.returned()
        content = target.read_bytes() if target.exists() else None
        if content == recording.new:
            if target.stat().st_mode & 0o077:
                yield f"its mode is {target.stat().st_mode:o}"
        elif has_returned:
            yield "a durable save is not there"
        elif content != recording.old:
            yield f"the target is torn: {len(content or b'')} bytes"
        if retired.exists() and retired.read_bytes() != recording.retired:
            yield "the retired file is torn"
        # That an older one was removed may be lost.
        if len(temporaries(folder)) > 1 + save.leftover:
            yield f"there are {temporaries(folder)}"
        save_checkpoint({"w": np.zeros(1)}, target, durable=False)
        if list(load_checkpoint(target)) != ["w"] or temporaries(folder):
            yield f"the next save leaves {os.listdir(folder)}"
