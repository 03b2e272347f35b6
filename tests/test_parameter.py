"""Tensor and Parameter. Oracles: NumPy, and the text that MindSpore documents for repr."""

import copy
import operator
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindckpt import Parameter, Tensor, dtypes, load_checkpoint, nn, save_checkpoint
from stand_in import StandInArray, stand_in
from support import TYPE_NAMES, Array, shown

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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egnp", "\\u202egnp"),
        ("b'c\\d \u53c2\u6570 \U0001f642", "b'c\\d \u53c2\u6570 \U0001f642"),
    ],
)
def test_a_name_cannot_control_the_terminal_that_shows_it(name: str, shown: str) -> None:
    """Other names are shown as they are, as MindSpore shows them."""
    parameter = Parameter(np.zeros(2, np.int8), name=name)
    assert (
        repr(parameter) == f"Parameter (name={shown}, shape=(2,), dtype=Int8, requires_grad=True)"
    )
    assert str({"p": parameter}) == f"{{'p': {parameter!r}}}"


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


def test_torch_takes_a_tensor_through_dlpack(torch: Any) -> None:
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
    "data", [None, "text", object(), {"a": 1}, np.array(["a"]), np.array([object()])], ids=shown
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


# ---- a tensor answers as NumPy's does


@pytest.mark.parametrize("value", [0, 3, -2.5, False, True])
def test_a_loaded_number_answers_as_the_number_that_was_saved(tmp_path: Path, value: Any) -> None:
    """A script that resumes asks `if d["done"]` and `d["epoch"] == 3`."""
    save_checkpoint([], tmp_path / "a.ckpt", append_dict={"n": value})
    loaded: Any = load_checkpoint(tmp_path / "a.ckpt")["n"]
    assert bool(loaded) is bool(value)
    assert bool(loaded == value) is True
    assert bool(loaded != value) is False
    assert bool(loaded == value + 1) is False
    assert bool(loaded < value + 1) is True
    assert int(loaded) == int(value)
    assert float(loaded) == float(value)
    assert complex(loaded) == complex(value)
    assert loaded.item() == value
    assert type(loaded.item()) is type(value)
    assert loaded + 1 == value + 1
    assert 1 - loaded == 1 - value


@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_item_is_a_number_of_python_in_every_type(dtype: np.dtype[Any]) -> None:
    expected = {"b": bool, "i": int, "u": int, "c": complex}.get(dtype.kind, float)
    item = Tensor(np.ones(1, dtype)).item()
    assert type(item) is expected
    assert item == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_more_or_no_elements_is_no_truth_value_and_no_number(kind: Any) -> None:
    for tensor in (kind(VALUE), kind(np.zeros((0, 2), np.int64))):
        for convert in (bool, int, float, complex, Tensor.item, operator.index):
            with pytest.raises(ValueError, match=f"of {tensor.size} elements"):
                convert(tensor)


