"""The saves and loads that faults are put into, and the folder that a save finds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindckpt import load_checkpoint, save_checkpoint
from support import AVAILABLE_MODES, Array, assert_holds

KEY = bytes(range(16))
RETIRED = "retired.ckpt"
LEFTOVER = ".a.ckpt.0123456789abcdef.tmp"
LARGE = 64 << 20  # a replaced file of this size is freed on a thread of its own


def parameters(version: int) -> dict[str, Array]:
    """What is saved: eight blocks, and tensors that lie across them."""
    return {
        "w": np.arange(version, version + 30_000, dtype=np.float32),
        "scalar": np.array(version, np.int64),
        "b": np.full((33, 7), version, np.int16),
    }


@dataclass(frozen=True)
class Save:
    """A way of saving `parameters(1)` to `a.ckpt`, and what lies in the folder before.

    Attributes:
        options: Of save_checkpoint.
        replaces: There is an older file of that name.
        old_nbytes: How large that one is, where it is no checkpoint but a hole.
        leftover: There is a temporary file of a killed process.
        write_way: MINDCKPT_WRITE.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    replaces: bool = True
    old_nbytes: int = 0
    leftover: bool = False
    write_way: str = "buffered"

    @property
    def is_durable(self) -> bool:
        return bool(self.options.get("durable", True))

    @property
    def has_one_order(self) -> bool:
        """Whether two runs make the same calls in the same order."""
        return self.options["num_threads"] == 1 and self.old_nbytes == 0

    @property
    def reuses(self) -> bool:
        return bool(self.options.get("reuse"))

    @property
    def loading(self) -> dict[str, Any]:
        """The options of a load that checks every byte."""
        if "enc_key" in self.options:
            return {"dec_key": KEY, "dec_mode": self.options["enc_mode"]}
        return {"crc_check": bool(self.options.get("crc_check"))}

    def choose_write_way(self) -> None:
        """Has this process write as the scenario says."""
        os.environ["MINDCKPT_WRITE"] = self.write_way

    def run(self, folder: Path, version: int = 1, retired: Path | None = None) -> None:
        """Saves, and waits for the end; `retired` is where the retired file is, if not there."""
        options = dict(self.options)
        if self.reuses:
            options["reuse"] = retired or folder / RETIRED
        job = save_checkpoint(
            parameters(version), folder / "a.ckpt", block_bytes=1 << 14, **options
        )
        if job is not None:
            job.result()


def _save(name: str, *, num_threads: int = 1, **settings: Any) -> Save:
    own = {key: settings.pop(key) for key in ("replaces", "old_nbytes", "leftover", "write_way")
           if key in settings}  # fmt: skip
    return Save(name, {"num_threads": num_threads, **settings}, **own)


SAVES = {
    save.name: save
    for save in [
        _save("a new file", replaces=False),
        _save("over an old file"),
        _save("not durable", durable=False),
        _save("with CRC", crc_check=True),
        *[_save(mode, enc_key=KEY, enc_mode=mode) for mode in AVAILABLE_MODES],
        _save("AES-GCM with CRC", enc_key=KEY, enc_mode="AES-GCM", crc_check=True),
        _save("asynchronous", async_save=True),
        _save("by two threads", num_threads=2),
        _save("past the page cache", write_way="direct"),
        _save("over retired blocks", reuse=True),
        _save("over retired blocks, past the page cache", reuse=True, write_way="direct"),
        _save("retired but not durable", reuse=True, durable=False),
        _save("beside a leftover", leftover=True),
        _save("over a large file", old_nbytes=LARGE),
    ]
}


@dataclass(frozen=True)
class Load:
    """A way of loading what a save wrote."""

    name: str
    save: Save
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, folder: Path) -> None:
        """Loads, and compares every byte."""
        loaded = load_checkpoint(folder / "a.ckpt", **{**self.save.loading, **self.options})
        assert_holds(loaded, parameters(1))


LOADS = {
    load.name: load
    for load in [
        Load("plain", SAVES["a new file"]),
        Load("with CRC", SAVES["with CRC"]),
        Load("mapped", SAVES["a new file"], {"mmap": True, "crc_check": False}),
        Load("by two threads", SAVES["a new file"], {"num_threads": 2}),
        *[Load(mode, SAVES[mode]) for mode in AVAILABLE_MODES],
    ]
}


class Folder:
    """The folder of a save: what lay there before, and which file lies there now."""

    def __init__(self, path: Path, save: Save) -> None:
        self.path = path
        self._save = save
        self._files: dict[str, bytes] = {}
        self._old_number = 0  # of the inode
        # What is to be the old file, and what the new one is byte for byte, if it is not encrypted.
        self._new = self._bytes_of(Save("", {**save.options, "reuse": None}), 1)
        plain = Save("", {"num_threads": 1})
        if save.replaces:
            self._files["a.ckpt"] = self._bytes_of(plain, 0) if not save.old_nbytes else b""
        if save.reuses:
            self._files[RETIRED] = self._bytes_of(plain, 2)
        if save.leftover:
            self._files[LEFTOVER] = b"half a checkpoint"

    def _bytes_of(self, save: Save, version: int) -> bytes:
        self.clear()
        save.run(self.path, version)
        return (self.path / "a.ckpt").read_bytes()

    def clear(self) -> None:
        """Removes every file."""
        for entry in os.scandir(self.path):
            os.unlink(entry)

    def prepare(self) -> None:
        """As it is before a save."""
        self.clear()
        for name, content in self._files.items():
            path = self.path / name
            path.write_bytes(content)
            if name == "a.ckpt":
                os.truncate(path, self._save.old_nbytes or len(content))
                self._old_number = path.stat().st_ino
            if not name.endswith(".tmp"):
                path.chmod(0o400)

    def names(self) -> list[str]:
        """Names of all files."""
        return sorted(os.listdir(self.path))

    def state_of_target(self, version: int = 1) -> str:
        """Which file has the target's name: 'absent', 'old', 'new', or what is wrong with it."""
        path = self.path / "a.ckpt"
        if not path.exists():
            return "absent"
        status = path.stat()
        if self._save.old_nbytes and status.st_size == self._save.old_nbytes:
            return "old"  # no need to read so much
        content = path.read_bytes()
        if "enc_key" not in self._save.options and version == 1 and content == self._new:
            return "new"
        if content == self._files.get("a.ckpt"):
            return "old" if status.st_ino == self._old_number else "a copy of the old one"
        try:
            assert_holds(load_checkpoint(path, **self._save.loading), parameters(version))
        except Exception as error:
            return f"torn: {error!r}"
        return "new" if "enc_key" in self._save.options or version != 1 else "other bytes"

    def state_of_retired(self) -> str:
        """'absent', 'whole', or what is wrong with the retired file."""
        path = self.path / RETIRED
        if not path.exists():
            return "absent"
        if path.read_bytes() != self._files[RETIRED]:
            return "torn"
        return "whole" if path.stat().st_mode & 0o777 == 0o400 else "of another mode"
