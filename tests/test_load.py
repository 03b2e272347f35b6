"""What load_checkpoint selects, reads and maps, and what load_param_into_net does with it.

Oracle of the tables: MindSpore 2.10, run on the same cases; where we differ, the case says so.
"""

import gc
import itertools
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import frames
import schema
import wire
from mindckpt import (
    CheckpointError,
    ChecksumError,
    DecryptionError,
    Parameter,
    Tensor,
    checkpoint,
    dtypes,
    load_checkpoint,
    load_param_into_net,
    nn,
    save_checkpoint,
)
from mindckpt.paths import check_file
from stand_in import stand_in
from support import MODES, TYPE_NAMES, Array, assert_holds, run_python, shown

KEY = bytes(16)


def path_of(folder: Path, data: bytes) -> str:
    """`data` as a checkpoint file."""
    (folder / "a.ckpt").write_bytes(data)
    return str(folder / "a.ckpt")


# ---- selection

LAYERS = [
    "conv1.weight",
    "conv1.bias",
    "conv2.weight",
    "fc1.weight",
    "fc1.bias",
    "fc2.weight",
    "moments.fc1.weight",
]


def weights(name: str) -> bool:
    return name.endswith("weight")


def nothing(name: str) -> bool:
    return False


# Numbers of the names in LAYERS that MindSpore loads; it refuses to load none.
SELECTIONS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5, 6]),
    ({"specify_prefix": "conv1"}, [0, 1]),
    ({"specify_prefix": ["conv1", "fc1"]}, [0, 1, 3, 4]),
    ({"specify_prefix": ("fc",)}, [3, 4, 5]),
    ({"specify_prefix": ["x", "fc2"]}, [5]),
    ({"specify_prefix": "conv1.weight"}, [0]),
    ({"specify_prefix": "x"}, []),
    ({"specify_prefix": "Conv1"}, []),
    ({"filter_prefix": "conv1"}, [2, 3, 4, 5, 6]),
    ({"filter_prefix": ["conv", "moments"]}, [3, 4, 5]),
    ({"filter_prefix": ("fc", "moments")}, [0, 1, 2]),
    ({"filter_prefix": "1"}, [0, 1, 2, 3, 4, 5, 6]),
    ({"specify_prefix": "conv", "filter_prefix": "conv1"}, [2]),
    ({"specify_prefix": ["conv", "fc"], "filter_prefix": ["conv1", "fc1.b"]}, [2, 3, 5]),
    ({"specify_prefix": "conv1", "filter_prefix": "conv"}, []),
    ({"choice_func": weights}, [0, 2, 3, 5, 6]),
    ({"choice_func": nothing}, []),
    # A prefix puts choice_func out of action.
    ({"specify_prefix": "conv1", "choice_func": nothing}, [0, 1]),
    ({"filter_prefix": "conv1", "choice_func": nothing}, [2, 3, 4, 5, 6]),
    ({"specify_prefix": "conv", "filter_prefix": "conv2", "choice_func": weights}, [0, 1]),
]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "numbers"), SELECTIONS, ids=[shown(kwargs) for kwargs, _ in SELECTIONS]
)
def test_a_selection_loads_what_mindspore_loads(
    tmp_path: Path, kwargs: dict[str, Any], numbers: list[int], mapped: bool
) -> None:
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({name: np.array([i], np.int8) for i, name in enumerate(LAYERS)}, path)
    if not numbers:
        with pytest.raises(ValueError, match=r"a\.ckpt"):
            load_checkpoint(path, mmap=mapped, **kwargs)
        return
    expected = {LAYERS[i]: np.array([i], np.int8) for i in numbers}
    assert_holds(load_checkpoint(path, mmap=mapped, **kwargs), expected)


def test_choice_func_is_asked_for_each_name_in_the_order_of_the_file(tmp_path: Path) -> None:
    """By the name in the file: a cache key's suffix is still on it. As MindSpore."""
    asked: list[str] = []

    def choose(name: str) -> bool:
        asked.append(name)
        return True

    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"z": np.zeros(1), "w.__param_key__3": np.zeros(1), "a": "text"}, path)
    load_checkpoint(path, choice_func=choose)
    assert asked == ["z", "w.__param_key__3", "a"]


