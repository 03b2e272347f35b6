"""What users of JAX, Flax and optax save and load. Oracle: numpy.asarray of the arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mindckpt import Parameter, load_checkpoint, save_checkpoint
from support import assert_holds

# JAX's types of elements that are saved; those of 64 bits need jax_enable_x64.
NARROW = [
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "bfloat16"),
    *("float32", "complex64", "float8_e4m3fn", "float8_e5m2"),
]
WIDE = ["int64", "uint64", "float64", "complex128"]
# All others of ml_dtypes, but for int4, which has a test of its own.
REFUSED = [
    *("int2", "uint2", "uint4", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn"),
]


@pytest.fixture
def x64(jax: Any) -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def sample(jax: Any, kind: str) -> Any:
    """Small whole numbers, exact in every type, or bytes that differ in the wide ones."""
    if kind in WIDE:
        raw = (np.arange(24 * np.dtype(kind).itemsize) * 37 % 251).astype(np.uint8)
        return jax.numpy.asarray(raw.view(kind).reshape(2, 3, 4))
    return (jax.numpy.arange(24).reshape(2, 3, 4) % 5).astype(kind)


def assert_round_trips(jax: Any, folder: Path, array: Any) -> None:
    path = str(folder / "a.ckpt")
    expected = np.asarray(array)
    save_checkpoint({"w": array}, path, durable=False)
    assert_holds(load_checkpoint(path), {"w": expected})
    loaded = load_checkpoint(path, framework="jax")["w"]
    assert isinstance(loaded, jax.Array)
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert np.asarray(loaded).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", NARROW)
def test_an_array_of_any_type_round_trips(tmp_path: Path, jax: Any, kind: str) -> None:
    value = sample(jax, kind)
    for array in (value, value.T, value[1, 2, 3], value[:, 3:], value[::-1, :, 1]):
        assert_round_trips(jax, tmp_path, array)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", WIDE)
def test_with_x64_arrays_of_64_bits_round_trip(tmp_path: Path, jax: Any, kind: str) -> None:
    value = sample(jax, kind)
    assert value.dtype == kind
    for array in (value, value.T, value[1, 2, 3], value[:, 3:]):
        assert_round_trips(jax, tmp_path, array)


def test_int4_is_saved_as_int4(tmp_path: Path, jax: Any) -> None:
    expected = np.array([[-8, 7, 0], [1, -1, 3]])
    array = jax.numpy.asarray(expected.astype(ml_dtypes.int4))
    assert array.dtype == "int4"
    for value, want in ((array, expected), (array.T, expected.T), (array[1, 1], expected[1, 1])):
        save_checkpoint({"w": value}, str(tmp_path / "a.ckpt"), durable=False)
        loaded = load_checkpoint(str(tmp_path / "a.ckpt"))["w"]
        assert (str(loaded.dtype), loaded.asnumpy().tolist()) == ("Int4", want.tolist())


@pytest.mark.parametrize("kind", REFUSED)
def test_any_other_type_is_a_type_error_that_names_the_parameter_and_the_type(
    tmp_path: Path, jax: Any, kind: str
) -> None:
    value = jax.numpy.asarray(np.array([1, 0], getattr(ml_dtypes, kind)))
    assert value.dtype == kind
    with pytest.raises(TypeError, match=rf"fc\.weight.*\b{kind}\b"):
        save_checkpoint({"fc.weight": value}, str(tmp_path / "a.ckpt"))
    assert list(tmp_path.iterdir()) == []


# ---- devices


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bool", "float8_e5m2", "complex64"])
@pytest.mark.parametrize("axes", [("a", "b"), (None, "b"), (("a", "b"),), ("b", None), ()], ids=str)
def test_an_array_in_shards_on_several_devices_round_trips(
    tmp_path: Path, jax: Any, axes: tuple[Any, ...], kind: str
) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")).reshape(2, 2), ("a", "b"))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    whole = (jax.numpy.arange(32).reshape(8, 4) % 5).astype(kind)
    array = jax.device_put(whole, sharding)
    assert len(array.sharding.device_set) == 4
    assert_round_trips(jax, tmp_path, array)


def test_int4_in_shards_is_saved_as_int4(tmp_path: Path, jax: Any) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")), ("a",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    expected = np.arange(32).reshape(8, 4) % 16 - 8
    array = jax.device_put(jax.numpy.asarray(expected.astype(ml_dtypes.int4)), sharding)
    save_checkpoint({"w": array}, str(tmp_path / "a.ckpt"))
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"))["w"]
    assert (str(loaded.dtype), loaded.asnumpy().tolist()) == ("Int4", expected.tolist())


def test_an_array_on_another_device_round_trips(tmp_path: Path, jax: Any) -> None:
    device = jax.devices("cpu")[3]
    assert_round_trips(jax, tmp_path, jax.device_put(jax.numpy.arange(3.0), device))


# ---- what is no array of numbers


def test_a_key_of_random_numbers_is_refused_with_what_to_save_of_it(
    tmp_path: Path, jax: Any
) -> None:
    key = jax.random.key(42)
    with pytest.raises(TypeError, match=r"fc\.weight.*jax\.random\.key_data"):
        save_checkpoint({"fc.weight": key}, str(tmp_path / "a.ckpt"))
    assert list(tmp_path.iterdir()) == []
    assert_round_trips(jax, tmp_path, jax.random.key_data(key))
    assert_round_trips(jax, tmp_path, jax.random.PRNGKey(42))
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"), framework="jax")["w"]
    again = jax.random.wrap_key_data(loaded)
    assert jax.random.normal(again) == jax.random.normal(key)


def test_a_deleted_array_and_a_traced_one_are_type_errors_that_name_the_parameter(
    tmp_path: Path, jax: Any
) -> None:
    deleted = jax.numpy.arange(4.0)
    deleted.delete()
    with pytest.raises(TypeError, match=r"fc\.weight.*deleted"):
        save_checkpoint({"fc.weight": deleted}, str(tmp_path / "a.ckpt"))

    def save(x: Any) -> Any:
        with pytest.raises(TypeError, match=r"fc\.weight.*traced value"):
            save_checkpoint({"fc.weight": x}, str(tmp_path / "a.ckpt"))
        return x.sum()

    jax.jit(save)(jax.numpy.ones(2))
    jax.vmap(save)(jax.numpy.ones((2, 3)))
    jax.grad(save)(jax.numpy.ones(2))
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_is_donated_after_an_asynchronous_save_is_in_the_file(
    tmp_path: Path, jax: Any
) -> None:
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jax.numpy.arange(300_000.0)
    expected = np.array(array)
    job = save_checkpoint({"w": array}, str(tmp_path / "a.ckpt"), async_save=True)
    for _ in range(5):
        array = step(array)
    assert job is not None
    job.result()
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), {"w": expected})


def test_a_parameter_over_an_array_holds_its_values(jax: Any) -> None:
    for kind in ("float32", "bfloat16", "bool"):
        array = sample(jax, kind).T
        parameter = Parameter(array, name="w")
        assert_holds({"w": parameter}, {"w": np.asarray(array)})
        again = jax.numpy.asarray(parameter)
        assert again.dtype == kind
        assert np.array_equal(again, array)


# ---- Flax and optax


def test_a_flax_tree_is_refused_nested_and_saved_flat(tmp_path: Path, jax: Any) -> None:
    import flax

    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x: Any) -> Any:
            x = flax.linen.relu(flax.linen.Dense(5)(x))
            return flax.linen.Dense(2, param_dtype=jax.numpy.bfloat16)(x)

    path = str(tmp_path / "a.ckpt")
    x = jax.numpy.ones((1, 3))
    variables = Net().init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"save_obj\['params'\] must be a tensor"):
        save_checkpoint(variables, path)
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(flax.traverse_util.flatten_dict(variables, sep="/"), path)
    loaded = load_checkpoint(path, framework="jax")
    restored = flax.traverse_util.unflatten_dict(loaded, sep="/")
    assert jax.tree.structure(restored) == jax.tree.structure(variables)
    assert np.array_equal(Net().apply(restored, x), Net().apply(variables, x))


def test_flax_parameters_of_its_newer_interface_are_saved_by_themselves(
    tmp_path: Path, jax: Any
) -> None:
    """A module or its State is neither a Cell nor a dict."""
    from flax import nnx

    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    for whole in (layer, nnx.state(layer)):
        with pytest.raises(TypeError, match=r"^save_obj must be a Cell"):
            save_checkpoint(whole, str(tmp_path / "a.ckpt"))
    save_checkpoint({"kernel": layer.kernel, "bias": layer.bias}, str(tmp_path / "a.ckpt"))
    expected = {"kernel": np.asarray(layer.kernel[...]), "bias": np.asarray(layer.bias[...])}
    assert jax.numpy.any(layer.kernel[...])
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), expected)


def test_an_optax_state_is_refused_nested_and_saved_flat(tmp_path: Path, jax: Any) -> None:
    import optax

    path = str(tmp_path / "a.ckpt")
    params = {"w": jax.numpy.arange(3.0), "b": jax.numpy.ones((), "bfloat16")}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    _, state = optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(TypeError, match=r"^save_obj must be a Cell"):
        save_checkpoint(state, path)
    assert list(tmp_path.iterdir()) == []
    leaves, tree = jax.tree.flatten_with_path(state)
    names = [jax.tree_util.keystr(at) for at, _ in leaves]
    save_checkpoint(dict(zip(names, [leaf for _, leaf in leaves], strict=True)), path)
    loaded = load_checkpoint(path, framework="jax")
    assert list(loaded) == names
    restored = jax.tree.unflatten(tree, loaded.values())
    expected, _ = optimizer.update(params, state, params)
    updates, _ = optimizer.update(params, restored, params)
    assert jax.tree.all(jax.tree.map(np.array_equal, updates, expected))
