"""Saving from devices and loading to them, through the public interface, on the stand-ins."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mindckpt
from mindckpt import Parameter, load_checkpoint, load_param_into_net, nn, save_checkpoint
from stand_in import LIBRARIES, ON_DEVICE, TO_HOST, StandIn, StandInArray, library, stand_in
from support import MODES, TYPE_NAMES, assert_holds, run_python

POLICIES = ["auto", "device", "host", "lazy"]
SYNC = {"cuda": b"cuCtxSynchronize", "sim": b"device_sync"}


@pytest.fixture(params=["cuda", "sim"])
def device(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """A stand-in whose tensors are found by their pointers."""
    found = stand_in(request.param)
    found.reset()
    yield found
    found.reset()


@pytest.fixture
def stream(device: StandIn) -> Iterator[int]:
    """The training's stream, on the first device."""
    made = device.stream_create(0)
    yield made
    device.stream_destroy(made)


def model(device: StandIn, stream: int | None) -> tuple[dict[str, StandInArray], dict[str, Any]]:
    """Tensors on both devices, and what they hold."""
    rng = np.random.default_rng(5)
    values = {
        "embedding": rng.random((300, 257), np.float32),
        "bias": rng.integers(0, 9, 3).astype(np.int8),
        "scale": np.array(0.5, np.float16),
        "half": rng.random((5, 7)).astype(ml_dtypes.bfloat16),
    }
    return {name: device.array(value, stream=stream) for name, value in values.items()}, values


@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_tensors_on_a_device_are_saved_as_if_they_were_on_the_host(
    tmp_path: pathlib.Path, device: StandIn, stream: int, mode: str
) -> None:
    tensors, values = model(device, stream)
    mixed: dict[str, Any] = {**tensors, "host": np.arange(4), "text": "five"}
    expected = {**values, "host": np.arange(4), "text": "five"}
    mixed["other"] = device.array(np.ones(9), device=1)
    expected["other"] = np.ones(9)
    enc = {} if mode == "plain" else {"enc_key": bytes(16), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(16), "dec_mode": mode}
    save_checkpoint(mixed, tmp_path / "a.ckpt", crc_check=True, **enc)
    assert_holds(load_checkpoint(tmp_path / "a.ckpt", crc_check=True, **dec), expected)
    if mode == "plain":
        save_checkpoint(expected, tmp_path / "b.ckpt", crc_check=True)
        assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_every_type_is_saved_from_a_device(tmp_path: pathlib.Path, dtype: np.dtype[Any]) -> None:
    value = np.arange(12).astype(dtype).reshape(3, 4)
    save_checkpoint({"w": stand_in("cuda").array(value)}, tmp_path / "a.ckpt")
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": value})