@pytest.mark.parametrize("mode", MODES)
def test_only_the_blocks_of_what_is_selected_are_opened(tmp_path: Path, mode: str) -> None:
    """A damaged block in the middle of a tensor hurts who asks for that tensor alone.

    In CBC it hurts without a word: nothing but its padding tells of damage.
    """
    path = tmp_path / "a.ckpt"
    save_obj = {name: np.arange(4000, dtype=np.float32) + i for i, name in enumerate("abc")}
    save_checkpoint(save_obj, str(path), enc_key=KEY, enc_mode=mode, block_bytes=1024)
    pieces = [bytearray(block.raw) for block in frames.split(path.read_bytes())]
    pieces[len(pieces) // 2][500] ^= 1  # a ciphertext byte of b
    path.chmod(0o600)
    path.write_bytes(b"".join(pieces))
    secret = {"dec_key": KEY, "dec_mode": mode}
    for name in "ac":
        loaded = load_checkpoint(str(path), specify_prefix=name, **secret)
        assert_holds(loaded, {name: save_obj[name]})
    for kwargs in ({"specify_prefix": "b"}, {}):
        if mode == "AES-GCM":
            with pytest.raises(DecryptionError):
                load_checkpoint(str(path), **secret, **kwargs)
        else:
            wrong = load_checkpoint(str(path), **secret, **kwargs)["b"].asnumpy() != save_obj["b"]
            assert 1 <= wrong.sum() <= 8


def bytes_read() -> int:
    """What this process has read from files so far, pages of maps not counted."""
    match = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text(encoding="ascii"))
    assert match
    return int(match[1])


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_a_load_reads_little_more_than_it_selects(tmp_path: Path, cipher: str) -> None:
    """Oracle: the kernel's count."""
    path = str(tmp_path / "a.ckpt")
    write = {"enc_key": KEY, "enc_mode": cipher} if cipher != "plain" else {}
    read = {"dec_key": KEY, "dec_mode": cipher} if cipher != "plain" else {}
    save_obj = {"small": np.arange(10), "large": np.zeros(32 << 20, np.uint8), "last": np.arange(5)}
    save_checkpoint(save_obj, path, durable=False, **write)
    before = bytes_read()
    loaded = load_checkpoint(path, filter_prefix="large", **read)
    assert bytes_read() - before < 16 << 20
    assert_holds(loaded, {"small": np.arange(10), "last": np.arange(5)})


def test_crc_check_reads_all_whatever_is_selected(tmp_path: Path) -> None:
    """The checksum is of all records."""
    path = tmp_path / "a.ckpt"
    save_checkpoint(
        {"a": np.zeros(100, np.uint8), "b": np.zeros(100, np.uint8)}, str(path), crc_check=True
    )
    data = bytearray(path.read_bytes())
    data[-50] ^= 1  # in b
    path.chmod(0o600)
    path.write_bytes(data)
    assert list(load_checkpoint(str(path), specify_prefix="a")) == ["a"]
    with pytest.raises(ChecksumError):
        load_checkpoint(str(path), specify_prefix="a", crc_check=True)


def damaged_in_b(folder: Path, **options: Any) -> str:
    """A file of two parameters with a checksum, and a bit of the second one flipped."""
    save_checkpoint(
        {"a": np.zeros(1000, np.uint8), "b": np.zeros(1000, np.uint8)},
        folder / "a.ckpt",
        crc_check=True,
        **options,
    )
    data = bytearray((folder / "a.ckpt").read_bytes())
    data[-500] ^= 1
    (folder / "b.ckpt").write_bytes(data)
    return str(folder / "b.ckpt")


