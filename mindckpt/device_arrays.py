"""Tensors in devices' memory as what the engine copies from: a pointer, a length and a stream.

As in `arrays`, no framework is imported here.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from mindckpt import _core
from mindckpt.arrays import Array, UnreadableError, is_device_array_type, payload_of
from mindckpt.device import prepare_devices
from mindckpt.dtypes import BY_NAME, BY_NUMPY, DType, from_name, from_numpy

# A tensor's payload as the engine takes it, its type, its shape. A tensor without elements has no
# memory, and b"" for a payload; one whose elements do not lie together was copied to the host.
Found = tuple[_core.DeviceArray | Array | bytes, DType, tuple[int, ...]]

_LEGACY_STREAM = 1

# Array interfaces name a type in NumPy's way; the common ones are looked up at once.
_BY_TYPESTR = {
    dtype.str: found
    for dtype, found in BY_NUMPY.items()
    if dtype.kind in "biufc" and dtype.isnative
}

# torch's device type -> our backend's name, and where torch keeps its current stream's handle.
_TORCH_BACKENDS = {"cuda": ("cuda", "cuda_stream"), "npu": ("ascend", "npu_stream")}
_TORCH_NAMES = {
    "bool": "Bool",
    "bfloat16": "BFloat16",
    "float8_e4m3fn": "Float8E4M3FN",
    "float8_e5m2": "Float8E5M2",
}


class DeviceData:
    """A tensor's elements on a device: what `Tensor` holds there in place of a NumPy array.

    Attributes:
        payload: The memory; b"" where there are no elements.
        dtype: The checkpoint type.
        shape: The length of each dimension.
        source: The framework's tensor, whose stream may be another one later; None for memory of
            our own, which anything on the device may be writing to.
        shows_stream: Whether `source` is an array whose interface names its stream.
    """

    __slots__ = ("dtype", "payload", "shape", "shows_stream", "source")

    def __init__(
        self,
        payload: _core.DeviceArray | bytes,
        dtype: DType,
        shape: tuple[int, ...],
        source: object = None,
    ) -> None:
        self.payload = payload
        self.dtype = dtype
        self.shape = shape
        self.source = source
        self.shows_stream = source is not None and is_device_array_type(type(source))

    def current(self) -> _core.DeviceArray | bytes:
        """The memory with the stream that its tensor is written in now.

        Raises:
            ValueError: The tensor is on no device any more, or has another length.
        """
        if self.source is None or isinstance(self.payload, bytes):
            return self.payload
        if not self.shows_stream or not self.payload.refresh(self.source):
            found, _, _ = payload_of(self.source, "a tensor on a device")
            if not isinstance(found, _core.DeviceArray) or found.nbytes != self.payload.nbytes:
                # The memory of before may be somebody else's by now.
                raise ValueError("the tensor behind it is elsewhere, or has another length, by now")
            self.payload = found
        return self.payload

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def is_assignable(self) -> bool:
        """Whether `assign` reaches the tensor: not one whose elements do not lie together.

        Of such a one the payload is a copy. Nor where the device can't copy to where it begins.
        """
        payload = self.current()
        if isinstance(payload, bytes):
            return True
        if self.source is not None and not _begins_at(self.source, payload.pointer):
            return False
        return payload.pointer % payload.copy_alignment == 0

    def reshape(self, shape: tuple[int, ...]) -> DeviceData:
        """The same memory under another shape of as many elements."""
        return DeviceData(self.payload, self.dtype, shape, self.source)

    def to_host(self) -> Array:
        """A copy of the elements, after what their stream holds."""
        if isinstance(self.payload, bytes):
            return np.empty(self.shape, self.dtype.numpy)
        payload = self.current()
        assert not isinstance(payload, bytes)
        return payload.to_host().view(self.dtype.numpy).reshape(self.shape)

    def assign(self, array: Array | DeviceData) -> None:
        """Overwrite the elements with as many others of the same type."""
        if isinstance(self.payload, bytes):
            return
        if isinstance(array, DeviceData):
            if array.payload is self.payload:
                return
            array = array.to_host()
        native = np.ascontiguousarray(array, self.dtype.numpy)
        payload = self.current()
        assert not isinstance(payload, bytes)
        payload.assign(native.reshape(-1).view(np.uint8))

    def interface(self) -> dict[str, Any]:
        """`__cuda_array_interface__`, version 3.

        Raises:
            AttributeError: The memory is none of CUDA's.
        """
        if not isinstance(self.payload, bytes) and not self.payload.device.startswith("cuda:"):
            raise AttributeError("the memory of a device that is not CUDA's")
        payload = self.current()
        pointer, stream = 0, None
        if not isinstance(payload, bytes):
            pointer, stream = payload.pointer, payload.stream
            if stream is None:  # which says that the values are there
                payload.sync()
        return {
            "shape": self.shape,
            "typestr": self.dtype.numpy.str,
            "data": (pointer, False),
            "strides": None,
            "stream": _LEGACY_STREAM if stream == 0 else stream,
            "version": 3,
        }

    def __dlpack__(self, *, stream: object = None, **_: object) -> object:
        if isinstance(self.payload, bytes):
            raise BufferError("a tensor without elements has no memory on a device")
        # Whatever stream the consumer is going to read in: the values are there.
        payload = self.current()
        assert not isinstance(payload, bytes)
        payload.sync()
        return _core.to_dlpack(payload, self.shape, self.dtype.name)

    def __dlpack_device__(self) -> tuple[int, int]:
        if isinstance(self.payload, bytes):
            return (1, 0)
        return (self.payload.dlpack_device_type, self.payload.ordinal)


def from_cuda_array_interface(value: Any, interface: dict[str, Any]) -> Found:
    """What an object with `__cuda_array_interface__` shows: CuPy's, Numba's, JAX's arrays.

    Raises:
        UnreadableError: A masked array, elements that no checkpoint can hold, or memory that is on
            no device of a usable backend.
    """
    prepare_devices()
    if hasattr(value, "block_until_ready"):  # JAX's, which says nothing about its streams
        value.block_until_ready()
    shape: tuple[int, ...] = tuple(interface["shape"])
    dtype = _BY_TYPESTR.get(interface["typestr"]) or _type_of(value, interface["typestr"])
    if interface.get("mask") is not None:
        raise UnreadableError("a masked array has no value where it is masked")
    pointer = interface["data"][0]
    nbytes = math.prod(shape) * dtype.numpy.itemsize
    if nbytes == 0:
        return b"", dtype, shape
    # Before version 3 there was nothing to say about streams: the legacy one was meant. From it on
    # None says that the values are there, whatever the streams do.
    stream = interface.get("stream") if interface.get("version", 0) >= 3 else _LEGACY_STREAM
    strides = interface.get("strides")
    if strides is not None and not _is_contiguous(shape, strides, dtype.itemsize):
        cupy = sys.modules.get("cupy")
        if cupy is not None and isinstance(value, cupy.ndarray):
            value = cupy.ascontiguousarray(value)
            return from_cuda_array_interface(value, value.__cuda_array_interface__)
        return _strided(value, pointer, shape, strides, dtype, stream)
    return _device_array(pointer, nbytes, stream, value, None), dtype, shape


def from_torch(tensor: Any) -> Found:
    """What a torch tensor on a CUDA or Ascend device shows.

    Raises:
        UnreadableError: It is on another device.
    """
    torch = sys.modules["torch"]
    kind = tensor.device.type
    if kind not in _TORCH_BACKENDS:
        raise UnreadableError(f"a tensor on {tensor.device}: there is no backend for {kind}")
    prepare_devices()
    backend, attribute = _TORCH_BACKENDS[kind]
    if tensor.requires_grad:
        tensor = tensor.detach()
    dtype = _torch_type(tensor.dtype)
    shape = tuple(tensor.shape)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes == 0:
        return b"", dtype, shape
    index = tensor.device.index or 0
    # Read now: torch_npu finishes its queue of operations when it is asked.
    stream = int(getattr(getattr(torch, kind).current_stream(index), attribute))
    name = f"{backend}:{index}"
    return _device_array(tensor.data_ptr(), nbytes, stream, tensor, name), dtype, shape


def from_mindspore(tensor: Any, device: str, dtype: DType) -> Found:
    """What a MindSpore tensor on an Ascend device shows. Its stream is waited for."""
    prepare_devices()
    shape = tuple(tensor.shape)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes == 0:
        return b"", dtype, shape
    if not device.startswith("Ascend"):
        raise UnreadableError(f"a tensor on {device}: there is no backend for it")
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    sys.modules["mindspore"].runtime.synchronize()  # it shows no stream's handle
    ordinal = device.partition(":")[2] or "0"
    return _device_array(tensor.data_ptr(), nbytes, None, tensor, f"ascend:{ordinal}"), dtype, shape


def from_dlpack(value: Any, device_type: int) -> Found:
    """What an object with `__dlpack__` on a device shows.

    Raises:
        UnreadableError: No backend has memory of that DLPack device type.
    """
    prepare_devices()
    backend = _core.backend_of_dlpack_type(device_type)
    if not backend:
        raise UnreadableError(f"a tensor on DLPack device type {device_type}: no backend has it")
    try:
        _core.check_device(backend)
    except RuntimeError as error:
        raise UnreadableError(f"a tensor on a {backend} device: {error}") from None
    # The producer orders what it did before the legacy stream of CUDA; others have no such stream.
    is_cuda = backend == "cuda"
    capsule = value.__dlpack__(stream=_LEGACY_STREAM) if is_cuda else value.__dlpack__()
    stream = _LEGACY_STREAM if is_cuda else None
    pointer, ordinal, name, shape, strides, owner = _core.device_from_dlpack(capsule)
    dtype = from_name(name)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes == 0:
        return b"", dtype, shape
    if strides is not None and not _is_contiguous(shape, strides, dtype.itemsize):
        return _strided(owner, pointer, shape, strides, dtype, stream)
    device = f"{backend}:{ordinal}"
    return _device_array(pointer, nbytes, stream, owner, device), dtype, shape


def _device_array(
    pointer: int, nbytes: int, stream: int | None, owner: object, device: str | None
) -> _core.DeviceArray:
    if pointer == 0:
        raise UnreadableError(f"it shows {nbytes} bytes at a null pointer: its memory is gone")
    found = _core.DeviceArray.find(pointer, nbytes, stream, owner, device)
    if found is None:
        unusable = [b for b in _core.backends() if b["unusable"]]
        reasons = "; ".join(f"{b['name']}: {b['unusable']}" for b in unusable)
        raise UnreadableError(f"its memory is on no device that can be used here ({reasons})")
    return found


def _type_of(value: Any, typestr: str) -> DType:
    """Of elements that an array interface can't name: bfloat16 is '<V2' there."""
    dtype = getattr(value, "dtype", None)
    try:
        found = from_numpy(dtype if dtype is not None else typestr)
    except TypeError as error:
        raise UnreadableError(str(error)) from None
    if found.itemsize != np.dtype(typestr).itemsize or typestr.startswith(">"):
        raise UnreadableError(f"elements of type {typestr!r} on a device can't be saved")
    return found


def _torch_type(dtype: Any) -> DType:
    name = str(dtype).removeprefix("torch.")
    titled = name.capitalize().replace("Uint", "UInt")
    found = BY_NAME.get(_TORCH_NAMES.get(name, titled))
    if found is None:
        raise UnreadableError(f"elements of type {dtype} can't be in a checkpoint")
    return found


def _begins_at(tensor: Any, pointer: int) -> bool:
    """Whether that is where a framework's tensor has its elements, as far as it tells."""
    if callable(getattr(tensor, "data_ptr", None)):
        return bool(tensor.data_ptr() == pointer)
    if is_device_array_type(type(tensor)):
        return bool(tensor.__cuda_array_interface__["data"][0] == pointer)
    return True


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _strided(
    owner: object,
    pointer: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: DType,
    stream: int | None,
) -> Found:
    """A copy, on the host, of all that a strided view spans; elements are picked there."""
    reaches = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    before = -sum(reach for reach in reaches if reach < 0)
    span = before + sum(reach for reach in reaches if reach > 0) + dtype.itemsize
    buffer = _device_array(pointer - before, span, stream, owner, None).to_host()
    return np.ndarray(shape, dtype.numpy, buffer.data, before, strides), dtype, shape
