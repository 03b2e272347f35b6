"""Every kind of tensor saves right values. Oracle: NumPy's own C-ordered, native copy of it."""

import array
import ctypes
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mindckpt import Parameter, Tensor, dtypes, load_checkpoint, save_checkpoint
from support import TYPE_NAMES, Array, assert_holds, canonical, run_python, shown


def reloaded(folder: Path, value: Any) -> Parameter:
    """`value` saved under the name w, and loaded again."""
    path = str(folder / "a.ckpt")
    save_checkpoint({"w": value}, path, durable=False)
    (loaded,) = load_checkpoint(path).values()
    assert isinstance(loaded, Parameter)
    return loaded


def assert_saves_as(folder: Path, value: Any, expected: Array) -> None:
    save_checkpoint({"w": value}, str(folder / "a.ckpt"), durable=False)
    assert_holds(load_checkpoint(str(folder / "a.ckpt")), {"w": expected})


def sample(dtype: np.dtype[Any], shape: tuple[int, ...] = (3, 4)) -> Array:
    """Values that differ in every byte that the type has."""
    count = int(np.prod(shape))
    if dtype == np.bool_:
        return (np.arange(count) % 3 == 0).reshape(shape)
    raw = (np.arange(count * dtype.itemsize) * 37 % 251).astype(np.uint8)
    return raw.view(dtype).reshape(shape)


CUBE = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def overlapping() -> Array:
    return np.lib.stride_tricks.sliding_window_view(np.arange(10, dtype=np.int16), 4)


def unaligned() -> Array:
    return np.frombuffer(b"x" + np.arange(6, dtype=np.float64).tobytes(), np.float64, offset=1)


def read_only() -> Array:
    value = CUBE.copy()
    value.setflags(write=False)
    return value


SHAPES = {
    "C order": CUBE,
    "Fortran order": np.asfortranarray(CUBE),
    "transposed": CUBE.transpose(2, 0, 1),
    "every other": CUBE[:, ::2, 1::2],
    "negative strides": CUBE[::-1, :, ::-1],
    "negative strides in one dimension": np.arange(9, dtype=np.uint8)[::-2],
    "one column": CUBE[:, :, 1],
    "broadcast": np.broadcast_to(np.array([1, 2, 3], np.int32), (4, 3)),
    "broadcast scalar": np.broadcast_to(np.float64(2.5), (3, 2)),
    "overlapping windows": overlapping(),
    "unaligned": unaligned(),
    "read-only": read_only(),
    "0-d": np.array(3.5, np.float32),
    "0-d view": CUBE[1, 2, 3, ...],
    "one element": np.array([[[7]]], np.int64),
    "empty": np.zeros(0, np.float32),
    "empty in the middle": np.zeros((2, 0, 3), np.int16),
    "empty slice": CUBE[2:],
    "64 dimensions": np.zeros((1,) * 64, np.uint8)
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0"
    else CUBE,
    "field of a struct": np.array([(1, 2.0), (3, 4.0)], [("x", "i1"), ("y", "f4")])["y"],
    "real part": np.array([1 + 2j, 3 + 4j]).real,
    "imaginary part": np.array([1 + 2j, 3 + 4j]).imag,
    "over a block": np.arange(300_000, dtype=np.float32).reshape(1000, 300).T,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_strides_and_shapes_save_right_values(tmp_path: Path, shape: str) -> None:
    assert_saves_as(tmp_path, SHAPES[shape], SHAPES[shape])


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_every_type_saves_right_values_in_any_stride(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    value = sample(dtype, (5, 4))
    for view in (value, value.T, value[::-2, 1:], value[:, ::-1]):
        assert_saves_as(tmp_path, view, view)


@pytest.mark.parametrize(
    "kind", [">i2", ">i4", ">i8", ">u2", ">u4", ">u8", ">f2", ">f4", ">f8", ">c8", ">c16"]
)
def test_big_endian_arrays_save_right_values(tmp_path: Path, kind: str) -> None:
    value = sample(np.dtype(kind).newbyteorder("<"), (5, 4)).astype(kind)
    for view in (value, value.T, value[::-2, 1:], value[2, 3]):
        view = np.asarray(view, kind)
        assert_saves_as(tmp_path, view, view)


@settings(max_examples=150)
@given(data=st.data())
def test_any_view_of_any_array_saves_right_values(data: st.DataObject, tmp_path: Path) -> None:
    """Random types, byte orders, slices, steps and transpositions."""
    dtype = data.draw(
        st.one_of(
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(sizes=(16, 32, 64)),
        )
    )
    value = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=7)))
    view = value[data.draw(hnp.basic_indices(value.shape, allow_newaxis=True))]
    view = np.asarray(view, dtype)
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    assert_saves_as(tmp_path, view, view)


