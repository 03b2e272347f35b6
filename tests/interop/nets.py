"""Real networks, of the kinds whose parameters are named and ordered in different ways."""

from __future__ import annotations

from typing import Any

import numpy as np

from .oracle import ms

nn, Parameter, Tensor = ms.nn, ms.Parameter, ms.Tensor


def _ones(*shape: int, dtype: Any = ms.float32) -> Any:
    return Tensor(np.ones(shape, np.float32), dtype)


class LeNet5(nn.Cell):
    """The network of MindSpore's documentation of save_checkpoint."""

    def __init__(self) -> None:
        """Convolutions without a bias, dense layers with one."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, pad_mode="valid")
        self.conv2 = nn.Conv2d(6, 16, 5, pad_mode="valid")
        self.relu = nn.ReLU()
        self.fc1 = nn.Dense(16 * 5 * 5, 120)
        self.fc2 = nn.Dense(120, 84)
        self.fc3 = nn.Dense(84, 10)


class Nested(nn.Cell):
    """Own parameters between children, a tied one, one without a name, lists, frozen ones."""

    class Inner(nn.Cell):
        """Parameters that are named otherwise than their attributes."""

        def __init__(self) -> None:
            """Named against the alphabet."""
            super().__init__()
            self.attribute = Parameter(_ones(2), name="zb")
            self.frozen = Parameter(_ones(3), name="aa", requires_grad=False)

    def __init__(self) -> None:
        """Registers in an order that is not the alphabet's."""
        super().__init__()
        self.p2 = Parameter(_ones(2, 2), name="p2")
        self.inner = Nested.Inner()
        self.unnamed = Parameter(_ones(3))
        self.fc = nn.Dense(2, 3)
        self.tied = self.p2
        self.layers = nn.CellList([nn.Dense(1, 1, has_bias=False), nn.Dense(1, 2)])
        self.norm = nn.BatchNorm1d(2)


class HalfPrecision(nn.Cell):
    """bfloat16, float16 and 4-bit parameters, and a 0-d one."""

    def __init__(self) -> None:
        """One parameter of each."""
        super().__init__()
        self.brain = Parameter(_ones(4, 5, dtype=ms.bfloat16), name="brain")
        self.half = Parameter(_ones(7, dtype=ms.float16), name="half")
        codes = np.array([[1, -2, 7], [-8, 0, 5]], np.int8)
        self.quantized = Parameter(Tensor(codes, ms.qint4x2), name="quantized", requires_grad=False)
        self.scale = Parameter(Tensor(0.5, ms.float32), name="scale")


class Sequence(nn.SequentialCell):
    """Names that start with the place in a sequence."""

    def __init__(self) -> None:
        """A convolution, its normalisation, an embedding."""
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Embedding(10, 4))


class Recurrent(nn.Cell):
    """Parameters of a ParameterTuple, several layers, both directions."""

    def __init__(self) -> None:
        """An LSTM."""
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, bidirectional=True)


ALL = [LeNet5, Nested, HalfPrecision, Sequence, Recurrent]
