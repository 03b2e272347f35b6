"""Tensors over 1 GiB, which MindSpore cuts into records of 512 MiB, both ways."""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import mindckpt

from . import oracle
from .cases import CRC, PLAIN, Protection
from .oracle import ms

GIB = 1 << 30
SLICE_BYTES = GIB // 2
PROTECTIONS = [PLAIN, CRC, Protection(mode="AES-GCM", key_bytes=32)]


@pytest.fixture(scope="module")
def large() -> npt.NDArray[np.float32]:
    """1.125 GiB of float32 whose elements differ from slice to slice."""
    elements = 9 * GIB // 8 // 4
    values = np.arange(elements, dtype=np.uint32)
    values *= np.uint32(2654435761)
    values &= np.uint32(0x3FFFFFFF)  # neither NaN nor infinity: comparable as floats
    return values.view(np.float32).reshape(9, -1)


@pytest.mark.parametrize("protection", PROTECTIONS, ids=str)
def test_mindspore_loads_our_tensor_over_1_gib(
    protection: Protection, large: npt.NDArray[np.float32], scratch: Path
) -> None:
    path = scratch / "ours.ckpt"
    oracle.we_save({"large": large, "last": large[0, :3]}, path, **protection.save_options)
    theirs = ms.load_checkpoint(str(path), **protection.load_options)
    assert list(theirs) == ["large", "last"]
    assert np.array_equal(theirs["large"].asnumpy(), large)
    assert np.array_equal(theirs["last"].asnumpy(), large[0, :3])


@pytest.mark.parametrize("protection", PROTECTIONS, ids=str)
def test_we_load_mindspores_tensor_over_1_gib(
    protection: Protection, large: npt.NDArray[np.float32], scratch: Path
) -> None:
    path = scratch / "theirs.ckpt"
    parameters = {"large": ms.Parameter(ms.Tensor.from_numpy(large), name="large")}
    oracle.mindspore_saves(parameters, path, append_dict={"step": 3}, **protection.save_options)
    ours = mindckpt.load_checkpoint(str(path), **protection.load_options)
    assert list(ours) == ["large", "step"]
    assert np.array_equal(ours["large"].asnumpy(), large)


@pytest.mark.parametrize("nbytes", [SLICE_BYTES, SLICE_BYTES + 4, 2 * SLICE_BYTES + 4])
def test_a_tensor_near_the_slice_size_is_the_file_that_mindspore_writes(
    nbytes: int, large: npt.NDArray[np.float32], scratch: Path
) -> None:
    array = large.reshape(-1)[: nbytes // 4]
    ours, theirs = scratch / "ours.ckpt", scratch / "theirs.ckpt"
    oracle.we_save({"w": array}, ours, crc_check=True)
    tensor = ms.Parameter(ms.Tensor.from_numpy(array), name="w")
    oracle.mindspore_saves([tensor], theirs, crc_check=True)
    assert filecmp.cmp(ours, theirs, shallow=False)


def test_we_load_the_record_over_2_gib_that_mindspores_async_path_writes(scratch: Path) -> None:
    """It cuts along the first axis only: one whole record and empty ones, unloadable to itself."""
    array = np.arange((2 * GIB + 8) // 8, dtype=np.uint64).reshape(1, -1)
    path = scratch / "theirs.ckpt"
    parameter = ms.Parameter(ms.Tensor.from_numpy(array), name="w")
    oracle.mindspore_saves([parameter], path, async_save="thread")
    del parameter
    loaded = mindckpt.load_checkpoint(str(path))["w"].asnumpy()
    assert np.array_equal(loaded, array)
