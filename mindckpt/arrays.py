"""Any framework's tensor as a NumPy array over the same memory, or as the memory of a device.

No framework is imported here: a tensor can only come from one that the user has imported, so that
is looked up in `sys.modules`. Copies are made only where no view exists: of torch's lazy conjugates
and negatives, of ml_dtypes' int4, and by an object's own `__array__`.
"""

from __future__ import annotations

import sys
from mmap import ALLOCATIONGRANULARITY, mmap
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
_Payload = tuple[Array | _core.DeviceArray | bytes, DType, tuple[int, ...]]

# DLDeviceType of memory that the host can read: kDLCPU, kDLCUDAHost and kDLROCMHost (pinned).
_HOST_DEVICES = frozenset((1, 3, 11))

# Frameworks whose tensors may be in host memory, and are of one type all the same.
_ANYWHERE = frozenset(("torch", "jax", "jaxlib", "mindspore", "mindckpt", "paddle"))

# torch types that torch can't give to NumPy: the integer of the same size to view them as.
_TORCH_AS_INTEGER = {
    "torch.bfloat16": ("int16", bfloat16),
    "torch.float8_e4m3fn": ("uint8", float8_e4m3fn),
    "torch.float8_e5m2": ("uint8", float8_e5m2),
}


class SettingError(ValueError):
    """A variable of the environment that makes no sense; no fault of the value at hand."""