def test_a_memory_map_saves_right_values(tmp_path: Path) -> None:
    value = np.arange(1000, dtype=np.int32)
    value.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.int32, "r", shape=(10, 100))
    assert_saves_as(tmp_path, mapped, value.reshape(10, 100))
    assert_saves_as(tmp_path, mapped[::2, ::-1], value.reshape(10, 100)[::2, ::-1])


def test_a_save_changes_no_array_and_keeps_none(tmp_path: Path) -> None:
    """A view is saved without a copy, and let go of."""
    value = np.arange(12, dtype=np.float32)[::-1]
    before = value.tolist()
    base = value.base
    assert base is not None
    references = sys.getrefcount(base)
    save_checkpoint({"w": value}, str(tmp_path / "a.ckpt"))
    assert value.tolist() == before
    assert sys.getrefcount(base) == references


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (array.array("f", [1, 2, 3]), np.array([1, 2, 3], np.float32)),
        (array.array("q", [-1, 2**40]), np.array([-1, 2**40], np.int64)),
        (array.array("H", [1, 65535]), np.array([1, 65535], np.uint16)),
        (bytearray(b"\x00\x01\xff"), np.array([0, 1, 255], np.uint8)),
        (memoryview(b"\x00\x01\xff"), np.array([0, 1, 255], np.uint8)),
        (memoryview(CUBE), CUBE),
        (memoryview(CUBE)[::-1], CUBE[::-1]),
        (memoryview(np.asfortranarray(CUBE)), CUBE),
        (memoryview(np.array(5, np.int16)), np.array(5, np.int16)),
        (
            memoryview(array.array("d", range(6))).cast("B").cast("d", (2, 3)),
            np.arange(6.0).reshape(2, 3),
        ),
        (memoryview(CUBE.astype(">f4")), CUBE),
        (memoryview(np.array([True, False])), np.array([True, False])),
    ],
    ids=shown,
)
def test_the_buffer_protocol_saves_right_values(
    tmp_path: Path, value: Any, expected: Array
) -> None:
    assert_saves_as(tmp_path, value, expected)


class InterfaceOnly:
    """An array that only `__array_interface__` describes."""

    def __init__(self, value: Array) -> None:
        self._value = value  # keeps the memory alive
        self.__array_interface__ = value.__array_interface__


class DLPackOnly:
    """An array that only DLPack describes, as it was before version 1.0."""

    def __init__(self, value: Array) -> None:
        self._value = value

    def __dlpack__(self, stream: object = None) -> object:
        assert stream is None
        return self._value.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._value.__dlpack_device__()


@pytest.mark.parametrize("wrap", [InterfaceOnly, DLPackOnly])
@pytest.mark.parametrize(
    "view", ["C order", "transposed", "every other", "negative strides", "0-d", "empty"]
)
def test_protocol_only_arrays_save_right_values(tmp_path: Path, wrap: Any, view: str) -> None:
    value = SHAPES[view]
    assert_saves_as(tmp_path, wrap(value), value)


@pytest.mark.parametrize("kind", [">f4", ">i8"])
def test_a_big_endian_array_interface_saves_right_values(tmp_path: Path, kind: str) -> None:
    value = np.arange(6, dtype=kind).reshape(2, 3)
    assert_saves_as(tmp_path, InterfaceOnly(value), value)


def test_a_temporary_behind_a_protocol_lives_until_it_is_written(tmp_path: Path) -> None:
    """Nothing but the object keeps the memory: the save must hold on to it."""
    save_obj = {f"p{i}": InterfaceOnly(np.full(50_000, i, np.int64)) for i in range(20)}
    expected = {name: value._value.copy() for name, value in save_obj.items()}
    job = save_checkpoint(save_obj, str(tmp_path / "a.ckpt"), async_save=True)
    del save_obj
    assert job is not None
    job.result()
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), expected)


# ---- ours


@pytest.mark.parametrize(
    "wrap", [Tensor, Parameter, lambda value: Parameter(Tensor(value), name="other")]
)
@pytest.mark.parametrize(
    "view", ["C order", "transposed", "negative strides", "0-d", "empty", "read-only"]
)
def test_tensors_and_parameters_save_right_values(tmp_path: Path, wrap: Any, view: str) -> None:
    assert_saves_as(tmp_path, wrap(SHAPES[view]), SHAPES[view])


