"""Saves a MindSpore network every few steps without waiting, and loads it with MindSpore itself.

python examples/mindspore_loop.py checkpoints/
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

import mindckpt

STEPS, SAVE_EVERY = 10, 5


def main(folder: Path) -> None:
    """Trains a small network, saving as it goes, then has MindSpore load the last checkpoint."""
    folder.mkdir(exist_ok=True)
    ms.set_seed(0)
    net = nn.SequentialCell(nn.Dense(32, 64), nn.ReLU(), nn.Dense(64, 1))
    optimizer = nn.SGD(net.trainable_params(), learning_rate=0.01)
    mean_square = nn.MSELoss()

    def loss(inputs: ms.Tensor, targets: ms.Tensor) -> ms.Tensor:
        return mean_square(net(inputs), targets)

    gradients_of = ms.value_and_grad(loss, None, optimizer.parameters)
    rng = np.random.default_rng(0)
    job = None
    for step in range(1, STEPS + 1):
        inputs = rng.standard_normal((128, 32)).astype(np.float32)
        targets = ms.Tensor(inputs.sum(1, keepdims=True))
        _, gradients = gradients_of(ms.Tensor(inputs), targets)
        optimizer(gradients)
        if step % SAVE_EVERY == 0:
            job = mindckpt.save_checkpoint(
                net, folder / f"step{step}.ckpt", async_save=True, append_dict={"step": step}
            )
    assert job is not None
    print(f"the last save was durable after {job.durable.result():.3f} s")

    loaded = ms.load_checkpoint(str(folder / f"step{STEPS}.ckpt"))
    for name, parameter in net.parameters_and_names():
        assert np.array_equal(loaded[parameter.name].asnumpy(), parameter.asnumpy()), name
    print(f"MindSpore loaded {len(loaded)} entries, equal to those in memory")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
