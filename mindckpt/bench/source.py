"""The tensors that are saved, in host memory or on a device, and how a training overwrites them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mindckpt import _core
from mindckpt.bench.measure import Payload
from mindckpt.device_arrays import DeviceData
from mindckpt.dtypes import float32
from mindckpt.job import SaveJob
from mindckpt.parameter import loaded_parameter

CPU = "cpu"

# The handle of the default stream, in every driver: the "training" works in it.
_STREAM = 0


class Source:
    """A payload where it is saved from.

    Attributes:
        payload: The values, in host memory, for raw loops and comparisons.
        device: Where they are saved from: 'cpu', or a device such as 'cuda:0'.
        save_obj: What save_checkpoint takes: name -> tensor.
        arrays: Name -> the device's memory, as one that no stream is known to write; nothing for
            'cpu'.

    Raises:
        RuntimeError: The device can't be used, or has too little memory.
    """

    def __init__(self, payload: Payload, device: str) -> None:
        self.payload = payload
        self.device = device
        self.arrays: dict[str, _core.DeviceArray] = {}
        self.save_obj: Mapping[str, Any] = dict(payload.tensors)
        self._in_stream: dict[str, _core.DeviceArray] = {}
        if device != CPU:
            self._allocate()
            self.overwrite()

    def overwrite(self) -> None:
        """Writes every tensor anew, as an optimizer does: its signs change.

        On a device it is copied from the payload, after what the stream holds.
        """
        np.negative(self.payload.numbers, out=self.payload.numbers)
        for name, array in self._in_stream.items():
            array.assign(self.payload.tensors[name])

    def fence(self, job: SaveJob) -> None:
        """Makes what overwrites the tensors wait for a save that has copied nothing (lazy)."""
        if self.device == CPU:
            job.fence()
        else:
            job.fence(_STREAM, self.device)

    def _allocate(self) -> None:
        parameters = {}
        for name, tensor in self.payload.tensors.items():
            memory = _core.DeviceArray.allocate(self.device, tensor.nbytes)
            view = _core.DeviceArray.find(
                memory.pointer, memory.nbytes, _STREAM, memory, self.device
            )
            assert view is not None
            self.arrays[name] = memory
            self._in_stream[name] = view
            data = DeviceData(view, float32, tensor.shape)
            parameters[name] = loaded_parameter(data, float32, name)
        self.save_obj = parameters


def unusable(device: str, backends: list[_core.Backend]) -> str:
    """Why a device can't be saved from, '' where it can.

    Args:
        device: 'cpu', or a backend's name with or without an ordinal: 'cuda', 'cuda:1'.
        backends: What `mindckpt.device.devices` returns.
    """
    if device == CPU:
        return ""
    name, colon, ordinal = device.partition(":")
    for backend in backends:
        if backend["name"] != name:
            continue
        if backend["unusable"]:
            return backend["unusable"]
        if colon and not ordinal.isdecimal():
            return f"devices are numbered, such as {name}:0"
        if int(ordinal or 0) >= backend["device_count"]:
            return f"{name} has {backend['device_count']} devices"
        return ""
    known = ", ".join([CPU, *(backend["name"] for backend in backends)])
    return f"there is no backend {name!r}, only {known}"
