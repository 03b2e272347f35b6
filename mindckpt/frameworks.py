"""Where loaded tensors go: a device's memory, and the tensors of a framework.

A framework is imported only when the user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindckpt import _core
from mindckpt.arrays import Array, SettingError, payload_of, type_name
from mindckpt.device import prepare_devices
from mindckpt.device_arrays import DeviceData
from mindckpt.dtypes import BY_NAME, DType, float8_e4m3fn, float8_e5m2, hifloat8, qint4x2
from mindckpt.parameter import loaded_parameter
from mindckpt.records import ParameterDict, values_of, without_cache_marks

if TYPE_CHECKING:
    from mindckpt._core import Entry, Reader

FRAMEWORKS = ("cupy", "torch", "jax", "numpy", "mindspore")

# Our backend -> what torch calls its devices.
_TORCH_DEVICES = {"cuda": "cuda", "ascend": "npu"}
# Where torch's name is not ours in small letters. Its own int4 is a name that it computes nothing
# with.
_TORCH_NAMES = {
    "Bool": "bool",
    "Float8E4M3FN": "float8_e4m3fn",
    "Float8E5M2": "float8_e5m2",
    "Int4": "int8",
}


def destinations(device: object, framework: object) -> Destinations | None:
    """Where a load's tensors go, by its arguments; None for Parameters in host memory.

    Raises:
        TypeError: One of them is not a str.
        ValueError: There is no such framework, or it has no tensors on that device.
        RuntimeError: The framework is not installed.
    """
    if device is not None and not isinstance(device, str):
        raise TypeError(f"device must be a str or None, got {type_name(device)}")
    if framework is not None and not isinstance(framework, str):
        raise TypeError(f"framework must be a str or None, got {type_name(framework)}")
    if framework is not None and framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}, got {framework!r}")
    if device == "cpu":
        device = None
    if device is None and framework is None:
        return None
    if device is None and framework == "cupy":
        device = "cuda"
    if device is not None and framework == "numpy":
        raise ValueError(f"NumPy has no arrays on {device!r}")
    return Destinations(device, framework)


class Destinations:
    """A device, or host memory for None, and a framework, or Parameters of ours for None."""

    def __init__(self, device: str | None, framework: str | None) -> None:
        self._device = device
        self._framework = framework
        self._module: Any = None
        self._moves_to_ascend = False  # MindSpore's own copies: it takes no memory of ours
        if framework is not None:
            try:
                self._module = importlib.import_module(framework)
            except ImportError as error:
                raise RuntimeError(f"framework {framework!r} is not installed: {error}") from error
        backend = (device or "").partition(":")[0]
        if device is not None and framework == "cupy" and backend != "cuda":
            raise ValueError(f"CuPy has no arrays on {device!r}")
        if device is not None and framework == "mindspore":
            self._check_mindspore_device(device)
            self._device, self._moves_to_ascend = None, True
        if device is not None and framework == "torch" and backend not in _TORCH_DEVICES:
            raise ValueError(f"torch has no tensors on {device!r}")

    def _check_mindspore_device(self, device: str) -> None:
        """Refuse what MindSpore can't do: its tensors are on the one device of its process."""
        backend, _, ordinal = device.partition(":")
        if backend != "ascend":
            raise ValueError(f"MindSpore has no tensors of ours on {device!r}")
        current = self._module.get_current_device()
        target, number = str(current.device_target), int(current.device_id)
        if target != "Ascend" or (ordinal and ordinal != str(number)):
            raise ValueError(
                f"MindSpore's tensors are on {target}:{number} in this process, not on {device!r}: "
                f"call mindspore.set_device('Ascend', {ordinal or 0}) before it uses a device"
            )

    def load(
        self,
        reader: Reader,
        entries: Sequence[Entry],
        indices: Sequence[int],
        dtypes: Sequence[np.dtype[Any]],
        path: str,
        check_crc: bool,
        num_threads: int,
    ) -> ParameterDict:
        """Read entries of a checkpoint; the arguments are those of Reader.read, and its entries."""
        self._check_types([entries[index] for index in indices])
        if self._device is not None:
            prepare_devices()
        # Strings, map tensors and what has no elements stay in host memory.
        on_device: list[int] = []
        on_host: list[int] = []
        for place, index in enumerate(indices):
            _, kind, _, nbytes, role = entries[index]
            is_tensor = role == "tensor" and kind != "str" and nbytes > 0
            (on_device if self._device is not None and is_tensor else on_host).append(place)
        made = {place: self._allocate(entries[indices[place]]) for place in on_device}
        memory = [array for _, array in made.values()]
        if memory and all(array.copy_alignment == 1 for array in memory):
            wanted = [indices[place] for place in on_device]
            reader.read_into(wanted, memory, check_crc=check_crc, num_threads=num_threads)
            check_crc = False  # it has been
        else:  # copies to the device can't begin where a block does
            on_host = sorted(on_host + on_device)
        if memory and not on_host:
            return self._in_order([entries[index] for index in indices], made, {})
        host = dict(
            zip(
                on_host,
                reader.read(
                    [indices[place] for place in on_host],
                    [dtypes[place] for place in on_host],
                    check_crc=check_crc,
                    num_threads=num_threads,
                ),
                strict=True,
            )
        )
        for place in set(made) & set(host):
            made[place][1].assign(host.pop(place).reshape(-1).view(np.uint8))
        selected = [entries[index] for index in indices]
        order = [place for place in range(len(indices)) if place in host]
        loaded = values_of([selected[p] for p in order], [host[p] for p in order], path)
        return self._in_order(selected, made, loaded)

    def _check_types(self, selected: Sequence[Entry]) -> None:
        """Refuse elements that the framework would not hold as they are, before any is read.

        Raises:
            RuntimeError: As said; it names the first parameter.
        """
        first_of_kind: dict[str, str] = {}
        for name, kind, _, _, role in selected:
            if role == "tensor" and kind != "str":
                first_of_kind.setdefault(kind, name)
        for kind, name in first_of_kind.items():
            refusal = self._refusal(BY_NAME[kind])
            if refusal:
                raise RuntimeError(f"parameter {name!r}: {refusal}")

    def _refusal(self, dtype: DType) -> str:
        """Why the framework can't hold such elements as they are, or ''."""
        if self._framework == "torch" and self._torch_type(dtype) is None:
            return f"torch has no elements of type {dtype}"
        if self._framework in ("jax", "cupy") and dtype is hifloat8:
            return f"{self._framework} has no elements of type {dtype}"
        if self._framework == "jax":
            made = self._module.dtypes.canonicalize_dtype(dtype.numpy)
            if made != dtype.numpy:
                return (
                    f"JAX would make {made} of {dtype} while jax_enable_x64 is off: turn it on by "
                    "jax.config.update('jax_enable_x64', True), or leave the parameter out by "
                    "filter_prefix or choice_func"
                )
        return ""

    def _in_order(
        self,
        selected: Sequence[Entry],
        made: dict[int, tuple[Any, _core.DeviceArray]],
        loaded: dict[str, Any],
    ) -> ParameterDict:
        result: dict[str, Any] = {}
        for place, (name, kind, _, _, _) in enumerate(selected):
            if place in made:
                with _naming(name):
                    result[name] = self._finished(made[place][0], BY_NAME[kind], name)
            elif name not in result:  # a map tensor has three entries
                result[name] = self._shown(name, loaded[name])
        return without_cache_marks(result)

    def _shown(self, name: str, value: Any) -> Any:
        """A loaded value in host memory as it is returned.

        Raises:
            RuntimeError: The framework does not take it; the message names the parameter.
        """
        if isinstance(value, (str, list)):
            return value
        with _naming(name):
            return self._wrapped(value)

    def _allocate(self, entry: Entry) -> tuple[Any, _core.DeviceArray]:
        """A tensor to be filled, as the framework has it, and its memory."""
        name, kind, dims, nbytes, _ = entry
        dtype = BY_NAME[kind]
        assert self._device is not None
        if self._framework == "cupy":
            ordinal = int(self._device.partition(":")[2] or 0)
            with self._module.cuda.Device(ordinal), _naming(name):
                tensor = self._module.empty(dims, dtype.numpy)
        elif self._framework == "torch":
            backend, _, ordinal_text = self._device.partition(":")
            where = f"{_TORCH_DEVICES[backend]}:{ordinal_text or 0}"
            with _naming(name):
                tensor = self._module.empty(dims, dtype=self._torch_type(dtype), device=where)
        else:
            memory = _core.DeviceArray.allocate(self._device, nbytes)
            # Nothing else knows of it yet: to fill it, and to hand it to JAX, nothing on the device
            # needs to be waited for.
            new = _core.DeviceArray.find(memory.pointer, nbytes, None, memory, memory.device)
            assert new is not None
            return DeviceData(new if self._framework == "jax" else memory, dtype, dims), new
        payload, _, _ = payload_of(tensor, f"a {self._framework} tensor for {name!r}")
        if not isinstance(payload, _core.DeviceArray):
            raise RuntimeError(f"{self._framework} made a tensor that is not on {self._device}")
        return tensor, payload

    def _finished(self, tensor: Any, dtype: DType, name: str) -> Any:
        """A filled tensor as it is returned."""
        if self._framework is None:
            return loaded_parameter(tensor, dtype, name)
        if self._framework == "jax":
            return self._module.dlpack.from_dlpack(tensor)
        return tensor

    def _wrapped(self, parameter: Any) -> Any:
        """A Parameter in host memory as the framework has it."""
        array: Array = parameter.asnumpy()
        if self._framework is None:
            return parameter
        if self._framework == "numpy":
            return array
        if self._framework == "torch":
            torch_type = self._torch_type(parameter.dtype)
            if not array.nbytes:
                return self._module.empty(array.shape, dtype=torch_type)
            flat = self._module.from_numpy(array.reshape(-1).view(np.uint8))
            return flat.view(torch_type).reshape(array.shape)
        if self._framework == "cupy":
            return self._module.asarray(array)
        if self._framework == "jax":
            return self._module.numpy.asarray(array)
        if self._moves_to_ascend and array.nbytes:
            source = mindspore_tensor(array, parameter.dtype).move_to("Ascend")
        else:
            source = _mindspore_source(array, parameter.dtype)
        return self._module.Parameter(source, name=parameter.name)

    def _torch_type(self, dtype: DType) -> Any:
        """The torch.dtype of as many bytes that holds the elements; None where there is none."""
        return getattr(self._module, _TORCH_NAMES.get(dtype.name, dtype.name.lower()), None)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """What a framework raises, which knows no names, as a RuntimeError that has the parameter's."""
    try:
        yield
    except (MemoryError, SettingError):
        raise
    except Exception as error:
        raise RuntimeError(f"parameter {name!r}: {error}") from error


