"""Saves that find no space, or no descriptors.

Oracles: the old file's bytes, and the list of the folder.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mindckpt import save_checkpoint
from support import MODES, run_python

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
