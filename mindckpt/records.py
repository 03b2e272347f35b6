"""From what the user wants saved to the engine's records, and from what it read to a dict.

Both directions handle ten thousand small tensors in a few milliseconds: their loops take the
common types first, and do nothing for each record that can be done once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mindckpt import _core
from mindckpt.arrays import (
    Array,
    is_device_array_type,
    is_mapped,
    is_mindspore_parameter,
    payload_of,
    type_name,
)
from mindckpt.device_arrays import DeviceData
from mindckpt.dtypes import BY_NAME, BY_NUMPY, from_name
from mindckpt.errors import CheckpointError
from mindckpt.parameter import Parameter, Tensor, loaded_parameter
from mindckpt.selection import NameFilter

if TYPE_CHECKING:
    from mindckpt._core import Entry, Record

_logger = logging.getLogger("mindckpt")

ParameterDict = dict[str, Parameter | str | list[npt.NDArray[Any]]]

# What MindSpore appends, before a number, to the name of a parameter in an embedding cache.
_CACHE_KEY_MARK = ".__param_key__"

# Map tensors have NumPy's names for their types. A fixed list: the names come from the file, and
# not every dtype that NumPy can name is safe to read.
_MAP_DTYPES = {dtype.numpy.name: dtype.numpy for dtype in BY_NUMPY.values()}

# What the payloads of entries are read as; those of a str as bytes.
_DTYPES = {"str": np.dtype(np.uint8), **{dtype.name: dtype.numpy for dtype in BY_NAME.values()}}


def check_save_obj(save_obj: object) -> None:
    """Refuse what can't be saved by its own type; what is in it is looked at by `records_of`.

    Raises:
        TypeError: `save_obj` is neither a Cell nor a list nor a dict.
    """
    if not isinstance(save_obj, (list, dict)) and not is_cell(save_obj):
        raise TypeError(
            "save_obj must be a Cell (an object with parameters_and_names()), a list or a dict, "
            f"got {type_name(save_obj)}"
        )


def is_cell(value: object) -> bool:
    """Whether a value passes for a Cell: it has `parameters_and_names()`, and is no class."""
    return not isinstance(value, type) and callable(getattr(value, "parameters_and_names", None))


def check_append_dict(append_dict: object) -> None:
    """Refuse an `append_dict` of a wrong type, or with a key that is not a str.

    Raises:
        TypeError: As said.
    """
    if append_dict is None:
        return
    if not isinstance(append_dict, dict):
        raise TypeError(f"append_dict must be a dict or None, got {type_name(append_dict)}")
    for name in append_dict:
        if not isinstance(name, str):
            raise TypeError(f"a key of append_dict must be a str, got {type_name(name)}")


def records_of(
    save_obj: Any,
    choice: NameFilter | None,
    append_dict: dict[str, object] | None,
    integrated_save: bool = False,
) -> list[Record]:
    """The records to write, in order; of a name that comes twice, the last value in first place.

    Warns when none of `save_obj` is among them, though `choice` was asked for some or there is no
    `append_dict`: an empty file may be about to replace a good one.

    Args:
        save_obj: What `check_save_obj` lets through.
        choice: Asked for each name of `save_obj` in order; what it has no true answer for is left
            out.
        append_dict: What `check_append_dict` lets through.
        integrated_save: Whether parameters of a MindSpore Cell that are spread over ranks are to be
            merged, which is refused.

    Raises:
        TypeError: A value that can't be saved, a key that is not a str, a list of mixed elements.
        ValueError: A name that is not valid Unicode, an int out of range, or a parameter that is
            spread over ranks.
    """
    records: dict[str, Record] = {}
    spread = _spread_names(save_obj) if integrated_save else frozenset()
    asked = 0
    # Types of device arrays that were met: the engine reads the next ones itself, a great deal
    # faster.
    device_types: set[type] = set()
    for name, value in _named_values(save_obj):
        if type(name) is not str or not name.isascii():
            name = _checked_name(name, "save_obj")
        if choice is not None:
            asked += 1
            if not choice(name):
                continue
        if name in spread:
            raise ValueError(
                f"integrated_save: parameter {name!r} is spread over several ranks, and the slices "
                "can't be merged here yet: save those of each rank with integrated_save=False"
            )
        if type(value) in device_types:
            records[name] = (name, None, None, value)
            continue
        records[name] = record = _record(name, value, "save_obj")
        if type(record[3]) is _core.DeviceArray and is_device_array_type(type(value)):
            device_types.add(type(value))
    if not records and (asked or not append_dict):
        _logger.warning(
            "save_checkpoint: nothing is selected of save_obj%s: the file will hold no parameters",
            f", by any of {asked} calls of choice_func" if asked else "",
        )
    for name, value in (append_dict or {}).items():
        name = _checked_name(name, "append_dict")
        records[name] = _appended_record(name, value)
    return list(records.values())


def _spread_names(save_obj: Any) -> frozenset[str]:
    """Which parameters of a MindSpore Cell this process has only a part of, by its layouts."""
    layouts = getattr(save_obj, "parameter_layout_dict", None)
    if not isinstance(layouts, dict):
        return frozenset()
    return frozenset(name for name, layout in layouts.items() if _is_spread(layout))


def _is_spread(layout: object) -> bool:
    """Whether ranks have different parts of a parameter.

    Of a layout's fields the first is the matrix of devices, the second the axes of it that each
    dimension is cut along (counted from the last axis; -1: not cut), the sixth the group of ranks
    among which an optimizer shards it ('': none).
    """
    if not isinstance(layout, (list, tuple)) or len(layout) < 2:
        return False  # it says nothing of slices
    devices, tensor_map = layout[0], layout[1]
    is_sharded = len(layout) > 5 and bool(layout[5])
    axes = [axis for entry in tensor_map for axis in _axes(entry)]
    return is_sharded or any(axis != -1 and devices[len(devices) - 1 - axis] > 1 for axis in axes)


def _axes(entry: Any) -> Sequence[int]:
    """What one dimension is cut along: an axis, or several."""
    return entry if isinstance(entry, (list, tuple)) else (entry,)


def _named_values(save_obj: Any) -> Iterable[tuple[str, object]]:
    if isinstance(save_obj, dict):
        return save_obj.items()
    if isinstance(save_obj, list):
        if save_obj and isinstance(save_obj[0], dict):
            return map(_named_data, range(len(save_obj)), save_obj)
        return map(_named_parameter, range(len(save_obj)), save_obj)
    return map(_named_member, save_obj.parameters_and_names())


def _named_data(index: int, item: object) -> tuple[str, object]:
    if not isinstance(item, dict):
        raise TypeError(
            f"save_obj[{index}] must be a dict with 'name' and 'data', as save_obj[0] is, "
            f"got {type_name(item)}"
        )
    try:
        name, data = item["name"], item["data"]
    except KeyError as error:
        raise TypeError(f"save_obj[{index}] is a dict without {error}") from None
    if not isinstance(name, str):
        raise TypeError(f"save_obj[{index}]['name'] must be a str, got {type_name(name)}")
    if isinstance(data, str):  # which MindSpore takes in a dict alone
        raise TypeError(
            f"save_obj[{index}]['data'] must be a tensor or an array, got {type_name(data)}"
        )
    return name, data


def _named_parameter(index: int, item: Any) -> tuple[str, object]:
    if isinstance(item, Parameter):
        return item._name, item
    if is_mindspore_parameter(item):
        return item.name, item
    raise TypeError(
        f"save_obj[{index}] must be a Parameter (or all of save_obj dicts with 'name' and 'data'), "
        f"got {type_name(item)}"
    )


def _named_member(member: Any) -> tuple[str, object]:
    """A Cell's parameter by its own name, as MindSpore saves it, and anything else by its path."""
    if not isinstance(member, tuple) or len(member) != 2:
        raise TypeError(
            f"save_obj.parameters_and_names() must yield (name, parameter), got {type_name(member)}"
        )
    path, value = member
    if isinstance(value, Parameter):
        return value._name, value
    return (value.name if is_mindspore_parameter(value) else path), value


def _checked_name(name: object, argument: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a key of {argument} must be a str, got {type_name(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument}[{name!r}]: the name has a lone surrogate, no UTF-8") from None
    return str.__str__(name)  # of a subclass, the plain str


def _record(
    name: str, value: object, argument: str, accepted: str = "a tensor, an array or a str"
) -> Record:
    if type(value) is np.ndarray:
        dtype = BY_NUMPY.get(value.dtype)
        if dtype is not None and (value.base is None or not is_mapped(value)):
            return name, dtype.name, value.shape, value
    elif isinstance(value, Tensor):
        array = value._array
        if type(array) is np.ndarray:
            if array.base is not None and is_mapped(array):
                payload_of(array, f"{argument}[{name!r}]")  # refuses what the file does not have
            return name, value._dtype.name, array.shape, array
        if not isinstance(array, DeviceData):  # a subclass of an array's
            return name, value._dtype.name, array.shape, array
        # What shows its stream is read by the engine: the stream of today's writer counts.
        try:
            shown = array.source if array.shows_stream else array.current()
        except ValueError as error:
            raise ValueError(f"{argument}[{name!r}]: {error}") from None
        return name, value._dtype.name, array.shape, shown
    elif isinstance(value, str):
        return _string_record(name, value)
    payload, dtype, shape = payload_of(value, f"{argument}[{name!r}]", accepted)
    return name, dtype.name, shape, payload


def resolved(record: Record) -> Record:
    """A record whose payload the engine couldn't read by itself, with one that it can.

    Raises:
        TypeError: There is none, because the value is on no device that can be used, say.
        ValueError: The tensor behind a Parameter has another length by now.
    """
    name, kind, dims, value = record
    payload, dtype, shape = payload_of(value, f"save_obj[{name!r}]")
    if kind is None or dims is None:
        return name, dtype.name, shape, payload
    nbytes = len(payload) if isinstance(payload, bytes) else payload.nbytes
    expected = math.prod(dims) * from_name(kind).itemsize
    if nbytes != expected:
        raise ValueError(
            f"save_obj[{name!r}]: the tensor behind it has {nbytes} bytes now, not {expected}"
        )
    return name, kind, dims, payload


def _appended_record(name: str, value: object) -> Record:
    """As _record, and numbers as MindSpore stores them."""
    if isinstance(value, bool):
        return name, "Bool", (), bytes([value])
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return name, "Int64", (), int(value).to_bytes(8, "little", signed=True)
        if 0 <= value < 2**64:
            return name, "UInt64", (), int(value).to_bytes(8, "little")
        raise ValueError(f"append_dict[{name!r}]: the int must be in [-2**63, 2**64)")
    if isinstance(value, np.float64):  # a float, too
        return name, "Float64", (), value.tobytes()
    if isinstance(value, float):
        with np.errstate(over="ignore"):  # to inf, as in MindSpore
            return name, "Float32", (), np.array(value, "<f4").tobytes()
    if isinstance(value, np.generic) and not isinstance(
        value, str
    ):  # what operators make of a loaded number
        value = np.asarray(value)
    return _record(name, value, "append_dict", "an int, a float, a bool, a str or a tensor")


def _string_record(name: str, value: str) -> Record:
    # The format keeps NumPy's fixed-width strings, which can't be empty and can't end with a NUL.
    return name, "str", (0,), (value or "\0").encode("utf-32-le", "surrogatepass")


def dtypes_of(entries: Iterable[Entry], path: str) -> list[np.dtype[Any]]:
    """What the payloads of entries of the file at `path` are to be read as.

    Raises:
        CheckpointError: A map tensor of an unknown type.
    """
    try:
        return [
            _DTYPES[kind] if role == "tensor" else _MAP_DTYPES[kind]
            for _, kind, _, _, role in entries
        ]
    except KeyError as error:
        raise CheckpointError(f"{path}: a map tensor has the unknown type {error}") from None


def to_parameter_dict(
    entries: Sequence[Entry], arrays: Sequence[Array], path: str
) -> ParameterDict:
    """What load_checkpoint returns, of entries of the file at `path` and their payloads.

    Raises:
        CheckpointError: As `values_of`.
    """
    return without_cache_marks(values_of(entries, arrays, path))


def values_of(entries: Sequence[Entry], arrays: Sequence[Array], path: str) -> ParameterDict:
    """The values of entries of the file at `path`, by the names that the file has.

    A str entry becomes a str, a map tensor a list of its key, value and status arrays.

    Raises:
        CheckpointError: A str entry is not UTF-32, or a map tensor has the name of a tensor.
    """
    found: ParameterDict = {}
    for (name, kind, _, _, role), array in zip(entries, arrays, strict=True):
        if role != "tensor":
            parts = found.setdefault(name, [])
            if not isinstance(parts, list):
                raise CheckpointError(f"{path}: {name!r} is both a tensor and a map tensor")
            parts.append(array)
        elif kind == "str":
            found[name] = _string(name, array, path)
        else:
            found[name] = loaded_parameter(array, BY_NAME[kind], name)
    return found


def without_cache_marks(found: dict[str, Any]) -> dict[str, Any]:
    """The same dict, changed: the names of parameters in an embedding cache lose their mark.

    Their entries go to the end, as in MindSpore.
    """
    for name in [name for name in found if _CACHE_KEY_MARK in name]:
        found[name[: name.index(_CACHE_KEY_MARK)]] = found.pop(name)
    return found


def _string(name: str, array: Array, path: str) -> str:
    try:
        return array.tobytes().decode("utf-32-le", "surrogatepass").rstrip("\0")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: the str {name!r} is not UTF-32: {error.reason}") from None
