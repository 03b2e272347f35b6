"""File systems that refuse a call. Oracle: the kernel, which seccomp makes refuse it in a child."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from seccomp import CAN_REFUSE
from support import run_python

pytestmark = pytest.mark.skipif(
    not CAN_REFUSE, reason=f"no numbers of system calls on {sys.platform}, {platform.machine()}"
)

# Arguments: this folder, the file, 'call=ERROR' of each refused call. Prints what was refused, or
# what was raised; with and without async_save it is the same.
SAVE = """
import errno, os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from mindckpt import save_checkpoint
from seccomp import refuse
pairs = [argument.split("=") for argument in sys.argv[4:]]
refuse({call: getattr(errno, name) for call, name in pairs})
durable = sys.argv[3] == "durable"
try:
    save_checkpoint({"w": np.full(9, 2)}, sys.argv[2], durable=durable)
    job = save_checkpoint({"w": np.full(9, 2)}, sys.argv[2], durable=durable, async_save=True)
    print(job.result()["refused"])
except OSError as error:
    try:
        job = save_checkpoint({"w": np.full(9, 2)}, sys.argv[2], durable=durable, async_save=True)
        job.result()
    except OSError as same:
        assert str(same) == str(error)
        assert job.durable.exception() is not None
    else:
        raise AssertionError("no error with async_save")
    print(f"{errno.errorcode[error.errno]}: {error.strerror}: {error.filename}")
"""


def saved(path: Path, *refused: str, durable: bool = True) -> str:
    """What a save in a fresh process that is refused these calls printed."""
    save_checkpoint({"w": np.full(9, 1)}, path)
    done = run_python(SAVE, Path(__file__).parent, path, "durable" if durable else "fast", *refused)
    assert os.listdir(path.parent) == [path.name]
    return done.stdout.rstrip("\n")


def value_in(path: Path) -> int:
    return int(load_checkpoint(path)["w"].asnumpy()[0])


@pytest.mark.parametrize("error", ["EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP"])
@pytest.mark.parametrize("call", ["fchmod", "fallocate", "flock"])
def test_a_courtesy_that_is_refused_fails_no_save(tmp_path: Path, call: str, error: str) -> None:
    path = tmp_path / "a.ckpt"
    for durable in (True, False):
        assert saved(path, f"{call}={error}", durable=durable).startswith(f"{call}: ")
        assert value_in(path) == 2
        path.chmod(0o600)


def test_the_stats_tell_all_that_was_refused(tmp_path: Path) -> None:
    refused = saved(tmp_path / "a.ckpt", "fchmod=EPERM", "fallocate=EINVAL", "fdatasync=EINVAL")
    assert refused == (
        "fallocate: Invalid argument; fdatasync: Invalid argument; fchmod: Operation not permitted"
    )
    assert value_in(tmp_path / "a.ckpt") == 2


def test_a_name_that_can_not_be_synced_is_an_error_about_a_published_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    told = saved(path, "fsync=EINVAL", "syncfs=EIO")
    assert told == (
        "EINVAL: the file is published, but its folder could not be synced, and a power cut may"
        f" lose the name: Invalid argument: {path}"
    )
    assert value_in(path) == 2
    assert saved(path, "fsync=EINVAL", "syncfs=EIO", durable=False) == ""


def test_a_file_that_can_not_be_synced_is_not_published(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    told = saved(path, "fdatasync=ENOSYS", "fsync=ENOSYS")
    assert told.startswith("ENOSYS: nothing was published, as the file system can't sync a file: ")
    assert value_in(path) == 1
    assert saved(path, "fdatasync=EIO").startswith("EIO: fdatasync: ")
    assert value_in(path) == 1
    assert saved(path, "fdatasync=ENOSYS", "fsync=ENOSYS", durable=False) == ""
    assert value_in(path) == 2
