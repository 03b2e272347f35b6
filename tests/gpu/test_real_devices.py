"""Saves from a GPU and loads to it, by the real driver: `make gpu`.

Oracles: the same values saved from host memory, byte for byte, and the frameworks' own copies.
"""

import contextlib
import ctypes
import filecmp
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mindckpt
from gpu.frameworks import NAMES, Array, framework, no_gpu, raw, staging_limit
from mindckpt import Parameter, _core, load_checkpoint, load_param_into_net, nn, save_checkpoint
from support import MODES, TYPE_NAMES, assert_holds, run_python

pytestmark = pytest.mark.skipif(bool(no_gpu()), reason=no_gpu() or "there is a GPU")

POLICIES = ["auto", "device", "host", "lazy"]
MIB = 1 << 20


@pytest.fixture(params=NAMES)
def library(request: pytest.FixtureRequest) -> Any:
    """Each framework that is here and sees the GPU."""
    return framework(request.param)


@pytest.fixture(params=["cupy", "torch"])
def streamed(request: pytest.FixtureRequest) -> Any:
    """Those with streams and tensors that change."""
    return framework(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder emptied after the test, and the frameworks' caches with it."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()
    gc.collect()
    for name in NAMES:
        if name in sys.modules:
            with contextlib.suppress(pytest.skip.Exception):
                framework(name).free_cache()


def samples(dtype: np.dtype[Any], count: int = 3000) -> Array:
    """Values of all bit patterns, of bool the two that there are."""
    rng = np.random.default_rng(count)
    if dtype == np.bool_:
        return rng.integers(0, 2, count).astype(np.bool_).reshape(3, -1)
    drawn = rng.integers(0, 256, count * dtype.itemsize, np.uint8)
    return drawn.view(dtype).reshape(3, -1)


def model() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {
        "embedding": rng.random((3000, 257), np.float32),
        "bias": rng.integers(0, 9, 3).astype(np.int8),
        "scale": np.array(0.5, np.float16),
        "half": rng.random((5, 7)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((2, 0, 3), np.float32),
    }


def on_device(library: Any, values: dict[str, Array], device: int = 0) -> dict[str, Any]:
    return {name: library.array(value, device) for name, value in values.items()}


def result_of(job: Any) -> Any:
    assert job is not None
    return job.result(timeout=300)


def free_memory() -> int:
    """Bytes that the driver says are free on the first device, whoever freed them."""
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxPushCurrent_v2(context) == 0
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    assert cuda.cuCtxPopCurrent_v2(ctypes.byref(context)) == 0
    assert cuda.cuDevicePrimaryCtxRelease_v2(device) == 0
    return free.value


def needs(folder: Path, disk: int, host: int) -> None:
    """Skips the test where there is too little of something."""
    if shutil.disk_usage(folder).free < disk:
        pytest.skip(f"takes {disk / 2**30:.1f} GiB in {folder}")
    found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    if found and int(found[1]) << 10 < host:
        pytest.skip(f"takes {host / 2**30:.1f} GiB of memory")


# ---- what there is


def test_the_driver_is_listed_with_its_devices() -> None:
    (cuda,) = (backend for backend in mindckpt.devices() if backend["name"] == "cuda")
    assert cuda["unusable"] == ""
    assert cuda["origin"] == "built in"
    assert cuda["device_count"] > 0
    assert re.fullmatch(r"CUDA driver \d+\.\d+", cuda["version"])


def test_a_pointer_tells_its_device(library: Any) -> None:
    """Also one into the middle of an allocation; host memory is on none."""
    tensor = library.array(np.arange(1 << 20, dtype=np.float32))
    pointer = library.pointer(tensor)
    for offset in (0, 4096, tensor.nbytes - 1):
        found = _core.DeviceArray.find(pointer + offset, 1, None, tensor, None)
        assert found is not None
        assert (found.device, found.ordinal) == ("cuda:0", 0)
    host = np.zeros(100)
    assert _core.DeviceArray.find(host.ctypes.data, host.nbytes, None, host, None) is None


def test_a_pointer_of_a_stream_ordered_allocation_tells_its_device(folder: Path) -> None:
    cupy = framework("cupy").module
    if not cupy.cuda.runtime.deviceGetAttribute(115, 0):  # cudaDevAttrMemoryPoolsSupported
        pytest.skip("the device has no memory pools")
    values = np.arange(100_000, dtype=np.float32)
    with cupy.cuda.using_allocator(cupy.cuda.malloc_async):
        tensor = cupy.asarray(values)
        save_checkpoint({"w": tensor}, folder / "a.ckpt")
        del tensor
    assert_holds(load_checkpoint(folder / "a.ckpt"), {"w": values})


# ---- synchronous saves


def test_a_save_has_the_bytes_of_one_from_the_host(folder: Path, library: Any) -> None:
    values = model()
    save_checkpoint(values, folder / "host.ckpt", crc_check=True)
    save_checkpoint(on_device(library, values), folder / "device.ckpt", crc_check=True)
    assert (folder / "device.ckpt").read_bytes() == (folder / "host.ckpt").read_bytes()


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_every_type_is_saved_as_from_the_host(
    folder: Path, library: Any, dtype: np.dtype[Any]
) -> None:
    if not library.supports(dtype):
        pytest.skip(f"{library.name} has no {dtype}")
    values = samples(dtype)
    save_checkpoint({"w": values}, folder / "host.ckpt")
    save_checkpoint({"w": library.array(values)}, folder / "device.ckpt")
    assert (folder / "device.ckpt").read_bytes() == (folder / "host.ckpt").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_encrypted_saves_hold_the_values(folder: Path, library: Any, mode: str) -> None:
    values = model()
    save_checkpoint(on_device(library, values), folder / "a.ckpt", enc_key=bytes(16), enc_mode=mode)
    loaded = load_checkpoint(folder / "a.ckpt", dec_key=bytes(16), dec_mode=mode)
    assert_holds(loaded, values)


def test_tensors_of_all_frameworks_go_into_one_file(folder: Path) -> None:
    values: dict[str, Array] = {"host": np.arange(7.0)}
    tensors: dict[str, Any] = dict(values)
    for name in NAMES:
        try:
            library = framework(name)
        except pytest.skip.Exception:
            continue
        values[name] = np.random.default_rng(1).random((100, 33), np.float32)
        tensors[name] = library.array(values[name])
    assert len(tensors) > 1
    save_checkpoint(tensors, folder / "a.ckpt")
    assert_holds(load_checkpoint(folder / "a.ckpt"), values)


def slices(length: int, steps: tuple[int, ...]) -> st.SearchStrategy[slice]:
    ends = st.integers(0, length)
    return st.builds(
        lambda a, b, step: (
            slice(min(a, b), max(a, b), step)
            if step > 0
            else slice(max(a, b), min(a, b) or None, step)
        ),
        ends,
        ends,
        st.sampled_from(steps),
    )


@settings(settings.get_profile("gpu"))
@given(data=st.data(), order=st.permutations(range(3)))
def test_any_view_is_saved_as_from_the_host(
    folder: Path, streamed: Any, data: st.DataObject, order: list[int]
) -> None:
    shape = (7, 6, 9)
    cube = np.arange(7 * 6 * 9, dtype=np.int32).reshape(shape)
    steps = (1, 2, 3) if streamed.name == "torch" else (1, 2, -1, -3)
    cut = tuple(data.draw(slices(length, steps)) for length in shape)
    whole = streamed.array(cube)
    permute = whole.permute if streamed.name == "torch" else whole.transpose
    view = permute(*order)[tuple(cut[axis] for axis in order)]
    expected = cube.transpose(order)[tuple(cut[axis] for axis in order)]
    save_checkpoint({"w": view}, folder / "device.ckpt")
    save_checkpoint({"w": expected}, folder / "host.ckpt")
    assert (folder / "device.ckpt").read_bytes() == (folder / "host.ckpt").read_bytes()


class Shown:
    """What an unknown library would show of an array: one of the two protocols."""

    def __init__(self, array: Any, protocol: str) -> None:
        self._array = array
        if protocol == "interface":
            self.__cuda_array_interface__ = array.__cuda_array_interface__
        else:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = array.__dlpack_device__


@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
def test_views_of_unknown_libraries_are_saved_as_from_the_host(folder: Path, protocol: str) -> None:
    library = framework("cupy")
    cube = np.arange(4 * 5 * 6, dtype=np.int32).reshape(4, 5, 6)
    whole = library.array(cube)
    for index in (np.s_[:], np.s_[::2, 1:, :4], np.s_[:, :, 3], np.s_[1:, ::3]):
        for transposed in (False, True):
            view, expected = whole[index], cube[index]
            if transposed:
                view, expected = view.T, expected.T
            save_checkpoint({"w": Shown(view, protocol)}, folder / "a.ckpt")
            assert_holds(load_checkpoint(folder / "a.ckpt"), {"w": expected})


def test_torchs_parameters_and_lazy_conjugates_are_saved(folder: Path) -> None:
    library = framework("torch")
    torch = library.module
    values = np.random.default_rng(2).random((40, 50), np.float32)
    parameter = torch.nn.Parameter(library.array(values))
    turned = library.array(values.astype(np.complex64) * 1j).conj()
    save_checkpoint({"w": parameter, "t": parameter.t(), "c": turned}, folder / "a.ckpt")
    expected = {"w": values, "t": values.T, "c": (values.astype(np.complex64) * 1j).conj()}
    loaded = load_checkpoint(folder / "a.ckpt")
    for name, value in expected.items():
        assert np.array_equal(loaded[name].asnumpy(), value), name  # type: ignore[union-attr]


# ---- streams


@pytest.mark.parametrize("way", ["current", "named"])
def test_a_save_waits_for_what_its_stream_holds(folder: Path, streamed: Any, way: str) -> None:
    """The stream does not wait for the default one, and is busy when the values are written."""
    tensor = streamed.array(np.zeros(4 * MIB, np.int32))
    stream = streamed.stream()
    for number in range(1, 4):
        with streamed.within(stream):
            streamed.spin()
            streamed.fill(tensor, number)
            assert not streamed.idle(stream)
            if way == "current":
                save_checkpoint({"w": tensor}, folder / "a.ckpt")
        if way == "named":
            save_checkpoint({"w": tensor}, folder / "a.ckpt", stream=stream)
        saved = load_checkpoint(folder / "a.ckpt")["w"]
        assert np.all(saved.asnumpy() == number)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["null", "ptds"])
def test_a_save_waits_for_the_default_streams(folder: Path, kind: str) -> None:
    """The legacy one, and the thread's own."""
    library = framework("cupy")
    tensor = library.array(np.zeros(4 * MIB, np.int32))
    with getattr(library.module.cuda.Stream, kind):
        library.spin()
        library.fill(tensor, 7)
        save_checkpoint({"w": tensor}, folder / "a.ckpt")
    saved = load_checkpoint(folder / "a.ckpt")["w"]
    assert np.all(saved.asnumpy() == 7)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_async_save_has_the_values_of_the_call(folder: Path, streamed: Any, policy: str) -> None:
    """Overwritten at once in their own stream, which waits for no other, many times."""
    count, length = 6, 4 * MIB
    tensors = on_device(streamed, {str(i): np.zeros(length, np.int32) for i in range(count)})
    stream = streamed.stream()
    for number in range(1, 31):
        with streamed.within(stream):
            for at, tensor in enumerate(tensors.values()):
                streamed.fill(tensor, 100 * number + at)
            job = save_checkpoint(
                tensors, folder / "a.ckpt", async_save=True, snapshot=policy, durable=False
            )
            assert job is not None
            if policy == "lazy":
                job.fence(stream)
            for tensor in tensors.values():
                streamed.fill(tensor, -1)
        stats = result_of(job)
        assert stats["snapshot"] == policy or policy == "auto"
        loaded = load_checkpoint(folder / "a.ckpt")
        for at, name in enumerate(tensors):
            saved = loaded[name].asnumpy()  # type: ignore[union-attr]
            assert np.all(saved == 100 * number + at), f"round {number}, tensor {name}"
        assert 0 < job.staged.result() <= job.written.result()


@pytest.mark.parametrize("policy", ["auto", "device", "host"])
def test_jaxs_buffers_may_be_donated_once_they_are_staged(folder: Path, policy: str) -> None:
    library = framework("jax")
    step = library.module.jit(lambda array: array + 1, donate_argnums=0)
    array = library.array(np.zeros(8 * MIB, np.int32))
    for number in range(20):
        job = save_checkpoint({"w": array}, folder / "a.ckpt", async_save=True, snapshot=policy)
        assert job is not None
        job.staged.wait()
        array = step(array)
        result_of(job)
        saved = load_checkpoint(folder / "a.ckpt")["w"]
        assert np.all(saved.asnumpy() == number)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["device", "host", "lazy"])
