"""Saves JAX parameters every few steps. JAX's arrays never change: each step makes new ones.

python examples/jax_loop.py checkpoints/
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import mindckpt

STEPS, SAVE_EVERY = 20, 5
Parameters = dict[str, jax.Array]


def loss(parameters: Parameters, inputs: jax.Array) -> jax.Array:
    """The mean square error of a linear model that should sum its inputs."""
    outputs = inputs @ parameters["weight"] + parameters["bias"]
    return jnp.mean((outputs - inputs.sum(1, keepdims=True)) ** 2)


@jax.jit
def step(parameters: Parameters, inputs: jax.Array) -> Parameters:
    """One step of gradient descent."""
    gradients = jax.grad(loss)(parameters, inputs)
    return jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradients)


def main(folder: Path) -> None:
    """Trains, saving as it goes, then loads the last checkpoint and checks it."""
    folder.mkdir(exist_ok=True)
    parameters = {"weight": jnp.zeros((32, 1)), "bias": jnp.zeros((1,), jnp.bfloat16)}
    keys = jax.random.split(jax.random.key(0), STEPS)
    job = None
    for number, key in enumerate(keys, 1):
        parameters = step(parameters, jax.random.normal(key, (128, 32)))
        if number % SAVE_EVERY == 0:
            # The job keeps these arrays alive until they are staged. Nothing overwrites them, as
            # long as they are not donated; so nothing has to be copied.
            job = mindckpt.save_checkpoint(
                parameters, folder / f"step{number}.ckpt", async_save=True, snapshot="lazy"
            )
    assert job is not None
    print(f"the last save was durable after {job.durable.result():.3f} s")

    on_gpu = jax.default_backend() == "gpu"
    loaded = mindckpt.load_checkpoint(
        folder / f"step{STEPS}.ckpt", framework="jax", device="cuda:0" if on_gpu else None
    )
    for name, array in parameters.items():
        assert bool((loaded[name] == array).all()), name
    print(f"loaded {len(loaded)} arrays, equal to those in memory")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
