"""Our plain and CRC files against MindSpore's own of the same objects, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mindckpt

from . import nets, oracle
from .cases import (
    CRC,
    ITEMSIZES,
    PLAIN,
    Protection,
    Stored,
    random_append_dict,
    random_entries,
    random_entry,
)
from .oracle import ms

both_protections = pytest.mark.parametrize("protection", [PLAIN, CRC], ids=str)


@pytest.fixture
def assert_same_file(tmp_path: Path) -> Callable[..., None]:
    """Saves one object with both libraries and compares the files."""

    def save_and_compare(save_obj: Any, **options: Any) -> None:
        ours, theirs = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
        oracle.we_save(save_obj, ours, **options)
        oracle.mindspore_saves(save_obj, theirs, **options)
        assert ours.read_bytes() == theirs.read_bytes()
        assert ours.stat().st_mode == theirs.stat().st_mode

    return save_and_compare


@both_protections
@pytest.mark.parametrize("seed", range(40))
def test_a_dict_of_arrays_is_the_file_that_mindspore_writes(
    seed: int, protection: Protection, tmp_path: Path
) -> None:
    rng = random.Random(f"bytes {seed}")
    entries = random_entries(rng, types=ITEMSIZES)
    options = {"append_dict": random_append_dict(rng, entries)} | protection.save_options
    ours, theirs = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
    oracle.we_save(oracle.our_object(entries, rng), ours, **options)
    oracle.mindspore_saves(oracle.mindspore_object(entries), theirs, **options)
    assert ours.read_bytes() == theirs.read_bytes()


@both_protections
@pytest.mark.parametrize("async_save", ["thread", "process"])
def test_empty_tensors_are_written_as_mindspores_async_path_writes_them(
    async_save: str, protection: Protection, tmp_path: Path
) -> None:
    entries = [
        Stored("one", "Float32", (1,), bytes(4)),
        Stored("rows", "Float32", (0, 3), b""),
        Stored("columns", "BFloat16", (3, 0), b""),
        Stored("vector", "Int64", (0,), b""),
        Stored("last", "Bool", (2,), bytes(2)),
    ]
    ours, theirs = tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt"
    oracle.we_save(oracle.our_object(entries), ours, **protection.save_options)
    oracle.mindspore_saves(
        oracle.mindspore_object(entries), theirs, async_save=async_save, **protection.save_options
    )
    assert ours.read_bytes() == theirs.read_bytes()


@both_protections
@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_a_real_cell_is_saved_as_mindspore_saves_it(
    net: type[Any], protection: Protection, assert_same_file: Callable[..., None]
) -> None:
    assert_same_file(net(), **protection.save_options)


@both_protections
@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_trainable_params_are_saved_as_mindspore_saves_them(
    net: type[Any], protection: Protection, assert_same_file: Callable[..., None]
) -> None:
    assert_same_file(net().trainable_params(), **protection.save_options)


def test_a_real_optimizer_is_saved_as_mindspore_saves_it(
    assert_same_file: Callable[..., None],
) -> None:
    optimizer = ms.nn.Adam(nets.LeNet5().trainable_params(), learning_rate=0.01)
    assert_same_file(optimizer, crc_check=True)


def test_choice_func_picks_the_parameters_of_a_real_cell_as_in_mindspore(
    assert_same_file: Callable[..., None],
) -> None:
    assert_same_file(nets.LeNet5(), choice_func=lambda name: not name.startswith("fc"))


def test_a_list_of_real_tensors_of_every_type_is_saved_as_mindspore_saves_it(
    assert_same_file: Callable[..., None],
) -> None:
    rng = random.Random("tensors")
    entries = [
        random_entry(rng, name, {name: size}, empties=False) for name, size in ITEMSIZES.items()
    ]
    parameters = [oracle.mindspore_parameter(entry) for entry in entries]
    assert_same_file([{"name": p.name, "data": ms.Tensor(p)} for p in parameters])
    assert_same_file([{"name": f"p.{p.name}", "data": p} for p in parameters])


def test_what_mindspore_loaded_is_saved_as_mindspore_saves_it(
    assert_same_file: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "first.ckpt"
    oracle.mindspore_saves(nets.LeNet5(), path, append_dict={"note": "a str", "epoch": 7})
    assert_same_file(ms.load_checkpoint(str(path)))


def test_real_tensors_in_append_dict_are_saved_as_mindspore_saves_them(
    assert_same_file: Callable[..., None],
) -> None:
    append_dict = {
        "step": 5,
        "tensor": ms.Tensor([[1, 2], [2, 3]]),
        "scalar": ms.Tensor(1.5),
        "parameter": ms.Parameter(ms.Tensor([1.0, 2.0], ms.bfloat16), name="another name"),
    }
    assert_same_file([], append_dict=append_dict)


def test_a_transposed_real_tensor_is_saved_as_mindspore_saves_it(
    assert_same_file: Callable[..., None],
) -> None:
    tensor = ms.ops.arange(0, 12, dtype=ms.float32).reshape(3, 4)
    assert_same_file([{"name": "t", "data": tensor.T}, {"name": "row", "data": tensor[1]}])


def test_a_parameter_with_an_initializer_is_saved_as_mindspore_saves_it(
    assert_same_file: Callable[..., None],
) -> None:
    initializer = ms.common.initializer.initializer("normal", [3, 4], ms.float16)
    assert_same_file([ms.Parameter(initializer, name="lazy")])


def test_our_async_save_keeps_a_real_parameter_as_it_was_when_called(tmp_path: Path) -> None:
    parameter = ms.Parameter(ms.ops.ones((1024, 1024), ms.float32), name="w")
    theirs, ours = tmp_path / "theirs.ckpt", tmp_path / "ours.ckpt"
    oracle.mindspore_saves([parameter], theirs)
    job = mindckpt.save_checkpoint([parameter], ours, async_save=True)
    ms.ops.assign(parameter, ms.ops.zeros((1024, 1024), ms.float32))
    job.result()
    assert ours.read_bytes() == theirs.read_bytes()
