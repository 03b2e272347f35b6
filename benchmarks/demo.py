"""The documented LeNet5 example, then every mode against this machine's raw write loop.

`make demo` runs it; it takes less than a minute. Its files go to a temporary folder.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import contest
import mindckpt
from contest import Entry
from libraries import MINDCKPT, RoundTrip
from mindckpt import Parameter, nn
from mindckpt.bench import modes, raw
from mindckpt.bench.limits import Limit, measured
from mindckpt.bench.measure import MIB, Payload, machine, median_and_spread, sample, table

PAYLOAD_TENSORS = 4
TENSOR_BYTES = 64 * MIB
ROUNDS = 3
WRITE = "raw write"
WRITE_FDATASYNC = "raw write + fdatasync"


class Layer(nn.Cell):
    """A weight, uniform within 1/sqrt(inputs) of zero, and a bias of zeros where there is one."""

    def __init__(self, *shape: int, has_bias: bool = True) -> None:
        """A layer with weights of this shape, the outputs first."""
        super().__init__()
        bound = float(np.prod(shape[1:])) ** -0.5
        weight = np.random.default_rng(0).uniform(-bound, bound, shape)
        self.weight = Parameter(weight.astype(np.float32))
        if has_bias:
            self.bias = Parameter(np.zeros(shape[0], np.float32))


class LeNet5(nn.Cell):
    """The parameters of the network in MindSpore's documentation of save_checkpoint."""

    def __init__(self) -> None:
        """Two convolutions without a bias, three dense layers with one."""
        super().__init__()
        self.conv1 = Layer(6, 1, 5, 5, has_bias=False)
        self.conv2 = Layer(16, 6, 5, 5, has_bias=False)
        self.fc1 = Layer(120, 16 * 5 * 5)
        self.fc2 = Layer(84, 120)
        self.fc3 = Layer(10, 84)


def documented_example(folder: Path) -> None:
    """Prints what the documentation prints, word for word."""
    net = LeNet5()
    mindckpt.save_checkpoint(
        net,
        folder / "lenet.ckpt",
        choice_func=lambda x: x.startswith("conv") and not x.startswith("conv1"),
    )
    param_dict1 = mindckpt.load_checkpoint(folder / "lenet.ckpt")
    print(param_dict1)
    params_list = net.trainable_params()
    mindckpt.save_checkpoint(
        params_list,
        folder / "lenet_list.ckpt",
        choice_func=lambda x: x.startswith("conv") and not x.startswith("conv2"),
    )
    param_dict2 = mindckpt.load_checkpoint(folder / "lenet_list.ckpt")
    print(param_dict2)
    mindckpt.save_checkpoint(param_dict2, folder / "lenet_dict.ckpt")
    param_dict3 = mindckpt.load_checkpoint(folder / "lenet_dict.ckpt")
    print(param_dict3)


def raw_loops(payload: Payload, folder: Path) -> list[Entry]:
    """Loops in Python, because the demo builds nothing but the package."""
    path = folder / "raw"

    def entry(name: str, loop: Callable[[raw.Buffer, Path], None]) -> Entry:
        def take() -> float:
            seconds, _ = sample(lambda: loop(payload.buffer, path), payload.nbytes)
            path.unlink()
            return seconds

        return Entry(name, take)

    return [entry(WRITE, raw.write), entry(WRITE_FDATASYNC, raw.write_fdatasync)]


def table_of_modes(folder: Path) -> str:
    """Saves and loads in every mode, comparing what came back, in rounds with the raw loops."""
    payload = Payload.of_size(PAYLOAD_TENSORS, TENSOR_BYTES)
    loops = raw_loops(payload, folder)
    trips = [RoundTrip(MINDCKPT, mode, payload, folder) for mode in modes.ALL]
    entries = [*loops, *(entry for trip in trips for entry in trip.both())]
    samples = contest.samples(entries, ROUNDS)

    def speed(name: str) -> list[str]:
        seconds = statistics.median(measured(samples, name))
        return [f"{seconds:.3f}", f"{payload.nbytes / 1e9 / seconds:.2f}"]

    def save(name: str, file_bytes: int, raw_loop: str) -> list[str]:
        ratios = Limit((raw_loop,)).ratios(samples, name)
        return [f"{file_bytes:,}", *speed(name), f"{median_and_spread(ratios)} of {raw_loop}"]

    rows = [[loop.name, *save(loop.name, payload.nbytes, WRITE), "", ""] for loop in loops]
    for trip in trips:
        raw_loop = WRITE_FDATASYNC if trip.mode.durable else WRITE
        saved = save(trip.save_name, trip.file_bytes, raw_loop)
        rows.append([trip.mode.name, *saved, *speed(trip.load_name)])
    return table(["", "bytes", "save s", "GB/s", "ratio", "load s", "GB/s"], rows)


def main() -> None:
    """Prints the example, then the table."""
    with tempfile.TemporaryDirectory(prefix="mindckpt-demo-") as name:
        folder = Path(name)
        documented_example(folder)
        print()
        print(f"Medians of {ROUNDS} rounds on {machine(folder)}.")
        print("Every load is compared with what was saved. Not synced but where it says durable.")
        print()
        print(table_of_modes(folder))


if __name__ == "__main__":
    main()
