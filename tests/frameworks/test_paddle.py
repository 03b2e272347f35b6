"""What users of Paddle save and load, by protocols. Oracle: Tensor.numpy(), and NumPy."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindckpt import Parameter, load_checkpoint, save_checkpoint
from support import assert_holds

# Paddle's types, and what NumPy has for those that Paddle shows as integers.
SAVED = {
    **{
        kind: np.dtype(kind)
        for kind in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32"),
            *("float64", "complex64", "complex128"),
        )
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def test_numpy_views_of_tensors_save_right_values(tmp_path: Path, paddle: Any) -> None:
    value = paddle.arange(24, dtype="float32").reshape([2, 3, 4])
    for tensor in (value, value.transpose([2, 0, 1]), value[:, ::2, 1:], value[1, 2, 3]):
        array = tensor.numpy()
        for view in (array, array.T):
            save_checkpoint({"w": view}, str(tmp_path / "a.ckpt"), durable=False)
            assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), {"w": view})


def test_a_model_is_saved_and_loaded_through_numpy(tmp_path: Path, paddle: Any) -> None:
    path = str(tmp_path / "a.ckpt")
    net, other = paddle.nn.Linear(3, 2), paddle.nn.Linear(3, 2)
    x = paddle.ones([1, 3])
    expected = net(x).numpy()
    save_checkpoint({name: value.numpy() for name, value in net.state_dict().items()}, path)
    missing, unexpected = other.set_state_dict(load_checkpoint(path, framework="numpy"))
    assert (missing, unexpected) == ([], [])
    assert np.array_equal(other(x).numpy(), expected)


@pytest.mark.parametrize("kind", ["float32", "int64", "bool", "complex64", "uint8", "float16"])
def test_paddle_takes_what_is_loaded_through_dlpack(tmp_path: Path, paddle: Any, kind: str) -> None:
    value = (np.arange(12).reshape(3, 4) % 5).astype(kind)
    save_checkpoint({"w": value}, str(tmp_path / "a.ckpt"), durable=False)
    taken = paddle.from_dlpack(load_checkpoint(str(tmp_path / "a.ckpt"))["w"].__dlpack__())
    assert (str(taken.dtype), taken.tolist()) == (f"paddle.{kind}", value.tolist())


def sample(paddle: Any, kind: str) -> tuple[Any, Any]:
    """Small whole numbers, exact in every type, as Paddle and as NumPy have them."""
    value = (np.arange(24) % 5).reshape(2, 3, 4).astype(np.float32)
    return paddle.to_tensor(value).astype(kind), value.astype(SAVED[kind])


@pytest.mark.parametrize("kind", SAVED)
def test_a_tensor_of_any_type_saves_right_values(tmp_path: Path, paddle: Any, kind: str) -> None:
    tensor, expected = sample(paddle, kind)
    save_checkpoint({"w": tensor}, str(tmp_path / "a.ckpt"), durable=False)
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), {"w": expected})
    assert_holds({"w": Parameter(tensor)}, {"w": expected})


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int64"])
def test_a_view_of_a_tensor_saves_right_values(tmp_path: Path, paddle: Any, kind: str) -> None:
    tensor, expected = sample(paddle, kind)
    for view, want in (
        (tensor.transpose([2, 0, 1]), expected.transpose(2, 0, 1)),
        (tensor[:, ::2, 1:], expected[:, ::2, 1:]),
        (tensor[1], expected[1]),
        (tensor[1, 2, 3], expected[1, 2, 3]),
        (tensor[:, 3:], expected[:, 3:]),
    ):
        save_checkpoint({"w": view}, str(tmp_path / "a.ckpt"), durable=False)
        assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), {"w": want})


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_a_tensor_that_is_trained_saves_right_values(
    tmp_path: Path, paddle: Any, kind: str
) -> None:
    """Paddle refuses DLPack for it, and its __array__ shows bfloat16 as uint16."""
    tensor, expected = sample(paddle, kind)
    leaf = tensor.clone().detach()
    leaf.stop_gradient = False
    weight = paddle.nn.Linear(3, 2).to(dtype=kind).weight
    exact = weight.astype("float32").numpy().astype(SAVED[kind])
    for trained, want in ((leaf, expected), (leaf * 1, expected), (weight, exact)):
        assert not trained.stop_gradient
        save_checkpoint({"w": trained}, str(tmp_path / "a.ckpt"), durable=False)
        assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), {"w": want})
        assert not trained.stop_gradient


def test_a_state_dict_saves_as_it_is(tmp_path: Path, paddle: Any) -> None:
    net = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    state = net.state_dict()
    save_checkpoint(state, str(tmp_path / "a.ckpt"))
    expected = {name: value.numpy() for name, value in state.items()}
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), expected)


def test_a_sparse_tensor_is_a_type_error_that_names_the_parameter(
    tmp_path: Path, paddle: Any
) -> None:
    coo = paddle.sparse.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], [2, 2])
    csr = paddle.sparse.sparse_csr_tensor([0, 1, 2], [1, 0], [1.0, 2.0], [2, 2])
    for sparse in (coo, csr):
        with pytest.raises(TypeError, match=r"fc\.weight.*to_dense"):
            save_checkpoint({"fc.weight": sparse}, str(tmp_path / "a.ckpt"))
    assert list(tmp_path.iterdir()) == []
