"""Element types: how a checkpoint file names them and what NumPy stores them in.

Example:
    >>> from mindckpt import dtypes
    >>> dtypes.from_numpy(">f4"), dtypes.bfloat16.itemsize
    (Float32, 2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = [
    "DType",
    "bfloat16",
    "bool_",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "from_name",
    "from_numpy",
    "hifloat8",
    "int8",
    "int16",
    "int32",
    "int64",
    "qint4x2",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class DType:
    """One element type. There is one object of each: compare with `is` or `==`.

    Attributes:
        name (str): The type string of the checkpoint format, such as 'Float32'. Also `str()` and
            `repr()`.
        numpy (numpy.dtype): What an array of it has, in native byte order. HiFloat8, which NumPy
            does not know, is stored as uint8 codes; Int4 as int8, one byte an element.
    """

    name: str
    numpy: np.dtype[Any]

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return from_name, (self.name,)  # copies and unpickled ones are the same object


int8 = DType("Int8", np.dtype(np.int8))
int16 = DType("Int16", np.dtype(np.int16))
int32 = DType("Int32", np.dtype(np.int32))
int64 = DType("Int64", np.dtype(np.int64))
uint8 = DType("UInt8", np.dtype(np.uint8))
uint16 = DType("UInt16", np.dtype(np.uint16))
uint32 = DType("UInt32", np.dtype(np.uint32))
uint64 = DType("UInt64", np.dtype(np.uint64))
float16 = DType("Float16", np.dtype(np.float16))
float32 = DType("Float32", np.dtype(np.float32))
float64 = DType("Float64", np.dtype(np.float64))
bfloat16 = DType("BFloat16", np.dtype(ml_dtypes.bfloat16))
bool_ = DType("Bool", np.dtype(np.bool_))
complex64 = DType("Complex64", np.dtype(np.complex64))
complex128 = DType("Complex128", np.dtype(np.complex128))
float8_e4m3fn = DType("Float8E4M3FN", np.dtype(ml_dtypes.float8_e4m3fn))
float8_e5m2 = DType("Float8E5M2", np.dtype(ml_dtypes.float8_e5m2))
hifloat8 = DType("HiFloat8", np.dtype(np.uint8))
qint4x2 = DType("Int4", np.dtype(np.int8))

_OF_NUMPY = (
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    float32,
    float64,
    bfloat16,
    bool_,
    complex64,
    complex128,
    float8_e4m3fn,
    float8_e5m2,
)

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in (*_OF_NUMPY, hifloat8, qint4x2)}

# One look-up tells what a NumPy dtype, of either byte order, is called in a file, and that its
# arrays are written as they stand.
BY_NUMPY: dict[np.dtype[Any], DType] = {
    numpy: dtype for dtype in _OF_NUMPY for numpy in (dtype.numpy, dtype.numpy.newbyteorder())
}

# Not in BY_NUMPY: its upper four bits hold no sign, as those of MindSpore's Int4 do.
NUMPY_INT4 = np.dtype(ml_dtypes.int4)


def from_name(name: str) -> DType:
    """The type that a checkpoint file calls `name`.

    Args:
        name: A type string, such as 'Float32'; case matters.

    Raises:
        ValueError: There is no such type.
    """
    try:
        return BY_NAME[name]
    except KeyError:
        raise ValueError(f"no checkpoint type is called {name!r}") from None


def from_numpy(dtype: npt.DTypeLike) -> DType:
    """The type of an array of `dtype`, whatever its byte order.

    Args:
        dtype: Anything that `numpy.dtype()` takes; ml_dtypes' bfloat16, float8_e4m3fn, float8_e5m2
            and int4 too.

    Raises:
        TypeError: No checkpoint can hold such elements (object, str, void, datetime64, longdouble,
            ...).
    """
    numpy = np.dtype(dtype)
    found = BY_NUMPY.get(numpy)
    if found is not None:
        return found
    if numpy == NUMPY_INT4:
        return qint4x2
    raise TypeError(f"elements of NumPy dtype {numpy} can't be in a checkpoint")
