"""The stand-in driver's arrays as if a framework had them: what a dry run of `make gpu` tests with.

Unlike frameworks' streams, its streams wait for the default stream and hold it up.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mindckpt import Parameter
from stand_in import StandIn, StandInArray, stand_in

Array = npt.NDArray[Any]

_LEGACY_STREAM = 1
_NOT_READY = 600
# Long beside what a test does meanwhile, on a machine with other work too.
_BUSY_SECONDS = 0.25


class StandInTensor(StandInArray):
    """An array in whatever stream is the current one, or a view of one.

    Attributes:
        shadow: An array in host memory of the same shape and strides: NumPy makes views of it.
    """

    def __init__(self, library: "StandInLibrary", values: Array, device: int) -> None:
        self.library = library
        super().__init__(library.driver, values, device, None)
        self.shadow = np.empty(values.shape, values.dtype)
        self.whole: StandInTensor | None = None

    @property
    def stream(self) -> int:
        return self.library.current

    @stream.setter
    def stream(self, stream: int | None) -> None:
        assert stream is None

    def transpose(self, *order: int) -> "StandInTensor":
        return self._view(self.shadow.transpose(order))

    def __getitem__(self, index: Any) -> "StandInTensor":
        return self._view(self.shadow[index])

    def __del__(self) -> None:
        """Frees it in stream order, as frameworks do."""
        if self.whole is None:
            self.library.driver.stream_sync(self.library.current)
            super().__del__()

    def _view(self, shadow: Array) -> "StandInTensor":
        view = StandInTensor.__new__(StandInTensor)
        view.__dict__.update(self.__dict__)
        view.whole, view.shadow = self, shadow
        view.shape, view.strides, view.nbytes = shadow.shape, shadow.strides, shadow.nbytes
        view.pointer = self.pointer + shadow.ctypes.data - self.shadow.ctypes.data
        return view


class StandInLibrary:
    """The interface of frameworks.py."""

    name = "stand_in"
    loads_as = None
    policies = ("auto", "device", "host", "lazy")

    def __init__(self) -> None:
        self.driver: StandIn = stand_in("cuda")
        self.current = _LEGACY_STREAM
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._delay = self._cuda.stand_in_stream_delay
        self._delay.argtypes = [ctypes.c_void_p, ctypes.c_double]
        context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._call("cuCtxPushCurrent_v2", context)

    def array(self, values: npt.ArrayLike, device: int = 0) -> StandInTensor:
        return StandInTensor(self, np.asarray(values), device)

    def host(self, tensor: Any) -> Array:
        if isinstance(tensor, Parameter):
            return tensor.asnumpy()
        self.synchronize()
        values: Array = tensor.read()
        return values

    def supports(self, dtype: np.dtype[Any]) -> bool:
        return True

    def pointer(self, tensor: StandInTensor) -> int:
        return tensor.pointer

    def stream(self) -> int:
        return int(self.driver.stream_create(0))

    @contextlib.contextmanager
    def within(self, stream: int) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def spin(self) -> None:
        """Keeps the current stream busy."""
        self._delay(self.current, _BUSY_SECONDS)

    def fill(self, tensor: StandInTensor, value: int) -> None:
        values = np.full(tensor.shape, value, tensor.dtype)
        self.driver.stream_write(self.current, tensor.pointer, values.ctypes.data, values.nbytes)

    def idle(self, stream: int) -> bool:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))
        status = self._cuda.cuEventQuery(event)
        self._call("cuEventDestroy_v2", event)
        assert status in (0, _NOT_READY)
        return bool(status == 0)

    def synchronize(self) -> None:
        self._call("cuCtxSynchronize")

    def free_cache(self) -> None:
        pass

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cuda, function)(*arguments)
        assert status == 0, f"{function} returned {status}"
