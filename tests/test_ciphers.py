"""What encryption writes.

Oracles: the `cryptography` and `gmssl` packages, Google's protobuf, and docs/format.md.
"""

import itertools
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gmssl import sm4

import frames
import schema
import wire
from mindckpt import CheckpointError, DecryptionError, _core, load_checkpoint, save_checkpoint
from support import MODES, MODES_AND_LENGTHS, TYPE_NAMES, Array, assert_holds, needs_sm4, run_python

SAVED: dict[str, Any] = {
    "a": np.arange(3000, dtype=np.float32),
    "text": "h\u00e9llo",
    "b": np.array(7, np.int64),
    "c": np.zeros((0, 3), np.int8),
    "d": np.arange(5000, dtype=np.uint8).reshape(50, 100),
}


def key_of(length: int) -> bytes:
    return bytes((11 * i + length) & 255 for i in range(length))


def sealed(folder: Path, mode: str, length: int = 16, **kwargs: Any) -> bytes:
    path = folder / "sealed.ckpt"
    save_checkpoint(
        SAVED, str(path), enc_key=key_of(length), enc_mode=mode, durable=False, **kwargs
    )
    return path.read_bytes()


def plain(folder: Path) -> bytes:
    save_checkpoint(SAVED, str(folder / "plain.ckpt"), durable=False)
    return (folder / "plain.ckpt").read_bytes()


@pytest.mark.parametrize(("mode", "length"), MODES_AND_LENGTHS)
@pytest.mark.parametrize("block_bytes", [None, 1024, 1500, 65536])
def test_cryptography_opens_our_blocks(
    tmp_path: Path, mode: str, length: int, block_bytes: int | None
) -> None:
    """They hold the records of the plain file, and beside them fields that MindSpore skips."""
    data = sealed(tmp_path, mode, length, block_bytes=block_bytes)
    assert wire.only_records(frames.open_all(data, key_of(length))) == plain(tmp_path)


@needs_sm4
def test_gmssl_opens_our_sm4_blocks(tmp_path: Path) -> None:
    """A second implementation of SM4, in pure Python."""
    cipher = sm4.CryptSM4()
    cipher.set_key(key_of(16), sm4.SM4_DECRYPT)
    blocks = frames.split(sealed(tmp_path, "SM4-CBC", block_bytes=4096))
    opened = b"".join(cipher.crypt_cbc(block.iv, block.ciphertext) for block in blocks)
    assert wire.only_records(opened) == plain(tmp_path)


@needs_sm4
def test_we_open_what_gmssl_sealed(tmp_path: Path) -> None:
    cipher = sm4.CryptSM4()
    cipher.set_key(key_of(16), sm4.SM4_ENCRYPT)
    data = plain(tmp_path)
    file = b""
    for at in range(0, len(data), 6000):
        iv = os.urandom(16)
        file += frames.frame("SM4-CBC", b"", iv, bytes(cipher.crypt_cbc(iv, data[at : at + 6000])))
    (tmp_path / "a.ckpt").write_bytes(file)
    secret = {"dec_key": key_of(16), "dec_mode": "SM4-CBC"}
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt"), **secret), SAVED)


@pytest.mark.parametrize(("mode", "length"), MODES_AND_LENGTHS)
def test_we_open_what_cryptography_sealed(tmp_path: Path, mode: str, length: int) -> None:
    """Blocks of every make that MindSpore's loader takes, down to one byte."""
    data = plain(tmp_path)
    head = frames.seal_all(data[:40], key_of(length), mode, 1)
    (tmp_path / "a.ckpt").write_bytes(head + frames.seal_all(data[40:], key_of(length), mode, 5000))
    assert_holds(
        load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=key_of(length), dec_mode=mode), SAVED
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_bytes", [1024, 4000, 65536])
def test_a_frame_is_laid_out_as_documented(tmp_path: Path, mode: str, block_bytes: int) -> None:
    """frames.split checks every number in it; no block holds more plaintext than asked for."""
    blocks = frames.split(sealed(tmp_path, mode, block_bytes=block_bytes))
    assert {block.mode for block in blocks} == {mode}
    for block in blocks:
        assert len(block.iv) == 16
        opened = frames.open_block(block, key_of(16))
        assert 1 <= len(opened) <= block_bytes
        padding = 0 if mode == "AES-GCM" else 16 - len(opened) % 16
        assert len(block.ciphertext) == len(opened) + padding


