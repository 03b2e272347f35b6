"""load_checkpoint(framework="mindspore"), and what only MindSpore's own Cells have.

Oracle: MindSpore's load of the same file, its own objects, and the bytes that were saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mindckpt

from .oracle import ms

CODES = np.array([[1, -2, 7], [-8, 0, 5]], np.int8)
KEYS = np.array([1, 5], np.int32)
VALUES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
STATUS = np.array([1, 1], np.int32)

# What MindSpore writes and cannot load: its type, and bytes of its elements.
UNLOADABLE = {
    "Float8E4M3FN": mindckpt.float8_e4m3fn,
    "Float8E5M2": mindckpt.float8_e5m2,
    "HiFloat8": mindckpt.hifloat8,
}


def test_int4_loads_as_mindspore_loads_it(tmp_path: Path) -> None:
    parameter = ms.Parameter(ms.Tensor(CODES, ms.qint4x2), name="q")
    path = str(tmp_path / "a.ckpt")
    ms.save_checkpoint([parameter], path)
    ours: Any = mindckpt.load_checkpoint(path, framework="mindspore")["q"]
    theirs = ms.load_checkpoint(path)["q"]
    for loaded in (ours, theirs):
        assert isinstance(loaded, ms.Parameter)
        assert (loaded.dtype, loaded.shape, loaded.name) == (ms.qint4x2, (2, 3), "q")
        assert loaded.asnumpy().tolist() == CODES.tolist()


@pytest.mark.parametrize("kind", UNLOADABLE)
@pytest.mark.parametrize("shape", [(4,), (2, 2), (), (0, 3)], ids=str)
def test_what_mindspore_cannot_load_comes_as_its_own_tensor(
    tmp_path: Path, kind: str, shape: tuple[int, ...]
) -> None:
    """Every byte, under MindSpore's type; and saved by MindSpore it is what was loaded."""
    codes = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint8)
    dtype = UNLOADABLE[kind]
    value = mindckpt.Tensor(codes.view(dtype.numpy).reshape(shape), dtype)
    path = str(tmp_path / "a.ckpt")
    mindckpt.save_checkpoint({"other": np.ones(2, np.float32), "w": value}, path)
    loaded: Any = mindckpt.load_checkpoint(path, framework="mindspore")
    assert loaded["other"].asnumpy().tolist() == [1, 1]
    parameter = loaded["w"]
    assert isinstance(parameter, ms.Parameter)
    assert (str(parameter.dtype), tuple(parameter.shape)) == (kind, shape)
    assert parameter.get_bytes() == codes.tobytes()
    if codes.size:
        ms.save_checkpoint([parameter], str(tmp_path / "b.ckpt"))
        mindckpt.save_checkpoint({"w": value}, tmp_path / "c.ckpt")
        assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "c.ckpt").read_bytes()


@pytest.mark.parametrize("kind", UNLOADABLE)
def test_such_a_parameter_of_a_net_is_loaded_into(tmp_path: Path, kind: str) -> None:
    dtype = UNLOADABLE[kind]
    codes = np.array([1, 2, 3], np.uint8)
    mindckpt.save_checkpoint(
        {"w": mindckpt.Tensor(codes.view(dtype.numpy), dtype)}, tmp_path / "a.ckpt"
    )
    net = ms.nn.Cell()
    held = mindckpt.load_checkpoint(tmp_path / "a.ckpt", framework="mindspore")["w"]
    net.w = held
    loaded = mindckpt.load_checkpoint(tmp_path / "a.ckpt")
    zeros = mindckpt.Tensor(np.zeros(3, np.uint8).view(dtype.numpy), dtype)
    assert mindckpt.load_param_into_net(net, {"w": mindckpt.Parameter(zeros)}) == ([], [])
    assert net.w.get_bytes() == bytes(3)
    assert mindckpt.load_param_into_net(net, loaded) == ([], [])
    assert net.w.get_bytes() == codes.tobytes()


class MapNet(ms.nn.Cell):
    """A map parameter, and an ordinary one."""

    def __init__(self, key: Any = ms.int32, shape: tuple[int, ...] = (3,)) -> None:
        """Of keys of a type, and of values of a shape."""
        super().__init__()
        from mindspore.experimental import MapParameter

        self.m = MapParameter(
            name="m", key_dtype=key, value_dtype=ms.float32, value_shape=shape, default_value="ones"
        )
        self.w = ms.Parameter(ms.Tensor(np.zeros(2, np.float32)), name="w")


def loaded_map() -> dict[str, Any]:
    """As load_checkpoint returns a map tensor."""
    return {"m": [KEYS, VALUES, STATUS], "w": mindckpt.Parameter(np.ones(2, np.float32), name="w")}


def test_a_map_parameter_takes_a_loaded_map_tensor() -> None:
    """What MindSpore does, too; only that here it does not count as not loaded."""
    net = MapNet()
    assert mindckpt.load_param_into_net(net, loaded_map()) == ([], [])
    keys, values, _ = net.m.export_data()
    order = np.argsort(keys)
    assert keys[order].tolist() == KEYS.tolist()
    assert values[order].tolist() == VALUES.tolist()
    assert net.w.asnumpy().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "loaded", "says"),
    [
        ({"key": ms.int64}, {}, "a map of Int32 to Float32.*of Int64 to Float32"),
        ({"shape": (4,)}, {}, r"shape \(3,\) in parameter_dict.*shape \(4,\) in net"),
        (
            {},
            {"m": mindckpt.Parameter(VALUES, name="m")},
            "a mindckpt.*Parameter in parameter_dict",
        ),
        ({}, {"m": "text"}, "a str in parameter_dict, a map tensor in net"),
        ({}, {"m": [KEYS]}, "a list in parameter_dict, a map tensor in net"),
    ],
)
def test_a_map_parameter_that_does_not_fit_is_refused_and_the_net_is_as_it_was(
    options: dict[str, Any], loaded: dict[str, Any], says: str
) -> None:
    net = MapNet(**options)
    before = [part.tolist() for part in net.m.export_data()]
    with pytest.raises(RuntimeError, match=rf"parameter 'm': .*{says}"):
        mindckpt.load_param_into_net(net, {**loaded_map(), **loaded})
    assert net.w.asnumpy().tolist() == [0, 0]
    assert [part.tolist() for part in net.m.export_data()] == before


def test_a_slice_in_a_mindspore_cell_is_not_saved_as_if_it_were_the_whole(tmp_path: Path) -> None:
    """As after compiling for ranks, when the Cell knows how its parameters are cut."""
    net = ms.nn.Dense(3, 4)
    for name in ("weight", "bias"):
        layout = [[8], [0, -1] if name == "weight" else [-1], [4, 3], 0, True, "", [32, 3], [4, 3]]
        net.parameter_layout_dict[name] = layout
    with pytest.raises(ValueError, match=r"'weight' is spread.*integrated_save=False"):
        mindckpt.save_checkpoint(net, tmp_path / "a.ckpt")
    mindckpt.save_checkpoint(net, tmp_path / "a.ckpt", integrated_save=False)
    assert sorted(mindckpt.load_checkpoint(tmp_path / "a.ckpt")) == ["bias", "weight"]
