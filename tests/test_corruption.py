"""Damaged, hostile and random files: refused, or loaded right; never a crash.

Oracles: what was saved, and Google's protobuf for what a damaged plain file still says.
"""

import contextlib
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

import frames
import schema
import wire
from mindckpt import (
    CheckpointError,
    ChecksumError,
    DecryptionError,
    Parameter,
    load_checkpoint,
    save_checkpoint,
)
from support import AVAILABLE_MODES, MODES, TYPE_NAMES, assert_holds, run_python

KEY = bytes(range(16))
SMALL: dict[str, Any] = {
    "a": np.array([1, 2], np.float32),
    "b": np.array([3, 4, 5], np.float32),
    "s": "h\u00e9llo",
    "c": np.array(7, np.int64),
}
# Three blocks of 1 KiB when encrypted, one of them in the middle of a tensor; and five.
SEVERAL_BLOCKS: dict[str, Any] = {
    **SMALL,
    "w": np.arange(520, dtype=np.float32),
    "z": np.array([9], np.int8),
}
MANY_BLOCKS: dict[str, Any] = {
    **SMALL,
    "w": np.arange(1000, dtype=np.float32),
    "z": np.array([9], np.int8),
}


def sealing(mode: str, **kwargs: Any) -> dict[str, Any]:
    """Arguments of an encrypting save in blocks of 1 KiB."""
    return {"enc_key": KEY, "enc_mode": mode, "block_bytes": 1024, **kwargs}


def opening(mode: str) -> dict[str, Any]:
    return {"dec_key": KEY, "dec_mode": mode}


def saved(folder: Path, parameters: dict[str, Any], **kwargs: Any) -> bytes:
    save_checkpoint(parameters, str(folder / "sound.ckpt"), durable=False, **kwargs)
    return (folder / "sound.ckpt").read_bytes()


def outcome(folder: Path, data: bytes, expected: dict[str, Any], **kwargs: Any) -> str:
    """What loading `data` comes to: 'refused', 'right' or 'wrong'. Other errors come through."""
    path = folder / "damaged.ckpt"
    path.write_bytes(data)
    try:
        loaded = load_checkpoint(str(path), **kwargs)
    except CheckpointError as error:
        assert "damaged.ckpt" in str(error)
        return "refused"
    try:
        assert_holds(loaded, expected)
    except AssertionError:
        return "wrong"
    return "right"


def flips(data: bytes) -> list[tuple[int, bytes]]:
    """`data` with one bit flipped, once for every byte; each bit has its turn."""
    flipped = []
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        flipped.append((at, bytes(damaged)))
    return flipped


# ---- truncation


def test_a_plain_file_cut_anywhere_loads_whole_records_or_is_refused(tmp_path: Path) -> None:
    """As MindSpore: nothing in a plain file counts its records."""
    data = saved(tmp_path, SMALL)
    borders = list(itertools.accumulate(map(len, wire.split_records(data))))
    for cut in range(len(data)):
        left = (
            dict(itertools.islice(SMALL.items(), borders.index(cut) + 1)) if cut in borders else {}
        )
        expected = "right" if left else "refused"
        assert outcome(tmp_path, data[:cut], left) == expected, cut
        assert outcome(tmp_path, data[:cut], left, mmap=True) == expected, cut


def test_a_file_with_a_crc_cut_anywhere_is_refused_by_crc_check(tmp_path: Path) -> None:
    data = saved(tmp_path, SMALL, crc_check=True)
    for cut in range(len(data)):
        assert outcome(tmp_path, data[:cut], SMALL, crc_check=True) == "refused", cut


