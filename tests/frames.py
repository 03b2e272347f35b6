"""MindSpore's cipher blocks, read and written with the `cryptography` package.

An oracle apart from the engine.

GCM  D8 5E 3A 7F | tag[16] | i32 n | i32 16 | iv[16] | i32 clen | ciphertext      n = 24 + clen
CBC  D9 5E 3A 7F |           i32 n | i32 16 | iv[16] | i32 clen | ciphertext      PKCS#7
SM4  DA 5E 3A 7F |           as CBC, with a key of 16 bytes
"""

import os
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = {"AES-GCM": 0x7F3A5ED8, "AES-CBC": 0x7F3A5ED9, "SM4-CBC": 0x7F3A5EDA}
KEY_LENGTHS = {"AES-GCM": (16, 24, 32), "AES-CBC": (16, 24, 32), "SM4-CBC": (16,)}
MODES = tuple(MAGIC)
MODES_AND_LENGTHS = [(mode, length) for mode in MODES for length in KEY_LENGTHS[mode]]


@dataclass(frozen=True)
class Block:
    """One cipher block as it stands in a file."""

    mode: str
    raw: bytes
    tag: bytes
    iv: bytes
    ciphertext: bytes


def split(data: bytes) -> list[Block]:
    """The blocks of an encrypted file; every length in them is checked."""
    names = {number: mode for mode, number in MAGIC.items()}
    blocks = []
    at = 0
    while at < len(data):
        start = at
        (magic,) = struct.unpack_from("<I", data, at)
        at += 4
        mode = names[magic]
        tag = b""
        if mode == "AES-GCM":
            tag, at = data[at : at + 16], at + 16
        rest_bytes, iv_bytes = struct.unpack_from("<ii", data, at)
        assert iv_bytes == 16
        iv = data[at + 8 : at + 24]
        (cipher_bytes,) = struct.unpack_from("<i", data, at + 24)
        assert rest_bytes == 24 + cipher_bytes
        at += 28
        ciphertext, at = data[at : at + cipher_bytes], at + cipher_bytes
        assert len(ciphertext) == cipher_bytes
        blocks.append(Block(mode, data[start:at], tag, iv, ciphertext))
    return blocks


def open_block(block: Block, key: bytes) -> bytes:
    """The plaintext of one block; raises when it was tampered with, as far as the mode can tell."""
    if block.mode == "AES-GCM":
        return AESGCM(key).decrypt(block.iv[:12], block.ciphertext + block.tag, None)
    decryptor = Cipher(_algorithm(block.mode, key), modes.CBC(block.iv)).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    padded = decryptor.update(block.ciphertext) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()


def open_raw(ciphertext: bytes, key: bytes, mode: str) -> bytes:
    """What the block cipher of a CBC mode decrypts to, block by block, before anything is XORed."""
    decryptor = Cipher(_algorithm(mode, key), modes.ECB()).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


def open_all(data: bytes, key: bytes) -> bytes:
    """The plaintext of an encrypted file."""
    return b"".join(open_block(block, key) for block in split(data))


def seal_block(plain: bytes, key: bytes, mode: str, iv: bytes | None = None) -> bytes:
    """One block around `plain`."""
    iv = os.urandom(16) if iv is None else iv
    tag = b""
    if mode == "AES-GCM":
        sealed = AESGCM(key).encrypt(iv[:12], plain, None)
        ciphertext, tag = sealed[:-16], sealed[-16:]
    else:
        padder = padding.PKCS7(128).padder()
        encryptor = Cipher(_algorithm(mode, key), modes.CBC(iv)).encryptor()
        ciphertext = encryptor.update(padder.update(plain) + padder.finalize())
        ciphertext += encryptor.finalize()
    return frame(mode, tag, iv, ciphertext)


def frame(mode: str, tag: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """The header and the ciphertext of one block."""
    header = struct.pack("<I", MAGIC[mode]) + tag
    header += struct.pack("<ii", 24 + len(ciphertext), 16) + iv + struct.pack("<i", len(ciphertext))
    return header + ciphertext


def seal_all(plain: bytes, key: bytes, mode: str, block_bytes: int) -> bytes:
    """An encrypted file in MindSpore's manner, cut in blocks of `block_bytes` of plaintext."""
    cuts = range(0, len(plain), block_bytes)
    return b"".join(seal_block(plain[at : at + block_bytes], key, mode) for at in cuts)


def _algorithm(mode: str, key: bytes) -> algorithms.AES | algorithms.SM4:
    return algorithms.SM4(key) if mode == "SM4-CBC" else algorithms.AES(key)