def test_gcm_uses_the_first_12_bytes_of_its_iv(tmp_path: Path) -> None:
    """The other four may hold anything."""
    data = bytearray(sealed(tmp_path, "AES-GCM"))
    data[28 + 12 : 28 + 16] = b"\xa5\x5a\xa5\x5a"
    (tmp_path / "a.ckpt").write_bytes(data)
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=key_of(16)), SAVED)


@pytest.mark.parametrize("mode", MODES)
def test_no_iv_is_used_twice(tmp_path: Path, mode: str) -> None:
    """Neither within a file nor between files, of the first 12 bytes that GCM uses."""
    ivs = [
        block.iv[:12]
        for _ in range(40)
        for block in frames.split(sealed(tmp_path, mode, block_bytes=1024, num_threads=2))
    ]
    assert len(ivs) > 40 * 10
    assert len(set(ivs)) == len(ivs)


@pytest.mark.parametrize("mode", MODES)
def test_forked_processes_use_ivs_of_their_own(tmp_path: Path, mode: str) -> None:
    """A child inherits its parent's state, and must not repeat it."""
    code = """
import os, sys, warnings
import numpy as np
from mindckpt import save_checkpoint
warnings.simplefilter("ignore", DeprecationWarning)
folder, mode = sys.argv[1:]
def save(name):
    save_checkpoint({"w": np.zeros(5000)}, f"{folder}/{name}.ckpt", enc_key=bytes(16),
                    enc_mode=mode, block_bytes=1024)
save("before")
for name in ("child1", "child2"):
    if os.fork() == 0:
        save(name)
        os._exit(0)
    assert os.wait()[1] == 0
save("parent")
"""
    run_python(code, tmp_path, mode)
    ivs = [
        block.iv[:12]
        for name in ("before", "child1", "child2", "parent")
        for block in frames.split((tmp_path / f"{name}.ckpt").read_bytes())
    ]
    assert len(set(ivs)) == len(ivs)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "AES-GCM"])
def test_ivs_of_cbc_are_not_predictable(tmp_path: Path, mode: str) -> None:
    """Consecutive numbers, which serve GCM well, would not do: neighbours must not be alike."""
    blocks = frames.split(sealed(tmp_path, mode, block_bytes=1024))
    same = [a == b for x, y in itertools.pairwise(blocks) for a, b in zip(x.iv, y.iv, strict=True)]
    assert sum(same) < len(same) / 4


@pytest.mark.parametrize("mode", MODES)
def test_equal_plaintexts_seal_to_different_files(tmp_path: Path, mode: str) -> None:
    first, second = (sealed(tmp_path, mode) for _ in range(2))
    assert len(first) == len(second)
    assert first != second
    assert b"Float32" not in first


@pytest.mark.parametrize("mode", MODES)
def test_a_block_of_64_mib_is_taken_and_a_larger_one_refused(tmp_path: Path, mode: str) -> None:
    """MindSpore's limit, of plaintext; 16 bytes more are one AES block more."""
    for extra in (0, 16):
        count = (64 << 20) - 60
        record = wire.record("w", [count], "UInt8", bytes(count))
        pad = (64 << 20) + extra - len(record)
        data = wire.delimited(15, bytes(pad - 2)) + record
        assert len(data) == (64 << 20) + extra
        (tmp_path / "a.ckpt").write_bytes(frames.seal_block(data, key_of(16), mode))
        secret = {"dec_key": key_of(16), "dec_mode": mode}
        if extra:
            with pytest.raises(CheckpointError):
                load_checkpoint(str(tmp_path / "a.ckpt"), **secret)
        else:
            assert load_checkpoint(str(tmp_path / "a.ckpt"), **secret)["w"].size == count