def test_crc_check_verifies_a_file_that_is_mapped(tmp_path: Path) -> None:
    """A flipped bit in the middle of a tensor, which nothing else can notice."""
    data = bytearray(saved(tmp_path, MANY_BLOCKS, crc_check=True))
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(data)
    assert_holds(load_checkpoint(str(path), mmap=True, crc_check=True), MANY_BLOCKS)
    data[data.index(MANY_BLOCKS["w"].tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError):
        load_checkpoint(str(path), mmap=True, crc_check=True)


def test_a_cut_trailer_is_refused_unchecked_too(tmp_path: Path) -> None:
    data = saved(tmp_path, SMALL, crc_check=True)
    for cut in range(len(data) - 16, len(data)):
        assert outcome(tmp_path, data[:cut], SMALL) == "refused", cut


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parameters", [SMALL, SEVERAL_BLOCKS], ids=["one block", "several blocks"])
def test_an_encrypted_file_cut_anywhere_is_refused(
    tmp_path: Path, mode: str, parameters: dict[str, Any]
) -> None:
    """Between blocks too, where MindSpore sees nothing."""
    data = saved(tmp_path, parameters, **sealing(mode))
    for cut in range(len(data)):
        assert outcome(tmp_path, data[:cut], parameters, **opening(mode)) == "refused", cut


@pytest.mark.parametrize("mode", MODES)
def test_bytes_behind_the_end_of_an_encrypted_file_are_refused(tmp_path: Path, mode: str) -> None:
    """Oracle: MindSpore refuses them."""
    data = saved(tmp_path, SMALL, **sealing(mode))
    for tail in (b"\0", bytes(17), bytes(64), b"crc_num" + bytes(10), data[:4], data[:30]):
        assert outcome(tmp_path, data + tail, SMALL, **opening(mode)) == "refused", tail


# ---- flipped bits


def test_no_flipped_bit_passes_crc_check(tmp_path: Path) -> None:
    """All eight bits of every byte."""
    data = saved(tmp_path, SMALL, crc_check=True)
    for at, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        assert outcome(tmp_path, bytes(damaged), SMALL, crc_check=True) == "refused", (at, bit)


def test_a_flipped_bit_of_a_plain_file_is_refused_or_read_as_protobuf_reads_it(
    tmp_path: Path,
) -> None:
    data = saved(tmp_path, SMALL)
    for at, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        assert_as_protobuf(tmp_path, bytes(damaged))


@pytest.mark.parametrize("parameters", [SMALL, SEVERAL_BLOCKS], ids=["one block", "several blocks"])
def test_gcm_refuses_every_flipped_bit_that_counts(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    """Bytes 12 to 15 of an IV field are stored and not used."""
    data = saved(tmp_path, parameters, **sealing("AES-GCM"))
    unused = set()
    at = 0
    for block in frames.split(data):
        unused |= set(range(at + 28 + 12, at + 28 + 16))
        at += len(block.raw)
    for at, damaged in flips(data):
        result = outcome(tmp_path, damaged, parameters, **opening("AES-GCM"))
        assert result == "refused" or (result == "right" and at in unused), at


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parameters", [SMALL, SEVERAL_BLOCKS], ids=["one block", "several blocks"])
def test_no_flipped_bit_of_an_encrypted_file_passes_crc_check(
    tmp_path: Path, mode: str, parameters: dict[str, Any]
) -> None:
    """The CRC inside finds what CBC alone cannot."""
    data = saved(tmp_path, parameters, **sealing(mode, crc_check=True))
    for at, damaged in flips(data):
        assert outcome(tmp_path, damaged, parameters, crc_check=True, **opening(mode)) != "wrong", (
            at
        )


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "AES-GCM"])
def test_cbc_refuses_flipped_bits_of_its_headers_and_survives_the_others(
    tmp_path: Path, mode: str
) -> None:
    """CBC does not authenticate: a flip may load wrong data, and must not do worse."""
    data = saved(tmp_path, SEVERAL_BLOCKS, **sealing(mode))
    header = set()
    at = 0
    for block in frames.split(data):
        header |= {*range(at, at + 12), *range(at + 28, at + 32)}
        at += len(block.raw)
    for at, damaged in flips(data):
        result = outcome(tmp_path, damaged, SEVERAL_BLOCKS, **opening(mode))
        assert result == "refused" or at not in header, at


def test_choice_func_sees_no_name_that_gcm_does_not_vouch_for(tmp_path: Path) -> None:
    """A forged name must not reach a function of the user's, whatever is refused later."""
    path = tmp_path / "damaged.ckpt"
    parameters = {"w": np.arange(520, dtype=np.float32), "secret.name": np.zeros(9, np.int8)}
    data = saved(tmp_path, parameters, **sealing("AES-GCM"))
    last = len(data) - len(frames.split(data)[-1].raw)
    asked: set[str] = set()

    def choose(name: str) -> bool:
        asked.add(name)
        return True

    for _, damaged in flips(data[last:]):
        path.write_bytes(data[:last] + damaged)
        with contextlib.suppress(CheckpointError):
            load_checkpoint(str(path), choice_func=choose, **opening("AES-GCM"))
    assert asked <= set(parameters)


