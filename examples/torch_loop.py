"""Saves a torch model and its optimizer every few steps without the training waiting for it.

python examples/torch_loop.py checkpoints/
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import mindckpt

STEPS, SAVE_EVERY = 20, 5


def main(folder: Path) -> None:
    """Trains a small network, saving as it goes, then loads the last checkpoint and checks it."""
    folder.mkdir(exist_ok=True)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    job = None
    for step in range(1, STEPS + 1):
        inputs = torch.randn(128, 32, device=device)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if job is not None:
            # The optimizer writes what the save may still be reading: the device waits, not we.
            job.fence(torch.cuda.current_stream() if device != "cpu" else None)
        optimizer.step()
        if step % SAVE_EVERY == 0:
            job = mindckpt.save_checkpoint(
                model.state_dict(),
                folder / f"step{step}.ckpt",
                async_save=True,
                snapshot="lazy",
                append_dict={"step": step},
            )
    assert job is not None
    print(f"the last save was durable after {job.durable.result():.3f} s")

    loaded = mindckpt.load_checkpoint(
        folder / f"step{STEPS}.ckpt",
        framework="torch",
        device=device,
        choice_func=lambda name: name != "step",
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    print(f"loaded {len(loaded)} tensors to {device}, equal to those in memory")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