@pytest.mark.parametrize("dtype", [dtypes.hifloat8, dtypes.qint4x2], ids=str)
def test_types_that_numpy_lacks_go_through_a_tensor(tmp_path: Path, dtype: dtypes.DType) -> None:
    storage = sample(np.dtype(np.uint8)).view(dtype.numpy)
    loaded = reloaded(tmp_path, Tensor(storage, dtype))
    assert (loaded.dtype, loaded.shape) == (dtype, (3, 4))
    assert loaded.asnumpy().tobytes() == storage.tobytes()


def test_ml_dtypes_int4_saves_as_int4(tmp_path: Path) -> None:
    value = np.array([[-8, 7, 0], [1, -1, 3]], np.int8)
    loaded = reloaded(tmp_path, value.astype(ml_dtypes.int4))
    assert (loaded.dtype, loaded.shape) == (dtypes.qint4x2, (2, 3))
    assert loaded.asnumpy().astype(np.int8).tolist() == value.tolist()


class NullCapsule:
    """A DLPack exporter whose memory is gone: NumPy's capsule, with a null pointer in it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.zeros(shape, np.float32)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # The managed tensor's first field is its data.
        ctypes.c_void_p.from_address(pointer(capsule, b"dltensor")).value = None
        return capsule


def test_elements_at_a_null_pointer_are_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'w'.*null pointer"):
        save_checkpoint({"w": NullCapsule((2, 3))}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
    assert_saves_as(tmp_path, NullCapsule((0, 3)), np.zeros((0, 3), np.float32))


# ---- other frameworks


def test_a_memory_map_of_a_file_that_was_cut_is_a_type_error_that_says_what_is_left(
    tmp_path: Path,
) -> None:
    """Reading on would end the process with SIGBUS."""
    (tmp_path / "data").write_bytes(bytes(range(256)) * 64)
    mapped = np.memmap(tmp_path / "data", np.uint8, "r", offset=5000, shape=(8192,))
    assert_saves_as(tmp_path, mapped, np.asarray(mapped).copy())
    plain = np.asarray(mapped)
    held = Tensor(plain), Parameter(mapped, name="w")
    os.truncate(tmp_path / "data", 8192)
    for view in (mapped, mapped[::-2], mapped[4000:].reshape(2, -1), plain, plain[1:], *held):
        with pytest.raises(TypeError, match=r"'w'.*the file behind it has 8192 of 1\d{4} bytes"):
            save_checkpoint({"w": view}, tmp_path / "b.ckpt")
    with pytest.raises(TypeError, match="has 8192 of"):
        Tensor(mapped)
    kept = mapped[:3000:7]
    assert_saves_as(tmp_path, kept, np.asarray(kept).copy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "data"]


@pytest.mark.parametrize(
    "kind",
    [
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "bool",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ],
)
def test_torch_tensors_save_right_values(tmp_path: Path, torch: Any, kind: str) -> None:
    """Oracle: Tensor.numpy()."""
    value = (torch.arange(20).reshape(4, 5) % 7).to(getattr(torch, kind))
    for view in (value, value.t(), value[1:, ::2], value[2, 3], value[:0]):
        assert_saves_as(tmp_path, view, view.numpy())


@pytest.mark.parametrize(
    ("kind", "numpy_dtype"),
    [
        ("bfloat16", ml_dtypes.bfloat16),
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("float8_e5m2", ml_dtypes.float8_e5m2),
    ],
)
def test_torch_types_that_numpy_lacks_save_right_values(
    tmp_path: Path, torch: Any, kind: str, numpy_dtype: Any
) -> None:
    """Oracle: ml_dtypes' conversion of the same small integers, exact in all of these types."""
    value = torch.arange(12).reshape(3, 4).to(torch.float32).to(getattr(torch, kind))
    expected = np.arange(12).reshape(3, 4).astype(numpy_dtype)
    assert_saves_as(tmp_path, value, expected)
    assert_saves_as(tmp_path, value.t(), expected.T)
    assert_saves_as(tmp_path, value[1, 2], expected[1, 2])


def test_torch_views_are_resolved(tmp_path: Path, torch: Any) -> None:
    """Gradients are left behind; lazy conjugation and negation are carried out."""
    value = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    leaf = value.clone().requires_grad_()
    for tensor in (leaf, leaf * 1, torch.nn.Parameter(value.clone())):
        assert_saves_as(tmp_path, tensor, expected)
    both = torch.complex(value, value + 1)
    conjugate = canonical(expected - 1j * (expected + 1)).astype(np.complex64)
    assert both.conj().is_conj()
    assert_saves_as(tmp_path, both.conj(), conjugate)
    assert both.conj().imag.is_neg()
    assert_saves_as(tmp_path, both.conj().imag, -(expected + 1))


