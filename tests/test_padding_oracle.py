"""What a changed CBC file tells by how it fails: docs/security.md says what is left.

Whoever can have files loaded, and sees whether the padding was right, decrypts a block in about
2,000 loads: 16 bytes, of each the 256 values of the byte before.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frames
import wire
from mindckpt import load_checkpoint, save_checkpoint
from support import MODES

KEY = bytes(range(16))
CBC_MODES = [mode for mode in MODES if mode != "AES-GCM"]
SECRET = {"w": np.arange(40, dtype=np.uint8)}


def outcome(folder: Path, data: bytes, mode: str, **kwargs: Any) -> str:
    """All that whoever had `data` loaded can see of it."""
    path = folder / "forged.ckpt"
    path.write_bytes(data)
    try:
        load_checkpoint(str(path), dec_key=KEY, dec_mode=mode, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


def victim(folder: Path, mode: str) -> bytes:
    """An encrypted file of one block."""
    save_checkpoint(SECRET, str(folder / "a.ckpt"), enc_key=KEY, enc_mode=mode, durable=False)
    return (folder / "a.ckpt").read_bytes()


def guesses(data: bytes, mode: str) -> Iterator[tuple[bool, bytes]]:
    """The attack's blocks for one cipher block of `data`: every last byte that its IV may have.

    And whether the padding is then right, which the attacker does not know. What a right one leaves
    is no record: its first byte makes a field number of 0.
    """
    target = frames.split(data)[0].ciphertext[:16]
    opened = frames.open_raw(target, KEY, mode)
    for guess in range(256):
        iv = bytes([opened[0]]) + os.urandom(14) + bytes([guess])
        yield opened[15] ^ guess == 1, frames.frame(mode, b"", iv, target)


@pytest.mark.parametrize("mode", CBC_MODES)
@pytest.mark.parametrize("place", ["alone", "behind", "before", "before nonsense"])
def test_a_wrong_padding_fails_as_what_follows_a_right_one(
    tmp_path: Path, mode: str, place: str
) -> None:
    """Alone, and beside blocks of files that load: one outcome of 256, with no place in it."""
    data = victim(tmp_path, mode)
    sound = frames.seal_block(wire.record("a", [1], "UInt8", b"x"), KEY, mode)
    seen: dict[bool, set[str]] = {False: set(), True: set()}
    for is_right, forged in guesses(data, mode):
        forgery = {
            "alone": forged,
            "behind": sound + forged,
            "before": forged + sound,
            "before nonsense": forged + b"no block at all, and longer than a header",
        }[place]
        seen[is_right].add(outcome(tmp_path, forgery, mode))
    assert seen[True] == seen[False]
    (told,) = seen[True]
    assert told.startswith("DecryptionError: ")


@pytest.mark.parametrize("mode", CBC_MODES)
def test_nonsense_that_passes_for_skipped_fields_fails_alike(tmp_path: Path, mode: str) -> None:
    """A right padding often leaves such bytes; without records, which no other error would say."""
    skipped = frames.seal_block(b"\x78\x01" * 7, KEY, mode)
    nonsense = frames.seal_block(b"\0" * 14, KEY, mode)
    assert outcome(tmp_path, skipped, mode) == outcome(tmp_path, nonsense, mode)


@pytest.mark.parametrize("mode", CBC_MODES)
def test_a_block_of_ours_with_another_padding_fails_as_one_with_none(
    tmp_path: Path, mode: str
) -> None:
    """The last block of a sealed file, which is opened when it is read."""
    parameters = {"w": np.arange(3000, dtype=np.uint8)}
    secret = {"enc_key": KEY, "enc_mode": mode, "block_bytes": 1024, "crc_check": True}
    save_checkpoint(parameters, str(tmp_path / "a.ckpt"), durable=False, **secret)
    data = (tmp_path / "a.ckpt").read_bytes()
    blocks = frames.split(data)
    for block, crc_check in itertools.product((0, len(blocks) - 1), (False, True)):
        end = sum(len(other.raw) for other in blocks[: block + 1])
        seen = set()
        for guess in range(1, 256):
            changed = bytearray(data)
            changed[end - 17] ^= guess  # of the cipher block before the one with the padding
            seen.add(outcome(tmp_path, bytes(changed), mode, crc_check=crc_check))
        assert len(seen - {"loaded"}) == 1
