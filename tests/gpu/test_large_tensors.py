"""Tensors over the sizes at which the format and the copies change: 512 MiB and 4 GiB.

Oracles: the same values saved from host memory, and the frameworks' own copies.
"""

import filecmp
from pathlib import Path

import numpy as np
import pytest

from gpu.frameworks import DRY_RUN
from gpu.tensors import MIB, POLICIES, any_framework, free_memory, needs, result_of
from mindckpt import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(DRY_RUN, reason="a dry run is a small one")


@pytest.mark.parametrize("policy", ["sync", *POLICIES])
def test_a_tensor_over_512_mib_is_saved_as_from_the_host(folder: Path, policy: str) -> None:
    """It is stored in slices."""
    library = any_framework()
    nbytes = 600 * MIB + 12
    needs(folder, disk=3 * nbytes, host=5 * nbytes)
    values = np.random.default_rng(6).integers(0, 256, nbytes, np.uint8).view(np.float32)
    tensor = library.array(values)
    options = {} if policy == "sync" else {"async_save": True, "snapshot": policy}
    save_checkpoint({"w": values, "b": values[:3]}, folder / "host.ckpt", durable=False)
    job = save_checkpoint(
        {"w": tensor, "b": tensor[:3]}, folder / "a.ckpt", durable=False, **options
    )
    if job is not None:
        result_of(job)
    assert filecmp.cmp(folder / "a.ckpt", folder / "host.ckpt", shallow=False)
    loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.loads_as)
    assert np.array_equal(library.host(loaded["w"]).view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("mode", ["plain", "AES-GCM"])
def test_a_tensor_over_4_gib_is_saved_and_loaded(folder: Path, mode: str) -> None:
    library = any_framework()
    nbytes = (4 << 30) + 12
    needs(folder, disk=2 * nbytes, host=5 * nbytes)
    if free_memory() < 3 * nbytes:
        pytest.skip(f"takes {3 * nbytes / 2**30:.1f} GiB of device memory")
    values = np.random.default_rng(7).integers(0, 256, nbytes, np.uint8)
    tensor = library.array(values)
    enc = {} if mode == "plain" else {"enc_key": bytes(32), "enc_mode": mode}
    dec = {} if mode == "plain" else {"dec_key": bytes(32), "dec_mode": mode}
    save_checkpoint({"w": tensor}, folder / "a.ckpt", durable=False, **enc)
    del tensor
    loaded = load_checkpoint(folder / "a.ckpt", device="cuda:0", framework=library.loads_as, **dec)
    assert np.array_equal(library.host(loaded["w"]), values)