def test_the_caller_does_not_wait_for_a_busy_stream(
    folder: Path, streamed: Any, policy: str
) -> None:
    tensor = streamed.array(np.zeros(4 * MIB, np.int32))
    stream = streamed.stream()
    # Memory is pinned, and the device attached.
    result_of(save_checkpoint({"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy))
    with streamed.within(stream):
        for _ in range(3):
            streamed.spin()
        streamed.fill(tensor, 3)
        job = save_checkpoint({"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy)
        assert job is not None
        if policy == "lazy":
            job.fence(stream)
        streamed.fill(tensor, 4)
    assert not streamed.idle(stream)
    assert not job.staged.done()
    result_of(job)
    saved = load_checkpoint(folder / "a.ckpt")["w"]
    assert np.all(saved.asnumpy() == 3)  # type: ignore[union-attr]


def test_a_lazy_save_is_fenced_from_another_stream(folder: Path, streamed: Any) -> None:
    """The training reads in one stream; the optimizer writes in a second, after the fence."""
    tensors = on_device(streamed, {str(i): np.zeros(8 * MIB, np.int32) for i in range(4)})
    training, optimizer = streamed.stream(), streamed.stream()
    for number in range(1, 11):
        with streamed.within(training):
            for tensor in tensors.values():
                streamed.fill(tensor, number)
            job = save_checkpoint(
                tensors, folder / "a.ckpt", async_save=True, snapshot="lazy", durable=False
            )
        assert job is not None
        job.fence(optimizer)
        with streamed.within(optimizer):
            for tensor in tensors.values():
                streamed.fill(tensor, -1)
        assert result_of(job)["snapshot"] == "lazy"
        for parameter in load_checkpoint(folder / "a.ckpt").values():
            assert np.all(parameter.asnumpy() == number)  # type: ignore[union-attr]
        streamed.synchronize()


@pytest.mark.parametrize("policy", POLICIES)
def test_tensors_freed_after_the_call_are_saved(folder: Path, streamed: Any, policy: str) -> None:
    """Their memory is in the framework's cache, for the next tensor, as soon as it lets go."""
    stream = streamed.stream()
    values = np.random.default_rng(3).integers(0, 1 << 30, 8 * MIB, np.int32)
    for _ in range(10):
        with streamed.within(stream):
            tensor = streamed.array(values)
            job = save_checkpoint(
                {"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy, durable=False
            )
            del tensor
            for other in [streamed.array(np.zeros_like(values)) for _ in range(3)]:
                streamed.fill(other, -1)
        result_of(job)
        assert_holds(load_checkpoint(folder / "a.ckpt"), {"w": values})


def test_auto_picks_the_device_where_it_has_memory(folder: Path, streamed: Any) -> None:
    tensors = on_device(streamed, model())
    stats = result_of(save_checkpoint(tensors, folder / "a.ckpt", async_save=True))
    assert stats["snapshot"] == "device"
    assert stats["snapshot_reason"]


def test_a_captured_stream_is_refused_and_goes_on_capturing(folder: Path) -> None:
    library = framework("cupy")
    tensor = library.array(np.zeros(1000, np.int32))
    stream = library.stream()
    library.fill(tensor, 0)  # compiled now
    save_checkpoint({"w": tensor}, folder / "a.ckpt")  # the device is attached
    before = (folder / "a.ckpt").read_bytes()
    with stream:
        stream.begin_capture()
        try:
            for options in ({}, *({"async_save": True, "snapshot": p} for p in POLICIES)):
                with pytest.raises((ValueError, RuntimeError), match="captured"):
                    refused(tensor, folder / "a.ckpt", options)
            library.fill(tensor, 5)
        finally:
            graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    assert np.all(library.host(tensor) == 5)
    assert (folder / "a.ckpt").read_bytes() == before
    assert os.listdir(folder) == ["a.ckpt"]


def refused(tensor: Any, path: Path, options: dict[str, Any]) -> None:
    job = save_checkpoint({"w": tensor}, path, **options)
    if job is not None:
        job.result(timeout=60)


# ---- several devices


def test_tensors_of_several_devices_go_into_one_file(folder: Path, library: Any) -> None:
    (cuda,) = (backend for backend in mindckpt.devices() if backend["name"] == "cuda")
    if cuda["device_count"] < 2:
        pytest.skip("there is one device")
    values = {str(i): samples(np.dtype(np.float32)) for i in range(cuda["device_count"])}
    tensors = {name: library.array(value, int(name)) for name, value in values.items()}
    save_checkpoint(values, folder / "host.ckpt")
    for options in ({}, *({"async_save": True, "snapshot": policy} for policy in POLICIES)):
        job = save_checkpoint(tensors, folder / "a.ckpt", **options)
        if job is not None:
            result_of(job)
        assert (folder / "a.ckpt").read_bytes() == (folder / "host.ckpt").read_bytes()
    last = f"cuda:{cuda['device_count'] - 1}"
    loaded = load_checkpoint(folder / "a.ckpt", device=last)
    assert {parameter.device for parameter in loaded.values()} == {last}  # type: ignore[union-attr]
    assert_holds(loaded, values)


# ---- loading


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_every_type_is_loaded_to_the_device(folder: Path, dtype: np.dtype[Any]) -> None:
    values = {"w": samples(dtype), "s": samples(dtype).reshape(-1)[:1].reshape(())}
    save_checkpoint(values, folder / "a.ckpt")
    loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0")
    assert {parameter.device for parameter in loaded.values()} == {"cuda:0"}  # type: ignore[union-attr]
    assert_holds(loaded, values)
    save_checkpoint(loaded, folder / "b.ckpt")
    assert (folder / "b.ckpt").read_bytes() == (folder / "a.ckpt").read_bytes()


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_every_type_is_loaded_as_a_frameworks_tensor(
    folder: Path, library: Any, dtype: np.dtype[Any]
) -> None:
    if not library.supports(dtype):
        pytest.skip(f"{library.name} has no {dtype}")
    values = samples(dtype)
    save_checkpoint({"w": values}, folder / "a.ckpt")
    tensor = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.name)["w"]
    read = library.host(tensor)
    assert read.shape == values.shape
    assert read.dtype == dtype
    assert raw(read).tobytes() == raw(values).tobytes()
    save_checkpoint({"w": tensor}, folder / "b.ckpt")
    assert (folder / "b.ckpt").read_bytes() == (folder / "a.ckpt").read_bytes()


@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_models_are_loaded_in_every_mode(folder: Path, library: Any, mode: str) -> None:
    values = model()
    enc = {} if mode == "plain" else {"enc_key": bytes(16), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(16), "dec_mode": mode}
    save_checkpoint({**values, "text": "five"}, folder / "a.ckpt", crc_check=True, **enc)
    loaded = load_checkpoint(
        folder / "a.ckpt", device="cuda:0", framework=library.name, crc_check=True, **dec
    )
    assert loaded.pop("text") == "five"
    for name, value in values.items():
        read = library.host(loaded[name])
        assert (read.shape, read.dtype) == (value.shape, value.dtype), name
        assert raw(read).tobytes() == raw(value).tobytes(), name


def test_loaded_parameters_are_seen_by_the_frameworks(folder: Path) -> None:
    """By __cuda_array_interface__ and DLPack, without a copy."""
    values = np.random.default_rng(4).random((30, 40), np.float32)
    save_checkpoint({"w": values}, folder / "a.ckpt")
    parameter: Any = load_checkpoint(folder / "a.ckpt", device="cuda:0")["w"]
    pointer = parameter.__cuda_array_interface__["data"][0]
    seen = 0
    for name, see in (("cupy", "asarray"), ("cupy", "from_dlpack"), ("torch", "from_dlpack")):
        try:
            library = framework(name)
        except pytest.skip.Exception:
            continue
        tensor = getattr(library.module, see)(parameter)
        assert library.pointer(tensor) == pointer
        assert np.array_equal(library.host(tensor), values)
        seen += 1
    assert seen


def test_parameters_of_ours_are_saved_after_whoever_writes_to_them(folder: Path) -> None:
    """In a stream that only the writer knows."""
    cupy = framework("cupy")
    save_checkpoint({"w": np.zeros((300, 40), np.float32)}, folder / "a.ckpt")
    parameter: Any = load_checkpoint(folder / "a.ckpt", device="cuda:0")["w"]
    with cupy.within(cupy.stream()):
        cupy.spin()
        cupy.fill(cupy.module.asarray(parameter), 7)
    save_checkpoint({"w": parameter}, folder / "a.ckpt")
    assert_holds(load_checkpoint(folder / "a.ckpt"), {"w": np.full((300, 40), 7, np.float32)})


def test_parameters_of_a_net_are_loaded_in_place(folder: Path, streamed: Any) -> None:
    """After what their stream holds, and converted where the net has another type."""
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "h": np.arange(4.0)}
    save_checkpoint(values, folder / "a.ckpt")
    tensors = {
        "w": streamed.array(np.zeros((2, 3), np.float32)),
        "h": streamed.array(np.zeros(4, np.float32)),
    }
    pointers = {name: streamed.pointer(tensor) for name, tensor in tensors.items()}
    stream = streamed.stream()
    for places in ({}, {"device": "cuda:0"}):
        net = nn.Cell()
        with streamed.within(stream):
            net.w, net.h = (Parameter(tensor) for tensor in tensors.values())
            streamed.spin()
            for tensor in tensors.values():
                streamed.fill(tensor, 9)
            loaded = load_checkpoint(folder / "a.ckpt", **places)
            assert load_param_into_net(net, loaded) == ([], [])
        streamed.synchronize()
        for name, tensor in tensors.items():
            assert streamed.pointer(tensor) == pointers[name]
            assert np.array_equal(streamed.host(tensor), values[name].astype(np.float32)), name


# ---- memory


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
    tensors = on_device(streamed, {str(i): np.zeros(16 * MIB, np.uint8) for i in range(8)})

    def everything() -> None:
        save_checkpoint(tensors, folder / "a.ckpt")
        for policy in POLICIES:
            result_of(save_checkpoint(tensors, folder / "a.ckpt", async_save=True, snapshot=policy))
        with pytest.raises((OSError, ValueError)):
            result_of(save_checkpoint(tensors, folder / "no" / "a.ckpt", async_save=True))
        for framework_name in (None, streamed.name):
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
    assert before - free_now() < 8 * MIB


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


# ---- large tensors


@pytest.mark.parametrize("policy", ["sync", *POLICIES])
def test_a_tensor_over_512_mib_is_saved_as_from_the_host(folder: Path, policy: str) -> None:
    """It is stored in slices."""
    library = framework("cupy" if not _is_missing("cupy") else "torch")
    nbytes = 600 * MIB + 12
    needs(folder, disk=3 * nbytes, host=5 * nbytes)
    values = np.random.default_rng(6).integers(0, 256, nbytes, np.uint8).view(np.float32)
    tensor = library.array(values)
    options = {} if policy == "sync" else {"async_save": True, "snapshot": policy}
    save_checkpoint({"w": values, "b": values[:3]}, folder / "host.ckpt", durable=False)
    job = save_checkpoint(
        {"w": tensor, "b": tensor[:3]}, folder / "a.ckpt", durable=False, **options
    )
    if job is not None:
        result_of(job)
    assert filecmp.cmp(folder / "a.ckpt", folder / "host.ckpt", shallow=False)
    loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.name)
    assert np.array_equal(library.host(loaded["w"]).view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("mode", ["plain", "AES-GCM"])
def test_a_tensor_over_4_gib_is_saved_and_loaded(folder: Path, mode: str) -> None:
    library = framework("cupy" if not _is_missing("cupy") else "torch")
    nbytes = (4 << 30) + 12
    needs(folder, disk=2 * nbytes, host=5 * nbytes)
    if free_memory() < 3 * nbytes:
        pytest.skip(f"takes {3 * nbytes / 2**30:.1f} GiB of device memory")
    values = np.random.default_rng(7).integers(0, 256, nbytes, np.uint8)
    tensor = library.array(values)
    enc = {} if mode == "plain" else {"enc_key": bytes(32), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(32), "dec_mode": mode}
    save_checkpoint({"w": tensor}, folder / "a.ckpt", durable=False, **enc)
    del tensor
    loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.name, **dec)
    assert np.array_equal(library.host(loaded["w"]), values)


def _is_missing(name: str) -> bool:
    try:
        framework(name)
    except pytest.skip.Exception:
        return True
    return False
