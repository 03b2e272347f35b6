"""The two libraries behind one face. Importing this skips the module where MindSpore is missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mindckpt

from .cases import Stored

ms = pytest.importorskip("mindspore", reason="the real MindSpore is not installed here")

from mindspore.train import serialization  # noqa: E402
from mindspore.train.checkpoint_pb2 import Checkpoint  # noqa: E402

__all__ = [
    "Checkpoint",  # MindSpore's schema, compiled by Google's protobuf
    "mindspore_loads",
    "mindspore_object",
    "mindspore_parameter",
    "mindspore_saves",
    "ms",
    "of_ours",
    "our_object",
    "our_tensor",
    "we_load",
    "we_save",
]

_MINDSPORE_TYPES = {
    "Int8": ms.int8,
    "Int16": ms.int16,
    "Int32": ms.int32,
    "Int64": ms.int64,
    "UInt8": ms.uint8,
    "UInt16": ms.uint16,
    "UInt32": ms.uint32,
    "UInt64": ms.uint64,
    "Float16": ms.float16,
    "Float32": ms.float32,
    "Float64": ms.float64,
    "BFloat16": ms.bfloat16,
    "Bool": ms.bool_,
    "Int4": ms.qint4x2,
    "Complex64": ms.complex64,
    "Complex128": ms.complex128,
    "Float8E4M3FN": ms.float8_e4m3fn,
    "Float8E5M2": ms.float8_e5m2,
    "HiFloat8": ms.hifloat8,
}


def mindspore_parameter(entry: Stored) -> Any:
    """The Parameter that MindSpore's own loader makes of these bytes."""
    tensor = serialization.Tensor_.convert_bytes_to_tensor(
        entry.content, entry.shape, _MINDSPORE_TYPES[entry.type]
    )
    return ms.Parameter(tensor, name=entry.name)


def mindspore_object(entries: list[Stored]) -> dict[str, Any]:
    """A save_obj for MindSpore, as its load_checkpoint returns one."""
    return {entry.name: _text_or(mindspore_parameter, entry) for entry in entries}


def our_object(entries: list[Stored], rng: random.Random | None = None) -> dict[str, Any]:
    """A save_obj for us. With `rng`, the arrays lie in memory in all the ways that NumPy knows."""

    def tensor(entry: Stored) -> mindckpt.Tensor:
        return our_tensor(entry, rng)

    return {entry.name: _text_or(tensor, entry) for entry in entries}


def _text_or(make_tensor: Callable[[Stored], Any], entry: Stored) -> Any:
    if entry.type == "str":
        return entry.content.decode("utf-32-le", "surrogatepass")
    return make_tensor(entry)


def our_tensor(entry: Stored, rng: random.Random | None = None) -> mindckpt.Tensor:
    """A Tensor of ours with these bytes."""
    dtype = mindckpt.dtypes.from_name(entry.type)
    array = np.frombuffer(entry.content, dtype.numpy).reshape(entry.shape)
    return mindckpt.Tensor(array if rng is None else _laid_out(array, rng), dtype)


def _laid_out(array: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    """The same elements, laid out in another way."""
    if array.ndim == 0:
        return array
    layout = rng.choice(["c", "fortran", "reversed", "strided", "writable"])
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "strided":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return array.copy() if layout == "writable" else array


def mindspore_saves(save_obj: Any, path: Path, **options: Any) -> None:
    """mindspore.save_checkpoint, waited for when asynchronous."""
    ms.save_checkpoint(save_obj, str(path), **options)
    serialization._wait_async_thread_save_ckpt()
    serialization._wait_async_process_save_ckpt()


def mindspore_loads(path: Path, **options: Any) -> list[Stored]:
    """What mindspore.load_checkpoint returns, in its order."""
    return [_of_mindspore(*item) for item in ms.load_checkpoint(str(path), **options).items()]


def we_save(save_obj: Any, path: Path, **options: Any) -> None:
    """Our save_checkpoint, without the syncs that hundreds of small files do not need."""
    assert mindckpt.save_checkpoint(save_obj, str(path), durable=False, **options) is None


def we_load(path: Path, **options: Any) -> list[Stored]:
    """What our load_checkpoint returns, in its order."""
    return of_ours(mindckpt.load_checkpoint(str(path), **options))


def of_ours(loaded: Mapping[str, Any]) -> list[Stored]:
    """A dict of our Parameters and strings as entries."""
    return [
        Stored.string(name, value)
        if isinstance(value, str)
        else Stored(name, str(value.dtype), value.shape, value.asnumpy().tobytes())
        for name, value in loaded.items()
    ]


def _of_mindspore(name: str, value: Any) -> Stored:
    if isinstance(value, str):
        return Stored.string(name, value)
    return Stored(name, str(value.dtype), tuple(value.shape), bytes(value.get_bytes()))
