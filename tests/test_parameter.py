"""Tensor and Parameter. Oracles: NumPy, and the text that MindSpore documents for repr."""

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindckpt import Parameter, Tensor, dtypes, load_checkpoint, save_checkpoint
from support import TYPE_NAMES, Array

VALUE = np.arange(6, dtype=np.float32).reshape(2, 3)
KINDS = [Tensor, Parameter]


def test_a_parameter_prints_as_documented() -> None:
    """The text of MindSpore's documentation, letter for letter."""
    parameter = Parameter(np.zeros((16, 6, 5, 5), np.float32), name="conv2.weight")
    assert (
        repr(parameter)
        == "Parameter (name=conv2.weight, shape=(16, 6, 5, 5), dtype=Float32, requires_grad=True)"
    )
    scalar = Parameter(np.array(1, np.int64), name="step", requires_grad=False)
    assert repr(scalar) == "Parameter (name=step, shape=(), dtype=Int64, requires_grad=False)"
    assert f"{scalar}" == repr(scalar)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_attributes_are_those_of_the_array(kind: Any, dtype: np.dtype[Any]) -> None:
    array = np.zeros((2, 3, 0) if dtype.itemsize == 16 else (2, 3), dtype)
    tensor = kind(array)
    assert (tensor.shape, tensor.ndim, tensor.size, tensor.nbytes) == (
        array.shape,
        array.ndim,
        array.size,
        array.nbytes,
    )
    assert isinstance(tensor.shape, tuple)
    assert isinstance(tensor.dtype, dtypes.DType)
    assert str(tensor.dtype) == TYPE_NAMES[dtype]


@pytest.mark.parametrize("kind", KINDS)
def test_a_numpy_array_is_not_copied(kind: Any) -> None:
    """In any stride."""
    for view in (VALUE, VALUE.T, VALUE[::-1, ::2], VALUE[1, 1, ...]):
        tensor = kind(view)
        assert np.shares_memory(tensor.asnumpy(), view)
        assert np.shares_memory(np.asarray(tensor), view)
        assert tensor.asnumpy().tolist() == view.tolist()
    assert np.shares_memory(kind(kind(VALUE)).asnumpy(), VALUE)


@pytest.mark.parametrize("kind", KINDS)
def test_array_conversion_follows_numpys_protocol(kind: Any) -> None:
    tensor = kind(VALUE)
    assert np.asarray(tensor, np.float64).dtype == np.float64
    assert np.array_equal(np.asarray(tensor, np.float64), VALUE)
    copied = np.array(tensor)
    assert not np.shares_memory(copied, VALUE)
    assert np.array_equal(copied, VALUE)
    assert np.array_equal(np.add(tensor, 1), VALUE + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_dlpack_shares_the_memory(kind: Any) -> None:
    """Oracle: NumPy as the consumer."""
    for view in (VALUE, VALUE.T, VALUE[:, ::2], np.array(5, np.int16), np.zeros((0, 2), np.uint8)):
        tensor = kind(view)
        taken = np.from_dlpack(tensor)
        assert (taken.dtype, taken.shape, taken.tolist()) == (view.dtype, view.shape, view.tolist())
        assert tensor.__dlpack_device__() == (1, 0)
        if view.size:
            assert np.shares_memory(taken, view)


def test_torch_takes_a_tensor_through_dlpack() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    value = VALUE.copy()
    taken = torch.from_dlpack(Parameter(value, name="w"))
    value[0, 0] = 7
    assert taken.tolist() == value.tolist()


def test_tensors_are_made_of_numbers_and_lists() -> None:
    """MindSpore's types for Python's numbers."""
    for data, name, shape in [
        (1, "Int64", ()),
        (1.5, "Float32", ()),
        (True, "Bool", ()),
        ([[1, 2]], "Int64", (1, 2)),
    ]:
        tensor = Tensor(data)
        assert (str(tensor.dtype), tensor.shape) == (name, shape)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (dtypes.float16, VALUE.astype(np.float16)),
        (dtypes.int32, VALUE.astype(np.int32)),
        (dtypes.bfloat16, VALUE.astype(ml_dtypes.bfloat16)),
        (np.float64, VALUE.astype(np.float64)),
        ("int8", VALUE.astype(np.int8)),
    ],
    ids=str,
)
def test_a_dtype_converts_as_numpy_does(dtype: Any, expected: Array) -> None:
    tensor = Tensor(VALUE, dtype)
    assert tensor.asnumpy().dtype == expected.dtype
    assert tensor.asnumpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [dtypes.hifloat8, dtypes.qint4x2], ids=str)
