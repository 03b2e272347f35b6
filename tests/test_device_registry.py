"""What a process knows of devices: their plug-ins, its forks, its staging memory."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import mindckpt
from mindckpt import load_checkpoint, save_checkpoint
from stand_in import LIBRARIES, ON_DEVICE, POLICIES, TO_HOST, library, stand_in
from support import assert_holds, run_python


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("many", "must be a number of bytes, got 'many'"),
        ("-1", "must be a number of bytes, got '-1'"),
        ("9" * 5000, "must be a number of bytes"),
        ("4096", "must be at least 1 MiB and less than 2**63, got 4096"),
        ("9999999999999999999", "must be at least 1 MiB and less than 2**63"),
    ],
)
def test_a_bad_staging_limit_in_the_environment_is_named_by_whoever_needs_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, limit: str, says: str
) -> None:
    code = """
import os, sys
import numpy as np
import mindckpt
from stand_in import stand_in
path, says = sys.argv[1:]
mindckpt.save_checkpoint({"w": np.ones(3)}, path)  # the host needs no staging
mindckpt.load_checkpoint(path)
mindckpt.load_checkpoint(path, framework="numpy")

class ByDLPack:
    def __array__(self, *_, **__): raise AssertionError("looked for another way")
    def __dlpack_device__(self): return 2, 0
    def __dlpack__(self, *, stream=None): raise AssertionError("got too far")

array = stand_in("cuda").array(np.ones(3))
for act in (
    lambda: mindckpt.save_checkpoint({"w": array}, path),
    lambda: mindckpt.save_checkpoint({"w": ByDLPack()}, path),
    lambda: mindckpt.Parameter(array),
    lambda: mindckpt.load_checkpoint(path, device="cuda:0"),
    lambda: mindckpt.set_staging_limit(1 << 20),
    mindckpt.devices,
):
    try:
        act()
    except ValueError as error:
        assert str(error).startswith("MINDCKPT_STAGING_BYTES " + says), error
    else:
        raise AssertionError(act)
"""
    library("cuda")
    monkeypatch.setenv("MINDCKPT_STAGING_BYTES", limit)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent))
    run_python(code, tmp_path / "a.ckpt", says)


def test_devices_are_listed_with_what_is_wrong_with_them() -> None:
    code = """
import json, sys, threading
import mindckpt
before = threading.active_count()
print(json.dumps(mindckpt.devices()))
"""
    plugins = ":".join([str(library("sim")), str(library("minimal")), "/nowhere.so"])
    environment = {**os.environ, "MINDCKPT_DEVICE_PLUGINS": plugins, "LD_LIBRARY_PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    listed = json.loads(done.stdout)
    by_name = {backend["name"]: backend for backend in listed}
    assert by_name["sim"]["device_count"] == 2
    assert by_name["minimal"]["version"] == "host memory as a device"
    assert by_name["minimal"]["unusable"] == ""
    assert any("/nowhere.so" in backend["unusable"] for backend in listed)
    for name in ("cuda", "ascend"):
        assert by_name[name]["device_count"] > 0 or by_name[name]["unusable"]


def test_a_plug_in_from_the_documentation_saves_and_loads(tmp_path: pathlib.Path) -> None:
    assert mindckpt.load_device_plugin(library("minimal")) == "minimal"
    value = np.arange(5000, dtype=np.float32)
    save_checkpoint({"w": value}, tmp_path / "a.ckpt")
    loaded = load_checkpoint(tmp_path / "a.ckpt", device="minimal")
    assert loaded["w"].device == "minimal:0"  # type: ignore[union-attr]
    for snapshot in POLICIES:
        job = save_checkpoint(loaded, tmp_path / "b.ckpt", async_save=True, snapshot=snapshot)
        assert job is not None
        job.result()
        assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_a_library_that_is_no_plug_in_is_refused() -> None:
    for path in ("/nowhere.so", str(library("cuda")), os.__file__):
        with pytest.raises(ValueError, match=f"device backend.*{path}"):
            mindckpt.load_device_plugin(path)
    with pytest.raises(TypeError):
        mindckpt.load_device_plugin(1)  # type: ignore[arg-type]


def test_importing_and_saving_from_the_host_touches_no_driver(tmp_path: pathlib.Path) -> None:
    code = """