def test_a_torch_state_dict_saves_as_it_is(tmp_path: Path, torch: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = net.state_dict()
    save_checkpoint(state, str(tmp_path / "a.ckpt"))
    assert_holds(
        load_checkpoint(str(tmp_path / "a.ckpt")),
        {name: value.numpy() for name, value in state.items()},
    )


def test_a_torch_tensor_without_memory_here_is_a_type_error_that_names_it(
    tmp_path: Path, torch: Any
) -> None:
    with pytest.raises(TypeError, match=r"fc\.weight"):
        save_checkpoint({"fc.weight": torch.zeros(2, device="meta")}, str(tmp_path / "a.ckpt"))
    with pytest.raises(TypeError, match=r"fc\.weight"):
        save_checkpoint({"fc.weight": torch.eye(2).to_sparse()}, str(tmp_path / "a.ckpt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ComplexHalf is experimental; once in a process
        halves = torch.zeros(2, dtype=torch.complex32)
    with pytest.raises(TypeError, match=r"fc\.weight"):
        save_checkpoint({"fc.weight": halves}, str(tmp_path / "a.ckpt"))
    assert list(tmp_path.iterdir()) == []


def test_a_torch_storage_that_was_freed_or_cut_is_a_type_error_that_says_how_much_is_left(
    tmp_path: Path, torch: Any
) -> None:
    """What a view claims beyond it is somebody else's memory, or nobody's."""
    freed, cut = torch.arange(1000.0), torch.arange(1000.0)
    view = cut[500:]
    freed.untyped_storage().resize_(0)
    cut.untyped_storage().resize_(2400)
    backwards = cut.as_strided((3, 2), (100, 250), 100)
    for tensor, left in ((freed, "0 of 4000"), (view, "2400 of 4000"), (backwards, "2400 of 2204")):
        if left == "2400 of 2204":  # all of it is there
            assert_saves_as(tmp_path, tensor, tensor.numpy())
            continue
        with pytest.raises(TypeError, match=rf"'w'.*{left} bytes"):
            save_checkpoint({"w": tensor}, tmp_path / "b.ckpt")
        with pytest.raises(TypeError, match=rf"{left} bytes"):
            Parameter(tensor, name="w")
    assert_saves_as(tmp_path, freed[:0], np.zeros(0, np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_torch_does_not_free_a_storage_that_a_parameter_shows(torch: Any) -> None:
    """Why nothing looks at it again when the Parameter is saved: torch knows of NumPy's view."""
    tensor = torch.arange(10)
    parameter = Parameter(tensor, name="w")
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.untyped_storage().resize_(0)
    assert parameter.asnumpy().tolist() == list(range(10))


@pytest.mark.parametrize("options", [{}, {"async_save": True}, {"enc_key": bytes(16)}], ids=str)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bool", "float8_e4m3fn", "complex64"])
def test_a_save_leaves_torch_free_to_resize_a_storage(
    tmp_path: Path, torch: Any, kind: str, options: dict[str, Any]
) -> None:
    """As fully sharded training does after each step; Tensor.numpy() forbids it for ever."""
    tensor = torch.ones(1000).to(getattr(torch, kind))
    job = save_checkpoint({"w": tensor}, tmp_path / "a.ckpt", **options)
    if job is not None:
        job.result()
    tensor.untyped_storage().resize_(0)
    tensor.untyped_storage().resize_(1000 * tensor.element_size())


def test_torch_wrappers_of_other_tensors_are_a_type_error_that_says_what_to_save(
    tmp_path: Path, torch: Any
) -> None:
    """A DTensor, a wrapper of anybody's, and tensors of no memory."""

    class Wrapper(torch.Tensor):  # type: ignore[misc]
        @staticmethod
        def __new__(cls, inner: Any) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
            raise NotImplementedError(func)

    class Flattening(Wrapper):
        def __tensor_flatten__(self) -> Any:
            raise AssertionError("its inner tensors are not asked for")

    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3)
    wrappers = [Wrapper(torch.ones(3)), Flattening(torch.ones(3)), fake]
    wrappers += [dtensor(torch), torch.nn.Parameter(dtensor(torch))]
    for tensor in wrappers:
        with pytest.raises(TypeError, match=r"'w'.*to_local.*full_tensor.*dequantize"):
            save_checkpoint({"w": tensor}, tmp_path / "a.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(TypeError, match=r"'w'.*unbind"):
        save_checkpoint({"w": nested}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
    assert_saves_as(tmp_path, dtensor(torch).to_local(), np.ones((4, 3), np.float32))
    assert_saves_as(tmp_path, dtensor(torch).full_tensor(), np.ones((4, 3), np.float32))


def dtensor(torch: Any) -> Any:
    """Of a mesh of this process alone."""
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    return distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)])


def test_a_users_subclass_of_torchs_tensor_is_saved_where_it_is(tmp_path: Path, torch: Any) -> None:
    """Its class says that it has a CUDA array interface, wherever it is."""

    class Image(torch.Tensor):  # type: ignore[misc]
        pass

    image = torch.arange(6.0).reshape(2, 3).as_subclass(Image)
    assert type(image) is Image
    assert_saves_as(tmp_path, image, np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    "kind", ["float32", "int32", "bool", "bfloat16", "float8_e4m3fn", "complex64", "float16"]
)
def test_jax_arrays_save_right_values(tmp_path: Path, jax: Any, kind: str) -> None:
    """Oracle: numpy.asarray of the jax array."""
    value = (jax.numpy.arange(12).reshape(3, 4) % 5).astype(kind)
    for view in (value, value.T, value[1, 2], value[:0]):
        assert_saves_as(tmp_path, view, np.asarray(view))


# ---- devices


class OnDevice:
    """Speaks DLPack for memory that the host cannot read."""

    def __init__(self, device: int) -> None:
        self._device = device

    def __dlpack__(self, **_: object) -> object:
        raise AssertionError("device memory was asked for")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._device, 0)


class WithCudaInterface:
    """What Numba's and CuPy's arrays offer."""

    def __init__(self) -> None:
        self.__cuda_array_interface__ = {
            "shape": (2,),
            "typestr": "<f4",
            "data": (4096, False),
            "version": 3,
        }


@pytest.mark.parametrize(
    "value",
    [OnDevice(2), OnDevice(10), OnDevice(12), WithCudaInterface()],
    ids=["cuda", "rocm", "ext", "interface"],
)
def test_device_memory_is_a_type_error_that_says_so(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"(?s)fc\.weight.*device|device.*fc\.weight"):
        save_checkpoint({"fc.weight": value}, str(tmp_path / "a.ckpt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "interface", [None, {}, {"shape": (2,), "typestr": "<f4", "version": 3}, {"shape": 5}]
)
def test_a_broken_array_interface_is_a_type_error_that_names_it(
    tmp_path: Path, interface: Any
) -> None:
    class Broken:
        __array_interface__ = interface

    with pytest.raises((TypeError, ValueError), match=r"fc\.weight"):
        save_checkpoint({"fc.weight": Broken()}, str(tmp_path / "a.ckpt"))


# ---- imports

FRAMEWORKS = ("torch", "jax", "mindspore", "cupy", "tensorflow", "numba", "paddle")


def _imported(code: str, *arguments: object) -> set[str]:
    done = run_python(
        code + "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))", *arguments
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_no_framework_is_imported_that_the_user_has_not_imported(tmp_path: Path) -> None:
    """Even where they are installed. Every way through arrays.py that needs none is taken."""
    code = """
import array, sys
import numpy as np
from mindckpt import Parameter, Tensor, load_checkpoint, save_checkpoint
class Interface:
    def __init__(self, value):
        self.value, self.__array_interface__ = value, value.__array_interface__
class DLPack:
    def __init__(self, value): self.value = value
    def __dlpack__(self, **kwargs): return self.value.__dlpack__()
    def __dlpack_device__(self): return self.value.__dlpack_device__()
value = np.arange(6.0)
save_checkpoint({
    "a": value, "b": Tensor(value), "c": Parameter(value), "d": array.array("f", [1]),
    "e": Interface(value), "f": DLPack(value), "g": "text"}, sys.argv[1], append_dict={"h": 1.5})
assert len(load_checkpoint(sys.argv[1])) == 8
try:
    save_checkpoint({"a": object()}, sys.argv[1])
except TypeError:
    pass
"""
    assert not _imported(code, tmp_path / "a.ckpt") & set(FRAMEWORKS)


def test_a_framework_that_is_half_imported_does_no_harm(tmp_path: Path) -> None:
    """A module may sit in sys.modules with nothing in it, or as None when its import is blocked."""
    code = """
import sys, types
import numpy as np
from mindckpt import load_checkpoint, save_checkpoint
for name in ("torch", "jax", "cupy"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["mindspore"] = None
save_checkpoint({"a": np.arange(3)}, sys.argv[1])
assert load_checkpoint(sys.argv[1])["a"].asnumpy().tolist() == [0, 1, 2]
"""
    run_python(code, tmp_path / "a.ckpt")


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    """After every test of this file: no temporary file, refused or not."""
    yield
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []
