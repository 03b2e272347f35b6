"""Killed, starved of space, and raced: the old file or the new one is whole.

Oracles: the versions that were saved, with their CRC; and the list of the folder.
"""

import errno
import fcntl
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from support import MODES, run_python, start_python, temporaries

COUNT = 4_000_000  # int32 values in a version: 16 MB, long enough to be killed in

SAVER = f"""
import sys
import numpy as np
from mindckpt import save_checkpoint
path, first, durable, cipher = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "durable", sys.argv[4]
kwargs = {{"enc_key": bytes(16), "enc_mode": cipher}} if cipher != "plain" else {{}}
version = first
while True:
    save_obj = {{"w": np.full({COUNT}, version, np.int32), "version": np.array(version)}}
    save_checkpoint(save_obj, path, crc_check=True, durable=durable, **kwargs)
    print(version, flush=True)
    version += 1
"""


def version_of(path: Path, cipher: str = "plain") -> int:
    """The version in a file, every byte of it checked."""
    kwargs = {"dec_key": bytes(16), "dec_mode": cipher} if cipher != "plain" else {}
    loaded = load_checkpoint(str(path), crc_check=True, **kwargs)
    version = int(loaded["version"].asnumpy())
    assert (loaded["w"].asnumpy() == version).all()
    assert loaded["w"].shape == (COUNT,)
    return version


def wait_for_a_temporary(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a save of `process` is under way."""
    while not temporaries(folder):
        assert process.poll() is None, process.stderr and process.stderr.read()


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> str:
    """End `process`; returns what it printed."""
    process.send_signal(how)
    assert process.stdout is not None
    printed = process.stdout.read()  # communicate() loses the lines that readline() read ahead
    process.communicate()
    return printed


@pytest.mark.parametrize("durable", ["durable", "not durable"])
@pytest.mark.parametrize("cipher", ["plain", "AES-GCM"])
def test_a_killed_save_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, cipher: str, durable: str
) -> None:
    """kill -9 at random moments while a process overwrites one file again and again."""
    path = tmp_path / "a.ckpt"
    version = 0
    left_behind = 0
    rounds = 0
    # Between saves there is nothing to leave behind: one at least is to be caught in the middle.
    while rounds < 8 or (left_behind == 0 and rounds < 80):
        rounds += 1
        process = start_python(SAVER, path, version, durable, cipher)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        wait_for_a_temporary(tmp_path, process)
        time.sleep(random.uniform(0, 0.02))
        printed = [first, *map(int, end(process).split())]
        found = version_of(path, cipher)
        assert found in (printed[-1], printed[-1] + 1)
        assert found >= version
        version = found + 1
        remains = temporaries(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted(["a.ckpt", *remains])
        assert len(remains) <= 1, (
            "the dead process had one save, and those before it were cleaned up"
        )
        left_behind += len(remains)
    assert left_behind > 0, "no save was caught in the middle: the test did not test"
    save_checkpoint({"w": np.zeros(1)}, str(path))
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_killed_first_save_leaves_no_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    process = start_python(SAVER, path, 0, "durable", "plain")
    wait_for_a_temporary(tmp_path, process)
    printed = end(process)
    if path.exists():
        assert version_of(path) in range(len(printed.split()) + 1)
    else:
        assert printed == ""
    save_checkpoint({"w": np.zeros(1)}, str(path))
    assert os.listdir(tmp_path) == ["a.ckpt"]


# ---- temporary files of others


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


# ---- no space

FILE_SIZE_LIMIT = """
import errno, os, resource, sys
import numpy as np
from mindckpt import async_ckpt_thread_status, save_checkpoint
folder, cipher = sys.argv[1:]
path = os.path.join(folder, "a.ckpt")
kwargs = {"enc_key": bytes(16), "enc_mode": cipher} if cipher != "plain" else {}
value = {"w": np.arange(30_000, dtype=np.float32)}
save_checkpoint(value, path, block_bytes=16384, **kwargs)
size = os.path.getsize(path)
before = open(path, "rb").read(), os.stat(path).st_ino
for limit in [*range(0, size, 8192), size - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for durable in (True, False):
        for async_save in (False, True):
            try:
                job = save_checkpoint(value, path, block_bytes=16384, durable=durable,
                                      num_threads=1 + limit % 3, async_save=async_save, **kwargs)
                if job is not None:
                    job.result()
            except OSError as error:
                assert error.errno in (errno.EFBIG, errno.ENOSPC), error
                assert "a.ckpt" in str(error.filename), error
            else:
                sys.exit(f"saved within a limit of {limit} bytes")
            assert os.listdir(folder) == ["a.ckpt"], os.listdir(folder)
            assert (open(path, "rb").read(), os.stat(path).st_ino) == before
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
save_checkpoint(value, path, block_bytes=16384, **kwargs)
"""


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_a_file_size_limit_in_any_block_leaves_the_old_file(tmp_path: Path, cipher: str) -> None:
    run_python(FILE_SIZE_LIMIT, tmp_path, cipher)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_a_full_disk_leaves_the_old_file(small_disk: Path, cipher: str) -> None:
    kwargs = (
        {"enc_key": bytes(16), "enc_mode": cipher, "block_bytes": 65536}
        if cipher != "plain"
        else {}
    )
    path = small_disk / "a.ckpt"
    save_checkpoint({"w": np.arange(100_000, dtype=np.uint8)}, str(path), **kwargs)
    before = path.read_bytes()
    for megabytes in (1, 3):
        with pytest.raises(OSError, match=r"a\.ckpt") as caught:
            save_checkpoint({"w": np.zeros(megabytes << 20, np.uint8)}, str(path), **kwargs)
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(small_disk) == ["a.ckpt"]
        assert path.read_bytes() == before
    save_checkpoint({"w": np.zeros(500_000, np.uint8)}, str(path), **kwargs)


def test_a_process_without_file_descriptors_fails_cleanly(tmp_path: Path) -> None:
    """Every open may fail: the old file stays, and descriptors do not leak."""
    code = """
import errno, os, resource, sys
import numpy as np
from mindckpt import save_checkpoint
path = sys.argv[1]
save_checkpoint({"w": np.zeros(9)}, path)
before = open(path, "rb").read()
used = len(os.listdir("/proc/self/fd"))
for limit in range(used - 1, used + 6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
    try:
        save_checkpoint({"w": np.ones(9)}, path)
    except OSError as error:
        assert error.errno == errno.EMFILE, error
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
assert len(os.listdir("/proc/self/fd")) == used, os.listdir("/proc/self/fd")
assert os.listdir(os.path.dirname(path)) == ["a.ckpt"]
save_checkpoint({"w": np.zeros(9)}, path)
assert open(path, "rb").read() == before
"""
    run_python(code, tmp_path / "a.ckpt")
