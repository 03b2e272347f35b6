"""Loading to devices, through the public interface, on the stand-ins."""

from __future__ import annotations

import pathlib
import sys
from collections import namedtuple
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import frames
import mindckpt
from mindckpt import Parameter, load_checkpoint, load_param_into_net, nn, save_checkpoint
from stand_in import StandIn, StandInArray, model, stand_in
from support import MODES, assert_holds


@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_a_checkpoint_is_loaded_to_a_device(tmp_path: pathlib.Path, mode: str) -> None:
    device = stand_in("sim")
    _, values = model(device, None)
    saved = {**values, "text": "five", "none": np.zeros((0, 2), np.float32)}
    enc = {} if mode == "plain" else {"enc_key": bytes(16), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(16), "dec_mode": mode}
    save_checkpoint(saved, tmp_path / "a.ckpt", crc_check=True, **enc)
    loaded = load_checkpoint(tmp_path / "a.ckpt", device="sim:1", crc_check=True, **dec)
    assert list(loaded) == list(saved)
    for name in values:
        parameter = loaded[name]
        assert isinstance(parameter, Parameter)
        assert parameter.device == "sim:1"
    assert_holds(loaded, saved)
    save_checkpoint(loaded, tmp_path / "b.ckpt")
    assert_holds(load_checkpoint(tmp_path / "b.ckpt"), saved)


@pytest.mark.parametrize("mode", MODES[1:])
def test_blocks_of_padding_only_take_no_staging_memory(tmp_path: pathlib.Path, mode: str) -> None:
    """Of any writer's file, and wherever they stand; nothing stays pinned."""
    device = stand_in("sim")
    device.reset()
    mindckpt.release_staging()
    values = {"w": np.arange(40_000, dtype=np.float32), "v": np.ones(300, np.int8)}
    save_checkpoint(values, tmp_path / "plain.ckpt")
    plain, key = (tmp_path / "plain.ckpt").read_bytes(), bytes(16)
    pieces = [b""]
    for at in range(0, len(plain), 8192):
        pieces += [plain[at : at + 8192], b""]
    (tmp_path / "a.ckpt").write_bytes(
        b"".join(frames.seal_block(piece, key, mode) for piece in pieces)
    )
    for num_threads in (1, 3):
        loaded = load_checkpoint(
            tmp_path / "a.ckpt", device="sim:0", dec_key=key, dec_mode=mode, num_threads=num_threads
        )
        assert_holds(loaded, values)
        (stats,) = (one for one in mindckpt.staging_stats() if one["device"] == "sim:0")
        assert stats["in_use_nbytes"] == 0
        assert stats["pinned_nbytes"] > 0
        mindckpt.release_staging()
        assert all(one["pinned_nbytes"] == 0 for one in mindckpt.staging_stats())


@pytest.mark.parametrize("mode", ["plain", "AES-GCM"])
def test_more_threads_than_staging_memory_has_room_for_load_to_a_device(
    tmp_path: pathlib.Path, mode: str
) -> None:
    """Of 128 threads with 4 MiB to read each, half must wait for others' copies."""
    device = stand_in("sim")
    device.reset()
    mindckpt.release_staging()
    rng = np.random.default_rng(6)
    values = {f"w{i}": rng.integers(0, 255, 3 << 20, np.uint8) for i in range(100)}
    keys = {} if mode == "plain" else {"key": bytes(16)}
    enc: Any = {f"enc_{name}": key for name, key in keys.items()}
    dec: Any = {f"dec_{name}": key for name, key in keys.items()}
    save_checkpoint(values, tmp_path / "a.ckpt", durable=False, block_bytes=4 << 20, **enc)
    loaded = load_checkpoint(tmp_path / "a.ckpt", device="sim:0", num_threads=128, **dec)
    for name, value in values.items():
        assert np.array_equal(loaded[name].asnumpy(), value)  # type: ignore[union-attr]
    (stats,) = (one for one in mindckpt.staging_stats() if one["device"] == "sim:0")
    assert stats["peak_in_use_nbytes"] <= stats["limit_nbytes"] == 256 << 20
    assert stats["in_use_nbytes"] == 0
    mindckpt.release_staging()


def test_blocks_larger_than_the_staging_memory_load_to_a_device(tmp_path: pathlib.Path) -> None:
    """Each passes through the pool in pieces, one at a time, while the other threads wait."""
    device = stand_in("sim")
    device.reset()
    mindckpt.release_staging()
    mindckpt.set_staging_limit(8 << 20)
    try:
        values = {f"w{i}": np.full(5 << 20, i, np.uint8) for i in range(16)}
        options: Any = {"durable": False, "block_bytes": 12 << 20, "enc_key": bytes(16)}
        save_checkpoint(values, tmp_path / "a.ckpt", **options)
        loaded = load_checkpoint(
            tmp_path / "a.ckpt", device="sim:0", num_threads=4, dec_key=bytes(16)
        )
        assert_holds(loaded, values)
    finally:
        mindckpt.set_staging_limit(256 << 20)
        mindckpt.release_staging()


