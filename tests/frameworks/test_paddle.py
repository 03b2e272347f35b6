"""What users of Paddle save and load, by protocols. Oracle: Tensor.numpy()."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from support import assert_holds


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
