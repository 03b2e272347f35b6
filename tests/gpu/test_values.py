"""Right values in files saved from a GPU and in tensors loaded to it, by the real driver.

Oracles: the same values saved from host memory, byte for byte, and the frameworks' own copies.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mindckpt
from gpu.frameworks import NAMES, framework, raw
from gpu.tensors import POLICIES, Array, model, on_device, result_of, samples
from mindckpt import Parameter, _core, load_checkpoint, load_param_into_net, nn, save_checkpoint
from support import MODES, TYPE_NAMES, assert_holds

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


def test_torchs_storages_that_are_gone_and_wrappers_are_refused(folder: Path) -> None:
    """What a view claims beyond its storage is somebody else's memory; a DTensor has none."""
    torch = framework("torch").module

    class Wrapper(torch.Tensor):  # type: ignore[misc]
        @staticmethod
        def __new__(cls) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, (3,), device="cuda")

        @classmethod
        def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
            raise AssertionError(f"{func}: nothing is computed with it")

    freed, cut = (torch.arange(1000.0, device="cuda") for _ in range(2))
    view = cut[500:]
    freed.untyped_storage().resize_(0)
    cut.untyped_storage().resize_(2400)
    for tensor, says in (
        (freed, "0 of 4000 bytes"),
        (view, "2400 of 4000 bytes"),
        (Wrapper(), "to_local"),
    ):
        with pytest.raises(TypeError, match=rf"'w'.*{says}"):
            save_checkpoint({"w": tensor}, folder / "a.ckpt")
    assert list(folder.iterdir()) == []


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
    tensor = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.loads_as)["w"]
    read = library.host(tensor)
    assert read.shape == values.shape
    assert read.dtype == dtype
    assert raw(read).tobytes() == raw(values).tobytes()
    save_checkpoint({"w": tensor}, folder / "b.ckpt")
    assert (folder / "b.ckpt").read_bytes() == (folder / "a.ckpt").read_bytes()


def test_jax_without_x64_refuses_64_bit_types_on_the_device_too(folder: Path) -> None:
    jax = framework("jax").module
    save_checkpoint(
        {"small": np.ones(3, np.float32), "wide": np.array(2**40 + 5)}, folder / "a.ckpt"
    )
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match=r"'wide'.*jax_enable_x64"):
            load_checkpoint(folder / "a.ckpt", device="cuda:0", framework="jax")
    finally:
        jax.config.update("jax_enable_x64", True)
    loaded: Any = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework="jax")
    assert int(loaded["wide"]) == 2**40 + 5


def test_int4_is_loaded_to_torch_as_its_values_in_int8(folder: Path) -> None:
    torch = framework("torch").module
    codes = np.array([[1, -2, 7], [-8, 0, 5]], np.int8)
    save_checkpoint({"q": mindckpt.Tensor(codes, mindckpt.qint4x2)}, folder / "a.ckpt")
    loaded: Any = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework="torch")["q"]
    assert (loaded.dtype, loaded.device.type) == (torch.int8, "cuda")
    assert loaded.tolist() == codes.tolist()


@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_models_are_loaded_in_every_mode(folder: Path, library: Any, mode: str) -> None:
    values = model()
    enc = {} if mode == "plain" else {"enc_key": bytes(16), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(16), "dec_mode": mode}
    save_checkpoint({**values, "text": "five"}, folder / "a.ckpt", crc_check=True, **enc)
    loaded = load_checkpoint(
        folder / "a.ckpt", device="cuda:0", framework=library.loads_as, crc_check=True, **dec
    )
    assert loaded.pop("text") == "five"
    for name, value in values.items():
        read = library.host(loaded[name])
        assert (read.shape, read.dtype) == (value.shape, value.dtype), name
        assert raw(read).tobytes() == raw(value).tobytes(), name


@pytest.mark.parametrize(
    ("name", "see"), [("cupy", "asarray"), ("cupy", "from_dlpack"), ("torch", "from_dlpack")]
)
def test_loaded_parameters_are_seen_by_the_frameworks(folder: Path, name: str, see: str) -> None:
    """By __cuda_array_interface__ and DLPack, without a copy."""
    library = framework(name)
    values = np.random.default_rng(4).random((30, 40), np.float32)
    save_checkpoint({"w": values}, folder / "a.ckpt")
    parameter: Any = load_checkpoint(folder / "a.ckpt", device="cuda:0")["w"]
    tensor = getattr(library.module, see)(parameter)
    assert library.pointer(tensor) == parameter.__cuda_array_interface__["data"][0]
    assert np.array_equal(library.host(tensor), values)


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