class Elsewhere(StandInArray):
    """As torch shows a view whose elements do not lie together: what is read of it is a copy."""

    def data_ptr(self) -> int:
        return self.pointer + 64


def test_a_view_that_can_only_be_copied_is_not_loaded_into(device: StandIn, stream: int) -> None:
    """What was assigned would go to the copy, and the tensor be as it was."""
    net = nn.Cell()
    net.w = Parameter(Elsewhere(device, np.zeros(8, np.float32), 0, stream))
    loaded = {"w": Parameter(np.ones(8, np.float32), name="w")}
    with pytest.raises(RuntimeError, match="'w': it is a view that can't be copied to"):
        load_param_into_net(net, loaded)


def test_a_device_whose_copies_must_be_aligned_is_loaded_to_as_well(tmp_path: pathlib.Path) -> None:
    device = stand_in("ascend")
    device.reset()
    _, values = model(device, None)
    save_checkpoint(values, tmp_path / "a.ckpt")
    loaded = load_checkpoint(tmp_path / "a.ckpt", device="ascend:1")
    assert {parameter.device for parameter in loaded.values()} == {"ascend:1"}  # type: ignore[union-attr]
    assert device.calls(b"aclrtSynchronizeDevice") == 0  # nobody had the memory's pointer yet
    assert_holds(loaded, values)
    save_checkpoint(loaded, tmp_path / "b.ckpt", block_bytes=1024)
    assert (tmp_path / "b.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_parameters_of_a_net_on_a_device_are_loaded_in_place(
    tmp_path: pathlib.Path, device: StandIn
) -> None:
    values = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "h": np.arange(4, dtype=np.float64),
    }
    arrays = {
        "w": device.array(np.zeros((2, 3), np.float32)),
        "h": device.array(np.zeros(4, np.float32)),
    }
    net = nn.Cell()
    net.w, net.h = (Parameter(array) for array in arrays.values())
    save_checkpoint(values, tmp_path / "a.ckpt")
    assert load_param_into_net(net, load_checkpoint(tmp_path / "a.ckpt")) == ([], [])
    assert np.array_equal(arrays["w"].read(), values["w"])
    assert np.array_equal(arrays["h"].read(), values["h"].astype(np.float32))
    save_checkpoint(net, tmp_path / "b.ckpt")
    assert_holds(
        load_checkpoint(tmp_path / "b.ckpt"), {"w": values["w"], "h": values["h"].astype("f4")}
    )


def test_a_device_that_fails_while_a_net_is_loaded_is_told_with_how_far_it_came(
    device: StandIn,
) -> None:
    arrays = [device.array(np.zeros(3, np.float32)) for _ in range(3)]
    net = nn.Cell()
    net.host = Parameter(np.zeros(3, np.float32))
    net.a, net.b, net.c = (Parameter(array) for array in arrays)
    new = {name: Parameter(np.ones(3, np.float32)) for name in ("host", "a", "b", "c")}
    copy = {"cuda": b"cuMemcpyHtoDAsync_v2", "sim": b"copy_async"}[device.backend]
    device.fail(copy, 2)
    says = "parameter 'b': .* of 4 parameters of the net 1 were set before: load it again"
    with pytest.raises(RuntimeError, match=says):
        load_param_into_net(net, new)
    assert [array.read().tolist() for array in arrays] == [[1] * 3, [0] * 3, [0] * 3]
    assert net.host.asnumpy().tolist() == [0] * 3  # the host's come last
    assert load_param_into_net(net, new) == ([], [])
    assert [array.read().tolist() for array in arrays] == [[1] * 3] * 3
    assert net.host.asnumpy().tolist() == [1] * 3


def test_a_view_that_a_device_cannot_copy_to_leaves_the_net_as_it_was() -> None:
    device = stand_in("ascend")
    device.reset()
    whole, other = device.array(np.zeros(40, np.float32)), device.array(np.zeros(4, np.float32))
    begin, whole.shape, whole.nbytes = whole.pointer, (4,), 16
    whole.pointer += 4
    net = nn.Cell()
    net.other, net.view = Parameter(other), Parameter(whole)
    new = {name: Parameter(np.ones(4, np.float32)) for name in ("other", "view")}
    try:
        with pytest.raises(RuntimeError, match=r"'view'.*beginning where its device can't copy to"):
            load_param_into_net(net, new)
    finally:
        whole.pointer = begin
    assert other.read().tolist() == [0] * 4


