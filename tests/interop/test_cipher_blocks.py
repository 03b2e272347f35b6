"""Independent cipher libraries open our blocks, and Google's protobuf reads what was in them."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from . import frames, oracle
from .cases import (
    CIPHERS,
    CIPHERS_WITH_CRC,
    MIB,
    MIN_BLOCK_BYTES,
    Protection,
    Stored,
    random_block_bytes,
    random_entries,
)
from .frames import Frame, Opener
from .oracle import Checkpoint

OPENERS: dict[str, Opener] = {
    "AES-GCM": frames.open_gcm,
    "AES-CBC": frames.open_aes_cbc,
    "SM4-CBC": frames.open_sm4_cbc,
}
CRC_TRAILER_BYTES = 17


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("protection", CIPHERS, ids=str)
def test_cryptography_opens_our_blocks_and_protobuf_finds_our_plain_save_in_them(
    protection: Protection, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(f"blocks {protection} {seed}")
    entries = random_entries(rng, empties=True)
    plaintext = _opened(_save(entries, tmp_path, protection, random_block_bytes(rng)), protection)
    assert _without_unknown_fields(plaintext) == _save(entries, tmp_path, Protection())


@pytest.mark.parametrize("protection", CIPHERS_WITH_CRC, ids=str)
def test_zlib_confirms_the_checksum_that_cryptography_finds_inside_our_blocks(
    protection: Protection, tmp_path: Path
) -> None:
    entries = random_entries(random.Random(f"crc {protection}"))
    plaintext = _opened(_save(entries, tmp_path, protection), protection)
    records, trailer = plaintext[:-CRC_TRAILER_BYTES], plaintext[-CRC_TRAILER_BYTES:]
    assert trailer == b"crc_num" + zlib.crc32(records).to_bytes(10, "big")
    assert _without_unknown_fields(records) == _save(entries, tmp_path, Protection())


def test_gmssl_opens_our_sm4_blocks(tmp_path: Path) -> None:
    """Its pure Python is slow: few and small blocks."""
    protection = Protection(mode="SM4-CBC", key_bytes=16)
    entries = [Stored("w", "UInt8", (3000,), random.Random("gmssl").randbytes(3000))]
    data = _save(entries, tmp_path, protection, MIN_BLOCK_BYTES)
    opened = [_open_with_gmssl(protection.key, frame) for frame in frames.parse(data, "SM4-CBC")]
    assert len(opened) >= 3
    assert _without_unknown_fields(b"".join(opened)) == _save(entries, tmp_path, Protection())


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, 5000, MIB])
@pytest.mark.parametrize("protection", [*CIPHERS, *CIPHERS_WITH_CRC], ids=str)
def test_cryptography_finds_no_block_of_ours_larger_than_asked_for(
    protection: Protection, block_bytes: int, tmp_path: Path
) -> None:
    entries = [Stored("w", "UInt8", (5 * block_bytes // 2,), bytes(5 * block_bytes // 2))]
    data = _save(entries, tmp_path, protection, block_bytes)
    opened = _opened_blocks(data, protection)
    assert len(opened) >= 3
    assert max(map(len, opened)) <= block_bytes


@pytest.mark.parametrize("protection", CIPHERS, ids=str)
def test_no_iv_of_ours_comes_twice(protection: Protection, tmp_path: Path) -> None:
    """Over several saves of the same bytes; in GCM of the 12 bytes that the cipher uses."""
    entries = [Stored("w", "UInt8", (40 * MIN_BLOCK_BYTES,), bytes(40 * MIN_BLOCK_BYTES))]
    used = frames.GCM_IV_BYTES if protection.mode == "AES-GCM" else 16
    ivs = [
        frame.iv[:used]
        for _ in range(5)
        for frame in frames.parse(
            _save(entries, tmp_path, protection, MIN_BLOCK_BYTES), protection.mode
        )
    ]
    assert len(ivs) > 200
    assert len(set(ivs)) == len(ivs)


@pytest.mark.parametrize("block_bytes", [1, 50, 64 * MIB])
@pytest.mark.parametrize("protection", [*CIPHERS, *CIPHERS_WITH_CRC], ids=str)
def test_we_and_mindspore_load_blocks_that_cryptography_sealed(
    protection: Protection, block_bytes: int, tmp_path: Path
) -> None:
    """A file of nobody's: no seal records in it, blocks of any size, an optional trailer inside."""
    entries = [
        Stored("a", "Float32", (3, 4), random.Random("sealed").randbytes(48)),
        Stored.string("b", "a str"),
    ]
    plaintext = _save(entries, tmp_path, Protection(crc=protection.crc))
    path = tmp_path / "sealed.ckpt"
    path.write_bytes(frames.seal(plaintext, protection, block_bytes))
    assert oracle.we_load(path, **protection.load_options) == entries
    assert oracle.mindspore_loads(path, **protection.load_options) == entries


def _save(
    entries: list[Stored],
    folder: Path,
    protection: Protection,
    block_bytes: int | None = None,
) -> bytes:
    path = folder / "ours.ckpt"
    oracle.we_save(
        oracle.our_object(entries), path, block_bytes=block_bytes, **protection.save_options
    )
    return path.read_bytes()


def _opened_blocks(data: bytes, protection: Protection) -> list[bytes]:
    open_block = OPENERS[protection.mode]
    return [open_block(protection.key, frame) for frame in frames.parse(data, protection.mode)]


def _opened(data: bytes, protection: Protection) -> bytes:
    return b"".join(_opened_blocks(data, protection))


def _open_with_gmssl(key: bytes, frame: Frame) -> bytes:
    sm4 = pytest.importorskip("gmssl.sm4", reason="the gmssl package is not installed here")
    cipher = sm4.CryptSM4()
    cipher.set_key(key, sm4.SM4_DECRYPT)
    return cipher.crypt_cbc(frame.iv, frame.ciphertext)


def _without_unknown_fields(records: bytes) -> bytes:
    """The records as protobuf writes them again without the fields of our seal."""
    checkpoint = Checkpoint.FromString(records)
    checkpoint.DiscardUnknownFields()
    return checkpoint.SerializeToString()
