"""What saves and loads of a GPU's tensors hold on to, by the driver's and our own count."""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mindckpt
from gpu.frameworks import framework, staging_limit
from gpu.tensors import MANY, MIB, POLICIES, free_memory, on_device, result_of
from mindckpt import load_checkpoint, save_checkpoint
from support import assert_holds, run_python


def test_staging_is_bounded_seen_and_given_back(folder: Path, library: Any) -> None:
    values = np.arange(12_000_000, dtype=np.float32)
    with staging_limit(MIB):
        save_checkpoint({"w": library.array(values)}, folder / "a.ckpt")
        save_checkpoint({"w": library.array(values)}, folder / "a.ckpt", enc_key=bytes(16))
        loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0", dec_key=bytes(16))
        assert_holds(loaded, {"w": values})
        (stats,) = (one for one in mindckpt.staging_stats() if one["device"] == "cuda:0")
        assert stats["limit_nbytes"] == MIB
        assert 0 < stats["pinned_nbytes"] <= MIB
        assert stats["peak_in_use_nbytes"] > 0
        assert stats["in_use_nbytes"] == 0
        mindckpt.release_staging()
        (stats,) = (one for one in mindckpt.staging_stats() if one["device"] == "cuda:0")
        assert stats["pinned_nbytes"] == stats["kept_snapshot_nbytes"] == 0


def test_no_device_memory_is_lost(folder: Path, streamed: Any) -> None:
    """By the driver's own count, after the caches were emptied; a failed save included."""
    tensors = on_device(streamed, {str(i): np.zeros(16 * MANY, np.uint8) for i in range(8)})

    def everything() -> None:
        save_checkpoint(tensors, folder / "a.ckpt")
        for policy in POLICIES:
            result_of(save_checkpoint(tensors, folder / "a.ckpt", async_save=True, snapshot=policy))
        with pytest.raises((OSError, ValueError)):
            result_of(save_checkpoint(tensors, folder / "no" / "a.ckpt", async_save=True))
        for framework_name in (None, streamed.loads_as):
            load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=framework_name)

    def free_now() -> int:
        gc.collect()
        streamed.synchronize()
        streamed.free_cache()
        mindckpt.release_staging()
        return free_memory()

    everything()
    before = free_now()
    for _ in range(10):
        everything()
    # Less than one tensor of one round; the driver itself keeps a few pages.
    assert before - free_now() < 8 * MANY


def test_a_process_ends_well_with_a_save_running(folder: Path) -> None:
    """The interpreter waits for it, and the driver is not called after its end."""
    framework("cupy")
    code = """
import sys
import cupy, mindckpt
tensor = cupy.full(16 << 20, 7, cupy.int32)
mindckpt.save_checkpoint({"w": tensor}, sys.argv[1], async_save=True, snapshot=sys.argv[2])
"""
    for policy in POLICIES:
        done = run_python(code, folder / "a.ckpt", policy)
        assert "mindckpt" not in done.stderr
        saved = load_checkpoint(folder / "a.ckpt")["w"]
        assert np.all(saved.asnumpy() == 7)  # type: ignore[union-attr]


def test_a_trace_shows_the_copies_of_every_block(folder: Path, streamed: Any) -> None:
    tensor = streamed.array(np.zeros(4_000_000, np.float32))
    job = save_checkpoint(
        {"w": tensor}, folder / "a.ckpt", async_save=True, snapshot="device", trace=True
    )
    assert job is not None
    stats = result_of(job)
    spans = job.trace()
    json.dumps(spans)
    assert {block for stage, _, block, _, _ in spans if stage == "write"} == set(
        range(stats["blocks"])
    )
    assert any(stage == "copy" and end >= begin for stage, _, _, begin, end in spans)
