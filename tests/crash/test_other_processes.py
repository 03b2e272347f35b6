"""Temporary files of other processes, dead and alive, and saves that race for one name.

Oracles: the versions that were saved, with their CRC; and the list of the folder. How a process
dies at each call of a save is test_faults.py's.
"""

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from support import start_python, temporaries

COUNT = 4_000_000  # int32 values: 16 MB, long enough to be stopped in


def wait_for_a_temporary(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a save of `process` is under way."""
    while not temporaries(folder):
        assert process.poll() is None, process.stderr and process.stderr.read()


def test_the_leftover_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".a.ckpt.0123456789abcdef.tmp"
    leftover.write_bytes(b"half a checkpoint")
    save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "a.ckpt"))
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_the_temporary_file_of_a_live_save_is_not_removed(tmp_path: Path) -> None:
    """A writer holds a lock on its temporary file."""
    temporary = tmp_path / ".a.ckpt.0123456789abcdef.tmp"
    with temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "a.ckpt"))
        assert temporaries(tmp_path) == [temporary.name]
    save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "a.ckpt"))
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        ".b.ckpt.0123456789abcdef.tmp",  # others can read it, and it is new
        ".xa.ckpt.0123456789abcdef.tmp",
        ".a.ckpt.ckpt.0123456789abcdef.tmp",
        "a.ckpt.0123456789abcdef.tmp",
        ".a.ckpt.0123456789abcde.tmp",
        ".a.ckpt.0123456789abcdef0.tmp",
        ".a.ckpt.0123456789abcdeg.tmp",
        ".a.ckpt.0123456789ABCDEF.tmp",
        ".a.ckpt.0123456789abcdef.tmp2",
        ".a.ckpt.tmp",
        "a.ckpt.tmp",  # MindSpore removes this one
        ".a.ckpt.0123456789abcdef",
    ],
)
def test_no_other_file_is_taken_for_a_leftover(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "a.ckpt"))
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_leftovers_name_on_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder or a symlink was never made by a save."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".a.ckpt.0123456789abcdef.tmp").mkdir()
    (tmp_path / ".a.ckpt.fedcba9876543210.tmp").symlink_to("precious")
    os.mkfifo(tmp_path / ".a.ckpt.0000000000000000.tmp")
    save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "a.ckpt"))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / ".a.ckpt.0123456789abcdef.tmp").is_dir()
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"))) == ["w"]


def test_a_stopped_process_keeps_its_temporary_file_and_wins_in_the_end(tmp_path: Path) -> None:
    """Two processes, one path: the slow one is stopped in the middle while the other saves."""
    code = f"""
import sys
import numpy as np
from mindckpt import save_checkpoint
value = np.broadcast_to(np.int32(7), (20 * {COUNT},))
save_checkpoint({{"w": value}}, sys.argv[1], enc_key=bytes(16), num_threads=1, block_bytes=65536)
"""
    path = tmp_path / "a.ckpt"
    process = start_python(code, path)
    try:
        wait_for_a_temporary(tmp_path, process)
        process.send_signal(signal.SIGSTOP)
        held = temporaries(tmp_path)
        assert len(held) == 1, "the save was over before it could be stopped"
        save_checkpoint({"w": np.zeros(3)}, str(path))
        assert temporaries(tmp_path) == held
        assert load_checkpoint(str(path))["w"].shape == (3,)
    finally:
        process.send_signal(signal.SIGCONT)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert load_checkpoint(str(path), dec_key=bytes(16))["w"].shape == (20 * COUNT,)
    assert os.listdir(tmp_path) == ["a.ckpt"]


RACER = """
import sys
import numpy as np
from mindckpt import save_checkpoint
path, racer = sys.argv[1], int(sys.argv[2])
for i in range(30):
    version = 1000 * racer + i
    save_checkpoint({"w": np.full(50_000, version), "version": np.array(version)}, path,
                    crc_check=True, durable=i % 3 == 0)
"""


def test_two_processes_saving_to_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    """A third one reads all the while."""
    path = tmp_path / "a.ckpt"
    racers = [start_python(RACER, path, racer) for racer in (1, 2, 3)]
    seen = set()
    while any(racer.poll() is None for racer in racers):
        if path.exists():
            loaded = load_checkpoint(str(path), crc_check=True)
            version = int(loaded["version"].asnumpy())
            assert (loaded["w"].asnumpy() == version).all()
            seen.add(version)
    for racer in racers:
        _, said = racer.communicate()
        assert racer.returncode == 0, said
    last = int(load_checkpoint(str(path), crc_check=True)["version"].asnumpy())
    assert last % 1000 == 29
    assert seen
    assert os.listdir(tmp_path) == ["a.ckpt"]
