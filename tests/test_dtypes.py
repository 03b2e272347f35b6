"""DType objects. Oracles: NumPy and ml_dtypes for sizes, the engine for type strings."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from mindckpt import _core, dtypes
from support import TYPE_NAMES

OBJECTS = {
    "int8": "Int8",
    "int16": "Int16",
    "int32": "Int32",
    "int64": "Int64",
    "uint8": "UInt8",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "float16": "Float16",
    "float32": "Float32",
    "float64": "Float64",
    "bfloat16": "BFloat16",
    "bool_": "Bool",
    "complex64": "Complex64",
    "complex128": "Complex128",
    "float8_e4m3fn": "Float8E4M3FN",
    "float8_e5m2": "Float8E5M2",
    "hifloat8": "HiFloat8",
    "qint4x2": "Int4",
}


def test_python_and_the_engine_know_the_same_types_of_the_same_sizes() -> None:
    """Two tables that must not drift apart."""
    ours = {name: dtypes.from_name(name).itemsize for name in OBJECTS.values()}
    assert ours == _core.itemsizes()


@pytest.mark.parametrize(("attribute", "name"), OBJECTS.items())
def test_a_dtype_prints_as_mindspore_prints_it(attribute: str, name: str) -> None:
    dtype = getattr(dtypes, attribute)
    assert isinstance(dtype, dtypes.DType)
    assert (str(dtype), repr(dtype), dtype.name) == (name, name, name)


@pytest.mark.parametrize(("attribute", "name"), OBJECTS.items())
def test_a_name_leads_back_to_its_dtype(attribute: str, name: str) -> None:
    assert dtypes.from_name(name) == getattr(dtypes, attribute)


@pytest.mark.parametrize(("numpy_dtype", "name"), TYPE_NAMES.items(), ids=str)
def test_a_numpy_type_and_its_dtype_map_to_each_other(numpy_dtype: np.dtype, name: str) -> None:
    dtype = dtypes.from_numpy(numpy_dtype)
    assert dtype == dtypes.from_name(name)
    assert dtype.numpy == numpy_dtype
    assert dtype.itemsize == numpy_dtype.itemsize


def test_types_that_numpy_lacks_are_held_as_bytes() -> None:
    assert dtypes.hifloat8.numpy == np.dtype(np.uint8)
    assert dtypes.qint4x2.numpy == np.dtype(np.int8)
    assert dtypes.hifloat8.itemsize == dtypes.qint4x2.itemsize == 1


def test_ml_dtypes_int4_is_qint4x2() -> None:
    assert dtypes.from_numpy(np.dtype(ml_dtypes.int4)) == dtypes.qint4x2


@pytest.mark.parametrize("kind", [">f4", ">i8", ">c16", ">u2"])
def test_byte_order_is_no_part_of_a_dtype(kind: str) -> None:
    assert dtypes.from_numpy(np.dtype(kind)) == dtypes.from_numpy(np.dtype(kind).newbyteorder("="))


@pytest.mark.parametrize(
    "name", ["", "float32", "Float8", "str", "FLOAT32", "Float32 ", "int32", "Int4x2"]
)
def test_an_unknown_name_is_a_value_error_that_names_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        dtypes.from_name(name)


@pytest.mark.parametrize(
    "kind", ["O", "U3", "S3", "V4", "M8[s]", "m8[s]", np.longdouble, np.clongdouble], ids=str
)
def test_a_numpy_type_without_a_type_string_is_a_type_error(kind: str) -> None:
    with pytest.raises(TypeError):
        dtypes.from_numpy(np.dtype(kind))


def test_dtypes_are_distinct_hashable_and_frozen() -> None:
    objects = [getattr(dtypes, attribute) for attribute in OBJECTS]
    assert len(set(objects)) == len(objects)
    with pytest.raises(AttributeError):
        dtypes.float32.name = "Float64"


def test_a_copied_or_pickled_dtype_is_equal() -> None:
    for twin in (copy.deepcopy(dtypes.bfloat16), pickle.loads(pickle.dumps(dtypes.bfloat16))):
        assert twin == dtypes.bfloat16
        assert hash(twin) == hash(dtypes.bfloat16)