@pytest.mark.parametrize("options", [{}, {"device": "sim:0"}, {"framework": "numpy"}], ids=str)
def test_a_whole_load_verifies_the_checksum_that_is_there(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Without being asked to, and wherever it loads to; whoever says False is not stopped."""
    if "device" in options:
        stand_in("sim")
    path = damaged_in_b(tmp_path)
    with pytest.raises(ChecksumError, match=r"b\.ckpt"):
        load_checkpoint(path, **options)
    with pytest.raises(ChecksumError):
        load_checkpoint(path, choice_func=lambda _: True, **options)
    assert list(load_checkpoint(path, crc_check=False, **options)) == ["a", "b"]
    assert list(load_checkpoint(str(tmp_path / "a.ckpt"), **options)) == ["a", "b"]


def test_a_checksum_inside_an_encrypted_file_is_verified_by_a_whole_load(tmp_path: Path) -> None:
    """In CBC, a flipped bit decrypts: of the next 16 bytes just that one is another.

    It fails as whatever else depends on decrypted bytes, or it would be told from wrong padding.
    """
    path = damaged_in_b(tmp_path, enc_key=bytes(16), enc_mode="AES-CBC")
    key: dict[str, Any] = {"dec_key": bytes(16), "dec_mode": "AES-CBC"}
    assert load_checkpoint(path, crc_check=False, **key)["b"].asnumpy().any()  # type: ignore[union-attr]
    with pytest.raises(DecryptionError, match="does not decrypt to a whole checkpoint"):
        load_checkpoint(path, **key)


def test_a_part_and_a_mapping_are_not_read_whole_for_a_checksum(tmp_path: Path) -> None:
    path = damaged_in_b(tmp_path)
    assert list(load_checkpoint(path, specify_prefix="a")) == ["a"]
    assert list(load_checkpoint(path, mmap=True)) == ["a", "b"]
    for options in ({"specify_prefix": "a"}, {"mmap": True}):
        with pytest.raises(ChecksumError):
            load_checkpoint(path, crc_check=True, **options)


# ---- what is in a file


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_loaded_arrays_are_new_aligned_and_writable(tmp_path: Path, num_threads: int) -> None:
    path = str(tmp_path / "a.ckpt")
    expected = {f"p{i}": np.arange(i, dtype=np.float64) for i in range(9)}
    save_checkpoint(expected, path)
    loaded = load_checkpoint(path, num_threads=num_threads)
    before = (tmp_path / "a.ckpt").read_bytes()
    for parameter in loaded.values():
        array = parameter.asnumpy()
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        array += 1
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert_holds(load_checkpoint(path), expected)


def test_a_loaded_parameter_is_named_after_its_key_and_trained(tmp_path: Path) -> None:
    """requires_grad is not in the file."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"w": Parameter(np.zeros(2), name="other", requires_grad=False)}, path)
    loaded = load_checkpoint(path)["w"]
    assert (loaded.name, loaded.requires_grad) == ("w", True)


def test_a_cache_keys_suffix_is_cut_and_its_entry_moved_to_the_end(tmp_path: Path) -> None:
    """As MindSpore: several of them keep their order."""
    names = [
        "a.__param_key__1",
        "b",
        "c.__param_key__22",
        "d",
        "e__param_key__3",
        ".__param_key__4",
    ]
    data = b"".join(wire.record(name, [1], "UInt8", bytes([i])) for i, name in enumerate(names))
    loaded = load_checkpoint(path_of(tmp_path, data))
    assert [(key, value.name) for key, value in loaded.items()] == [
        ("b", "b"),
        ("d", "d"),
        ("e__param_key__3", "e__param_key__3"),
        ("a", "a.__param_key__1"),
        ("c", "c.__param_key__22"),
        ("", ".__param_key__4"),
    ]


MAP = [
    ("int32", np.array([1, 2], np.int32)),
    ("float32", np.array([[1, 2], [3, 4]], np.float32)),
    ("int32", np.array([0, 1], np.int32)),
]


def map_record(name: str, tensors: list[tuple[str, Array]]) -> bytes:
    parts = b"".join(
        wire.delimited(1, wire.tensor(array.shape, kind, array.tobytes()))
        for kind, array in tensors
    )
    return wire.delimited(1, wire.delimited(1, name.encode()) + wire.delimited(3, parts))


def test_a_map_tensor_loads_as_a_list_of_key_value_and_status(tmp_path: Path) -> None:
    """Oracle: MindSpore, which returns three arrays."""
    data = (
        wire.record("a", [1], "UInt8", b"a")
        + map_record("m", MAP)
        + wire.record("z", [1], "UInt8", b"z")
    )
    loaded = load_checkpoint(path_of(tmp_path, data))
    assert list(loaded) == ["a", "m", "z"]
    assert isinstance(loaded["m"], list)
    assert len(loaded["m"]) == 3
    for got, (_, want) in zip(loaded["m"], MAP, strict=True):
        assert isinstance(got, np.ndarray)
        assert (got.dtype, got.shape, got.tolist()) == (want.dtype, want.shape, want.tolist())


def test_only_the_selected_map_tensors_are_loaded(tmp_path: Path) -> None:
    data = map_record("m.a", MAP) + map_record("m.b", MAP)
    assert list(load_checkpoint(path_of(tmp_path, data), specify_prefix="m.b")) == ["m.b"]


@pytest.mark.parametrize(
    "tensors",
    [
        MAP[:2],
        [],
        [*MAP, MAP[0]],
        [("int33", MAP[0][1]), *MAP[1:]],
        [("Int32", MAP[0][1]), *MAP[1:]],
    ],
    ids=["two", "none", "four", "unknown type", "a tensor's type"],
)
def test_a_map_tensor_of_another_make_is_refused_or_has_three_arrays(
    tmp_path: Path, tensors: list[tuple[str, Array]]
) -> None:
    try:
        loaded = load_checkpoint(path_of(tmp_path, map_record("m", tensors)))
    except CheckpointError:
        return
    assert [array.tolist() for array in loaded["m"]] == [array.tolist() for _, array in MAP]


@pytest.mark.parametrize(
    "text",
    ["", "a", "h\u00e9\u6f22\U0001f600", "a\0b", "\0a", " ", "x" * 5000, "\ud800", "a\udfff"],
)
def test_a_str_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    """Lone surrogates and NULs inside included."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"s": text, "w": np.zeros(1)}, path, append_dict={"t": text})
    loaded = load_checkpoint(path)
    assert [loaded["s"], loaded["t"]] == [text, text]
    assert type(loaded["s"]) is str


@pytest.mark.parametrize("text", ["a\0", "a\0\0\0", "\0"])
def test_nuls_at_the_end_of_a_str_are_lost(tmp_path: Path, text: str) -> None:
    """As in MindSpore; documented."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"s": text}, path)
    assert load_checkpoint(path)["s"] == text.rstrip("\0")


def test_a_str_in_two_slices_and_under_other_dims_is_one_str(tmp_path: Path) -> None:
    """Oracle: MindSpore loads both."""
    first, second = ("ab".encode("utf-32-le"), "cd".encode("utf-32-le"))
    for dims in ([0], [4], []):
        data = wire.record("s", dims, "str", first) + wire.record("s", dims, "str", second)
        assert load_checkpoint(path_of(tmp_path, data))["s"] == "abcd"


# ---- the wire

BASE = [
    ("a", np.array([1, 2], np.float32)),
    ("b", np.array(7, np.int64)),
    ("c", np.array([[1], [2]], np.int8)),
]


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    """Fields that MindSpore skips: any number but those of the schema, any wire type."""
    out = b""
    for _ in range(draw(st.integers(0, 3))):
        number = draw(
            st.one_of(st.integers(4, 20), st.sampled_from([1000, 18999, 20000, 2**29 - 1]))
        )
        kind = draw(st.sampled_from([0, 1, 2, 3, 5]))
        out += wire.varint(number << 3 | kind)
        if kind == 0:
            out += wire.varint(draw(st.integers(0, 2**64 - 1)))
        elif kind == 2:
            content = draw(st.binary(max_size=200))
            out += wire.varint(len(content)) + content
        elif kind == 3:
            out += draw(unknown_fields()) + wire.varint(number << 3 | 4)
        else:
            out += draw(st.binary(min_size=8 if kind == 1 else 4, max_size=8 if kind == 1 else 4))
    return out


@given(data=st.data(), crc_check=st.booleans(), mapped=st.booleans())
def test_unknown_fields_are_skipped_wherever_they_stand(
    tmp_path: Path, data: st.DataObject, crc_check: bool, mapped: bool
) -> None:
    """At all three levels. Oracles: the arrays, and Google's protobuf."""

    def junk() -> bytes:
        return data.draw(unknown_fields())

    plain = junk()
    for name, value in BASE:
        dims = b"".join(junk() + wire.varint(8) + wire.varint(dim) for dim in value.shape)
        tensor = dims + junk() + wire.delimited(2, TYPE_NAMES[value.dtype].encode())
        tensor += junk() + wire.delimited(3, value.tobytes()) + junk()
        inner = (
            junk() + wire.delimited(1, name.encode()) + junk() + wire.delimited(2, tensor) + junk()
        )
        plain += wire.delimited(1, inner) + junk()
    message = schema.Checkpoint()
    message.ParseFromString(plain)
    assert [value.tag for value in message.value] == [name for name, _ in BASE]
    path = path_of(tmp_path, wire.with_crc(plain) if crc_check else plain)
    assert_holds(load_checkpoint(path, mmap=mapped, crc_check=crc_check), dict(BASE))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fields_may_stand_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Oracle: MindSpore takes them in any."""
    value = np.arange(6, dtype=np.int16).reshape(2, 3)
    fields = [b"\x08\x02\x08\x03", wire.delimited(2, b"Int16"), wire.delimited(3, value.tobytes())]
    tensor = wire.delimited(2, b"".join(fields[i] for i in order))
    tag = wire.delimited(1, b"w")
    for inner in (tag + tensor, tensor + tag):
        assert_holds(load_checkpoint(path_of(tmp_path, wire.delimited(1, inner))), {"w": value})


def padded_varint(value: int, length: int) -> bytes:
    """A varint of `length` bytes, more than it needs."""
    coded = bytearray(wire.varint(value).ljust(length, b"\0"))
    for i in range(length - 1):
        coded[i] |= 128
    return bytes(coded)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_lengths_may_be_longer_than_needed(tmp_path: Path, length: int) -> None:
    """Non-minimal varints everywhere a number stands but in tags. Oracle: Google's protobuf."""
    content = bytes(range(6))
    tensor = b"\x08" + padded_varint(6, length) + b"\x12" + padded_varint(5, length) + b"UInt8"
    tensor += b"\x1a" + padded_varint(6, length) + content
    inner = (
        b"\x0a"
        + padded_varint(1, length)
        + b"w"
        + b"\x12"
        + padded_varint(len(tensor), length)
        + tensor
    )
    plain = b"\x0a" + padded_varint(len(inner), length) + inner
    message = schema.Checkpoint()
    message.ParseFromString(plain)
    assert message.value[0].tensor.tensor_content == content
    assert_holds(load_checkpoint(path_of(tmp_path, plain)), {"w": np.frombuffer(content, np.uint8)})


def test_dims_zero_around_one_value_is_a_scalar(tmp_path: Path) -> None:
    """Oracle: MindSpore. Around no value it is an empty tensor, a difference of ours."""
    one = wire.record("one", [0], "Float64", np.float64(2.5).tobytes())
    none = wire.record("none", [0], "Float64", b"")
    loaded = load_checkpoint(path_of(tmp_path, one + none))
    assert_holds(loaded, {"one": np.array(2.5), "none": np.zeros(0)})


# ---- maps


def test_a_mapped_array_is_a_view_that_writes_to_nothing(tmp_path: Path) -> None:
    """Copy on write: the file and other maps stay as they are."""
    path = str(tmp_path / "a.ckpt")
    value = np.arange(100_000, dtype=np.float32)
    save_checkpoint({"x": np.zeros(3, np.uint8), "w": value}, path)
    before = (tmp_path / "a.ckpt").read_bytes()
    first, second = (load_checkpoint(path, mmap=True)["w"].asnumpy() for _ in range(2))
    assert first.flags.writeable
    first[:] = -1
    assert (second == value).all()
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_a_map_reads_nothing_of_the_payload(tmp_path: Path) -> None:
    """Oracle: the kernel's count of bytes read."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"w": np.ones(32 << 20, np.uint8)}, path, durable=False)
    before = bytes_read()
    loaded = load_checkpoint(path, mmap=True)
    assert bytes_read() - before < 1 << 20
    assert loaded["w"].asnumpy()[-1] == 1


def test_a_map_outlives_its_dict_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    value = np.arange(100_000, dtype=np.float64)
    save_checkpoint({"v": np.zeros(5), "w": value}, str(path))
    array = load_checkpoint(str(path), mmap=True)["w"].asnumpy()
    gc.collect()
    save_checkpoint({"w": np.zeros(1)}, str(path))
    assert (array == value).all()
    path.unlink()
    assert (array == value).all()


def test_a_mapped_slice_is_copied_whole(tmp_path: Path) -> None:
    """A tensor in several records has no one place to map."""
    data = b"".join(wire.record("w", [4], "UInt8", piece) for piece in (b"ab", b"", b"cd"))
    loaded = load_checkpoint(path_of(tmp_path, data), mmap=True)
    assert_holds(loaded, {"w": np.frombuffer(b"abcd", np.uint8)})


def test_what_was_mapped_saves_again(tmp_path: Path) -> None:
    """Over the very file that is mapped."""
    path = str(tmp_path / "a.ckpt")
    expected = {f"p{i}": np.arange(1000, dtype=np.int32)[i:] for i in range(5)}
    save_checkpoint(expected, path)
    before = (tmp_path / "a.ckpt").read_bytes()
    save_checkpoint(load_checkpoint(path, mmap=True), path)
    assert (tmp_path / "a.ckpt").read_bytes() == before


# ---- nets


class Net(nn.Cell):
    """Parameters of zeros, from a list of names, shapes and types."""

    def __init__(self, *specification: tuple[str, tuple[int, ...], str]) -> None:
        super().__init__()
        for i, (name, shape, kind) in enumerate(specification):
            zeros = np.zeros(shape, dtypes.from_name(kind).numpy)
            setattr(self, f"p{i}", Parameter(zeros, name=name))


def counted(shape: tuple[int, ...], kind: str = "Float32") -> Parameter:
    """1, 2, 3, ... in a shape and type."""
    array = np.arange(1, 1 + int(np.prod(shape))).reshape(shape)
    return Parameter(array.astype(dtypes.from_name(kind).numpy), name="unused")


def values_of(net: nn.Cell) -> dict[str, list[float]]:
    return {p.name: p.asnumpy().astype(np.float64).ravel().tolist() for p in net.get_parameters()}


F = "Float32"
A, B = ("a", (2,), F), ("b", (1,), F)

# Net, parameters, strict_load; what MindSpore returns, and what it leaves in the net.
NETS: dict[
    str, tuple[list[Any], dict[str, Any], bool, tuple[list[str], list[str]], dict[str, list[float]]]
] = {
    "equal": (
        [A, B],
        {"a": counted((2,)), "b": counted((1,))},
        False,
        ([], []),
        {"a": [1, 2], "b": [1]},
    ),
    "missing and extra": (
        [A, B, ("c", (1,), F)],
        {"x": counted((1,)), "b": counted((1,)), "y": counted((2,))},
        False,
        (["a", "c"], ["x", "y"]),
        {"a": [0, 0], "b": [1], "c": [0]},
    ),
    "nothing in common": (
        [("c", (1,), F), A, B],
        {"z": counted((1,)), "y": counted((1,))},
        False,
        (["c", "a", "b"], ["z", "y"]),
        {"c": [0], "a": [0, 0], "b": [0]},
    ),
    "ones at the end in the file": (
        [("a", (2, 3), F)],
        {"a": counted((2, 3, 1, 1))},
        False,
        ([], []),
        {"a": [1, 2, 3, 4, 5, 6]},
    ),
    "a one at the end in the file": ([A], {"a": counted((2, 1))}, False, ([], []), {"a": [1, 2]}),
    "ones around a scalar": ([("a", (), F)], {"a": counted((1, 1))}, False, ([], []), {"a": [1]}),
    "ones at the end and another type": (
        [("a", (2, 1), "Float16")],
        {"a": counted((2, 1, 1))},
        False,
        ([], []),
        {"a": [1, 2]},
    ),
    "ones at the end of bfloat16": (
        [A],
        {"a": counted((2, 1), "BFloat16")},
        False,
        ([], []),
        {"a": [1, 2]},
    ),
    "text": (
        [A, B],
        {"a": "text", "b": counted((1,))},
        False,
        (["a"], ["a"]),  # ([], ["a"]) in MindSpore, which does not say that it left it out
        {"a": [0, 0], "b": [1]},
    ),
    "a map tensor": (
        [A, B],
        {"a": [np.zeros(1)] * 3, "b": counted((1,))},
        False,
        (["a"], ["a"]),  # ([], ["a"]) in MindSpore, which does not say that it left it out
        {"a": [0, 0], "b": [1]},
    ),
    "gradients that accumulate": (
        [("accu_grads.a", (2,), F), B],
        {"b": counted((1,))},
        False,
        ([], []),
        {"accu_grads.a": [0, 0], "b": [1]},
    ),
    "an empty dict": ([A], {}, False, (["a"], []), {"a": [0, 0]}),
    "an empty net": ([], {"a": counted((2,))}, False, ([], ["a"]), {}),
    "a prefix in the file": (
        [A, B],
        {"net.a": counted((2,)), "net.b": counted((1,)), "net.c": counted((1,))},
        False,
        ([], ["net.a", "net.b", "net.c"]),
        {"a": [1, 2], "b": [1]},
    ),
    "a prefix in the file, strictly": (
        [A, B],
        {"net.a": counted((2,)), "net.b": counted((1,))},
        True,
        (["a", "b"], ["net.a", "net.b"]),
        {"a": [0, 0], "b": [0]},
    ),
    "a prefix before some": (
        [A, B],
        {"net.a": counted((2,)), "b": counted((1,))},
        False,
        ([], ["net.a"]),
        {"a": [1, 2], "b": [1]},
    ),
    "two prefixes": (
        [A, B],
        {"x.a": counted((2,)), "y.b": counted((1,))},
        False,
        ([], ["x.a", "y.b"]),
        {"a": [1, 2], "b": [1]},
    ),
    "a prefix before another type": (
        [A],
        {"net.a": counted((2,), "Float16")},
        False,
        ([], ["net.a"]),
        {"a": [1, 2]},
    ),
    "a prefix in the net": (
        [("net.a", (2,), F)],
        {"a": counted((2,))},
        False,
        (["net.a"], ["a"]),
        {"net.a": [0, 0]},
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_a_net_is_filled_as_mindspore_fills_it(case: str) -> None:
    specification, parameters, strict, returned, values = NETS[case]
    net = Net(*specification)
    before = [(p, p.shape, p.dtype) for p in net.get_parameters()]
    names = list(parameters)
    assert load_param_into_net(net, parameters, strict) == returned
    assert values_of(net) == values
    assert [(p, p.shape, p.dtype) for p in net.get_parameters()] == before, (
        "in place, shape and type kept"
    )
    assert list(parameters) == names


CONVERTED = [{"Float16", "Float32", "Float64", "BFloat16"}, {"Int8", "Int16", "Int32", "Int64"}]
KINDS = [
    "Float16",
    F,
    "Float64",
    "BFloat16",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Bool",
]


@pytest.mark.parametrize(
    ("ours", "theirs"), [pair for pair in itertools.product(KINDS, KINDS) if pair[0] != pair[1]]
)
def test_types_are_converted_only_within_floats_and_within_signed_ints(
    ours: str, theirs: str
) -> None:
    """Oracle: MindSpore's table of all pairs."""
    convertible = any({ours, theirs} <= family for family in CONVERTED)
    for strict in (False, True):
        net = Net(("a", (2,), ours))
        if convertible and not strict:
            assert load_param_into_net(net, {"a": counted((2,), theirs)}, strict) == ([], [])
            assert values_of(net) == {"a": [1, 2]}
            assert str(net.p0.dtype) == ours
        else:
            with pytest.raises(RuntimeError, match="'a'") as caught:
                load_param_into_net(net, {"a": counted((2,), theirs)}, strict)
            assert ours in str(caught.value)
            assert theirs in str(caught.value)
            assert values_of(net) == {"a": [0, 0]}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((2,), (3,)),
        ((2, 3), (3, 2)),
        ((6,), (2, 3, 1)),
        ((2, 3, 1, 1), (2, 3)),
        ((1,), ()),
        ((2, 3), (2, 3, 2)),
    ],
)
def test_another_shape_is_a_runtime_error_that_names_both(
    ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    """Oracle: MindSpore."""
    net = Net(("conv.weight", ours, F))
    with pytest.raises(RuntimeError, match=r"conv\.weight") as caught:
        load_param_into_net(net, {"conv.weight": counted(theirs)})
    assert str(ours) in str(caught.value)
    assert str(theirs) in str(caught.value)
    assert not net.p0.asnumpy().any()


def under_prefixes(names: list[str], saved: list[str]) -> tuple[list[str], list[str]]:
    """What MindSpore loads under longer names, and the names it misses; as its code says it."""
    missing = [name for name in names if name not in saved]
    loaded: list[str] = []
    for ending in list(missing):
        longer = [name for name in saved if ending and name.endswith(ending) and name != ending]
        if ending not in missing or not longer:
            continue
        prefix = longer[0].removesuffix(ending)
        loaded += [name for name in missing if prefix + name in saved]
        missing = [name for name in missing if prefix + name not in saved]
    return loaded, missing


@given(
    names=st.lists(st.text("ab.", min_size=1, max_size=4), unique=True, min_size=1, max_size=6),
    saved=st.lists(st.text("ab.", min_size=1, max_size=6), unique=True, max_size=8),
)
def test_names_are_looked_for_under_prefixes_as_mindspore_looks(
    names: list[str], saved: list[str]
) -> None:
    net = Net(*((name, (1,), F) for name in names))
    values = {name: Parameter(np.array([i + 1.0], np.float32)) for i, name in enumerate(saved)}
    loaded, missing = under_prefixes(names, saved)
    not_loaded, _ = load_param_into_net(net, values)
    assert not_loaded == missing
    filled = {name for name, value in values_of(net).items() if value != [0.0]}
    assert filled == {*loaded, *(name for name in names if name in saved)}


def test_many_prefixes_are_tried_at_once() -> None:
    """Each with each of these names would be a thousand million."""
    names = [f"w{i:05}" for i in range(30_000)]
    parameters = [Parameter(np.zeros(1, np.float32), name=name) for name in names]

    class Wide:
        def parameters_and_names(self) -> list[tuple[str, Parameter]]:
            return list(zip(names, parameters, strict=True))

    value = counted((1,))
    saved = {f"p{i}.{name}": value for i, name in enumerate(names)}
    assert load_param_into_net(Wide(), saved) == ([], list(saved))


def test_a_net_is_filled_whole_or_not_at_all() -> None:
    """MindSpore leaves it half loaded."""
    net = Net(A, B)
    for wrong in (counted((3,)), counted((1,), "Int32")):
        with pytest.raises(RuntimeError, match="b"):
            load_param_into_net(net, {"a": counted((2,)), "b": wrong})
        assert values_of(net) == {"a": [0, 0], "b": [0]}


def test_load_checkpoint_fills_a_net_and_returns_all(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"a": np.array([1, 2], np.float32), "x": np.zeros(1)}, path)
    net = Net(A, B)
    loaded = load_checkpoint(path, net)
    assert list(loaded) == ["a", "x"]
    assert values_of(net) == {"a": [1, 2], "b": [0]}