import os, sys
import numpy as np
import mindckpt
assert len(os.listdir("/proc/self/task")) == int(sys.argv[2])
mindckpt.save_checkpoint({"w": np.ones(3)}, sys.argv[1])
mindckpt.load_checkpoint(sys.argv[1])
maps = open("/proc/self/maps").read()
assert "libcuda" not in maps and "libascendcl" not in maps, maps
"""
    threads = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    count = run_python(threads).stdout.strip()
    run_python(code, tmp_path / "a.ckpt", count)


def test_a_fork_while_another_thread_loads_plugins_does_not_hang() -> None:
    code = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
import importlib.metadata
import mindckpt

inside, forked = threading.Event(), threading.Event()

def slow_entry_points(group):
    inside.set()
    forked.wait()
    return []

importlib.metadata.entry_points = slow_entry_points
loading = threading.Thread(target=mindckpt.devices)
loading.start()
inside.wait()
child = os.fork()
if child == 0:
    importlib.metadata.entry_points = lambda group: []
    os._exit(0 if mindckpt.devices() else 1)
forked.set()
loading.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run_python(code)


def test_a_fork_after_use_is_told_and_not_hung(tmp_path: pathlib.Path) -> None:
    code = """
import os, sys
import numpy as np
import mindckpt
mindckpt.load_device_plugin(sys.argv[1])
path = sys.argv[2]
mindckpt.save_checkpoint({"w": np.ones(3)}, path)
loaded = mindckpt.load_checkpoint(path, device="sim")
mindckpt.save_checkpoint(loaded, path)
child = os.fork()
if child == 0:
    try:
        mindckpt.save_checkpoint(loaded, path)
    except RuntimeError as error:
        assert "fork" in str(error), error
        assert mindckpt.staging_stats() == []  # what is pinned is the parent's
        mindckpt.release_staging()
        mindckpt.set_staging_limit(1 << 20)
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
(stats,) = mindckpt.staging_stats()
assert stats["pinned_nbytes"] > 0
mindckpt.save_checkpoint(loaded, path)
"""
    run_python(code, library("sim"), tmp_path / "a.ckpt")


def test_staging_is_bounded_seen_and_given_back(tmp_path: pathlib.Path) -> None:
    device = stand_in("sim")
    device.reset()
    mindckpt.release_staging()
    mindckpt.set_staging_limit(1 << 20)
    try:
        value = np.arange(3_000_000, dtype=np.float32)
        save_checkpoint({"w": device.array(value)}, tmp_path / "b.ckpt")
        assert_holds(load_checkpoint(tmp_path / "b.ckpt", device="sim"), {"w": value})
        save_checkpoint({"w": device.array(value)}, tmp_path / "a.ckpt", enc_key=bytes(16))
        (stats,) = (one for one in mindckpt.staging_stats() if one["device"] == "sim:0")
        assert stats["limit_nbytes"] == 1 << 20
        assert 0 < stats["pinned_nbytes"] <= 1 << 20
        assert stats["peak_in_use_nbytes"] > 0
        assert stats["in_use_nbytes"] == 0
        mindckpt.release_staging()
        assert device.live(b"pinned_memory") == 0
    finally:
        mindckpt.set_staging_limit(256 << 20)
    for nbytes, error in ((1000, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="nbytes"):
            mindckpt.set_staging_limit(nbytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["device", "host", "lazy"])
def test_a_trace_shows_every_stage_of_every_block(tmp_path: pathlib.Path, policy: str) -> None:
    device = stand_in("sim")
    device.reset()
    value = np.arange(1_000_000, dtype=np.float32)
    job = save_checkpoint(
        {"w": device.array(value)},
        tmp_path / "a.ckpt",
        async_save=True,
        snapshot=policy,
        trace=True,
        enc_key=bytes(16),
        crc_check=True,
        block_bytes=1 << 16,
    )
    assert job is not None
    stats = job.result()
    stages: dict[str, set[int]] = {}
    for stage, worker, block, begin, end in job.trace():
        assert 0 <= begin <= end
        assert (worker == -1) == (stage == "copy")
        stages.setdefault(stage, set()).add(block)
    every = set(range(stats["blocks"]))
    for stage in ("wait", "fill", "checksum", "seal", "write"):
        assert stages[stage] == every
    # But for the last, which may hold nothing of the tensor.
    assert stages["copy"] | {max(every)} == every
    assert device.copied(0, TO_HOST) + device.copied(0, ON_DEVICE) >= value.nbytes
    assert set(LIBRARIES) == {"cuda", "ascend", "sim", "minimal"}
