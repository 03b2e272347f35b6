"""Saves CuPy arrays every few steps from a stream of their own, encrypted.

python examples/cupy_loop.py checkpoints/
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mindckpt

STEPS, SAVE_EVERY = 20, 5
KEY = bytes(range(32))  # yours comes from where keys are kept


def train(xp: Any, stream: Any, folder: Path) -> dict[str, Any]:
    """Some steps on arrays of `xp`, which is cupy, in a stream that is current."""
    weights = {f"layer{i}.weight": xp.full((64, 64), i + 1, dtype="float32") for i in range(4)}
    job = None
    for step in range(1, STEPS + 1):
        if job is not None:
            job.fence(stream)  # the stream waits before it overwrites, the host goes on
        for weight in weights.values():
            weight *= 1.01
        if step % SAVE_EVERY == 0:
            job = mindckpt.save_checkpoint(
                weights,
                folder / f"step{step}.ckpt",
                async_save=True,
                snapshot="lazy",
                enc_key=KEY,
                stream=stream,
            )
    assert job is not None
    for state in ("staged", "written", "durable"):
        print(f"{state} after {getattr(job, state).result():.4f} s")
    return weights


def main(folder: Path) -> None:
    """Trains, then loads the last checkpoint to the device and checks it."""
    import cupy

    folder.mkdir(exist_ok=True)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        weights = train(cupy, stream, folder)
        loaded = mindckpt.load_checkpoint(
            folder / f"step{STEPS}.ckpt", dec_key=KEY, device="cuda:0", framework="cupy"
        )
        for name, weight in weights.items():
            assert bool((loaded[name] == weight).all()), name
    print(f"loaded {len(loaded)} arrays, equal to those in memory")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
