"""What killed saves leave behind. Oracles: the list of the folder, and flock(2)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from mindckpt import remove_leftovers, save_checkpoint
from support import start_python, temporaries

# Takes a second: long enough to be stopped in.
SAVER = """
import sys
import numpy as np
from mindckpt import save_checkpoint
value = np.broadcast_to(np.int8(7), (800_000_000,))
save_checkpoint({"w": value}, sys.argv[1], enc_key=bytes(16), num_threads=1, block_bytes=65536)
"""


def stopped_in_a_save(path: Path) -> subprocess.Popen[str]:
    """A process that has a temporary file beside `path`, and is stopped."""
    before = temporaries(path.parent)
    process = start_python(SAVER, path)
    while temporaries(path.parent) == before:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def leave(path: Path) -> str:
    """Kill a process in a save to `path`; returns the name of what it leaves."""
    before = set(temporaries(path.parent))
    kill(stopped_in_a_save(path))
    (name,) = set(temporaries(path.parent)) - before
    return name


def test_a_save_removes_what_a_killed_save_to_another_name_left(tmp_path: Path) -> None:
    """A run that names its files by the step never saves to the same name again."""
    leave(tmp_path / "step-1.ckpt")
    save_checkpoint({"w": np.zeros(3)}, tmp_path / "step-2.ckpt")
    assert os.listdir(tmp_path) == ["step-2.ckpt"]


def test_what_a_killed_save_left_is_removed_on_request_and_named(tmp_path: Path) -> None:
    save_checkpoint({"w": np.zeros(3)}, tmp_path / "a.ckpt")
    name = leave(tmp_path / "b.ckpt")
    assert remove_leftovers(tmp_path) == [name]
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert remove_leftovers(str(tmp_path)) == []


def test_the_file_of_a_save_that_is_running_stays(tmp_path: Path) -> None:
    process = stopped_in_a_save(tmp_path / "a.ckpt")
    try:
        held = temporaries(tmp_path)
        assert len(held) == 1
        assert remove_leftovers(tmp_path) == []
        save_checkpoint({"w": np.zeros(3)}, tmp_path / "b.ckpt")
        assert temporaries(tmp_path) == held
    finally:
        kill(process)
    assert remove_leftovers(tmp_path) == held


def test_a_file_from_elsewhere_is_removed_after_an_hour(tmp_path: Path) -> None:
    """By an older version, another host, or before the last boot: its lock says too little."""
    name = ".a.ckpt.0123456789abcdef.tmp"
    (tmp_path / name).write_bytes(b"half a checkpoint")
    (tmp_path / name).chmod(0o600)
    assert remove_leftovers(tmp_path) == []
    old = time.time() - 3700
    os.utime(tmp_path / name, (old, old))
    with (tmp_path / name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == []
    assert remove_leftovers(tmp_path) == [name]


def test_a_wrong_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        remove_leftovers(tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(NotADirectoryError):
        remove_leftovers(tmp_path / "file")
    with pytest.raises(ValueError, match="folder contains a NUL"):
        remove_leftovers("a\0b")
    for wrong in (None, 7, b"bytes"):
        with pytest.raises(TypeError, match=r"folder must be a str or os\.PathLike"):
            remove_leftovers(wrong)  # type: ignore[arg-type]