def test_a_whole_number_is_an_index_and_another_is_not() -> None:
    assert [10, 20, 30][Tensor(np.array([2], np.uint8))] == 30
    assert list(range(Tensor(2))) == [0, 1]
    with pytest.raises(TypeError, match="float"):
        operator.index(Tensor(2.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "operate",
    [
        lambda a: a == 2,
        lambda a: a != 2,
        lambda a: 2 == a,  # noqa: SIM300  # the other way round is what this is about
        lambda a: a < 3,
        lambda a: a >= a,
        lambda a: a + 1,
        lambda a: 1 - a,
        lambda a: a * np.float64(2),
        lambda a: np.arange(3) + a,
        lambda a: a / (a + 1),
        lambda a: 2**a,
        lambda a: a // 2,
        lambda a: divmod(a, 2),
        lambda a: -a,
        lambda a: abs(a),
        lambda a: a @ np.ones(3),
        lambda a: np.exp(a),
        lambda a: np.add.reduce(a),
        lambda a: np.sum(a, axis=1),
        lambda a: np.concatenate([a, a]),
        lambda a: a == "text",
        lambda a: np.add(a, 1, where=a > 2, out=np.zeros((2, 3))),
        lambda a: np.sum(a, where=a > 2),
    ],
)
def test_operators_give_what_numpy_gives(kind: Any, operate: Any) -> None:
    """Values and types. Oracle: NumPy, on the array itself."""
    expected, result = operate(VALUE), operate(kind(VALUE))
    assert type(result) is type(expected)
    for got, wanted in zip(np.atleast_1d(result), np.atleast_1d(expected), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_operators_in_place_change_the_memory_and_keep_the_object(kind: Any) -> None:
    value = VALUE.copy()
    tensor = same = kind(value)
    tensor += 1
    assert tensor is same
    assert np.array_equal(value, VALUE + 1)
    tensor[0] = 7
    tensor[1, Tensor([0, 2])] = Tensor(9.0)
    assert value.tolist() == [[7, 7, 7], [9, 5, 9]]
    assert np.multiply(tensor, 2, out=tensor) is tensor
    assert value.tolist() == [[14, 14, 14], [18, 10, 18]]
    np.subtract.at(tensor, (0, [0, 0]), 1)
    assert value.tolist() == [[12, 14, 14], [18, 10, 18]]
    cell = nn.Cell()
    cell.w = Parameter(value)
    cell.w -= 10
    assert value.tolist() == [[2, 4, 4], [8, 0, 8]]
    cell.w = cell.w + 1
    assert cell.w.asnumpy().tolist() == [[3, 5, 5], [9, 1, 9]]
    assert (type(cell.w), cell.w.name) == (Parameter, "w")


def test_results_that_numpy_makes_beside_those_that_are_given_are_returned() -> None:
    tensor, given = Tensor(np.array([1.5, 7.25])), Tensor(np.zeros(2))
    fractions, whole = np.modf(tensor, out=(given, None))
    assert fractions is given
    assert given.asnumpy().tolist() == [0.5, 0.25]
    assert whole.tolist() == [1, 7]
    assert np.add(tensor, 1, out=(None,)).tolist() == [2.5, 8.25]


def test_a_mask_may_be_a_tensor() -> None:
    """NumPy asks it for the operation, too."""
    mask = Tensor([[True, False, True], [False, True, False]])
    for value in (VALUE, Tensor(VALUE)):
        assert np.sum(value, where=mask) == np.sum(VALUE, where=mask.asnumpy())


def test_a_tensor_is_not_none() -> None:
    """Not each of its elements."""
    for tensor in (Tensor(VALUE), Tensor(np.ones(1, np.uint8), dtypes.hifloat8)):
        assert (tensor == None) is False  # noqa: E711
        assert (tensor != None) is True  # noqa: E711


def test_what_is_picked_of_a_copy_from_a_device_can_not_be_written_to() -> None:
    """Whatever was written would be lost."""
    cuda = stand_in("cuda")
    tensor = Tensor(StandInArray(cuda, VALUE, 0, 0))
    assert tensor.device == "cuda:0"
    assert np.array_equal(tensor, VALUE)
    attempts = {
        "an index": lambda: tensor[0].__setitem__(1, 50),
        "the transpose": lambda: tensor.T.__setitem__(0, 50),
        "a row": lambda: next(iter(tensor)).__imul__(2),
        "the tensor": lambda: tensor.__iadd__(1),
        "at": lambda: np.add.at(tensor, (0, 0), 100),
    }
    for attempt, write in attempts.items():
        with pytest.raises((TypeError, ValueError), match=r"read-only|can.t be written"):
            write()
        assert np.array_equal(tensor, VALUE), attempt


def test_a_single_number_is_formatted_as_one() -> None:
    assert f"{Tensor(0.125):.2f} {Tensor(7):03}" == "0.12 007"
    assert f"{Tensor(VALUE)}" == "Tensor(shape=(2, 3), dtype=Float32)"
    with pytest.raises(ValueError, match="format"):
        f"{Tensor(VALUE):.2f}"


def test_results_of_operators_can_be_appended(tmp_path: Path) -> None:
    """What a script does that resumes, and saves again."""
    numbers = {"epoch": 3, "rate": 0.5, "done": False}
    save_checkpoint([], tmp_path / "a.ckpt", append_dict=numbers)
    loaded: Any = load_checkpoint(tmp_path / "a.ckpt")
    more = {
        "epoch": loaded["epoch"] + 1,
        "rate": loaded["rate"] * 2,
        "done": loaded["epoch"] == 3,
        "sum": np.sum(loaded["epoch"]),
    }
    save_checkpoint([], tmp_path / "b.ckpt", append_dict=more)
    again: Any = load_checkpoint(tmp_path / "b.ckpt")
    assert [value.item() for value in again.values()] == [4, 1.0, True, 3]
    assert [str(value.dtype) for value in again.values()] == ["Int64", "Float32", "Bool", "Int64"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.qint4x2, dtypes.hifloat8], ids=str)
def test_what_is_picked_or_copied_keeps_its_type(kind: Any, dtype: dtypes.DType) -> None:
    """So that it is saved as what it is; HiFloat8 and Int4 are other types to NumPy."""
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tensor = Tensor(codes if dtype is dtypes.hifloat8 else codes.astype(np.int8), dtype)
    if kind is Parameter:
        tensor = Parameter(tensor, name="w")
    array = tensor.asnumpy()
    assert np.shares_memory(tensor.numpy(), array)
    for picked, expected in [
        (tensor[1], array[1]),
        (tensor[:, ::2], array[:, ::2]),
        (tensor[0, 1], array[0, 1]),
        (tensor[..., Tensor([0, 2])], array[..., [0, 2]]),
        (tensor.T, array.T),
        (tensor.copy(), array),
        (tensor.astype(dtype), array),
        *zip(tensor, array, strict=True),
    ]:
        assert type(picked) is Tensor
        assert picked.dtype is dtype
        assert np.array_equal(picked.asnumpy(), expected)
    assert np.shares_memory(tensor[1].asnumpy(), array)
    assert np.shares_memory(tensor.T.asnumpy(), array)
    assert not np.shares_memory(tensor.copy().asnumpy(), array)
    assert not np.shares_memory(tensor.astype(dtype).asnumpy(), array)


def test_astype_converts_a_copy() -> None:
    value = np.array([1.5, -2], np.float32)
    for wanted in (dtypes.int8, np.int8, "int8"):
        converted = Tensor(value).astype(wanted)
        assert (converted.dtype, converted.asnumpy().tolist()) == (dtypes.int8, [1, -2])
    same_in_memory = np.ones(2, np.int8)
    assert not np.shares_memory(Tensor(same_in_memory).astype(dtypes.qint4x2), same_in_memory)


def test_len_and_membership_are_those_of_the_array() -> None:
    tensor = Tensor(VALUE)
    assert (len(tensor), 3.0 in tensor, 7.0 in tensor) == (2, True, False)
    with pytest.raises(TypeError, match="len"):
        len(Tensor(1))
    with pytest.raises(TypeError, match="iterated"):
        list(Tensor(1))


def test_a_hash_is_the_identity_so_that_parameters_can_be_keys() -> None:
    one, other = Parameter(VALUE, name="w"), Parameter(VALUE, name="w")
    assert len({one, one, other}) == 2
    assert {one: 1}[one] == 1


def test_hifloat8_does_not_compute_with_its_codes() -> None:
    """The code of 1.0 is 8: whatever NumPy made of it would be wrong."""
    tensor = Tensor(np.array([8], np.uint8), dtypes.hifloat8)
    for operate in (
        bool,
        int,
        float,
        Tensor.item,
        lambda t: t + 1,
        lambda t: t == 8,
        lambda t: t != 8,
        lambda t: 8 in t,
        lambda t: np.add(1, t),
        lambda t: t.astype(np.float32),
        lambda t: t.__setitem__(0, 1),
        lambda t: np.add(1, 1, out=t),
        np.mean,
        np.sort,
        lambda t: np.concatenate([t, np.ones(1)]),
        lambda t: np.where(t),
        np.asarray,
        np.from_dlpack,
    ):
        with pytest.raises((TypeError, BufferError), match="HiFloat8"):
            operate(tensor)
    assert np.asarray(tensor, np.uint8).tolist() == tensor.asnumpy().tolist() == [8]
