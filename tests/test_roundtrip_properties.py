"""What is saved is loaded, whatever is saved and however.

Oracles: the arrays themselves, and tests/wire.py for the bytes.
"""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import frames
import wire
from mindckpt import SaveJob, load_checkpoint, save_checkpoint
from support import AVAILABLE_MODES, TYPE_NAMES, Array, assert_holds

# Names as UTF-8 can hold them. A cache key's suffix is cut by loading, so it is left out.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: "__param_key__" not in name
)
# Any str, lone surrogates included; NULs at the end are lost, as in MindSpore.
TEXTS = st.text(st.characters(), max_size=30).filter(lambda text: not text.endswith("\0"))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays of every type, small, or large enough to span blocks; any bit pattern."""
    dtype = draw(st.sampled_from(list(TYPE_NAMES)))
    shape = draw(st.one_of(SHAPES, st.tuples(st.integers(500, 3000))))
    count = int(np.prod(shape))
    if dtype == np.bool_:
        return draw(hnp.arrays(np.bool_, shape, elements=st.booleans(), fill=st.booleans()))
    seed = draw(st.integers(0, 2**32 - 1))
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


APPENDED = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32),
    st.floats(),
    TEXTS,
    arrays(),
)


def as_loaded(value: Any) -> Any:
    """What an append_dict value loads as: the documented types."""
    if isinstance(value, bool):
        return np.array(value)
    if isinstance(value, int):
        return np.array(value, np.uint64 if value >= 2**63 else np.int64)
    if isinstance(value, float):
        with np.errstate(over="ignore", under="ignore"):
            return np.array(value, np.float64).astype(np.float32)
    return value


@st.composite
def ciphers(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of a save and of the load that undoes it."""
    if draw(st.booleans()):
        return {}, {}
    mode = draw(st.sampled_from(AVAILABLE_MODES))
    length = draw(st.sampled_from(frames.KEY_LENGTHS[mode]))
    key = draw(st.binary(min_size=length, max_size=length))
    return {"enc_key": key, "enc_mode": mode}, {"dec_key": key, "dec_mode": mode}


@settings(max_examples=300)
@given(
    parameters=st.dictionaries(NAMES, st.one_of(arrays(), TEXTS), max_size=5),
    appended=st.dictionaries(NAMES, APPENDED, max_size=3),
    cipher=ciphers(),
    crc_check=st.booleans(),
    block_bytes=st.one_of(st.none(), st.integers(1024, 8192), st.integers(1024, 64 * 2**20)),
    threads=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    async_save=st.booleans(),
)
def test_what_is_saved_is_loaded(
    tmp_path: Path,
    parameters: dict[str, Any],
    appended: dict[str, Any],
    cipher: tuple[dict[str, Any], dict[str, Any]],
    crc_check: bool,
    block_bytes: int | None,
    threads: tuple[int, int],
    async_save: bool,
) -> None:
    expected = {**parameters, **{name: as_loaded(value) for name, value in appended.items()}}
    assume(expected)
    path = str(tmp_path / "a.ckpt")
    job = save_checkpoint(
        parameters,
        path,
        append_dict=appended,
        async_save=async_save,
        crc_check=crc_check,
        block_bytes=block_bytes,
        num_threads=threads[0],
        durable=False,
        **cipher[0],
    )
    if async_save:
        assert isinstance(job, SaveJob)
        assert job.result()["nbytes"] == (tmp_path / "a.ckpt").stat().st_size
    assert_holds(
        load_checkpoint(path, num_threads=threads[1], crc_check=crc_check, **cipher[1]), expected
    )
    if not cipher[1]:
        assert_holds(load_checkpoint(path, mmap=True, crc_check=crc_check), expected)


