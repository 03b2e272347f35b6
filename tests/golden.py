"""The golden corpus: files that MindSpore 2.10 wrote, and what it loads from them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FOLDER = Path(__file__).parent / "data" / "golden"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, dict[str, Any]] = {entry["file"]: entry for entry in MANIFEST["files"]}


def read(file: str) -> bytes:
    """The bytes of a golden file."""
    return (FOLDER / file).read_bytes()


def sha256(data: bytes) -> str:
    """Digest as the manifest writes it."""
    return hashlib.sha256(data).hexdigest()


def key(length: int) -> bytes:
    """The key of `length` bytes that every encrypted golden file uses."""
    return bytes((7 * i + length) & 255 for i in range(length))


def key_and_mode(file: str) -> dict[str, Any]:
    """Keyword arguments of load_checkpoint for a golden file; empty for one in the clear."""
    entry = ENTRIES[file]
    if "enc" not in entry:
        return {}
    return {"dec_key": bytes.fromhex(entry["enc"]["key_hex"]), "dec_mode": entry["enc"]["mode"]}


def uniform(count: int, seed: int) -> Array:
    """`count` float64 in [0, 1): the generator behind every golden value (a linear congruence)."""
    index = np.arange(count, dtype=np.uint64)
    offset = np.uint64(MANIFEST["seed"] + seed) * np.uint64(40503) + np.uint64(12345)
    return ((index * np.uint64(2654435761) + offset) % np.uint64(1 << 32)).astype(
        np.float64
    ) / 2.0**32


def values(shape: tuple[int, ...], seed: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """Golden values in [-1, 1) of `shape`."""
    count = int(np.prod(shape)) if shape else 1
    return (-1.0 + 2.0 * uniform(count, seed)).astype(dtype).reshape(shape)


def integers(dtype: str, limit: int, seed: int) -> Array:
    """Golden integers in [0, limit) of shape (3, 4)."""
    return (uniform(12, seed) * limit).astype(dtype).reshape(3, 4)