def test_load_checkpoint_fills_a_net_strictly(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"a": np.array([1, 2], np.float16)}, path)
    net = Net(A)
    with pytest.raises(RuntimeError, match="a"):
        load_checkpoint(path, net, strict_load=True)
    load_checkpoint(path, net, strict_load=False)
    assert values_of(net) == {"a": [1, 2]}


def test_a_net_saves_and_fills_its_twin(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    first, second = (Net(A, B, ("c.d", (2, 2), "BFloat16")) for _ in range(2))
    first.p0.set_data(Tensor(np.array([3, 4], np.float32)))
    first.p2.set_data(Tensor(np.array([[1, 2], [3, 4]]).astype(ml_dtypes.bfloat16)))
    save_checkpoint(first, path)
    assert load_param_into_net(second, load_checkpoint(path)) == ([], [])
    assert values_of(second) == values_of(first)


def test_a_cell_of_another_make_is_filled_through_its_parameters(tmp_path: Path) -> None:
    """Anything with parameters_and_names is a Cell."""

    class Foreign:
        def __init__(self) -> None:
            self.weight = Parameter(np.zeros(2, np.float32), name="weight")

        def parameters_and_names(self) -> Any:
            yield "weight", self.weight

    path = str(tmp_path / "a.ckpt")
    net = Foreign()
    save_checkpoint({"weight": np.array([1, 2], np.float32)}, path)
    load_checkpoint(path, net)
    assert net.weight.asnumpy().tolist() == [1, 2]
    save_checkpoint(net, path)
    assert load_checkpoint(path)["weight"].asnumpy().tolist() == [1, 2]


# ---- large things


@pytest.mark.parametrize("count", [2**29, 2**29 + 5])
def test_a_tensor_over_512_mib_is_cut_as_mindspore_cuts_it(tmp_path: Path, count: int) -> None:
    """Records of 2**29 content bytes, each with the full dims. Oracle: tests/wire.py."""
    path = tmp_path / "a.ckpt"
    value = np.broadcast_to(np.uint8(7), (count,))
    save_checkpoint({"w": value, "z": np.array([1], np.int8)}, str(path), durable=False)
    slices = [min(2**29, count - at) for at in range(0, count, 2**29)]
    at = 0
    with path.open("rb") as file:
        for length in slices:
            head = record_head("w", count, length)
            file.seek(at)
            assert file.read(len(head) + 1) == head + b"\x07"
            at += len(head) + length
        file.seek(at)
        assert file.read() == wire.record("z", [1], "Int8", b"\x01")
    loaded = load_checkpoint(str(path))
    path.unlink()
    assert loaded["w"].shape == (count,)
    assert (loaded["w"].asnumpy() == 7).all()
    assert_holds({"z": loaded["z"]}, {"z": np.array([1], np.int8)})


def record_head(name: str, dim: int, content_bytes: int) -> bytes:
    """All of a record of UInt8 but its content."""
    tensor = b"\x08" + wire.varint(dim) + wire.delimited(2, b"UInt8")
    tensor += b"\x1a" + wire.varint(content_bytes)
    tag = wire.delimited(1, name.encode())
    tensor = b"\x12" + wire.varint(len(tensor) + content_bytes) + tensor
    return b"\x0a" + wire.varint(len(tag) + len(tensor) + content_bytes) + tag + tensor


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_many_parameters_and_long_names_span_blocks(tmp_path: Path, cipher: str) -> None:
    """Headers that are cut by block borders, and names longer than a block."""
    write = {"enc_key": KEY, "enc_mode": cipher} if cipher != "plain" else {}
    read = {"dec_key": KEY, "dec_mode": cipher} if cipher != "plain" else {}
    expected: dict[str, Any] = {f"p{i}": np.array([i], np.int32) for i in range(2000)}
    expected |= {"\u6f22" * 3000: np.zeros((2, 0), np.int8), "x" * 5000: "y" * 5000}
    path = str(tmp_path / "a.ckpt")
    save_checkpoint(expected, path, block_bytes=1024, crc_check=True, **write)
    assert_holds(load_checkpoint(path, crc_check=True, **read), expected)
    chosen = {"x" * 5000: expected["x" * 5000], "p7": expected["p7"]}
    loaded = load_checkpoint(path, choice_func=lambda name: name in chosen, **read)
    assert_holds(loaded, dict(sorted(chosen.items())))


def test_many_threads_load_one_file_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    expected = {f"p{i}": np.arange(5000, dtype=np.int64) + i for i in range(20)}
    save_checkpoint(expected, path, enc_key=KEY, block_bytes=4096)
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: load_checkpoint(path, dec_key=KEY), range(20)):
            assert_holds(loaded, expected)


