"""Random sets of parameters, each library loading what the other one saved."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import mindckpt

from . import oracle
from .cases import (
    CIPHERS,
    MAX_BLOCK_BYTES,
    MIB,
    MIN_BLOCK_BYTES,
    MINDSPORE_WRITES,
    PLAIN,
    SAVED_ONLY_ITEMSIZES,
    WE_WRITE,
    Protection,
    Stored,
    random_append_dict,
    random_block_bytes,
    random_entries,
    with_appended,
)

SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protection", WE_WRITE, ids=str)
def test_mindspore_loads_our_random_parameters(
    protection: Protection, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(f"ours {protection} {seed}")
    entries = random_entries(rng, empties=True)
    append_dict = random_append_dict(rng, entries)
    path = tmp_path / "ours.ckpt"
    oracle.we_save(
        oracle.our_object(entries, rng),
        path,
        append_dict=append_dict,
        block_bytes=random_block_bytes(rng),
        num_threads=rng.randint(1, 4),
        **protection.save_options,
    )
    expected = with_appended(entries, append_dict)
    assert oracle.mindspore_loads(path, **protection.load_options) == expected
    assert oracle.we_load(path, **protection.load_options) == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protection", MINDSPORE_WRITES, ids=str)
def test_we_load_mindspores_random_parameters(
    protection: Protection, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(f"theirs {protection} {seed}")
    entries = random_entries(rng)
    append_dict = random_append_dict(rng, entries)
    path = tmp_path / "theirs.ckpt"
    oracle.mindspore_saves(
        oracle.mindspore_object(entries), path, append_dict=append_dict, **protection.save_options
    )
    assert oracle.we_load(path, **protection.load_options) == with_appended(entries, append_dict)


@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mmap"])
@pytest.mark.parametrize("type_name", SAVED_ONLY_ITEMSIZES)
def test_we_load_the_types_that_mindspore_saves_and_cannot_load(
    type_name: str, mmap: bool, tmp_path: Path
) -> None:
    rng = random.Random(type_name)
    entries = random_entries(rng, types={type_name: SAVED_ONLY_ITEMSIZES[type_name]})
    path = tmp_path / "theirs.ckpt"
    oracle.mindspore_saves(oracle.mindspore_object(entries), path)
    assert oracle.we_load(path, mmap=mmap) == entries


@pytest.mark.parametrize("seed", SEEDS)
def test_our_mapped_views_hold_what_mindspore_saved(seed: int, tmp_path: Path) -> None:
    entries = random_entries(random.Random(f"mmap {seed}"))
    path = tmp_path / "theirs.ckpt"
    oracle.mindspore_saves(oracle.mindspore_object(entries), path, crc_check=bool(seed % 2))
    assert oracle.we_load(path, mmap=True) == entries


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, 4096, 65_537, MIB, MAX_BLOCK_BYTES])
@pytest.mark.parametrize("protection", CIPHERS, ids=str)
def test_mindspore_opens_files_of_several_of_our_blocks(
    protection: Protection, block_bytes: int, scratch: Path
) -> None:
    """Two tensors, the second across the border of two blocks, whatever their size."""
    entries = _one_and_a_half_blocks(block_bytes)
    path = scratch / "ours.ckpt"
    oracle.we_save(
        oracle.our_object(entries), path, block_bytes=block_bytes, **protection.save_options
    )
    assert oracle.mindspore_loads(path, **protection.load_options) == entries


@pytest.mark.parametrize("protection", CIPHERS, ids=str)
def test_we_open_mindspores_files_of_several_blocks(protection: Protection, scratch: Path) -> None:
    """MindSpore's blocks are always of 64 MiB."""
    entries = _one_and_a_half_blocks(MAX_BLOCK_BYTES)
    path = scratch / "theirs.ckpt"
    oracle.mindspore_saves(oracle.mindspore_object(entries), path, **protection.save_options)
    assert oracle.we_load(path, **protection.load_options) == entries


@pytest.mark.parametrize("seed", range(10))
def test_mindspore_loads_our_async_save(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"async {seed}")
    entries = random_entries(rng, empties=True)
    protection = rng.choice(WE_WRITE)
    path = tmp_path / "ours.ckpt"
    job = mindckpt.save_checkpoint(
        oracle.our_object(entries, rng), path, async_save=True, **protection.save_options
    )
    assert job.result()["nbytes"] == path.stat().st_size
    assert oracle.mindspore_loads(path, **protection.load_options) == entries


@pytest.mark.parametrize("async_save", ["thread", "process"])
@pytest.mark.parametrize("protection", MINDSPORE_WRITES, ids=str)
def test_we_load_mindspores_async_saves(
    protection: Protection, async_save: str, tmp_path: Path
) -> None:
    """On this path MindSpore keeps empty tensors, so that they are among the parameters."""
    rng = random.Random(f"{async_save} {protection}")
    entries = random_entries(rng, empties=True)
    append_dict = {"epoch": 3, "lr": 0.125, "done": True, "note": "a str"}
    path = tmp_path / "theirs.ckpt"
    oracle.mindspore_saves(
        oracle.mindspore_object(entries),
        path,
        async_save=async_save,
        append_dict=append_dict,
        **protection.save_options,
    )
    assert oracle.we_load(path, **protection.load_options) == with_appended(entries, append_dict)


@pytest.mark.parametrize("seed", range(10))
def test_parameters_come_back_whole_after_three_changes_of_library(
    seed: int, tmp_path: Path
) -> None:
    """MindSpore saves, we load and save that, MindSpore loads and saves that, we load."""
    entries = random_entries(random.Random(f"relay {seed}"))
    first, second, third = (tmp_path / f"{i}.ckpt" for i in range(3))
    oracle.mindspore_saves(oracle.mindspore_object(entries), first)
    oracle.we_save(mindckpt.load_checkpoint(str(first)), second)
    oracle.mindspore_saves(oracle.ms.load_checkpoint(str(second)), third)
    assert oracle.we_load(third) == entries
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_a_real_tensor_in_a_dict_is_kept_which_mindspore_loses(tmp_path: Path) -> None:
    """MindSpore saves the entry before it once more in its place, and says nothing."""
    save_obj = {
        "parameter": oracle.ms.Parameter(oracle.ms.Tensor([1.0]), name="parameter"),
        "tensor": oracle.ms.Tensor([2.0, 3.0]),
    }
    ours, theirs = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
    oracle.we_save(save_obj, ours)
    oracle.mindspore_saves(save_obj, theirs)
    assert [entry.name for entry in oracle.mindspore_loads(ours)] == ["parameter", "tensor"]
    assert [entry.name for entry in oracle.mindspore_loads(theirs)] == ["parameter"]


def test_a_path_without_its_suffix_is_the_same_file_to_both(tmp_path: Path) -> None:
    entries = [Stored("w", "Float32", (1,), bytes(4))]
    oracle.we_save(oracle.our_object(entries), tmp_path / "ours", **PLAIN.save_options)
    oracle.mindspore_saves(oracle.mindspore_object(entries), tmp_path / "theirs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.ckpt", "theirs.ckpt"]


def _one_and_a_half_blocks(block_bytes: int) -> list[Stored]:
    content = random.Random(block_bytes).randbytes(block_bytes * 3 // 4)
    return [
        Stored("first", "UInt8", (len(content),), content),
        Stored("second", "Int8", (len(content),), content),
    ]
