"""Random parameters and protections, described without either library."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

# Type string as stored -> bytes of one element, for the tensors that MindSpore 2.10 can load.
LOADABLE_ITEMSIZES = {
    "Int8": 1,
    "Int16": 2,
    "Int32": 4,
    "Int64": 8,
    "UInt8": 1,
    "UInt16": 2,
    "UInt32": 4,
    "UInt64": 8,
    "Float16": 2,
    "Float32": 4,
    "Float64": 8,
    "BFloat16": 2,
    "Bool": 1,
    "Int4": 1,
}
# What MindSpore 2.10 saves and cannot load back.
SAVED_ONLY_ITEMSIZES = {
    "Complex64": 8,
    "Complex128": 16,
    "Float8E4M3FN": 1,
    "Float8E5M2": 1,
    "HiFloat8": 1,
}
ITEMSIZES = LOADABLE_ITEMSIZES | SAVED_ONLY_ITEMSIZES

KIB = 1024
MIB = 1024 * KIB
MIN_BLOCK_BYTES = KIB
MAX_BLOCK_BYTES = 64 * MIB

Scalar = int | float | bool | str


@dataclass(frozen=True, repr=False)
class Stored:
    """One entry of a checkpoint: what both libraries must agree about.

    Attributes:
        name: Key of the entry in the loaded dict.
        type: Type string as stored, 'str' for a string.
        shape: Dimensions; () for a string.
        content: Elements in C order, little-endian; UTF-32LE for a string.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def string(cls, name: str, value: str) -> Stored:
        """The entry of a string."""
        return cls(name, "str", (), value.encode("utf-32-le", "surrogatepass"))

    @classmethod
    def scalar(cls, name: str, value: Scalar) -> Stored:
        """The entry that a value of append_dict becomes, by docs/format.md."""
        if isinstance(value, str):
            return cls.string(name, value)
        if isinstance(value, bool):
            return cls(name, "Bool", (), np.bool_(value).tobytes())
        if isinstance(value, float):
            with np.errstate(over="ignore", under="ignore"):
                return cls(name, "Float32", (), np.float32(value).tobytes())
        if value < 2**63:
            return cls(name, "Int64", (), np.int64(value).tobytes())
        return cls(name, "UInt64", (), np.uint64(value).tobytes())

    def __repr__(self) -> str:
        """Short: a failing comparison prints many."""
        digest = hashlib.sha256(self.content).hexdigest()[:12]
        return f"<{self.name!r} {self.type} {self.shape} {len(self.content)} bytes {digest}>"


@dataclass(frozen=True)
class Protection:
    """How a file is protected: a checksum, a cipher, both or nothing."""

    crc: bool = False
    mode: str | None = None
    key_bytes: int = 0

    def __str__(self) -> str:
        """The test's id."""
        words = ["plain"] if self.mode is None else [self.mode, str(8 * self.key_bytes)]
        return "-".join(words + ["crc"] * self.crc)

    @property
    def key(self) -> bytes | None:
        """A fixed key that has a NUL and a byte over 127 in it."""
        return bytes((73 * i + 219) % 256 for i in range(3, 3 + self.key_bytes)) or None

    @property
    def save_options(self) -> dict[str, Any]:
        """Keywords of save_checkpoint, in both libraries."""
        cipher = {} if self.mode is None else {"enc_key": self.key, "enc_mode": self.mode}
        return cipher | {"crc_check": self.crc}

    @property
    def load_options(self) -> dict[str, Any]:
        """Keywords of load_checkpoint, in both libraries."""
        cipher = {} if self.mode is None else {"dec_key": self.key, "dec_mode": self.mode}
        return cipher | {"crc_check": self.crc}


PLAIN = Protection()
CRC = Protection(crc=True)
CIPHERS = [
    *(Protection(mode="AES-GCM", key_bytes=n) for n in (16, 24, 32)),
    *(Protection(mode="AES-CBC", key_bytes=n) for n in (16, 24, 32)),
    Protection(mode="SM4-CBC", key_bytes=16),
]
CIPHERS_WITH_CRC = [Protection(True, p.mode, p.key_bytes) for p in CIPHERS]
# MindSpore cannot read back its own enc_key + crc_check: see docs/format.md.
MINDSPORE_WRITES = [PLAIN, CRC, *CIPHERS]
WE_WRITE = [*MINDSPORE_WRITES, *CIPHERS_WITH_CRC]