def test_views_of_any_strides_are_saved_from_a_device(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    cube = np.arange(4 * 5 * 6, dtype=np.int32).reshape(4, 5, 6)
    for view in (cube.T, cube[::2, 1:, ::-1], cube[:, :, 3], cube[::-1]):
        array = device.array(cube, stream=stream)
        whole, offset = array.pointer, view.ctypes.data - cube.ctypes.data
        array.shape, array.strides, array.pointer = view.shape, view.strides, whole + offset
        save_checkpoint({"w": array}, tmp_path / "a.ckpt")
        array.pointer = whole
        assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": view})


def test_a_tensor_that_shows_nothing_any_more_is_named(
    tmp_path: pathlib.Path, device: StandIn
) -> None:
    """Also when others of its type came before it, which are read by a shorter way then."""

    class Freed(StandInArray):
        gone = False

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            if self.gone:
                raise RuntimeError("was freed")
            return super().__cuda_array_interface__

    arrays = {name: Freed(device, np.ones(3), 0, None) for name in ("a", "b", "c")}
    arrays["c"].gone = True
    with pytest.raises(TypeError, match=r"save_obj\['c'\].*was freed"):
        save_checkpoint(arrays, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_empty_tensors_on_a_device_are_kept(tmp_path: pathlib.Path, device: StandIn) -> None:
    empty = np.zeros((2, 0, 3), np.float16)
    save_checkpoint({"w": device.array(empty)}, tmp_path / "a.ckpt")
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": empty})


@pytest.mark.parametrize("policy", POLICIES)
def test_an_async_save_has_the_values_of_the_call(
    tmp_path: pathlib.Path, device: StandIn, stream: int, policy: str
) -> None:
    tensors, values = model(device, stream)
    device.set_speed(TO_HOST, 50e6, 0)
    for durable in (False, True):
        job = save_checkpoint(
            tensors, tmp_path / "a.ckpt", async_save=True, snapshot=policy, durable=durable
        )
        assert job is not None
        if policy == "lazy":
            job.fence(stream)
        for tensor in tensors.values():
            tensor.fill(0xEE)
        stats = job.result()
        assert_holds(load_checkpoint(tmp_path / "a.ckpt"), values)
        assert stats["snapshot"] == ("device" if policy == "auto" else policy)
        assert bool(stats["snapshot_reason"]) == (policy == "auto")
        assert 0 < job.staged.result() <= job.written.result()
        if durable:
            assert job.durable.result() >= job.written.result()
        else:
            with pytest.raises(RuntimeError, match="durable=False"):
                job.durable.result()
            assert isinstance(job.durable.exception(), RuntimeError)
        device.stream_sync(stream)
        for name, value in values.items():
            flat = np.ascontiguousarray(value)
            device.write(tensors[name].pointer, flat.ctypes.data, flat.nbytes)


def test_a_stream_can_be_named_for_tensors_that_name_none(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    tensors, values = model(device, None)
    device.stream_pause(stream)
    job = save_checkpoint(
        tensors, tmp_path / "a.ckpt", async_save=True, stream=stream, snapshot="device"
    )
    assert job is not None
    assert not job.staged.wait(0.05)
    with pytest.raises(TimeoutError):
        job.staged.result(0)
    with pytest.raises(TimeoutError):
        job.written.exception(0)
    device.stream_resume(stream)
    job.result()
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), values)


def test_tensors_of_an_unknown_stream_are_copied_before_the_call_returns(
    tmp_path: pathlib.Path, device: StandIn
) -> None:
    tensors, values = model(device, None)
    for policy in ("host", "device"):
        job = save_checkpoint(tensors, tmp_path / "a.ckpt", async_save=True, snapshot=policy)
        assert job is not None
        assert job.staged.done()
        job.result()
        assert_holds(load_checkpoint(tmp_path / "a.ckpt"), values)


def test_a_parameter_is_saved_in_the_stream_that_its_tensor_is_in_now(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    value = np.arange(5000, dtype=np.float32)
    array = device.array(value, stream=device.stream_create(0))
    net = nn.Cell()
    net.on_device, net.on_host = Parameter(array), Parameter(value[:9])
    array.stream = stream  # training goes on in another
    device.stream_pause(stream)
    array.fill(0)
    job = save_checkpoint(net, tmp_path / "a.ckpt", async_save=True, snapshot="device")
    assert job is not None
    assert not job.staged.wait(0.05)
    device.stream_resume(stream)
    job.result()
    expected = {"on_device": np.zeros_like(value), "on_host": value[:9]}
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), expected)