@settings(max_examples=200)
@given(
    parameters=st.dictionaries(NAMES, st.one_of(arrays(), TEXTS), max_size=5),
    crc_check=st.booleans(),
    num_threads=st.integers(1, 4),
)
def test_a_plain_file_is_the_records_one_after_the_other(
    tmp_path: Path, parameters: dict[str, Any], crc_check: bool, num_threads: int
) -> None:
    """Oracle: tests/wire.py, which writes them by itself."""
    save_checkpoint(
        parameters,
        str(tmp_path / "a.ckpt"),
        crc_check=crc_check,
        num_threads=num_threads,
        block_bytes=1024,
        durable=False,
    )
    records = b"".join(
        wire.text_record(name, value)
        if isinstance(value, str)
        else wire.record(name, value.shape, TYPE_NAMES[value.dtype], value.tobytes())
        for name, value in parameters.items()
    )
    assert (tmp_path / "a.ckpt").read_bytes() == (wire.with_crc(records) if crc_check else records)


@settings(max_examples=150)
@given(
    parameters=st.dictionaries(NAMES, arrays(), min_size=1, max_size=4),
    mode=st.sampled_from(AVAILABLE_MODES),
    block_bytes=st.integers(1, 5000),
    crc_check=st.booleans(),
    num_threads=st.integers(1, 4),
)
def test_blocks_of_any_size_that_others_cut_are_loaded(
    tmp_path: Path,
    parameters: dict[str, Array],
    mode: str,
    block_bytes: int,
    crc_check: bool,
    num_threads: int,
) -> None:
    """MindSpore's loader takes blocks from one byte on. Oracle: the `cryptography` package."""
    plain = b"".join(
        wire.record(name, value.shape, TYPE_NAMES[value.dtype], value.tobytes())
        for name, value in parameters.items()
    )
    assume(len(plain) < 500 * block_bytes)  # frames are sealed one by one here: bound the work
    key = bytes(range(16))
    sealed = frames.seal_all(wire.with_crc(plain) if crc_check else plain, key, mode, block_bytes)
    (tmp_path / "a.ckpt").write_bytes(sealed)
    loaded = load_checkpoint(
        str(tmp_path / "a.ckpt"),
        dec_key=key,
        dec_mode=mode,
        crc_check=crc_check,
        num_threads=num_threads,
    )
    assert_holds(loaded, parameters)


@settings(max_examples=100)
@given(
    value=arrays(),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    crc_check=st.booleans(),
    num_threads=st.integers(1, 4),
    mapped=st.booleans(),
)
def test_a_tensor_cut_in_slices_anywhere_loads_whole(
    tmp_path: Path, value: Array, cuts: list[int], crc_check: bool, num_threads: int, mapped: bool
) -> None:
    """MindSpore cuts over 512 MiB, other writers elsewhere. Oracle: the array."""
    content = value.tobytes()
    borders = sorted({0, *(min(cut * value.itemsize, len(content)) for cut in cuts), len(content)})
    slices = [content[a:b] for a, b in zip(borders, [*borders[1:], len(content)], strict=True)]
    records = b"".join(
        wire.record("w", value.shape, TYPE_NAMES[value.dtype], piece) for piece in slices
    )
    records += wire.record("x", [1], "UInt8", b"x")
    (tmp_path / "a.ckpt").write_bytes(wire.with_crc(records) if crc_check else records)
    loaded = load_checkpoint(
        str(tmp_path / "a.ckpt"), num_threads=num_threads, mmap=mapped, crc_check=crc_check
    )
    assert_holds(loaded, {"w": value, "x": np.frombuffer(b"x", np.uint8)})


def test_not_a_number_keeps_its_payload(tmp_path: Path) -> None:
    """Bit for bit, in the types that Python might be tempted to convert."""
    patterns = {
        "f2": np.array([0x7E01, 0x7C01, 0xFE23], np.uint16).view(np.float16),
        "bf16": np.array([0x7FC1, 0x7F81, 0xFFE3], np.uint16).view(ml_dtypes.bfloat16),
        "f4": np.array([0x7FC00001, 0x7F800001, 0xFFC12345], np.uint32).view(np.float32),
        "f8": np.array([0x7FF8000000000001, 0x7FF0000000000001], np.uint64).view(np.float64),
        "f8e5m2": np.array([0x7D, 0x7E, 0xFF], np.uint8).view(ml_dtypes.float8_e5m2),
    }
    save_checkpoint({**patterns, "strided": patterns["f4"][::-1]}, str(tmp_path / "a.ckpt"))
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"))
    assert_holds(loaded, {**patterns, "strided": patterns["f4"][::-1]})