# ---- blocks dropped, swapped, repeated, spliced


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_our_files_cannot_be_rearranged(tmp_path: Path, mode: str) -> None:
    """MindSpore loads some of these files in silence. A twin has the same contents and key."""
    data, twin = (saved(tmp_path, MANY_BLOCKS, **sealing(mode)) for _ in range(2))
    ours, theirs = ([block.raw for block in frames.split(file)] for file in (data, twin))
    count = len(ours)
    assert count == len(theirs) >= 5
    surgeries: list[list[bytes]] = []
    for i in range(count):
        surgeries.append([*ours[:i], *ours[i + 1 :]])  # dropped
        surgeries.append([*ours[:i], theirs[i], *ours[i + 1 :]])  # spliced
        for j in range(count + 1):
            surgeries.append([*ours[:j], ours[i], *ours[j:]])  # repeated
            surgeries.append([*ours[:j], theirs[i], *ours[j:]])  # inserted
    for i, j in itertools.combinations(range(count), 2):
        swapped = list(ours)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        surgeries.append(swapped)
        surgeries.append([*ours[:i], *ours[j:]])  # a run dropped
    surgeries += [
        [*ours[:i], *theirs[i:]] for i in range(1, count)
    ]  # head of one, tail of the other
    surgeries += [ours[::-1], [*ours, *theirs], [*ours, *ours]]
    for surgery in surgeries:
        assert outcome(tmp_path, b"".join(surgery), MANY_BLOCKS, **opening(mode)) == "refused"
    assert outcome(tmp_path, b"".join(ours), MANY_BLOCKS, **opening(mode)) == "right"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_bytes", [1024, 1500, 2048, 4096])
@pytest.mark.parametrize("crc_check", [False, True])
def test_a_block_dropped_repeated_or_swapped_is_a_decryption_error(
    tmp_path: Path, mode: str, block_bytes: int, crc_check: bool
) -> None:
    """As docs/format.md says, and never what a parser makes of the rest: every such file."""
    secret = sealing(mode, block_bytes=block_bytes, crc_check=crc_check)
    ours = [block.raw for block in frames.split(saved(tmp_path, MANY_BLOCKS, **secret))]
    surgeries = [[*ours[:i], *ours[i + 1 :]] for i in range(len(ours)) if len(ours) > 1]
    surgeries += [[*ours[:i], ours[i], *ours[i:]] for i in range(len(ours))]
    for i, j in itertools.combinations(range(len(ours)), 2):
        swapped = list(ours)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        surgeries.append(swapped)
    path = tmp_path / "damaged.ckpt"
    for surgery in surgeries:
        path.write_bytes(b"".join(surgery))
        for kwargs in ({}, {"crc_check": crc_check}, {"specify_prefix": "w"}):
            with pytest.raises(DecryptionError):
                load_checkpoint(str(path), **opening(mode), **kwargs)


def test_no_name_of_a_damaged_block_decides_what_is_selected(tmp_path: Path) -> None:
    """What is wrong is the block, not that nobody has that name."""
    path = tmp_path / "damaged.ckpt"
    # The first block is opened at once; of the others the names are only looked at.
    parameters = {"w": np.arange(520, dtype=np.float32), "secret.name": np.zeros(9, np.int8)}
    data = bytearray(saved(tmp_path, parameters, **sealing("AES-GCM")))
    blocks = frames.split(bytes(data))
    last = blocks[-1]
    plain = frames.open_block(last, KEY)
    data[len(data) - len(last.ciphertext) + plain.index(b"secret")] ^= 1
    path.write_bytes(data)
    with pytest.raises(DecryptionError):
        load_checkpoint(str(path), specify_prefix="secret", **opening("AES-GCM"))


@settings(max_examples=150)
@given(data=st.data(), mode=st.sampled_from(AVAILABLE_MODES))
def test_no_other_sequence_of_blocks_of_two_files_is_loaded(
    tmp_path: Path, data: st.DataObject, mode: str
) -> None:
    """A file and its twin, shuffled at random."""
    files = [saved(tmp_path, MANY_BLOCKS, **sealing(mode)) for _ in range(2)]
    pool = [block.raw for file in files for block in frames.split(file)]
    chosen = b"".join(data.draw(st.lists(st.sampled_from(pool), max_size=len(pool))))
    expected = "right" if chosen in files else "refused"
    assert outcome(tmp_path, chosen, MANY_BLOCKS, **opening(mode)) == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_block_of_a_file_without_seals_cannot_be_added_to_ours(tmp_path: Path, mode: str) -> None:
    """A whole record of MindSpore's make, under the same key: before, between and behind."""
    foreign = frames.seal_block(wire.record("evil", [1], "UInt8", b"x"), KEY, mode)
    for parameters in (SMALL, SEVERAL_BLOCKS):
        ours = [block.raw for block in frames.split(saved(tmp_path, parameters, **sealing(mode)))]
        for at in range(len(ours) + 1):
            spliced = b"".join([*ours[:at], foreign, *ours[at:]])
            assert outcome(tmp_path, spliced, parameters, **opening(mode)) == "refused"


# ---- anything at all


def reference(plain: bytes) -> dict[str, Any]:
    """What Google's protobuf reads in a plain file without trailer, as MindSpore takes it."""
    message = schema.Checkpoint()
    message.ParseFromString(plain)
    types = {name: dtype for dtype, name in TYPE_NAMES.items()}
    found: dict[str, Any] = {}
    for tag, group in itertools.groupby(message.value, key=lambda value: value.tag):
        values = list(group)
        if values[0].HasField("maptensor"):
            found[tag] = list(values[0].maptensor.tensor)
            continue
        content = b"".join(value.tensor.tensor_content for value in values)
        dims, kind = list(values[0].tensor.dims), values[0].tensor.tensor_type
        if kind == "str":
            found[tag] = content.decode("utf-32-le", "surrogatepass").rstrip("\0")
            continue
        if kind in ("Int4", "HiFloat8"):
            found[tag] = (kind, dims, content)
            continue
        array = np.frombuffer(content, types[kind])
        found[tag] = array[0, ...] if dims == [0] and array.size == 1 else array.reshape(dims)
    return found


def agrees(loaded: dict[str, Any], plain: bytes) -> bool:
    """Whether `loaded` is what the reference decoder finds in `plain`."""
    try:
        expected = reference(plain)
        if list(loaded) != list(expected):
            return False
        for name, want in expected.items():
            got = loaded[name]
            if isinstance(want, tuple):
                if (str(got.dtype), list(got.shape), got.asnumpy().tobytes()) != want:
                    return False
            elif isinstance(want, list):
                if [array.tobytes() for array in got] != [part.tensor_content for part in want]:
                    return False
            else:
                assert_holds({name: got}, {name: want})
    except (AssertionError, DecodeError, ValueError, KeyError):
        return False
    return True


def assert_as_protobuf(folder: Path, data: bytes) -> None:
    """`data` is refused, or loads as the reference decoder reads it, trailer or not."""
    path = folder / "damaged.ckpt"
    path.write_bytes(data)
    for mapped in (False, True):
        try:
            loaded = load_checkpoint(str(path), mmap=mapped)
        except CheckpointError:
            continue
        assert agrees(loaded, data) or (
            data[-17:-10] == b"crc_num" and agrees(loaded, data[:-17])
        ), data.hex()


# Names with a cache key's suffix are rewritten by loading and left to test_load.py.
WHOLE = (
    b"".join(
        wire.text_record(name, value)
        if isinstance(value, str)
        else wire.record(name, value.shape, TYPE_NAMES[value.dtype], value.tobytes())
        for name, value in SMALL.items()
    )
    + wire.record("p", [4], "UInt8", b"ab")
    + wire.record("p", [4], "UInt8", b"cd")
    + wire.record("q", [2], "Int4", b"\x07\xf8")
    + wire.delimited(15, b"unknown")
    + wire.record("e", [0, 3], "Int16", b"")
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound file with a few bytes changed, cut, doubled or moved."""
    data = draw(st.sampled_from([WHOLE, wire.with_crc(WHOLE)]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        piece = data[start:end]
        put = draw(
            st.one_of(
                st.binary(max_size=4),
                st.just(piece + piece),
                st.just(b""),
                st.sampled_from(
                    [wire.varint(n) for n in (0, 1, 127, 128, 2**31, 2**32, 2**63, 2**64 - 1)]
                ),
                st.sampled_from(
                    [b"\x0b", b"\x0c", b"\x7b\x7c", b"crc_num", *wire.split_records(WHOLE)]
                ),
            )
        )
        data = data[:start] + put + data[end:]
    return data


@settings(max_examples=800)
@given(data=mutated())
def test_a_mutated_plain_file_is_refused_or_read_as_protobuf_reads_it(
    tmp_path: Path, data: bytes
) -> None:
    assert_as_protobuf(tmp_path, data)


@settings(max_examples=500)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_as_protobuf_reads_them(
    tmp_path: Path, data: bytes
) -> None:
    assert_as_protobuf(tmp_path, data)


@settings(max_examples=500)
@given(data=mutated(), mode=st.sampled_from(AVAILABLE_MODES), block_bytes=st.integers(20, 400))
def test_a_mutated_plaintext_is_read_as_in_a_plain_file(
    tmp_path: Path, data: bytes, mode: str, block_bytes: int
) -> None:
    """Sealed by the `cryptography` package in blocks of any size: one parser serves both kinds."""
    (tmp_path / "plain.ckpt").write_bytes(data)
    (tmp_path / "sealed.ckpt").write_bytes(frames.seal_all(data, KEY, mode, block_bytes))
    try:
        expected = load_checkpoint(str(tmp_path / "plain.ckpt"))
    except CheckpointError:
        with pytest.raises(CheckpointError):
            load_checkpoint(str(tmp_path / "sealed.ckpt"), **opening(mode))
        return
    loaded = load_checkpoint(str(tmp_path / "sealed.ckpt"), **opening(mode))
    assert list(loaded) == list(expected)
    for name, value in expected.items():
        if isinstance(value, Parameter):
            assert repr(loaded[name]) == repr(value)
            assert loaded[name].asnumpy().tobytes() == value.asnumpy().tobytes()
        else:
            assert loaded[name] == value


@settings(max_examples=400)
@given(data=st.data(), mode=st.sampled_from(AVAILABLE_MODES))
def test_a_mutated_encrypted_file_is_refused_or_in_gcm_right(
    tmp_path: Path, data: st.DataObject, mode: str
) -> None:
    sound = saved(tmp_path, SMALL, **sealing(mode))
    start = data.draw(st.integers(0, len(sound)))
    end = data.draw(st.integers(start, len(sound)))
    put = data.draw(st.one_of(st.binary(max_size=8), st.just(sound[start:end] * 2), st.just(b"")))
    result = outcome(tmp_path, sound[:start] + put + sound[end:], SMALL, **opening(mode))
    assert result != "wrong" or mode != "AES-GCM"


# ---- hostile numbers


def _value(*parts: bytes) -> bytes:
    return wire.delimited(1, b"".join(parts))


def _huge(field: int, length: int) -> bytes:
    """A field that claims `length` bytes and has four."""
    return wire.varint(field << 3 | 2) + wire.varint(length) + b"abcd"


def _nested_groups(depth: int) -> bytes:
    return b"\x7b" * depth + b"\x7c" * depth


TAG = wire.delimited(1, b"a")
HOSTILE: dict[str, bytes] = {
    **{
        f"a record of {n} bytes": _huge(1, n)
        for n in (5, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
    },
    **{f"a tag of {n} bytes": _value(_huge(1, n)) for n in (5, 2**31, 2**63, 2**64 - 1)},
    **{f"a tensor of {n} bytes": _value(TAG, _huge(2, n)) for n in (5, 2**31, 2**63, 2**64 - 1)},
    **{
        f"content of {n} bytes": _value(
            TAG, wire.delimited(2, wire.delimited(2, b"UInt8") + _huge(3, n))
        )
        for n in (5, 2**31, 2**63, 2**64 - 1)
    },
    **{
        f"dims {dims} for 8 bytes": wire.record("a", dims, "Float32", bytes(8))
        for dims in (
            [2**40],
            [2**32, 2**32],
            [2**62, 4],
            [2**61 + 1, 2],
            [2**63 - 1],
            [2**61, 8, 2],
            [2**31, 2**31, 4],
            [-1],
            [-2, -1],
            [2, -1],
            [-(2**63)],
            [2**64 - 2],
        )
    },
    "slices that claim more than they hold": wire.record("a", [2**40], "UInt8", b"x") * 1000,
    "a terabyte of text": _value(
        TAG, wire.delimited(2, wire.tensor([0], "str", b"")[:-1] + wire.varint(2**40) + b"abcd")
    ),
    "a hundred thousand dims": wire.record("a", [1] * 100_000, "UInt8", b"x"),
    "a map tensor of a terabyte": _value(
        TAG,
        wire.delimited(
            3,
            b"".join(wire.delimited(1, wire.tensor([2**40], "int32", bytes(4))) for _ in range(3)),
        ),
    ),
    "a varint without an end": b"\x0a" + b"\xff" * 100,
    "a varint of eleven bytes": b"\x0a" + b"\x80" * 10 + b"\x01",
    "a million groups in one another": _nested_groups(1_000_000) + wire.delimited(1, TAG),
    "a million groups inside a tensor": _value(TAG, wire.delimited(2, _nested_groups(1_000_000))),
    "groups without an end": b"\x7b" * 1000,
    "an end without a group": b"\x7c",
    "field number zero": b"\x02\x01a",
    "wire type six": b"\x0e\x01",
}


def _frame(mode: str, rest: int, iv: int, cipher: int) -> bytes:
    """A frame with these three numbers, and little behind them."""
    tag = bytes(16) if mode == "AES-GCM" else b""
    numbers = struct.pack("<ii", rest, iv) + bytes(16) + struct.pack("<i", cipher)
    return struct.pack("<I", frames.MAGIC[mode]) + tag + numbers + bytes(64)


HOSTILE_FRAMES = [
    (24 + 2**31 - 25, 16, 2**31 - 25),
    (24 + 64 * 2**20, 16, 64 * 2**20),
    (24 + 128, 16, 128),
    (24 + 64, 16, 2**31 - 1),
    (24 + 64, 16, 63),
    (24 + 64, 16, -1),
    (-1, 16, 64),
    (0, 16, 64),
    (-(2**31), 16, -(2**31)),
    (24 + 64, 0, 64),
    (24 + 64, 12, 64),
    (24 + 64, 2**31 - 1, 64),
    (24 + 64, -1, 64),
    (24, 16, 0),
]

LIMITED = """
import pathlib, re, resource, sys
import mindckpt
from mindckpt import CheckpointError, load_checkpoint, save_checkpoint
folder = pathlib.Path(sys.argv[1])
save_checkpoint({"a": __import__("numpy").arange(3)}, str(folder / "sound.ckpt"))
load_checkpoint(str(folder / "sound.ckpt"), num_threads=2)  # what is set up once is set up now
used = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20,) * 2)
for path in sorted(folder.glob("hostile*.ckpt")):
    mode = path.name.split("_")[1]
    kwargs = {"dec_key": bytes(range(16)), "dec_mode": mode} if mode != "plain" else {}
    for mapped in (False, True) if mode == "plain" else (False,):
        try:
            load_checkpoint(str(path), num_threads=2, mmap=mapped, **kwargs)
        except CheckpointError:
            continue
        sys.exit(f"{path.name} was loaded")
"""


def test_hostile_numbers_are_refused_with_little_memory(tmp_path: Path) -> None:
    """In a process that may take 256 MiB more than it has; in plain and in sealed files."""
    plaintexts = list(HOSTILE.values())
    for number, data in enumerate(plaintexts):
        (tmp_path / f"hostile_plain_{number}.ckpt").write_bytes(data)
        for mode in AVAILABLE_MODES:
            sealed = frames.seal_all(data, KEY, mode, 1 << 20)
            (tmp_path / f"hostile_{mode}_plaintext_{number}.ckpt").write_bytes(sealed)
    for number, numbers in enumerate(HOSTILE_FRAMES):
        for mode in AVAILABLE_MODES:
            (tmp_path / f"hostile_{mode}_frame_{number}.ckpt").write_bytes(_frame(mode, *numbers))
    run_python(LIMITED, tmp_path)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_number_is_a_checkpoint_error(tmp_path: Path, name: str) -> None:
    """One by one, so that a failure names the number; and without a limit of memory."""
    assert outcome(tmp_path, HOSTILE[name], {}) == "refused"


def test_a_shape_of_no_elements_may_have_huge_dimensions(tmp_path: Path) -> None:
    """It needs no memory. NumPy, which cannot hold all of them, decides."""
    for dims in ([2**40, 0], [0, 2**40], [2**62, 0], [2**62, 2**62, 0], [2**63 - 1, 2**63 - 1, 0]):
        path = tmp_path / "a.ckpt"
        path.write_bytes(wire.record("a", dims, "Float32", b""))
        try:
            loaded = load_checkpoint(str(path))
        except CheckpointError:
            with pytest.raises(ValueError, match=r"."):
                np.empty(dims, np.float32)
        else:
            assert loaded["a"].shape == tuple(dims)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"abc", "not a multiple of four"),
        (b"", "no character at all"),
        (b"\x00\x00\x11\x00", "beyond the last code point"),
        (b"\x00\x00\x00\x61", "big-endian"),
        (b"a\0\0\0\xff\xff\xff\xff", "not a character"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """Oracle: MindSpore fails on all of them, or makes a string that cannot be."""
    assert outcome(tmp_path, wire.record("s", [0], "str", content), {}) == "refused", why


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Oracle: protobuf's string fields hold UTF-8."""
    for name in (b"\xff", b"a\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ab\xe2\x82"):
        assert outcome(tmp_path, wire.record(name, [1], "UInt8", b"x"), {}) == "refused", name


@pytest.mark.parametrize("kind", ["", "float32", "Float8", "int32", "Float32\0", "x" * 1000, "STR"])
def test_an_unknown_type_string_is_refused(tmp_path: Path, kind: str) -> None:
    assert outcome(tmp_path, wire.record("a", [2], kind, bytes(8)), {}) == "refused"


@pytest.mark.parametrize(
    "records",
    [
        [wire.record("a", [4], "UInt8", b"ab"), wire.record("a", [2, 2], "UInt8", b"cd")],
        [wire.record("a", [4], "UInt8", b"ab"), wire.record("a", [4], "Int8", b"cd")],
        [wire.record("a", [4], "UInt8", b"ab"), wire.record("a", [4], "UInt8", b"cde")],
        [wire.record("a", [4], "UInt8", b"abcd"), wire.record("a", [4], "UInt8", b"abcd")],
        [
            wire.record("a", [4], "UInt8", b"abcd"),
            wire.record("b", [1], "UInt8", b"x"),
            wire.record("a", [4], "UInt8", b"abcd"),
        ],
        [
            wire.record("a", [1], "UInt8", b"x"),
            wire.text_record("b", "x"),
            wire.text_record("a", "x"),
        ],
    ],
    ids=[
        "other dims",
        "other type",
        "too much",
        "whole twice",
        "twice apart",
        "a str of the same name",
    ],
)
def test_slices_and_names_that_contradict_are_refused(tmp_path: Path, records: list[bytes]) -> None:
    """MindSpore takes the last, or mixes them up."""
    assert outcome(tmp_path, b"".join(records), {}) == "refused"


@pytest.mark.parametrize(
    "data",
    [
        _value(wire.delimited(2, wire.tensor([1], "UInt8", b"x"))),
        _value(TAG),
        _value(TAG, wire.delimited(2, b"")),
        _value(
            TAG, wire.delimited(2, wire.varint(8) + wire.varint(1) + wire.delimited(2, b"UInt8"))
        ),
        _value(TAG, wire.delimited(2, wire.varint(8) + wire.varint(1) + wire.delimited(3, b"x"))),
        wire.delimited(1, b""),
    ],
    ids=["tag", "tensor", "all of the tensor", "content", "type", "everything"],
)
def test_a_missing_required_field_is_refused(tmp_path: Path, data: bytes) -> None:
    """The schema says required; MindSpore makes something up."""
    assert outcome(tmp_path, data, {}) == "refused"


def test_nothing_that_a_damaged_file_holds_is_in_the_error(tmp_path: Path) -> None:
    """No bytes of a parameter in any message."""
    data = wire.record("a", [3], "UInt8", b"TOPSECRET")
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(tmp_path / "a.ckpt"))
    assert "SECRET" not in str(caught.value)
    assert b"TOPSECRET".hex() not in str(caught.value)
