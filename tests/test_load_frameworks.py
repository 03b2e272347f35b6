"""load_checkpoint(framework=...) in host memory: right values in the right type, or an error.

Oracle: the NumPy arrays that were saved. What a framework would quietly turn into another type is
refused by the parameter's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import Parameter, Tensor, dtypes, load_checkpoint, save_checkpoint
from stand_in import stand_in
from support import TYPE_NAMES, canonical

WIDE = {
    "int64": np.array(2**40 + 5),
    "uint64": np.array([2**63 + 1], np.uint64),
    "float64": np.array([1e300, 0.1]),
    "complex128": np.array([1e300 + 0.1j]),
}
CODES = np.array([[1, -2, 7], [-8, 0, 5]], np.int8)


@pytest.fixture
def jax(jax: Any) -> Iterator[Any]:
    """With 64-bit types off, as JAX is by default; a test may turn them on."""
    yield jax
    jax.config.update("jax_enable_x64", False)


def of_frameworks(*argvalues: Any) -> Any:
    """Parametrizes `framework`; the lane of frameworks runs those that name one."""
    return pytest.mark.parametrize(
        "framework",
        [
            pytest.param(name, marks=[pytest.mark.framework] if name in ("jax", "torch") else [])
            for name in argvalues
        ],
    )


def saved(folder: Path, **values: Any) -> Path:
    save_checkpoint(values, folder / "a.ckpt", durable=False)
    return folder / "a.ckpt"


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("device", [None, "cpu", "cuda:0"])
def test_jax_without_x64_refuses_64_bit_types_by_name(
    tmp_path: Path, jax: Any, kind: str, device: str | None
) -> None:
    """Where they would go to another type without a word; before a byte is read."""
    if device == "cuda:0":
        stand_in("cuda")
    path = saved(tmp_path, small=np.ones(3, np.float32), wide=WIDE[kind])
    with pytest.raises(RuntimeError, match=r"parameter 'wide'.*jax_enable_x64"):
        load_checkpoint(path, framework="jax", device=device)
    if device != "cuda:0":
        loaded: Any = load_checkpoint(path, framework="jax", device=device, filter_prefix="wide")
        assert loaded["small"].tolist() == [1, 1, 1]


def test_jax_with_x64_has_every_value_in_its_own_type(tmp_path: Path, jax: Any) -> None:
    jax.config.update("jax_enable_x64", True)
    loaded = load_checkpoint(saved(tmp_path, **WIDE), framework="jax")
    for name, value in WIDE.items():
        assert isinstance(loaded[name], jax.Array)
        array = np.asarray(loaded[name])
        assert array.dtype == value.dtype
        assert array.tolist() == value.tolist()


@of_frameworks("numpy", "jax", "torch")
@pytest.mark.parametrize("dtype", TYPE_NAMES, ids=str)
def test_a_tensor_has_the_type_and_the_bytes_that_were_saved(
    tmp_path: Path, request: pytest.FixtureRequest, framework: str, dtype: np.dtype[Any]
) -> None:
    """In every type, of some shapes."""
    if framework != "numpy":
        module = request.getfixturevalue(framework)
        if framework == "jax":
            module.config.update("jax_enable_x64", True)
    raw = (np.arange(6 * dtype.itemsize) * 37 % 120).astype(np.uint8)
    full = (raw % 2).astype(np.bool_)[:6] if dtype == np.bool_ else raw.view(dtype)
    values = {
        "full": full.reshape(2, 3),
        "single": full[4:5].reshape(()),
        "none": full[:0].reshape(0, 3),
    }
    loaded: Any = load_checkpoint(saved(tmp_path, **values), framework=framework)
    for name, value in values.items():
        tensor = loaded[name]
        assert tuple(tensor.shape) == value.shape
        if framework == "torch":
            assert str(tensor.dtype).removeprefix("torch.") == value.dtype.name
            flat = tensor.contiguous().reshape(-1).view(module.uint8).numpy()
            assert flat.tobytes() == canonical(value).tobytes()
        else:
            array = np.asarray(tensor)
            assert array.dtype == value.dtype
            assert array.tobytes() == canonical(value).tobytes()


@of_frameworks("numpy", "jax", "torch")
def test_int4_comes_as_its_values_in_int8(
    tmp_path: Path, request: pytest.FixtureRequest, framework: str
) -> None:
    if framework != "numpy":
        request.getfixturevalue(framework)
    path = saved(tmp_path, q=Tensor(CODES, dtypes.qint4x2))
    loaded: Any = load_checkpoint(path, framework=framework)["q"]
    assert str(loaded.dtype).removeprefix("torch.") == "int8"
    assert loaded.tolist() == CODES.tolist()


@of_frameworks("jax", "torch")
def test_a_framework_refuses_what_it_has_no_type_for_by_name(
    tmp_path: Path, request: pytest.FixtureRequest, framework: str
) -> None:
    """HiFloat8's codes as integers would be other numbers."""
    request.getfixturevalue(framework)
    ones = np.ones(2, np.float32)
    path = saved(tmp_path, a=ones, h=Tensor(np.ones(2, np.uint8), dtypes.hifloat8))
    with pytest.raises(RuntimeError, match=rf"parameter 'h': {framework} has no .*HiFloat8"):
        load_checkpoint(path, framework=framework)


@pytest.mark.parametrize(
    ("framework", "device"),
    [
        (None, None),
        ("numpy", None),
        pytest.param("jax", None, marks=pytest.mark.framework),
        pytest.param("torch", None, marks=pytest.mark.framework),
        (None, "cuda:0"),
    ],
)
def test_parameters_of_an_embedding_cache_are_tensors_under_their_short_name(
    tmp_path: Path, request: pytest.FixtureRequest, framework: str | None, device: str | None
) -> None:
    """And come last, as in MindSpore, whatever they are loaded as and to."""
    if framework in ("jax", "torch"):
        request.getfixturevalue(framework)
    if device is not None:
        stand_in("cuda")
    value = np.arange(3, dtype=np.float32)
    path = saved(tmp_path, **{"table.__param_key__7": value, "w": value})
    loaded: Any = load_checkpoint(path, framework=framework, device=device)
    assert list(loaded) == ["w", "table"]
    assert type(loaded["table"]) is type(loaded["w"])
    assert (type(loaded["w"]) is Parameter) == (framework is None)
    assert np.asarray(loaded["table"]).tolist() == value.tolist()
