"""Writes the seeds of the reader's fuzz target into a folder: python seeds.py FOLDER.

Made of the small golden files, which MindSpore wrote or which were crafted for it, and of files
that this package saves under the fixed keys. reader_fuzz.cc says what stands before the file.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import frames  # noqa: E402
import wire  # noqa: E402
from mindckpt import _core, save_checkpoint  # noqa: E402

MOST_BYTES = 4096  # of a golden file
# In the order of reader_fuzz.cc.
CIPHERS = [("AES-GCM", 16), ("AES-GCM", 32), ("AES-CBC", 16), ("SM4-CBC", 16)]
PLAIN = 0
PARAMETERS = {
    "w": np.arange(300, dtype=np.float32).reshape(20, 15),
    "text": "h\u00e9llo",
    "step": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.int8),
    "b": np.ones(5, np.float16),
}


def key_of(length: int) -> bytes:
    """The golden files' keys."""
    return bytes((7 * i + length) & 255 for i in range(length))


def as_it_is(cipher: int) -> int:
    """The kind of an input whose file is encrypted."""
    return 1 + cipher


def to_be_sealed(cipher: int) -> int:
    """The kind of an input whose file is a plaintext that the target seals."""
    return 1 + len(CIPHERS) + cipher


def seed(kind: int, data: bytes, cut: int = 255, flags: int = 0, chosen: int = 0b101) -> bytes:
    """An input of the fuzz target."""
    return bytes([kind, cut, flags, chosen]) + data


def golden_seeds() -> list[bytes]:
    """Every small golden file as what it is; the plain ones also as plaintexts."""
    seeds = []
    magics = {number.to_bytes(4, "little"): mode for mode, number in frames.MAGIC.items()}
    for path in sorted((TESTS / "data" / "golden").rglob("*.ckpt")):
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            continue
        mode = magics.get(data[:4])
        if mode is None:
            seeds.append(seed(PLAIN, data))
            seeds += [seed(to_be_sealed(i), data, 63, 1) for i in range(len(CIPHERS))]
        else:
            seeds += [
                seed(as_it_is(i), data) for i, cipher in enumerate(CIPHERS) if cipher[0] == mode
            ]
    return seeds


def map_tensor() -> bytes:
    """A map tensor's record, as MindSpore lays it out."""
    parts = [wire.tensor([2], "int32", bytes(8)), wire.tensor([2, 2], "float32", bytes(16))]
    parts.append(wire.tensor([2], "int32", bytes(8)))
    inside = b"".join(wire.delimited(1, part) for part in parts)
    return wire.delimited(1, wire.delimited(1, b"map") + wire.delimited(3, inside))


def our_seeds(folder: Path) -> list[bytes]:
    """Files that this package saves, plain and in every mode, with a CRC and without."""
    seeds = [seed(PLAIN, map_tensor()), seed(PLAIN, wire.with_crc(map_tensor()))]
    path = folder / "seed.ckpt"
    for crc in (False, True):
        save_checkpoint(PARAMETERS, path, crc_check=crc, durable=False)
        seeds.append(seed(PLAIN, path.read_bytes()))
        for i, (mode, length) in enumerate(CIPHERS):
            if mode == "SM4-CBC" and not _core.sm4_provider():
                continue
            secret = {"enc_key": key_of(length), "enc_mode": mode, "block_bytes": 1024}
            save_checkpoint(PARAMETERS, path, crc_check=crc, durable=False, **secret)
            data = path.read_bytes()
            plain = frames.open_all(data, key_of(length))
            seeds += [seed(as_it_is(i), data, flags=flags) for flags in (0, 2)]
            seeds += [seed(to_be_sealed(i), plain, cut, 0) for cut in (63, 255)]
    return seeds


def main() -> None:
    """Names each seed by its hash, as libFuzzer does."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for data in golden_seeds() + our_seeds(Path(folder)):
            (target / hashlib.sha1(data).hexdigest()).write_bytes(data)


if __name__ == "__main__":
    main()