def test_a_parameter_whose_tensor_has_other_memory_now_is_saved_from_there(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    array = device.array(np.zeros((2, 8), np.float32), stream=stream)
    parameter = Parameter(array, name="w")
    other = device.array(np.full((2, 8), 7, np.float32), stream=stream)
    array.pointer, other.pointer = other.pointer, array.pointer
    save_checkpoint([parameter], tmp_path / "a.ckpt")
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": np.full((2, 8), 7, np.float32)})


def test_a_parameter_whose_tensor_has_another_length_now_is_refused(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    array = device.array(np.zeros((2, 8), np.float32), stream=stream)
    parameter = Parameter(array, name="w")
    array.shape = (8,)
    with pytest.raises(ValueError, match=r"save_obj\['w'\]: .* 32 bytes now, not 64"):
        save_checkpoint([parameter], tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_stream_that_is_named_is_waited_for_beside_the_tensors_own(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    value = np.arange(5000, dtype=np.float32)
    array = device.array(value, stream=stream)
    other = device.stream_create(0)
    for late, named in ((stream, other), (other, other)):
        device.stream_pause(late)
        job = save_checkpoint(
            {"w": array}, tmp_path / "a.ckpt", async_save=True, snapshot="lazy", stream=named
        )
        assert job is not None
        assert not job.staged.wait(0.05)
        device.stream_resume(late)
        job.result()
    tensors = {"a": array, "b": device.array(value, device=1)}
    with pytest.raises(ValueError, match="stream"):
        save_checkpoint(tensors, tmp_path / "b.ckpt", stream=other)


@pytest.fixture
def late_write(tmp_path: pathlib.Path, device: StandIn, stream: int) -> Iterator[LateWrite]:
    """A Parameter that was loaded to a device, and new values that are on their way to it."""
    with LateWrite(tmp_path, device, stream) as made:
        yield made


class LateWrite:
    """The write comes through only after the test has gone on, or was made to wait."""

    def __init__(self, folder: pathlib.Path, device: StandIn, stream: int) -> None:
        self.device = device
        self.stream = stream
        self.values = np.arange(5000, dtype=np.float32)
        save_checkpoint({"w": np.zeros_like(self.values)}, folder / "zeros.ckpt")
        loaded = load_checkpoint(folder / "zeros.ckpt", device=f"{device.backend}:0")["w"]
        assert isinstance(loaded, Parameter)
        self.parameter = loaded
        payload = loaded._array.payload  # type: ignore[union-attr]
        device.stream_pause(stream)
        device.stream_write(stream, payload.pointer, self.values.ctypes.data, self.values.nbytes)
        self._later = threading.Timer(0.05, device.stream_resume, [stream])

    def __enter__(self) -> LateWrite:
        self._later.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._later.join()


@pytest.mark.parametrize("policy", ["sync", *POLICIES])
def test_memory_of_ours_is_saved_after_whatever_writes_to_it(
    tmp_path: pathlib.Path, late_write: LateWrite, policy: str
) -> None:
    options: dict[str, Any] = {} if policy == "sync" else {"async_save": True, "snapshot": policy}
    job = save_checkpoint({"w": late_write.parameter}, tmp_path / "a.ckpt", **options)
    if job is not None:
        job.result()
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": late_write.values})
    assert late_write.device.calls(SYNC[late_write.device.backend]) == 1


def test_memory_of_ours_is_shown_after_whatever_writes_to_it(late_write: LateWrite) -> None:
    assert np.array_equal(late_write.parameter.asnumpy(), late_write.values)


def test_memory_of_ours_is_given_away_after_whatever_writes_to_it(late_write: LateWrite) -> None:
    device, parameter = late_write.device, late_write.parameter
    if device.backend == "cuda":
        interface = parameter.__cuda_array_interface__
        assert interface["stream"] is None  # the values are there
        pointer = interface["data"][0]
    else:  # what DLPack does not know has no capsule, but is waited for all the same
        with pytest.raises(BufferError):
            parameter.__dlpack__()
        pointer = parameter._array.payload.pointer  # type: ignore[union-attr]
    seen = np.empty_like(late_write.values)
    device.read(pointer, seen.ctypes.data, seen.nbytes)
    assert np.array_equal(seen, late_write.values)


def test_memory_of_ours_is_loaded_to_after_whatever_writes_to_it(late_write: LateWrite) -> None:
    net = nn.Cell()
    net.w = late_write.parameter
    assert load_param_into_net(net, {"w": Parameter(-late_write.values)}) == ([], [])
    late_write.device.stream_sync(late_write.stream)
    assert np.array_equal(net.w.asnumpy(), -late_write.values)


def test_a_stream_that_is_named_saves_the_wait_for_the_device(
    tmp_path: pathlib.Path, late_write: LateWrite
) -> None:
    device = late_write.device
    options: dict[str, Any] = {"async_save": True, "snapshot": "device"}
    for value, stream in (
        (late_write.parameter, late_write.stream),
        (device.array(late_write.values), None),  # that names none: its values are there
    ):
        job = save_checkpoint({"w": value}, tmp_path / "a.ckpt", stream=stream, **options)
        assert job is not None
        job.result()
        assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": late_write.values})
    assert device.calls(SYNC[device.backend]) == 0


def test_a_tensor_in_the_default_stream_is_shown_in_it(device: StandIn) -> None:
    if device.backend != "cuda":
        return
    parameter = Parameter(device.array(np.ones(3), stream=0))
    assert parameter.__cuda_array_interface__["stream"] == 1  # 0 is not to be named


def test_the_tensors_live_until_they_are_staged(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    """The stand-in ends the process when memory is freed under a copy."""
    tensors, values = model(device, stream)
    device.stream_pause(stream)
    job = save_checkpoint(tensors, tmp_path / "a.ckpt", async_save=True, snapshot="device")
    assert job is not None
    tensors.clear()
    device.stream_resume(stream)
    job.result()
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), values)


@pytest.mark.parametrize("policy", ["sync", *POLICIES])
def test_a_device_that_fails_leaves_the_old_file_and_a_clear_error(
    tmp_path: pathlib.Path, policy: str
) -> None:
    device = stand_in("sim")
    device.reset()
    tensors, _ = model(device, None)
    save_checkpoint({"w": np.ones(2)}, tmp_path / "a.ckpt")
    device.fail(b"copy_batch_async", 1)
    device.fail(b"copy_async", 1)
    options: dict[str, Any] = {} if policy == "sync" else {"async_save": True, "snapshot": policy}

    def save() -> None:
        job = save_checkpoint(tensors, tmp_path / "a.ckpt", **options)
        assert job is not None
        with pytest.raises(RuntimeError, match=r"sim:0: copy"):
            job.written.result()
        job.result()

    with pytest.raises(RuntimeError, match=r"sim:0: copy"):
        save()
    device.reset()
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {"w": np.ones(2)})
    save_checkpoint(tensors, tmp_path / "a.ckpt")


# ---- loading


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


# ---- what a process knows of devices


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