@pytest.mark.parametrize("mode", MODES)
def test_the_largest_block_is_64_mib(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.ckpt"
    value = np.broadcast_to(np.uint8(7), (65 << 20,))
    secret = {"enc_key": key_of(16), "enc_mode": mode}
    save_checkpoint({"w": value}, str(path), block_bytes=64 << 20, durable=False, **secret)
    blocks = frames.split(path.read_bytes())
    overhead = 0 if mode == "AES-GCM" else 16
    assert max(len(block.ciphertext) for block in blocks) <= (64 << 20) + overhead
    assert (load_checkpoint(str(path), dec_key=key_of(16), dec_mode=mode)["w"].asnumpy() == 7).all()


# ---- seal records


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crc_check", [False, True])
def test_the_seal_records_are_laid_out_as_documented(
    tmp_path: Path, mode: str, crc_check: bool
) -> None:
    """Oracle: docs/format.md. One before the first record, one after the last, 48 bytes each."""
    data = sealed(tmp_path, mode, block_bytes=1024, crc_check=crc_check)
    opened = frames.open_all(data, key_of(16))
    inside = list(wire.fields(wire.strip_trailer(opened)))
    seals = [(at, content) for at, (number, content, _) in enumerate(inside) if number == 1000]
    assert [at for at, _ in seals] == [0, len(inside) - 1]
    for position, (_, content) in enumerate(seals, start=1):
        assert isinstance(content, bytes)
        name, version, place, base, blocks, nbytes = struct.unpack("<8sII16sQQ", content)
        assert (name, version, place) == (b"mindckpt", 1, position)
        assert blocks == len(frames.split(data))
        assert nbytes == len(opened)
        assert base == block_numbers(data, key_of(16))[0]


def block_numbers(data: bytes, key: bytes) -> list[bytes]:
    """The number that each IV of a file was made from, in 16 bytes."""
    numbers = []
    for block in frames.split(data):
        if block.mode == "AES-GCM":
            assert block.iv[12:] == bytes(4)
            numbers.append(block.iv)
        else:
            algorithm = algorithms.SM4(key) if block.mode == "SM4-CBC" else algorithms.AES(key)
            decryptor = Cipher(algorithm, modes.ECB()).decryptor()
            numbers.append(decryptor.update(block.iv) + decryptor.finalize())
    return numbers


@pytest.mark.parametrize(("mode", "length"), MODES_AND_LENGTHS)
def test_ivs_are_made_of_consecutive_numbers_as_documented(
    tmp_path: Path, mode: str, length: int
) -> None:
    """Oracle: `cryptography` takes CBC's apart again."""
    data = sealed(tmp_path, mode, length, block_bytes=1024, num_threads=3)
    width = 12 if mode == "AES-GCM" else 16
    numbers = [
        int.from_bytes(number[:width], "big") for number in block_numbers(data, key_of(length))
    ]
    assert numbers == [(numbers[0] + i) % 256**width for i in range(len(numbers))]


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_tells_our_files_from_mindspores(tmp_path: Path, mode: str) -> None:
    sealed(tmp_path, mode, crc_check=True)
    ours = _core.Reader(str(tmp_path / "sealed.ckpt"), key_of(16), mode)
    assert (ours.sealed, ours.has_crc) == (True, True)
    (tmp_path / "theirs.ckpt").write_bytes(frames.seal_all(plain(tmp_path), key_of(16), mode, 999))
    theirs = _core.Reader(str(tmp_path / "theirs.ckpt"), key_of(16), mode)
    assert (theirs.sealed, theirs.has_crc) == (False, False)
    assert [entry[0] for entry in theirs.entries] == [entry[0] for entry in ours.entries]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_left_of_a_sealed_file_without_its_ends_is_refused(
    tmp_path: Path, mode: str
) -> None:
    """Whole records in the middle blocks would pass for a file of MindSpore's."""
    records = [wire.record(f"p{i}", [1], "UInt8", b"x") for i in range(4)]
    base = bytes(11) + b"\x07"
    numbers = [base[:11] + bytes([7 + i]) + bytes(4) for i in range(4)]
    if mode != "AES-GCM":
        algorithm = algorithms.SM4 if mode == "SM4-CBC" else algorithms.AES
        numbers = [bytes(15) + bytes([7 + i]) for i in range(4)]
        encryptors = [Cipher(algorithm(key_of(16)), modes.ECB()).encryptor() for _ in numbers]
        numbers = [e.update(n) + e.finalize() for e, n in zip(encryptors, numbers, strict=True)]
    blocks = [
        frames.seal_block(record, key_of(16), mode, iv)
        for record, iv in zip(records, numbers, strict=True)
    ]
    for left in (blocks, blocks[1:3], blocks[2:]):
        (tmp_path / "a.ckpt").write_bytes(b"".join(left))
        with pytest.raises(DecryptionError):
            load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=key_of(16), dec_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_stats_count_the_blocks_of_the_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.ckpt"
    secret = {"enc_key": key_of(16), "enc_mode": mode}
    job = save_checkpoint(SAVED, str(path), async_save=True, block_bytes=1024, **secret)
    assert job is not None
    assert job.result()["blocks"] == len(frames.split(path.read_bytes()))


@pytest.mark.parametrize("mode", MODES)
def test_an_encrypted_file_of_nothing_is_sealed_too(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint({}, str(path), enc_key=key_of(16), enc_mode=mode)
    assert wire.only_records(frames.open_all(path.read_bytes(), key_of(16))) == b""
    with pytest.raises(CheckpointError):
        load_checkpoint(str(path), dec_key=key_of(16), dec_mode=mode)


# ---- protobuf


def parsed(data: bytes) -> Any:
    message = schema.Checkpoint()
    message.ParseFromString(data)
    assert message.IsInitialized()
    return message


def test_googles_protobuf_reads_our_plain_files(tmp_path: Path) -> None:
    message = parsed(plain(tmp_path))
    assert [value.tag for value in message.value] == list(SAVED)
    for value in message.value:
        want = SAVED[value.tag]
        if isinstance(want, str):
            assert (list(value.tensor.dims), value.tensor.tensor_type) == ([0], "str")
            assert value.tensor.tensor_content == want.encode("utf-32-le")
        else:
            assert (list(value.tensor.dims), value.tensor.tensor_type) == (
                list(want.shape),
                TYPE_NAMES[want.dtype],
            )
            assert value.tensor.tensor_content == want.tobytes()


def test_googles_protobuf_writes_what_we_write(tmp_path: Path) -> None:
    """Byte for byte: minimal varints, fields in order, dims unpacked."""
    data = plain(tmp_path)
    assert parsed(data).SerializeToString(deterministic=True) == data


def test_we_read_what_googles_protobuf_writes(tmp_path: Path) -> None:
    """Every type, as one message."""
    message = schema.Checkpoint()
    arrays: dict[str, Array] = {}
    for dtype, name in TYPE_NAMES.items():
        array = (np.arange(6) % 2).astype(dtype).reshape(2, 3)
        arrays[name] = array
        value = message.value.add(tag=name)
        value.tensor.dims.extend(array.shape)
        value.tensor.tensor_type = name
        value.tensor.tensor_content = array.tobytes()
    (tmp_path / "a.ckpt").write_bytes(message.SerializeToString())
    assert_holds(load_checkpoint(str(tmp_path / "a.ckpt")), arrays)


@pytest.mark.parametrize("mode", MODES)
def test_googles_protobuf_skips_our_seals(tmp_path: Path, mode: str) -> None:
    """As MindSpore does: the same values come out of a sealed plaintext."""
    opened = parsed(frames.open_all(sealed(tmp_path, mode, block_bytes=1024), key_of(16)))
    expected = parsed(plain(tmp_path))
    assert [value.SerializeToString() for value in opened.value] == [
        value.SerializeToString() for value in expected.value
    ]
