"""Tensor and Parameter: an array each, in host memory or a device's, with MindSpore's names."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from mindckpt.arrays import Array, payload_of, type_name
from mindckpt.device_arrays import DeviceData
from mindckpt.dtypes import BY_NUMPY, DType, float32, float64, from_numpy, hifloat8, uint8

_Self = TypeVar("_Self", bound="Tensor")

_GENERATED_NAME_PREFIX = "Parameter#"
_next_number = itertools.count()


class Tensor(NDArrayOperatorsMixin):
    """An array with a checkpoint type, over the memory of what it was made from.

    It answers as a tensor does: operators, NumPy's functions, `bool()`, `int()`, `float()`,
    `len()`, indexing and iteration work on its elements. What picks or copies elements (`[]`, `.T`,
    `.copy()`, `.astype()`) returns a Tensor; what computes returns NumPy arrays. Elements on a
    device are copied to the host for that, and what is picked of the copy can't be written to.
    Elements of HiFloat8, which NumPy does not know, can be picked and copied only. `==` compares
    elements (with None it is False); the hash is the object's identity, so Tensors can be keys of a
    dict, but `in` and `index` of a list compare elements.

    Args:
        data: A NumPy array, another Tensor, or any tensor that `save_checkpoint` takes, on a device
            too, none of which is copied; or a number, or nested lists of numbers: int becomes
            Int64, float Float32, bool Bool.
        dtype: The type to have, a DType or a NumPy dtype; the data is converted (and then copied)
            as NumPy's `astype` does. Default: the data's own.

    Raises:
        TypeError: The data is no tensor, array or number, or no checkpoint type holds its elements
            (an int beyond UInt64, say).
        ValueError: Nested lists of uneven lengths.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> weight = ms.Tensor(np.zeros((2, 3), np.float32))
        >>> weight.shape, weight.dtype, weight.nbytes
        ((2, 3), Float32, 24)
        >>> ms.Tensor([1, 2], dtype=ms.bfloat16)
        Tensor(shape=(2,), dtype=BFloat16)
        >>> step = ms.Tensor(3)
        >>> bool(step == 3), int(step), float(step + 1)
        (True, 3, 4.0)
    """

    __slots__ = ("__weakref__", "_array", "_dtype")

    # What it holds is read by its own module and by `records`, which handles thousands at a time.
    _array: Array | DeviceData
    _dtype: DType

    def __init__(self, data: object, dtype: DType | npt.DTypeLike | None = None) -> None:
        if dtype is None:
            self._array, self._dtype = _array_of(data)
        else:
            self._dtype = dtype if isinstance(dtype, DType) else from_numpy(dtype)
            self._array = _array_as(data, self._dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension; () for a scalar."""
        return self._array.shape

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self._array.nbytes

    def asnumpy(self) -> Array:
        """The elements as a NumPy array: the memory itself, not a copy, unless it is a device's.

        bfloat16 and float8 come as ml_dtypes' types, HiFloat8 as uint8 codes, Int4 as int8.
        """
        array = self._array
        return array.to_host() if isinstance(array, DeviceData) else array

    def numpy(self) -> Array:
        """The same as `asnumpy`, under torch's name."""
        return self.asnumpy()

    def item(self) -> Any:
        """The one element as a Python number.

        Raises:
            ValueError: There are more elements than one, or none.
            TypeError: It is of HiFloat8.
        """
        array = self._numbers()
        if array.size != 1:
            raise ValueError(f"a tensor of {array.size} elements is no single number")
        value = array.item()
        # ml_dtypes' elements are scalars of its own.
        return float(value) if isinstance(value, np.generic) else value

    @property
    def T(self) -> Tensor:  # noqa: N802  # NumPy's name
        """The tensor with its dimensions in reverse, over the same memory."""
        return _tensor_over(self._picked_from().T, self._dtype)

    def copy(self) -> Tensor:
        """A Tensor over a copy of the elements in host memory."""
        array = self.asnumpy()
        on_device = isinstance(self._array, DeviceData)
        return _tensor_over(array if on_device else array.copy(), self._dtype)

    def astype(self, dtype: DType | npt.DTypeLike) -> Tensor:
        """A Tensor of a copy of the elements, converted as NumPy's `astype` does.

        Raises:
            TypeError: There is no such type, or NumPy can't convert to or from it (HiFloat8).
        """
        wanted = dtype if isinstance(dtype, DType) else from_numpy(dtype)
        if wanted is self._dtype:
            return self.copy()
        return _tensor_over(np.array(converted(self.asnumpy(), self._dtype, wanted)), wanted)

    @property
    def device(self) -> str:
        """Where the elements are: 'cpu', or a device such as 'cuda:0'."""
        array = self._array
        if isinstance(array, DeviceData) and not isinstance(array.payload, bytes):
            return array.payload.device
        return "cpu"

    def set_data(self: _Self, data: object, slice_shape: bool = False) -> _Self:
        """Take other data, converted to this tensor's dtype; not copied if it has that dtype.

        Args:
            data: Whatever the constructor takes.
            slice_shape: Whether the shape may change.

        Returns:
            This tensor.

        Raises:
            TypeError: `data` is no tensor, array or number.
            ValueError: `data` has another shape, and `slice_shape` is False.
        """
        array = _array_as(data, self._dtype)
        if array.shape != self._array.shape and not slice_shape:
            raise ValueError(f"data has shape {array.shape}, the tensor has {self._array.shape}")
        self._array = array
        return self

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if self._dtype is hifloat8 and (dtype is None or np.dtype(dtype) != np.uint8):
            raise TypeError("NumPy has no HiFloat8: asnumpy() gives its codes")
        if isinstance(self._array, DeviceData) and copy is False:
            raise ValueError(f"a tensor on {self.device} becomes an array by a copy only")
        array = self.asnumpy()
        if dtype is None or np.dtype(dtype) == array.dtype:
            return array.copy() if copy and array is self._array else array
        if copy is False:
            raise ValueError(f"{array.dtype} does not become {np.dtype(dtype)} without a copy")
        return array.astype(dtype)

    def __dlpack__(self, **options: Any) -> Any:
        """A DLPack capsule; in host memory NumPy's, which can't export bfloat16: BufferError."""
        if self._dtype is hifloat8:
            raise BufferError("DLPack has no HiFloat8")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._dtype is hifloat8:
            raise AttributeError("an array interface has no HiFloat8")
        if isinstance(self._array, DeviceData):
            return self._array.interface()
        raise AttributeError("a tensor in host memory")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        targets = options.pop("out", ())
        options = {name: _numbers_of(value) for name, value in options.items()}
        if targets:
            options["out"] = tuple(_writable_numbers(target) for target in targets)
        numbers = [_numbers_of(value) for value in inputs]
        if method == "at":  # which changes its first operand
            numbers[0] = _writable_numbers(inputs[0])
        result = getattr(ufunc, method)(*numbers, **options)
        if len(targets) > 1:  # None where NumPy is to make the array
            pairs = zip(targets, result, strict=True)
            return tuple(made if target is None else target for target, made in pairs)
        return targets[0] if targets and targets[0] is not None else result

    # Not by the ufuncs, which refuse to compare with a str, say: unequal is the answer.
    def __eq__(self, other: object) -> Any:
        if other is None:
            return False
        return operator.eq(self._numbers(), _numbers_of(other))

    def __ne__(self, other: object) -> Any:
        if other is None:
            return True
        return operator.ne(self._numbers(), _numbers_of(other))

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of a tensor of {self.size} elements is ambiguous: use any() or "
                "all() of NumPy"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor of no dimensions has no len()")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        return _tensor_over(np.asarray(self._picked_from()[_index_of(index)]), self._dtype)

    def __setitem__(self, index: Any, value: object) -> None:
        _writable_numbers(self)[_index_of(index)] = _numbers_of(value)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a tensor of no dimensions can't be iterated over")
        array = self._picked_from()
        return (_tensor_over(array[i, ...], self._dtype) for i in range(len(array)))

    def __format__(self, specification: str) -> str:
        if not specification or self.shape:
            return format(str(self), specification)
        return format(self.item(), specification)

    def __contains__(self, value: object) -> bool:
        return bool(np.any(self == value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    def _picked_from(self) -> Array:
        """What `[]` and the like show parts of: of a device a copy, which nobody may write to."""
        array = self.asnumpy()
        if isinstance(self._array, DeviceData):
            array.flags.writeable = False
        return array

    def _numbers(self) -> Array:
        """The elements as numbers that NumPy can compute with.

        Raises:
            TypeError: They are codes of HiFloat8.
        """
        if self._dtype is hifloat8:
            raise TypeError("NumPy can't compute with HiFloat8: asnumpy() gives its codes")
        return self.asnumpy()


class Parameter(Tensor):
    """A named Tensor of a net.

    Args:
        default_input: The data, as for Tensor.
        name: Its name in checkpoints, without surrounding white space. Default: the name of the
            attribute of the Cell that it becomes, and until then a generated `Parameter#N`; so too
            for ''.
        requires_grad: Whether it is trainable. Checkpoints do not store it.

    Raises:
        TypeError: As for Tensor; or `name` is not a str, or `requires_grad` is not a bool.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> ms.Parameter(np.zeros((16, 6, 5, 5), np.float32), name="conv2.weight")
        Parameter (name=conv2.weight, shape=(16, 6, 5, 5), dtype=Float32, requires_grad=True)
    """

    __slots__ = ("_name", "_requires_grad")

    _name: str
    _requires_grad: bool

    def __init__(
        self, default_input: object, name: str | None = None, requires_grad: bool = True
    ) -> None:
        super().__init__(default_input)
        self.name = name
        self.requires_grad = requires_grad

    @property
    def name(self) -> str:
        """Its name in checkpoints. Of a loaded parameter it is what the file says, even ''."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, got {type_name(name)}")
        stripped = name.strip() if name else ""
        self._name = stripped or f"{_GENERATED_NAME_PREFIX}{next(_next_number)}"

    @property
    def has_generated_name(self) -> bool:
        """Whether nobody has named it yet."""
        return self._name.startswith(_GENERATED_NAME_PREFIX)

    @property
    def requires_grad(self) -> bool:
        """Whether it is among its Cell's `trainable_params()`."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad must be a bool, got {type_name(requires_grad)}")
        self._requires_grad = requires_grad

    @property
    def data(self) -> Parameter:
        """The parameter itself, as in MindSpore."""
        return self

    def __repr__(self) -> str:
        # MindSpore shows the name as it is; what controls a terminal is escaped here.
        name = self.name if self.name.isprintable() else repr(self.name)[1:-1]
        return (
            f"Parameter (name={name}, shape={self.shape}, dtype={self.dtype}, "
            f"requires_grad={self.requires_grad})"
        )


def _tensor_over(array: Array, dtype: DType) -> Tensor:
    """A Tensor over an array that is known to be of `dtype`."""
    tensor = Tensor.__new__(Tensor)
    tensor._array = array
    tensor._dtype = dtype
    return tensor


def _numbers_of(value: Any) -> Any:
    """An operand for NumPy: of a Tensor its numbers, of anything else itself."""
    return value._numbers() if isinstance(value, Tensor) else value


def _index_of(index: Any) -> Any:
    """An index for NumPy, with numbers in the place of Tensors."""
    return tuple(map(_numbers_of, index)) if isinstance(index, tuple) else _numbers_of(index)


def _writable_numbers(target: Any) -> Any:
    """The memory that an operator may write to.

    Raises:
        TypeError: It is a device's.
    """
    if isinstance(target, Tensor) and isinstance(target._array, DeviceData):
        raise TypeError(f"a tensor on {target.device} can't be written to by NumPy")
    return _numbers_of(target)


def loaded_parameter(array: Array | DeviceData, dtype: DType, name: str) -> Parameter:
    """A Parameter over an array that is known to be of `dtype`; cheap, for thousands of them."""
    parameter = Parameter.__new__(Parameter)
    parameter._array = array
    parameter._dtype = dtype
    parameter._name = name.strip()
    parameter._requires_grad = True
    return parameter


def converted(array: Array | DeviceData, dtype: DType, wanted: DType) -> Array | DeviceData:
    """An array of type `dtype` as one of type `wanted`: itself where nothing has to change.

    Raises:
        TypeError: From HiFloat8, or to it from anything but its codes in uint8: NumPy does not know
            it.
    """
    if dtype is wanted:
        return array
    if dtype is hifloat8 or (wanted is hifloat8 and dtype is not uint8):
        raise TypeError(f"no conversion from {dtype} to {wanted}")
    if isinstance(array, DeviceData):
        array = array.to_host()
    return array.astype(wanted.numpy, copy=False)


def _array_of(data: object) -> tuple[Array | DeviceData, DType]:
    """Data as a user may give it, and its own type, which for Python's floats is Float32."""
    if type(data) is np.ndarray:
        dtype = BY_NUMPY.get(data.dtype)
        if dtype is not None:
            return data, dtype
    array, dtype = _array_and_dtype(data)
    if dtype is float64 and _is_of_python_numbers(data):
        with np.errstate(over="ignore"):
            return converted(array, dtype, float32), float32
    return array, dtype


def _array_as(data: object, wanted: DType) -> Array | DeviceData:
    array, dtype = _array_and_dtype(data)
    return converted(array, dtype, wanted)


def _array_and_dtype(data: object) -> tuple[Array | DeviceData, DType]:
    if isinstance(data, Tensor):
        return data._array, data._dtype
    if isinstance(data, np.generic) or _is_of_python_numbers(data):
        data = np.array(data)
    accepted = "a tensor, an array, a number or nested lists of numbers"
    payload, dtype, shape = payload_of(data, "data", accepted, is_kept=True)
    if isinstance(payload, np.ndarray):
        return payload, dtype
    return DeviceData(payload, dtype, shape, data), dtype


def _is_of_python_numbers(data: object) -> bool:
    # A numpy.float64 is a float, but has a type of its own.
    return isinstance(data, (int, float, complex, list, tuple)) and not isinstance(data, np.generic)