def test_frameworks_tensors_are_returned_when_they_are_asked_for(tmp_path: pathlib.Path) -> None:
    values = {"w": np.arange(6, dtype=np.float32), "b": np.ones(3, ml_dtypes.bfloat16)}
    save_checkpoint({**values, "text": "five"}, tmp_path / "a.ckpt")
    loaded = load_checkpoint(tmp_path / "a.ckpt", framework="numpy")
    for name, value in values.items():
        assert type(loaded[name]) is np.ndarray
        assert np.array_equal(loaded[name], value)  # type: ignore[arg-type]
    assert loaded["text"] == "five"
    for framework in ("torch", "jax"):
        try:
            module = __import__(framework)
        except ImportError:
            continue
        tensors = load_checkpoint(tmp_path / "a.ckpt", framework=framework)
        kind = module.Tensor if framework == "torch" else module.Array
        assert isinstance(tensors["w"], kind)
        assert np.array_equal(np.asarray(tensors["w"]), values["w"])


class FakeMindSpore:
    """What is used of MindSpore, as its documentation has it, in a process that has Ascend:1."""

    Parameter = namedtuple("Parameter", ("data", "name"))
    Tensor = namedtuple("Tensor", ("values", "device"))
    Tensor.from_numpy = classmethod(lambda cls, values: cls(values, "CPU"))  # type: ignore[attr-defined]
    Tensor.move_to = lambda self, to: self._replace(device=f"{to}:1")  # type: ignore[attr-defined]
    device = ("Ascend", 1)

    @classmethod
    def get_current_device(cls) -> Any:
        return namedtuple("DeviceInfo", ("device_target", "device_id"))(*cls.device)


def test_mindspore_tensors_are_on_the_device_asked_for_or_it_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", FakeMindSpore)  # type: ignore[arg-type]
    path = tmp_path / "a.ckpt"
    save_checkpoint({"w": np.arange(6.0), "text": "five"}, path)
    for device, where in (("ascend", "Ascend:1"), ("ascend:1", "Ascend:1"), ("cpu", "CPU")):
        loaded: Any = load_checkpoint(path, device=device, framework="mindspore")
        assert loaded["w"].data.device == where
        assert loaded["w"].name == "w"
        assert np.array_equal(loaded["w"].data.values, np.arange(6.0))
        assert loaded["text"] == "five"
    for device, says in (
        ("ascend:0", r"on Ascend:1 in this process, not on 'ascend:0'.*set_device\('Ascend', 0\)"),
        ("ascend:x", "not on 'ascend:x'"),
        ("cuda:0", "MindSpore has no tensors"),
    ):
        with pytest.raises(ValueError, match=says):
            load_checkpoint(path, device=device, framework="mindspore")
    monkeypatch.setattr(FakeMindSpore, "device", ("CPU", 0))
    with pytest.raises(ValueError, match="on CPU:0 in this process"):
        load_checkpoint(path, device="ascend", framework="mindspore")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": 0}, TypeError, "device must be"),
        ({"framework": 1}, TypeError, "framework must be"),
        ({"framework": "keras"}, ValueError, "framework must be one of"),
        ({"device": "cuda:0", "framework": "numpy"}, ValueError, "NumPy has no arrays"),
        ({"device": "tpu:0"}, RuntimeError, "tpu"),
        ({"device": "sim:x"}, ValueError, "no device is called"),
        ({"device": "sim:7"}, RuntimeError, "sim:7"),
        ({"device": "sim:0", "mmap": True}, ValueError, "mmap"),
        ({"device": "sim:0", "net": nn.Cell()}, ValueError, "net"),
    ],
)
def test_bad_places_to_load_to_are_refused(
    tmp_path: pathlib.Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    stand_in("sim")
    save_checkpoint({"w": np.ones(2)}, tmp_path / "a.ckpt")
    with pytest.raises(error, match=says):
        load_checkpoint(tmp_path / "a.ckpt", **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"snapshot": "host"}, ValueError),  # without async_save
        ({"snapshot": "hots", "async_save": True}, ValueError),
        ({"snapshot": 1, "async_save": True}, TypeError),
        ({"stream": "default"}, TypeError),
        ({"stream": True}, TypeError),
        ({"trace": 1}, TypeError),
    ],
)
def test_bad_device_options_are_refused(
    tmp_path: pathlib.Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        save_checkpoint({"w": np.ones(2)}, tmp_path / "a.ckpt", **options)
    assert list(tmp_path.iterdir()) == []
