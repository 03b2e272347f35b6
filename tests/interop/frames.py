"""MindSpore's cipher blocks, taken apart and put together by docs/format.md, without our code."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from .cases import Protection

pytest.importorskip("cryptography", reason="cryptography is not installed here")

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

_MAGICS = {"AES-GCM": 0x7F3A5ED8, "AES-CBC": 0x7F3A5ED9, "SM4-CBC": 0x7F3A5EDA}
_IV_BYTES = 16
_TAG_BYTES = 16
# Of the 16 bytes in the IV's field MindSpore's GCM uses 12.
GCM_IV_BYTES = 12


@dataclass(frozen=True)
class Frame:
    """One block of an encrypted file; the tag is empty but in GCM."""

    iv: bytes
    tag: bytes
    ciphertext: bytes


# Opens a block: (key, frame) -> plaintext.
Opener: TypeAlias = Callable[[bytes, Frame], bytes]


def parse(data: bytes, mode: str) -> list[Frame]:
    """The blocks of a file, every length in it checked."""
    frames, offset = [], 0
    while offset < len(data):
        (magic,) = struct.unpack_from("<I", data, offset)
        assert magic == _MAGICS[mode]
        offset += 4
        tag_bytes = _TAG_BYTES if mode == "AES-GCM" else 0
        tag = data[offset : offset + tag_bytes]
        offset += tag_bytes
        body_bytes, iv_bytes = struct.unpack_from("<ii", data, offset)
        assert iv_bytes == _IV_BYTES
        offset += 8
        iv = data[offset : offset + iv_bytes]
        (cipher_bytes,) = struct.unpack_from("<i", data, offset + iv_bytes)
        assert body_bytes == 4 + iv_bytes + 4 + cipher_bytes
        offset += iv_bytes + 4
        ciphertext = data[offset : offset + cipher_bytes]
        assert len(ciphertext) == cipher_bytes
        frames.append(Frame(iv, tag, ciphertext))
        offset += cipher_bytes
    return frames


def build(frame: Frame, mode: str) -> bytes:
    """The bytes of one block."""
    sizes = struct.pack("<ii", 4 + _IV_BYTES + 4 + len(frame.ciphertext), _IV_BYTES)
    clen = struct.pack("<i", len(frame.ciphertext))
    return struct.pack("<I", _MAGICS[mode]) + frame.tag + sizes + frame.iv + clen + frame.ciphertext


def seal(plaintext: bytes, protection: Protection, block_bytes: int) -> bytes:
    """A whole encrypted file, made by `cryptography`."""
    seal_block = _seal_gcm if protection.mode == "AES-GCM" else _cbc_sealer(protection.mode)
    blocks = range(0, len(plaintext), block_bytes)
    return b"".join(
        build(seal_block(protection.key, plaintext[i : i + block_bytes]), protection.mode)
        for i in blocks
    )


def open_gcm(key: bytes, frame: Frame) -> bytes:
    """Opens AES-GCM with `cryptography`."""
    return AESGCM(key).decrypt(frame.iv[:GCM_IV_BYTES], frame.ciphertext + frame.tag, None)


def open_aes_cbc(key: bytes, frame: Frame) -> bytes:
    """Opens AES-CBC with `cryptography`."""
    return _open_cbc(algorithms.AES(key), frame)


def open_sm4_cbc(key: bytes, frame: Frame) -> bytes:
    """Opens SM4-CBC with `cryptography`."""
    return _open_cbc(algorithms.SM4(key), frame)


def _open_cbc(algorithm: algorithms.AES | algorithms.SM4, frame: Frame) -> bytes:
    decryptor = Cipher(algorithm, modes.CBC(frame.iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(decryptor.update(frame.ciphertext)) + unpadder.finalize()


def _seal_gcm(key: bytes, plaintext: bytes) -> Frame:
    iv = os.urandom(_IV_BYTES)
    sealed = AESGCM(key).encrypt(iv[:GCM_IV_BYTES], plaintext, None)
    return Frame(iv, sealed[-_TAG_BYTES:], sealed[:-_TAG_BYTES])


def _cbc_sealer(mode: str) -> Callable[[bytes, bytes], Frame]:
    algorithm = {"AES-CBC": algorithms.AES, "SM4-CBC": algorithms.SM4}[mode]

    def seal_block(key: bytes, plaintext: bytes) -> Frame:
        iv = os.urandom(_IV_BYTES)
        encryptor = Cipher(algorithm(key), modes.CBC(iv)).encryptor()
        padder = PKCS7(128).padder()
        padded = padder.update(plaintext) + padder.finalize()
        return Frame(iv, b"", encryptor.update(padded) + encryptor.finalize())

    return seal_block
