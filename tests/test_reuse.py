"""Saves over the blocks of a retired checkpoint, and the ways of writing. Oracle: a plain load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from mindckpt.job import SaveJob
from support import Array


def parameters(value: int, count: int = 50_000) -> dict[str, Array]:
    return {"w": np.full(count, value, np.int32)}


def value_in(path: Path) -> int:
    loaded = load_checkpoint(str(path))["w"].asnumpy()
    assert np.unique(loaded).size == 1
    return int(loaded[0])


def saved(path: Path, value: int, count: int = 50_000, **options: Any) -> SaveJob:
    job = save_checkpoint(parameters(value, count), path, async_save=True, **options)
    assert job is not None
    job.result()
    return job


@pytest.mark.parametrize("async_save", [False, True])
def test_the_retired_checkpoint_is_gone_and_the_new_one_whole(
    tmp_path: Path, async_save: bool
) -> None:
    for count in (20_000, 50_000, 90_000):
        save_checkpoint(parameters(1, count), tmp_path / "a.ckpt")
        job = save_checkpoint(
            parameters(2), tmp_path / "b.ckpt", async_save=async_save, reuse=tmp_path / "a.ckpt"
        )
        if job is not None:
            job.result()
        assert os.listdir(tmp_path) == ["b.ckpt"]
        assert value_in(tmp_path / "b.ckpt") == 2


def test_a_rotation_goes_on_for_long(tmp_path: Path) -> None:
    for step in range(8):
        reuse = tmp_path / f"{step - 2}" if step >= 2 else None
        save_checkpoint(parameters(step), tmp_path / f"{step}", reuse=reuse)
        assert value_in(tmp_path / f"{step}.ckpt") == step
    assert sorted(os.listdir(tmp_path)) == ["6.ckpt", "7.ckpt"]


def test_the_stats_say_whether_the_blocks_were_reused_and_why_not(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.ckpt", 1).result()
    assert not first["reused"]
    assert first["reuse_reason"] == ""
    assert first["write_way"] in ("buffered", "direct")
    with open(tmp_path / "a.ckpt", "rb"):
        stats = saved(tmp_path / "b.ckpt", 2, reuse=tmp_path / "a.ckpt").result()
    assert not stats["reused"]
    assert stats["reuse_reason"] == "it is in use"
    fast = saved(tmp_path / "c.ckpt", 3, reuse=tmp_path / "b.ckpt", durable=False).result()
    assert fast["reuse_reason"] == "the save is not durable"
    assert os.listdir(tmp_path) == ["c.ckpt"]


def test_views_of_a_mapped_file_keep_their_values(tmp_path: Path) -> None:
    save_checkpoint(parameters(1), tmp_path / "a.ckpt")
    mapped = load_checkpoint(tmp_path / "a.ckpt", mmap=True)["w"].asnumpy()
    save_checkpoint(parameters(2), tmp_path / "b.ckpt", reuse=tmp_path / "a.ckpt")
    assert (mapped == 1).all()
    assert value_in(tmp_path / "b.ckpt") == 2


def test_what_is_plainly_wrong_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(parameters(1), path)
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "link.ckpt").symlink_to(path)
    wrong: list[tuple[object, type[Exception]]] = [
        (path, ValueError),
        (tmp_path / "folder.ckpt", ValueError),
        ("a\0b", ValueError),
        (7, TypeError),
    ]
    for reuse, error in wrong:
        with pytest.raises(error, match="reuse"):
            save_checkpoint(parameters(2), path, reuse=reuse)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reuse is not a regular file"):
        save_checkpoint(parameters(2), tmp_path / "b.ckpt", reuse=tmp_path / "link.ckpt")
    assert value_in(path) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "folder.ckpt", "link.ckpt"]


def test_a_retired_checkpoint_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    save_checkpoint(parameters(1), tmp_path / "a.ckpt", reuse=tmp_path / "gone.ckpt")
    assert value_in(tmp_path / "a.ckpt") == 1


@pytest.mark.parametrize("way", ["auto", "buffered", "direct"])
def test_the_environment_picks_the_way_of_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("MINDCKPT_WRITE", way)
    path = tmp_path / "a.ckpt"
    for durable in (False, True):
        stats = saved(path, 3, count=5_000_000, durable=durable).result()
        assert value_in(path) == 3
        assert stats["write_way"] == way or way != "buffered"


def test_a_way_of_writing_that_there_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINDCKPT_WRITE", "fast")
    with pytest.raises(ValueError, match="MINDCKPT_WRITE must be 'auto', 'buffered' or 'direct'"):
        save_checkpoint(parameters(1), tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []
