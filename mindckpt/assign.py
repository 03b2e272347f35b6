"""Putting loaded parameters into a net, by MindSpore's rules of names, shapes and types."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from mindckpt import dtypes
from mindckpt.arrays import host_array, is_mindspore_parameter, type_name
from mindckpt.device_arrays import DeviceData
from mindckpt.dtypes import DType
from mindckpt.frameworks import mindspore_tensor
from mindckpt.parameter import Parameter, converted
from mindckpt.records import is_cell

_logger = logging.getLogger("mindckpt")

# Within each group a parameter is converted to the type that the net has.
_CONVERTIBLE = (
    frozenset((dtypes.float16, dtypes.float32, dtypes.float64, dtypes.bfloat16)),
    frozenset((dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.qint4x2)),
)


class _Assignment(NamedTuple):
    """One parameter of the net and what it is to hold; to apply it can't fail, devices apart."""

    name: str
    parameter: Any
    data: Any  # an array, or DeviceData, for a Parameter of ours, else a MindSpore tensor
    dtype: DType  # of what was loaded
    wanted: DType  # of the parameter

    @property
    def is_on_device(self) -> bool:
        return isinstance(self.parameter, Parameter) and isinstance(
            self.parameter._array, DeviceData
        )

    def apply(self) -> None:
        if isinstance(self.parameter, Parameter):
            held = self.parameter._array
            if isinstance(held, DeviceData):
                held.assign(self.data)  # in place: kernels and optimizers know that memory
            else:
                self.parameter._array = self.data
        else:
            self.parameter.set_data(self.data)


class _MapImport(NamedTuple):
    """One of MindSpore's map parameters and the keys, values and status that it is to hold."""

    name: str
    parameter: Any
    parts: list[Any]

    def apply(self) -> None:
        self.parameter.import_data(self.parts)


def check_net(net: object) -> None:
    """Refuse a net that is not a Cell.

    Raises:
        TypeError: `net` has no `parameters_and_names()`.
    """
    if not is_cell(net):
        raise TypeError(
            f"net must be a Cell (an object with parameters_and_names()), got {type_name(net)}"
        )


def assign(
    net: Any, parameter_dict: dict[str, Any], strict_load: bool
) -> tuple[list[str], list[str]]:
    """What load_param_into_net does once its arguments are known to be a Cell, a dict and a bool.

    Nothing is changed unless everything fits. Only a device that fails can then leave some
    parameters changed and others not.
    """
    _check_values(parameter_dict)
    plan: list[_Assignment] = []
    imports: list[_MapImport] = []
    missing: list[tuple[str, Any]] = []
    passed_over: list[str] = []  # not looked for under prefixes
    used: set[str] = set()
    for path, parameter in net.parameters_and_names():
        name = _net_parameter_name(path, parameter)
        if name not in parameter_dict:
            if _is_map(parameter):
                passed_over.append(name)
            elif not name.startswith("accu_grads"):  # MindSpore's gradient accumulators
                missing.append((name, parameter))
            continue
        value = parameter_dict[name]
        if _is_map(parameter):
            imports.append(_fitted_map(parameter, name, value))
        elif isinstance(value, (str, list)):  # which a parameter can't hold
            passed_over.append(name)
            continue
        else:
            plan.append(_fitted(parameter, name, value, strict_load))
        used.add(name)
    if missing and not strict_load:
        more, missing = _plan_under_prefixes(missing, parameter_dict)
        plan += more
    # What may fail comes first, before anything in host memory is changed.
    assignments = sorted(plan, key=lambda assignment: not assignment.is_on_device)
    ordered: list[_MapImport | _Assignment] = [*imports, *assignments]
    for done, assignment in enumerate(ordered):
        try:
            assignment.apply()
        except Exception as error:  # whatever a driver or a framework raises
            raise RuntimeError(
                f"parameter {assignment.name!r}: {error}; of {len(ordered)} parameters of the net "
                f"{done} were set before: load it again"
            ) from error
    not_loaded = [name for name, _ in missing] + passed_over
    _warn(plan, not_loaded)
    return not_loaded, [name for name in parameter_dict if name not in used]


def _check_values(parameter_dict: dict[str, Any]) -> None:
    for name, value in parameter_dict.items():
        if not isinstance(name, str):
            raise TypeError(f"a key of parameter_dict must be a str, got {type_name(name)}")
        if not isinstance(value, (Parameter, str, list)) and not is_mindspore_parameter(value):
            raise TypeError(
                f"parameter_dict[{name!r}] must be a Parameter or a str, got {type_name(value)}"
            )


def _net_parameter_name(path: str, parameter: Any) -> str:
    if isinstance(parameter, Parameter) or is_mindspore_parameter(parameter):
        name: str = parameter.name
        return name
    raise TypeError(f"net: {path!r} must be a Parameter, got {type_name(parameter)}")


def _plan_under_prefixes(
    missing: list[tuple[str, Any]], parameter_dict: dict[str, Any]
) -> tuple[list[_Assignment], list[tuple[str, Any]]]:
    """Fit missing parameters to names that are longer by a prefix; return what is missing still.

    As MindSpore does it. The first missing name that a name of the dict ends with shows a prefix;
    whatever is there under that prefix is loaded; then the same with what is still missing.
    """
    prefixes, endings_under = _prefixes_of([name for name, _ in missing], parameter_dict)
    places: dict[str, list[int]] = {}  # in `missing`, where two parameters can have one name
    for place, (name, _) in enumerate(missing):
        places.setdefault(name, []).append(place)
    plan: list[_Assignment] = []
    for ending in list(places):
        if ending not in places or ending not in prefixes:
            continue  # loaded under an earlier prefix, or the dict has nothing for it
        prefix = prefixes[ending]
        _logger.warning("load_param_into_net: loading parameters without their prefix %r", prefix)
        found = [place for name in endings_under[prefix] for place in places.pop(name, ())]
        for place in sorted(found):
            name, parameter = missing[place]
            plan.append(_fitted(parameter, name, parameter_dict[prefix + name], strict_load=False))
    still_missing = sorted(place for left in places.values() for place in left)
    return plan, [missing[place] for place in still_missing]


def _prefixes_of(
    endings: list[str], parameter_dict: dict[str, Any]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """By which prefixes names of parameters are longer than `endings`.

    Both are made in one pass over the dict, whose names come from a file: were each prefix tried
    with each ending, a file could make that last as long as it likes.

    Returns:
        For each ending the prefix of the first name that ends with it, if any; and for each prefix
        the endings of names under it.
    """
    wanted = set(endings)
    lengths = sorted({len(ending) for ending in wanted})
    prefixes: dict[str, str] = {}
    endings_under: dict[str, list[str]] = {}
    for name, value in parameter_dict.items():
        if isinstance(value, (str, list)):
            continue
        for length in lengths:
            if length >= len(name):
                break
            prefix, ending = name[: len(name) - length], name[len(name) - length :]
            if ending in wanted:
                endings_under.setdefault(prefix, []).append(ending)
                if ending:
                    prefixes.setdefault(ending, prefix)
    return prefixes, endings_under


def _fitted(parameter: Any, name: str, value: Any, strict_load: bool) -> _Assignment:
    """What `parameter` is to hold when it is loaded from `value`.

    Raises:
        RuntimeError: The shapes or the types do not go together, as MindSpore raises it.
    """
    if isinstance(value, Parameter):
        array, dtype = value._array, value._dtype
    else:
        array, dtype = host_array(value, f"parameter_dict[{name!r}]")
    shape = tuple(parameter.shape)
    wanted = (
        parameter._dtype
        if isinstance(parameter, Parameter)
        else dtypes.from_name(str(parameter.dtype))
    )
    if array.shape != shape:
        # (12, 2048, 1, 1) is what some of MindSpore's backends make of (12, 2048).
        if array.shape[: len(shape)] != shape or array.size != _size(shape):
            raise RuntimeError(
                f"parameter {name!r}: shape {array.shape} in parameter_dict, {shape} in net"
            )
        array = array.reshape(shape)
    if dtype is not wanted:
        group = next((group for group in _CONVERTIBLE if wanted in group), frozenset())
        if strict_load or dtype not in group:
            raise RuntimeError(
                f"parameter {name!r}: {dtype} in parameter_dict, {wanted} in net"
                + (", and strict_load forbids to convert" if dtype in group else "")
            )
    data: Any = converted(array, dtype, wanted)
    held = parameter._array if isinstance(parameter, Parameter) else None
    if isinstance(held, DeviceData):
        if not held.is_assignable:
            raise RuntimeError(
                f"parameter {name!r}: it is a view that can't be copied to: of elements that do "
                "not lie together, or beginning where its device can't copy to"
            )
    elif isinstance(data, DeviceData):
        data = data.to_host()
    if not isinstance(parameter, Parameter):
        try:
            data = mindspore_tensor(data, wanted)
        except (RuntimeError, TypeError, ValueError) as error:  # bfloat16 with some NumPys
            raise RuntimeError(
                f"parameter {name!r}: MindSpore takes no {wanted}: {error}"
            ) from error
    return _Assignment(name, parameter, data, dtype, wanted)


def _is_map(parameter: Any) -> bool:
    """Whether it is MindSpore's MapParameter: a hash table, filled by its own method."""
    return callable(getattr(parameter, "import_data", None))


def _fitted_map(parameter: Any, name: str, value: Any) -> _MapImport:
    """What fills a map parameter from a loaded map tensor.

    Raises:
        RuntimeError: It is no map tensor, or has other types or another shape of values.
    """
    if not isinstance(value, list) or len(value) != 3:
        raise RuntimeError(
            f"parameter {name!r}: a {type_name(value)} in parameter_dict, a map tensor in net"
        )
    keys, values, _ = map(np.asarray, value)
    loaded = (str(dtypes.from_numpy(keys.dtype)), str(dtypes.from_numpy(values.dtype)))
    wanted = (str(parameter.key_dtype), str(parameter.value_dtype))
    shapes = (values.shape[1:], tuple(parameter.value_shape))
    if loaded != wanted or shapes[0] != shapes[1]:
        raise RuntimeError(
            f"parameter {name!r}: a map of {loaded[0]} to {loaded[1]} of shape {shapes[0]} in "
            f"parameter_dict, of {wanted[0]} to {wanted[1]} of shape {shapes[1]} in net"
        )
    return _MapImport(name, parameter, value)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _warn(plan: list[_Assignment], not_loaded: list[str]) -> None:
    changed = [a for a in plan if a.dtype is not a.wanted]
    if changed:
        _logger.warning(
            "load_param_into_net: converted %d parameters to the net's types; %r from %s to %s",
            len(changed),
            changed[0].parameter.name,
            changed[0].dtype,
            changed[0].wanted,
        )
    if not_loaded:
        _logger.warning(
            "load_param_into_net: parameter_dict lacks %d parameters of the net; the first is %r",
            len(not_loaded),
            not_loaded[0],
        )
