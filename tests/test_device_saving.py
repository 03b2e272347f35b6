"""Saving from devices, through the public interface, on the stand-ins."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import mindckpt
from mindckpt import Parameter, load_checkpoint, load_param_into_net, nn, save_checkpoint
from stand_in import POLICIES, TO_HOST, StandIn, StandInArray, model, stand_in
from support import MODES, TYPE_NAMES, assert_holds

SYNC = {"cuda": b"cuCtxSynchronize", "sim": b"device_sync"}


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


@pytest.mark.parametrize(("rows", "nbytes"), [(1, 32), (4, 128)])
def test_a_parameter_whose_tensor_has_another_length_now_is_refused(
    tmp_path: pathlib.Path, device: StandIn, stream: int, rows: int, nbytes: int
) -> None:
    array = device.array(np.zeros((4, 8), np.float32), stream=stream)
    array.shape = (2, 8)
    parameter = Parameter(array, name="w")
    array.shape = (rows, 8)
    with pytest.raises(ValueError, match=rf"save_obj\['w'\]: .* {nbytes} bytes now, not 64"):
        save_checkpoint([parameter], tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


class Unnamed(StandInArray):
    """Shows its memory by an interface that the engine leaves to Python: of version 2."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**super().__cuda_array_interface__, "version": 2}


@pytest.mark.parametrize("kind", [StandInArray, Unnamed])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("moved", [False, True])
def test_a_parameter_shows_no_memory_beyond_its_tensor_of_now(
    device: StandIn, stream: int, kind: type[StandInArray], rows: int, moved: bool
) -> None:
    """Nor writes there, wherever the tensor has its memory by now."""
    array = kind(device, np.zeros((4, 8), np.float32), 0, stream)
    other = kind(device, np.ones((4, 8), np.float32), 0, stream)
    array.shape = (2, 8)
    parameter = Parameter(array, name="w")
    net = nn.Cell()
    net.w = parameter
    if moved:
        array.pointer, other.pointer = other.pointer, array.pointer
    array.shape = (rows, 8)
    with pytest.raises(ValueError, match="another length"):
        parameter.asnumpy()
    with pytest.raises(ValueError, match="another length"):
        parameter.__dlpack__()
    new = {"w": Parameter(np.full((2, 8), 7, np.float32))}
    with pytest.raises(ValueError, match="another length"):
        load_param_into_net(net, new)
    array.shape = (4, 8)
    for one in (array, other):
        assert np.unique(one.read()).tolist() in ([0], [1])


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


PINNING = {"cuda": b"cuMemHostRegister_v2", "sim": b"host_register"}


def test_a_save_without_memory_for_a_snapshot_returns_when_all_was_read(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    """And says so: 'auto' finds room for a copy neither on the device nor on the host."""
    tensors, values = model(device, stream)
    mindckpt.release_staging()
    device.set_memory(1 << 20)
    device.fail(PINNING[device.backend], 1)
    device.stream_pause(stream)
    later = threading.Timer(0.05, device.stream_resume, [stream])
    later.start()
    job = save_checkpoint(tensors, tmp_path / "a.ckpt", async_save=True)
    assert job is not None
    assert job.staged.done()
    for tensor in tensors.values():
        tensor.fill(0xEE)
    stats = job.result()
    later.join()
    assert stats["snapshot"] == "none"
    assert "too little" in stats["snapshot_reason"]
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), values)


def test_a_fence_waits_as_long_as_it_takes(
    tmp_path: pathlib.Path, device: StandIn, stream: int
) -> None:
    """Also longer than it waits between two looks for signals: here for a tensor on the host."""
    tensors, values = model(device, stream)
    held_up = device.stream_create(0)
    device.stream_pause(held_up)
    on_host = np.arange(100)
    job = save_checkpoint(
        {**tensors, "host": on_host},
        tmp_path / "a.ckpt",
        async_save=True,
        snapshot="lazy",
        stream=held_up,
    )
    assert job is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mindckpt.job._POLL_SECONDS", 0.001)
        fencing = threading.Thread(target=job.fence, args=[stream])
        fencing.start()
        fencing.join(0.1)
        has_waited = fencing.is_alive()
        device.stream_resume(held_up)
        fencing.join()
    assert has_waited
    assert job.staged.done()
    on_host.fill(0)
    job.result()
    device.stream_destroy(held_up)
    assert_holds(load_checkpoint(tmp_path / "a.ckpt"), {**values, "host": np.arange(100)})


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