def test_types_that_numpy_lacks_are_given_by_name(dtype: dtypes.DType) -> None:
    codes = np.array([1, 2, 127], np.uint8).view(dtype.numpy)
    tensor = Tensor(codes, dtype)
    assert tensor.dtype == dtype
    assert tensor.asnumpy().tolist() == codes.tolist()
    assert tensor.nbytes == 3


@pytest.mark.parametrize(
    "data", [None, "text", object(), {"a": 1}, np.array(["a"]), np.array([object()])], ids=repr
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tensor_is_a_type_error(kind: Any, data: object) -> None:
    with pytest.raises(TypeError):
        kind(data)


def test_uneven_lists_are_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        Tensor([[1, 2], [3]])


@pytest.mark.parametrize("kind", KINDS)
def test_set_data_keeps_the_object_its_type_and_its_shape(kind: Any) -> None:
    tensor = kind(VALUE.astype(np.float16))
    tensor.set_data(Tensor(VALUE + 1))
    assert str(tensor.dtype) == "Float16"
    assert tensor.asnumpy().tolist() == (VALUE + 1).tolist()
    tensor.set_data(VALUE + 2)
    assert tensor.asnumpy().tolist() == (VALUE + 2).tolist()
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        tensor.set_data(VALUE.T)
    with pytest.raises(TypeError):
        tensor.set_data(None)
    assert tensor.asnumpy().tolist() == (VALUE + 2).tolist()


def test_data_of_a_parameter_is_its_tensor() -> None:
    """As in MindSpore."""
    parameter = Parameter(VALUE, name="w")
    assert isinstance(parameter, Tensor)
    assert isinstance(parameter.data, Tensor)
    assert np.shares_memory(parameter.data.asnumpy(), VALUE)


def test_a_parameter_without_a_name_gets_one_of_its_own() -> None:
    names = {Parameter(VALUE).name, Parameter(VALUE).name, Parameter(VALUE, name="").name}
    assert len(names) == 3
    assert all(names)


@pytest.mark.parametrize("name", [5, b"w", ["w"]])
def test_a_name_is_a_str(name: object) -> None:
    with pytest.raises((TypeError, ValueError), match="name"):
        Parameter(VALUE, name=name)


@pytest.mark.parametrize("value", [1, None, "True"])
def test_requires_grad_is_a_bool(value: object) -> None:
    with pytest.raises(TypeError, match="requires_grad"):
        Parameter(VALUE, requires_grad=value)


def test_name_and_requires_grad_can_be_changed(tmp_path: Any) -> None:
    parameter = Parameter(VALUE, name="old")
    parameter.name = "new"
    parameter.requires_grad = False
    assert (
        repr(parameter) == "Parameter (name=new, shape=(2, 3), dtype=Float32, requires_grad=False)"
    )
    save_checkpoint([parameter], str(tmp_path / "a.ckpt"))
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"))) == ["new"]


def test_a_copied_or_pickled_parameter_is_equal_and_apart() -> None:
    for dtype in (dtypes.float32, dtypes.qint4x2):
        parameter = Parameter(
            Tensor(np.arange(3, dtype=np.float32).astype(dtype.numpy), dtype), name="w"
        )
        for twin in (copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter))):
            assert repr(twin) == repr(parameter)
            assert twin.asnumpy().tolist() == parameter.asnumpy().tolist()
            assert not np.shares_memory(twin.asnumpy(), parameter.asnumpy())