def random_entry(rng: random.Random, name: str, types: dict[str, int], empties: bool) -> Stored:
    """A tensor of any of `types`, with random bits (NaN payloads and denormals among them)."""
    type_name = rng.choice(list(types))
    shape = _random_shape(rng, empties)
    nbytes = math.prod(shape) * types[type_name]
    content = rng.randbytes(nbytes)
    if type_name == "Bool":
        content = bytes(byte & 1 for byte in content)
    return Stored(name, type_name, shape, content)


def random_entries(
    rng: random.Random, *, types: dict[str, int] = LOADABLE_ITEMSIZES, empties: bool = False
) -> list[Stored]:
    """1 to 12 tensors and strings under different names, at least one of them no empty tensor."""
    names = _random_names(rng, rng.randint(1, 12))
    first = random_entry(rng, names[0], types, empties=False)
    return [first] + [
        Stored.string(name, random_text(rng))
        if rng.random() < 0.1
        else random_entry(rng, name, types, empties)
        for name in names[1:]
    ]


def random_append_dict(rng: random.Random, taken: list[Stored]) -> dict[str, Scalar]:
    """0 to 5 values for append_dict; now and then one replaces an entry of `taken`."""
    makers = [
        lambda: rng.randint(-(2**63), 2**64 - 1),
        lambda: rng.randint(-100, 100),
        lambda: rng.choice([0.1, -0.0, 1e300, 1e-50, math.inf, rng.gauss(0, 1)]),
        lambda: rng.random() < 0.5,
        lambda: random_text(rng),
    ]
    names = [f"append.{i}" for i in range(rng.randint(0, 5))]
    if names and rng.random() < 0.2:
        names[0] = rng.choice(taken).name
    return {name: rng.choice(makers)() for name in names}


def with_appended(entries: list[Stored], append_dict: dict[str, Scalar]) -> list[Stored]:
    """The entries of a file of both.

    A name that comes twice keeps its first place, and its last value wins.
    """
    merged = {entry.name: entry for entry in entries}
    merged.update({name: Stored.scalar(name, value) for name, value in append_dict.items()})
    return list(merged.values())


def random_block_bytes(rng: random.Random) -> int:
    """Any size from 1 KiB to 64 MiB, each order of magnitude as likely as the others."""
    low, high = math.log2(MIN_BLOCK_BYTES), math.log2(MAX_BLOCK_BYTES)
    return min(MAX_BLOCK_BYTES, int(2 ** rng.uniform(low, high)))


def random_text(rng: random.Random) -> str:
    """0 to 40 characters of several scripts, none of them a trailing NUL, which no file keeps."""
    alphabet = "abc XYZ019._-/\\'\"\t\n\0é漢😀"
    return "".join(rng.choices(alphabet, k=rng.randint(0, 40))).rstrip("\0")


def _random_shape(rng: random.Random, empties: bool) -> tuple[int, ...]:
    if rng.random() < 0.05:
        return (rng.randint(200, 1000), rng.randint(200, 600))
    shape = [rng.randint(1, 9) for _ in range(rng.randint(0, 5))]
    # A lone 0 among the dims means a 0-d value to MindSpore's loader: two dims or more.
    if empties and len(shape) >= 2 and rng.random() < 0.2:
        shape[rng.randrange(len(shape))] = 0
    return tuple(shape)


def _random_names(rng: random.Random, count: int) -> list[str]:
    alphabet = "abcdefgh.._/ -é漢😀\t\0'"
    names: dict[str, None] = {}
    while len(names) < count:
        length = rng.choice([1, 4, 12, 130, 1000])
        name = "".join(rng.choices(alphabet, k=length))
        # MindSpore strips Parameter names and renames those that are empty then.
        if name.strip():
            names[name] = None
    return list(names)