def test_other_python_threads_run_during_a_load(tmp_path: Path) -> None:
    """The lock of the interpreter is let go of: a thread that only sleeps and counts gets on."""
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"w": np.zeros(128 << 20, np.uint8)}, path, enc_key=KEY, durable=False)
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.wait(0.0001):
            turns += 1

    counter = threading.Thread(target=count)
    counter.start()
    while not turns:
        time.sleep(0.0001)
    before = turns
    load_checkpoint(path, dec_key=KEY, num_threads=1)
    during = turns - before
    stop.set()
    counter.join()
    assert during >= 3


# ---- races


def test_a_file_that_shrinks_while_it_is_mapped_is_not_our_own(tmp_path: Path) -> None:
    """Saving replaces files, so a map never sees its file change: the inode is another."""
    path = tmp_path / "a.ckpt"
    save_checkpoint({"w": np.arange(10_000)}, str(path))
    inode = os.stat(path).st_ino
    mapped = load_checkpoint(str(path), mmap=True)["w"].asnumpy()
    save_checkpoint({"w": np.zeros(1)}, str(path))
    assert os.stat(path).st_ino != inode
    assert mapped[-1] == 9999


# SIGUSR1 comes when somebody is refused the file that this process holds a lease on. Its handler
# gives the lease back, raises what Ctrl-C raises, or does nothing.
LEASED = """
import fcntl, os, signal, sys
import numpy as np
from mindckpt import checkpoint, load_checkpoint, save_checkpoint
path, then = sys.argv[1:]
save_checkpoint({"w": np.arange(9)}, path)
holder = os.open(path, os.O_RDONLY)
fcntl.fcntl(holder, fcntl.F_SETSIG, signal.SIGUSR1)
refused = []
def on_refusal(signum, frame):
    refused.append(signum)
    if then == "give back":
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    elif then == "interrupt":
        raise KeyboardInterrupt
signal.signal(signal.SIGUSR1, on_refusal)
try:
    fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
except OSError:
    print("no leases")
    sys.exit()
if then == "keep":
    checkpoint._LEASE_SECONDS = 0.0
try:
    print(load_checkpoint(path)["w"].asnumpy().sum(), len(refused))
except (OSError, KeyboardInterrupt) as error:
    print(type(error).__name__, error, len(refused))
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("give back", "36 1"),
        ("interrupt", "KeyboardInterrupt  1"),
        (
            "keep",
            "BlockingIOError [Errno 11] open, as another process holds a lease on the file:"
            " Resource temporarily unavailable: '{path}' 1",
        ),
    ],
)
def test_a_load_waits_for_a_lease_but_not_for_ever(tmp_path: Path, then: str, said: str) -> None:
    """A save holds one for a moment on the file that it reuses; so do file servers."""
    path = tmp_path / "a.ckpt"
    told = run_python(LEASED, path, then).stdout.strip()
    if told == "no leases":
        pytest.skip("the temporary folder's file system knows no leases")
    assert told == said.format(path=path)


def test_a_file_that_is_removed_while_a_load_begins_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not "not a regular file", nor another type of error than for one that never was."""
    path = tmp_path / "a.ckpt"
    save_checkpoint({"w": np.arange(3)}, path)

    def found(name: str | os.PathLike[str]) -> None:
        check_file(name)
        path.unlink()

    monkeypatch.setattr(checkpoint, "check_file", found)
    with pytest.raises(ValueError, match="there is no such file"):
        load_checkpoint(path)


def test_a_link_that_is_turned_to_another_file_while_a_load_begins_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`latest.ckpt` of a rotation, which removes the oldest file then."""
    for step in (1, 2):
        save_checkpoint({"w": np.array(step)}, tmp_path / f"{step}.ckpt")
    latest = tmp_path / "latest.ckpt"
    latest.symlink_to("1.ckpt")

    def found(name: str | os.PathLike[str]) -> None:
        check_file(name)
        if (tmp_path / "1.ckpt").exists():
            (tmp_path / "next").symlink_to("2.ckpt")
            os.replace(tmp_path / "next", latest)
            (tmp_path / "1.ckpt").unlink()

    monkeypatch.setattr(checkpoint, "check_file", found)
    assert int(load_checkpoint(latest)["w"].asnumpy()) == 2