def mindspore_tensor(array: Array, dtype: DType) -> Any:
    """A MindSpore tensor of the same type, over the array's own memory where it can use that.

    Args and errors as `_mindspore_source`.
    """
    mindspore = sys.modules["mindspore"]
    source = _mindspore_source(array, dtype)
    return source if isinstance(source, mindspore.Tensor) else mindspore.Parameter(source).data


def _mindspore_source(array: Array, dtype: DType) -> Any:
    """What a MindSpore Parameter of the same type is made from; a tensor but in name.

    Args:
        array: In host memory, of `dtype.numpy`.
        dtype: The checkpoint type, which for HiFloat8 and Int4 NumPy's does not tell.

    Raises:
        RuntimeError: This MindSpore has no such type.
        TypeError, ValueError: It does not take the array, such as bfloat16 with some NumPys.
    """
    mindspore = sys.modules["mindspore"]
    usable = np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
    if dtype not in _NOT_FROM_NUMPY:
        return mindspore.Tensor.from_numpy(usable)
    found = getattr(mindspore, _NOT_FROM_NUMPY[dtype], None)
    if found is None:
        raise RuntimeError(f"this MindSpore has no elements of type {dtype}")
    if dtype is qint4x2:
        return mindspore.Tensor(usable, found)
    # The way of MindSpore's own loader for what it can't take from NumPy. What this makes is of a
    # base class of Tensor, from which a Parameter is made, and nothing else.
    return mindspore.Tensor.convert_bytes_to_tensor(usable.tobytes(), usable.shape, found)


# What MindSpore takes for another type, or not at all, when it is given NumPy's array.
_NOT_FROM_NUMPY = {
    qint4x2: "qint4x2",
    hifloat8: "hifloat8",
    float8_e4m3fn: "float8_e4m3fn",
    float8_e5m2: "float8_e5m2",
}
