"""Raw copies by the CUDA driver: what a device's bus and memory give to a loop that only copies."""

from __future__ import annotations

import contextlib
import ctypes
import time
from types import TracebackType
from typing import Any, Literal, TypeAlias

Direction: TypeAlias = Literal["to_host", "to_device", "on_device"]

LIBRARY = "libcuda.so.1"

# Enough that no cache holds it; the copies go round in it.
_RING_BYTES = 256 << 20
_NON_BLOCKING = 1
_PORTABLE = 1


class Driver:
    """The primary context of a device, a pinned buffer and two on the device, and a stream.

    Use it in a `with` statement: what it holds is given back at the end.

    Args:
        ordinal: Of the device.
        ring_bytes: Of each buffer.

    Raises:
        OSError: There is no driver.
        RuntimeError: A call of it failed; the message names the call.
    """

    def __init__(self, ordinal: int = 0, ring_bytes: int = _RING_BYTES) -> None:
        self._cuda = ctypes.CDLL(LIBRARY)
        self._ring_bytes = ring_bytes
        self._device = ctypes.c_int()
        context, stream, host = (ctypes.c_void_p() for _ in range(3))
        nbytes = ctypes.c_size_t(ring_bytes)
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), ordinal)
        with contextlib.ExitStack() as made:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
            made.callback(self._cuda.cuDevicePrimaryCtxRelease_v2, self._device)
            self._call("cuCtxPushCurrent_v2", context)
            made.callback(self._cuda.cuCtxPopCurrent_v2, ctypes.byref(ctypes.c_void_p()))
            self._call("cuMemHostAlloc", ctypes.byref(host), nbytes, _PORTABLE)
            made.callback(self._cuda.cuMemFreeHost, host)
            on_device = []
            for _ in range(2):
                memory = ctypes.c_uint64()
                self._call("cuMemAlloc_v2", ctypes.byref(memory), nbytes)
                made.callback(self._cuda.cuMemFree_v2, memory)
                on_device.append(memory.value)
            self._call("cuStreamCreateWithPriority", ctypes.byref(stream), _NON_BLOCKING, 0)
            made.callback(self._cuda.cuStreamDestroy_v2, stream)
            self._stream, self._host = stream, host.value or 0
            self._first, self._second = on_device
            # Not zeros, which some hardware moves faster.
            ctypes.memset(self._host, 0x5A, ring_bytes)
            self.copy_seconds("to_device", ring_bytes, ring_bytes)
            self._given_back = made.pop_all()

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def copy_seconds(self, direction: Direction, chunk_bytes: int, nbytes: int) -> float:
        """Seconds from the first copy put into the stream until the last one ended.

        Args:
            direction: 'to_host' and 'to_device' copy from or to pinned memory.
            chunk_bytes: Of each copy, at most the buffers' size.
            nbytes: Of all copies together, rounded up to whole chunks.
        """
        if not 0 < chunk_bytes <= self._ring_bytes:
            raise ValueError(f"chunk_bytes={chunk_bytes}: 1 to {self._ring_bytes} are possible")
        function, to, from_ = {
            "to_host": ("cuMemcpyDtoHAsync_v2", self._host, self._first),
            "to_device": ("cuMemcpyHtoDAsync_v2", self._first, self._host),
            "on_device": ("cuMemcpyDtoDAsync_v2", self._second, self._first),
        }[direction]
        places = self._ring_bytes // chunk_bytes
        offsets = [(i % places) * chunk_bytes for i in range(-(-nbytes // chunk_bytes))]
        length = ctypes.c_size_t(chunk_bytes)
        calls = [(ctypes.c_uint64(to + at), ctypes.c_uint64(from_ + at), length) for at in offsets]
        begin = time.perf_counter()
        for call in calls:
            self._call(function, *call, self._stream)
        self._call("cuStreamSynchronize", self._stream)
        return time.perf_counter() - begin

    def close(self) -> None:
        """Gives back all that it holds; waits for no copies, of which there are none."""
        self._given_back.close()

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status != 0:
            raise RuntimeError(f"{function} of {LIBRARY} returned {status}")
