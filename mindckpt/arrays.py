"""Any framework's tensor as a NumPy array over the same memory.

No framework is imported here: a tensor can only come from one that the user has imported, so that
is looked up in `sys.modules`. Copies are made only where no view exists: of torch's lazy conjugates
and negatives, of ml_dtypes' int4, and by an object's own `__array__`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from mindckpt import _core
from mindckpt.dtypes import (
    BY_NUMPY,
    NUMPY_INT4,
    DType,
    bfloat16,
    float8_e4m3fn,
    float8_e5m2,
    from_name,
    from_numpy,
    qint4x2,
)

Array = npt.NDArray[Any]

# DLDeviceType of memory that the host can read: kDLCPU, kDLCUDAHost and kDLROCMHost (pinned).
_HOST_DEVICES = frozenset((1, 3, 11))

# torch types that torch can't give to NumPy: the integer of the same size to view them as.
_TORCH_AS_INTEGER = {
    "torch.bfloat16": ("int16", bfloat16),
    "torch.float8_e4m3fn": ("uint8", float8_e4m3fn),
    "torch.float8_e5m2": ("uint8", float8_e5m2),
}


class _UnreadableError(TypeError):
    """Why a value can't be read, in words that only lack the name of the argument."""


def type_name(value: object) -> str:
    """What a value is, for a message: 'int', 'torch.Tensor', 'the class Net'."""
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def framework_class(module: str, name: str) -> type | None:
    """The class `module.name` of a framework, or None where the user has not imported it."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def is_mindspore_parameter(value: object) -> bool:
    """Whether a value is a `mindspore.Parameter`."""
    parameter = framework_class("mindspore", "Parameter")
    return parameter is not None and isinstance(value, parameter)


def host_array(
    value: object, argument: str, accepted: str = "a tensor or an array"
) -> tuple[Array, DType]:
    """A tensor or array of any framework as a NumPy array, and its checkpoint type.

    Args:
        value: A NumPy array of any strides and byte order, a torch or MindSpore tensor in host
            memory, or an object with `__array_interface__`, the buffer protocol, host DLPack or
            `__array__`.
        argument: What to call the value in an error, such as "save_obj['w']".
        accepted: What to say that it must be, if it is nothing of the kind.

    Returns:
        The array, over the value's own memory wherever possible and keeping it alive, in any
        strides and byte order; for bfloat16 and float8 it has ml_dtypes' dtype.

    Raises:
        TypeError: The value is no such thing, is on a device, or has elements that no checkpoint
            can hold.
    """
    try:
        found = _host_array(value)
    except MemoryError:
        raise
    except _UnreadableError as error:
        raise TypeError(f"{argument}: {error}") from None
    except Exception as error:  # whatever a framework raises when it can't show its memory
        raise TypeError(f"{argument}: can't read a {type_name(value)}: {error}") from error
    if found is None:
        raise TypeError(f"{argument} must be {accepted}, got {type_name(value)}")
    return found


def _host_array(value: object) -> tuple[Array, DType] | None:
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise _UnreadableError("a masked array has no value where it is masked: use .filled()")
        return _typed(np.asarray(value))
    torch_tensor = framework_class("torch", "Tensor")
    if torch_tensor is not None and isinstance(value, torch_tensor):
        return _from_torch(value)
    mindspore_tensor = framework_class("mindspore", "Tensor")
    if mindspore_tensor is not None and isinstance(value, mindspore_tensor):
        return _from_mindspore(value)
    if is_mindspore_parameter(value):  # a MapParameter, which is a Parameter but no Tensor
        raise _UnreadableError(f"a {type_name(value)} is a hash table, not a tensor")
    return _from_protocols(value)


def _typed(array: Array) -> tuple[Array, DType]:
    dtype = BY_NUMPY.get(array.dtype)
    if dtype is not None:
        return array, dtype
    if array.dtype == NUMPY_INT4:
        return array.astype(np.int8), qint4x2
    try:
        return array, from_numpy(array.dtype)
    except TypeError as error:
        raise _UnreadableError(str(error)) from None


def _from_torch(tensor: Any) -> tuple[Array, DType]:
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        raise _UnreadableError(f"a tensor of layout {tensor.layout} is not dense: use .to_dense()")
    if tensor.is_meta:
        raise _UnreadableError("a tensor on the meta device has no data")
    if not tensor.is_cpu:
        raise _on_device(tensor.device)
    if tensor.is_quantized:
        raise _UnreadableError("a quantized tensor: use .int_repr() or .dequantize()")
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_conj():
        tensor = tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    integer, dtype = _TORCH_AS_INTEGER.get(str(tensor.dtype), (None, None))
    if integer is None or dtype is None:
        return _typed(tensor.numpy())
    return tensor.view(getattr(torch, integer)).numpy().view(dtype.numpy), dtype


def _from_mindspore(tensor: Any) -> tuple[Array, DType]:
    device = str(getattr(tensor, "device", "CPU"))
    if not device.startswith("CPU"):
        raise _on_device(device)
    try:
        dtype = from_name(str(tensor.dtype))
    except ValueError:
        raise _UnreadableError(
            f"elements of type {tensor.dtype} can't be in a checkpoint"
        ) from None
    try:
        # Viewed, because MindSpore's bfloat16 and float8 are NumPy dtypes of its own.
        array = tensor.asnumpy().view(dtype.numpy)
    except TypeError:  # its bfloat16 and float8 do not get along with every NumPy
        array = np.frombuffer(tensor.get_bytes(), dtype.numpy).reshape(tuple(tensor.shape))
    return array, dtype


def _from_protocols(value: Any) -> tuple[Array, DType] | None:
    # A class has the attributes of its instances; scalars and bytes would pass for arrays.
    if isinstance(value, (type, bytes, np.generic)):
        return None
    if hasattr(value, "__array_interface__"):
        return _typed(np.asarray(value))
    refused: Exception | None = None
    try:
        view = memoryview(value)
    except TypeError:
        pass  # no buffer protocol
    except BufferError as error:  # it has, but not for these elements: JAX's bfloat16
        refused = error
    else:
        return _typed(np.asarray(view))
    if hasattr(value, "__cuda_array_interface__"):
        raise _on_device("a CUDA device")
    if hasattr(value, "__dlpack__"):
        try:
            device, _ = value.__dlpack_device__()
            if device not in _HOST_DEVICES:
                raise _on_device(f"DLPack device type {int(device)}")
            array, name = _core.from_dlpack(value.__dlpack__())
            dtype = from_name(name)
            return array.view(dtype.numpy), dtype
        except (BufferError, RuntimeError, ValueError) as error:
            refused = error  # JAX's int4, or its array in shards: __array__ may do
    if hasattr(value, "__array__"):
        return _typed(np.asarray(value))
    if refused is not None:
        raise refused
    return None


def _on_device(device: object) -> _UnreadableError:
    return _UnreadableError(
        f"a tensor on {device}: device memory is not supported yet in this version"
    )