class UnreadableError(TypeError):
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

    What is on a device is copied to the host.

    Args:
        value: What `payload_of` takes.
        argument: What to call the value in an error, such as "save_obj['w']".
        accepted: What to say that it must be, if it is nothing of the kind.

    Returns:
        The array, over the value's own memory wherever possible and keeping it alive, in any
        strides and byte order; for bfloat16 and float8 it has ml_dtypes' dtype.

    Raises:
        TypeError: As `payload_of`.
    """
    payload, dtype, shape = payload_of(value, argument, accepted)
    if isinstance(payload, np.ndarray):
        return payload, dtype
    buffer = np.empty(0, np.uint8) if isinstance(payload, bytes) else payload.to_host()
    return buffer.view(dtype.numpy).reshape(shape), dtype


def payload_of(
    value: object,
    argument: str,
    accepted: str = "a tensor or an array",
    is_kept: bool = False,
) -> tuple[Array | _core.DeviceArray | bytes, DType, tuple[int, ...]]:
    """What the engine saves of a tensor or array of any framework, its type and its shape.

    Args:
        value: A NumPy array of any strides and byte order, a torch or MindSpore tensor, or an
            object with `__array_interface__`, the buffer protocol, `__cuda_array_interface__`,
            DLPack or `__array__`.
        argument: What to call the value in an error, such as "save_obj['w']".
        accepted: What to say that it must be, if it is nothing of the kind.
        is_kept: Whether the array outlives the call or save that it is for. Then torch never frees
            or resizes the tensor's storage again, not even when the array is gone; else it may, as
            fully sharded training does at each step.

    Returns:
        An array over the value's own memory wherever possible, in any strides and byte order, or
        the memory of a device, or b"" for a tensor on a device without elements. All keep the
        value alive.

    Raises:
        TypeError: The value is no such thing, is on a device that can't be used, or has elements
            that no checkpoint can hold.
        SettingError: A variable of the environment, with which devices are set up, makes no sense.
    """
    try:
        found = _payload_of(value, is_kept)
    except (MemoryError, SettingError):
        raise
    except UnreadableError as error:
        raise TypeError(f"{argument}: {error}") from None
    except Exception as error:  # whatever a framework raises when it can't show its memory
        raise TypeError(f"{argument}: can't read a {type_name(value)}: {error}") from error
    if found is None:
        raise TypeError(f"{argument} must be {accepted}, got {type_name(value)}")
    return found


def _payload_of(value: object, is_kept: bool) -> _Payload | None:
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise UnreadableError("a masked array has no value where it is masked: use .filled()")
        if is_mapped(value):
            check_mapped_file(value)
        return _on_host(_typed(np.asarray(value)))
    if is_device_array_type(type(value)):  # first, because there may be thousands of them
        return _from_cuda_array_interface(value)
    torch_tensor = framework_class("torch", "Tensor")
    if torch_tensor is not None and isinstance(value, torch_tensor):
        return _from_torch(value, is_kept)
    mindspore_tensor = framework_class("mindspore", "Tensor")
    if mindspore_tensor is not None and isinstance(value, mindspore_tensor):
        return _from_mindspore(value)
    if is_mindspore_parameter(value):  # a MapParameter, which is a Parameter but no Tensor
        raise UnreadableError(f"a {type_name(value)} is a hash table, not a tensor")
    paddle_tensor = framework_class("paddle", "Tensor")
    if paddle_tensor is not None and isinstance(value, paddle_tensor):
        return _from_paddle(value)
    jax_array = framework_class("jax", "Array")
    if jax_array is not None and isinstance(value, jax_array):
        _check_jax_array(value)
    return _from_protocols(value)


def is_mapped(array: Array) -> bool:
    """Whether an array is over a mapping of NumPy's or Python's; quick, for thousands of them."""
    behind: object = array
    while type(behind) is np.ndarray:
        behind = behind.base
    return isinstance(behind, (np.memmap, mmap))


def check_mapped_file(array: Array) -> None:
    """Refuse elements that lie beyond the end of the file that they are mapped from.

    Reading them would end the process with SIGBUS.

    Raises:
        UnreadableError: As said.
    """
    behind: object = array
    offset = 0  # of the mapping in the file, as far as it is known
    while isinstance(behind, np.ndarray):
        if isinstance(behind, np.memmap):
            offset = behind.offset // ALLOCATIONGRANULARITY * ALLOCATIONGRANULARITY
        behind = behind.base
    if not isinstance(behind, mmap) or not array.size:
        return
    begin = np.frombuffer(behind, np.uint8, 1).__array_interface__["data"][0]
    strides = zip(array.shape, array.strides, strict=True)
    reach = sum(max(0, (n - 1) * stride) for n, stride in strides)
    last = array.__array_interface__["data"][0] + reach + array.itemsize
    needed = offset + last - begin
    if behind.size() < needed:
        raise UnreadableError(f"the file behind it has {behind.size()} of {needed} bytes")


def is_device_array_type(kind: type) -> bool:
    """Whether a type's values are CUDA arrays and nothing else: CuPy's, Numba's.

    Torch's tensors and JAX's arrays may be anywhere, and have the attribute wherever they are; so
    have those of a user's class derived from them.
    """
    return (
        hasattr(kind, "__cuda_array_interface__")
        and not hasattr(kind, "__array_interface__")
        and _ANYWHERE.isdisjoint(base.__module__.partition(".")[0] for base in kind.__mro__)
    )


def _from_cuda_array_interface(value: Any) -> _Payload:
    from mindckpt import device_arrays

    return device_arrays.from_cuda_array_interface(value, value.__cuda_array_interface__)


def _on_host(found: tuple[Array, DType]) -> _Payload:
    array, dtype = found
    return array, dtype, array.shape


def _typed(array: Array) -> tuple[Array, DType]:
    dtype = BY_NUMPY.get(array.dtype)
    if dtype is not None:
        return array, dtype
    if array.dtype == NUMPY_INT4:
        return array.astype(np.int8), qint4x2
    try:
        return array, from_numpy(array.dtype)
    except TypeError as error:
        raise UnreadableError(str(error)) from None


def _from_torch(tensor: Any, is_kept: bool) -> _Payload:
    torch = sys.modules["torch"]
    if hasattr(type(tensor), "__tensor_flatten__"):
        raise UnreadableError(_wrapper_refusal(tensor))
    if tensor.is_nested:
        raise UnreadableError("a nested tensor is a list of tensors: use .unbind()")
    if tensor.layout is not torch.strided:
        raise UnreadableError(f"a tensor of layout {tensor.layout} is not dense: use .to_dense()")
    if tensor.is_meta:
        raise UnreadableError("a tensor on the meta device has no data")
    if tensor.is_quantized:
        raise UnreadableError("a quantized tensor: use .int_repr() or .dequantize()")
    _check_torch_memory(tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_conj():
        tensor = tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if not tensor.is_cpu:
        from mindckpt import device_arrays

        return device_arrays.from_torch(tensor)
    integer, dtype = _TORCH_AS_INTEGER.get(str(tensor.dtype), (None, None))
    if integer is None or dtype is None:
        return _on_host(_typed(_torch_array(tensor, is_kept)))
    array = _torch_array(tensor.view(getattr(torch, integer)), is_kept)
    return _on_host((array.view(dtype.numpy), dtype))


def _torch_array(tensor: Any, is_kept: bool) -> Array:
    """A torch tensor in host memory as an array over its memory."""
    if not is_kept:
        try:
            array, _ = _core.from_dlpack(tensor.__dlpack__())
            if str(tensor.dtype) == f"torch.{array.dtype}":
                return array
        except (BufferError, RuntimeError):
            pass  # elements that DLPack does not know, or what numpy() refuses, too
    shown: Array = tensor.numpy()
    return shown


def _check_torch_memory(tensor: Any) -> None:
    """Refuse a tensor that claims more memory than its storage has, or has none of its own.

    A view outlives what its storage is cut to; fully sharded training frees the storages of
    parameters that are still held.

    Raises:
        UnreadableError: As said.
    """
    if tensor.numel() == 0:
        return
    storage = tensor.untyped_storage()
    if storage.device.type == "meta":  # of FakeTensor, and of subclasses of whatever device
        raise UnreadableError(_wrapper_refusal(tensor))
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    if storage.nbytes() < needed:
        raise UnreadableError(
            f"the tensor's storage has {storage.nbytes()} of {needed} bytes: it was freed, or cut"
        )
    try:
        pointer = tensor.data_ptr()
    except RuntimeError:  # of subclasses without a storage
        pointer = 0
    if pointer == 0:
        raise UnreadableError(_wrapper_refusal(tensor))


def _wrapper_refusal(tensor: Any) -> str:
    return (
        f"a {type_name(tensor)} wraps other tensors and has no memory of its own: save .to_local() "
        "or .full_tensor() of a DTensor, .dequantize() of a quantized tensor"
    )


def _from_mindspore(tensor: Any) -> _Payload:
    try:
        dtype = from_name(str(tensor.dtype))
    except ValueError:
        raise UnreadableError(f"elements of type {tensor.dtype} can't be in a checkpoint") from None
    device = str(getattr(tensor, "device", "CPU"))
    if not device.startswith("CPU"):
        from mindckpt import device_arrays

        return device_arrays.from_mindspore(tensor, device, dtype)
    try:
        # Viewed, because MindSpore's bfloat16 and float8 are NumPy dtypes of its own.
        array = tensor.asnumpy().view(dtype.numpy)
    except TypeError:  # its bfloat16 and float8 do not get along with every NumPy
        array = np.frombuffer(tensor.get_bytes(), dtype.numpy).reshape(tuple(tensor.shape))
    return _on_host((array, dtype))


def _from_paddle(tensor: Any) -> _Payload | None:
    if not tensor.is_dense():  # its DLPack capsule would be of memory that is not there
        raise UnreadableError("a sparse tensor is not dense: use .to_dense()")
    if not tensor.stop_gradient:  # else DLPack refuses, and __array__ shows bfloat16 as uint16
        tensor = tensor.detach()
    return _from_protocols(tensor)


def _check_jax_array(value: Any) -> None:
    """Refuse an array without data.

    Raises:
        UnreadableError: It is traced, or was deleted or donated.
    """
    tracer = framework_class("jax.core", "Tracer")
    if tracer is not None and isinstance(value, tracer):
        raise UnreadableError(
            "a traced value has no data: save outside of jit and other transforms"
        )
    if value.is_deleted():
        raise UnreadableError("a JAX array that was deleted, or donated to a computation")


def _from_protocols(value: Any) -> _Payload | None:
    # A class has the attributes of its instances; scalars and bytes would pass for arrays.
    if isinstance(value, (type, bytes, np.generic)):
        return None
    if hasattr(value, "__array_interface__"):
        return _on_host(_typed(np.asarray(value)))
    refused: Exception | None = None
    try:
        view = memoryview(value)
    except TypeError:
        pass  # no buffer protocol
    except BufferError as error:  # it has, but not for these elements: JAX's bfloat16
        refused = error
    else:
        return _on_host(_typed(np.asarray(view)))
    if hasattr(value, "__cuda_array_interface__"):
        return _from_cuda_array_interface(value)
    if hasattr(value, "__dlpack__"):
        try:
            device, _ = value.__dlpack_device__()
            if device not in _HOST_DEVICES:
                from mindckpt import device_arrays

                return device_arrays.from_dlpack(value, int(device))
            array, name = _core.from_dlpack(value.__dlpack__())
            dtype = from_name(name)
            return _on_host((array.view(dtype.numpy), dtype))
        except SettingError:
            raise
        except (BufferError, RuntimeError, ValueError) as error:
            refused = error  # JAX's int4, or its array in shards: __array__ may do
    if hasattr(value, "__array__"):
        return _on_host(_typed(np.asarray(value)))
    if refused is not None:
        raise refused
    return None
