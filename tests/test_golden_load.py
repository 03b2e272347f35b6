"""Oracle: MindSpore 2.10. Every golden file loads to what MindSpore loads from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden
from mindckpt import CheckpointError, ChecksumError, DecryptionError, Parameter, load_checkpoint


def described(loaded: dict[str, Any]) -> list[dict[str, Any]]:
    """What was loaded, in the manifest's terms."""
    rows: list[dict[str, Any]] = []
    for name, value in loaded.items():
        if isinstance(value, str):
            rows.append({"name": name, "kind": "str", "value": value})
            continue
        assert isinstance(value, Parameter)
        data = value.asnumpy().tobytes()
        rows.append(
            {
                "name": name,
                "param_name": value.name,
                "kind": "Parameter",
                "dtype": str(value.dtype),
                "shape": list(value.shape),
                "requires_grad": value.requires_grad,
                "nbytes": len(data),
                "sha256": golden.sha256(data),
                "repr": repr(value),
            }
        )
    return rows


def as_mindspore_loads(file: str, outcome: str = "ms_load") -> list[dict[str, Any]]:
    """The manifest's rows; with control characters of a name escaped in its repr, as we show it."""
    rows: list[dict[str, Any]] = []
    for row in golden.ENTRIES[file][outcome]["dict"]:
        shown = {}
        if "repr" in row:
            shown["repr"] = row["repr"].replace("\t", "\\t").replace("\0", "\\x00")
        rows.append({**row, **shown})
    return rows


def as_saved(file: str) -> list[dict[str, Any]]:
    """Rows that hold what MindSpore was given to save in `file`, under the names it was given."""
    return [
        _row(e["name"], e["dtype"], e["shape"], e["sha256"], e["nbytes"])
        for e in golden.ENTRIES[file]["saved"]
    ]


def _row(name: str, dtype: str, shape: list[int], digest: str, nbytes: int) -> dict[str, Any]:
    return {
        "name": name,
        "param_name": name,
        "kind": "Parameter",
        "dtype": dtype,
        "shape": shape,
        "requires_grad": True,
        "nbytes": nbytes,
        "sha256": digest,
        "repr": f"Parameter (name={name}, shape={tuple(shape)}, dtype={dtype}, requires_grad=True)",
    }


def _array_row(name: str, dtype: str, array: golden.Array) -> dict[str, Any]:
    return _row(name, dtype, list(array.shape), golden.sha256(array.tobytes()), array.nbytes)


@dataclass(frozen=True)
class Difference:
    """A golden file on which we differ from MindSpore on purpose."""

    what: str
    why: str
    loads: list[dict[str, Any]] = field(default_factory=list)  # empty: refused with CheckpointError


_WRITTEN_NOT_READ = "MindSpore writes this type and cannot read it back"

# The table of docs/format.md, "Deliberate differences". One line per file.
DELIBERATE_DIFFERENCES = {
    **{
        file: Difference("loads", _WRITTEN_NOT_READ, as_saved(file))
        for file in (
            "dt_complex64.ckpt",
            "dt_complex128.ckpt",
            "dt_float8_e4m3fn.ckpt",
            "dt_float8_e5m2.ckpt",
            "dt_hifloat8.ckpt",
        )
    },
    "name_1025.ckpt": Difference(
        "loads",
        "MindSpore saves names over 1,024 characters and cannot load them",
        as_saved("name_1025.ckpt"),
    ),
    "name_empty.ckpt": Difference(
        "loads with Parameter.name ''",
        "MindSpore makes a name up, another in each process",
        as_saved("name_empty.ckpt"),
    ),
    "empty_async_d0.ckpt": Difference(
        "e0 loads with shape (0,)",
        "no content under dims [0] is an empty tensor; MindSpore returns one value out of nowhere",
        as_saved("empty_async_d0.ckpt"),
    ),
    "crafted/crc_fake_tail.ckpt": Difference(
        "loads",
        "the last tensor only looks like a CRC trailer; MindSpore cuts it off and fails",
        [
            _array_row("a", "Float32", np.array([1, 2], np.float32)),
            _array_row("z", "UInt8", np.frombuffer(b"crc_num" + bytes(10), np.uint8)),
        ],
    ),
    "crafted/short_content.ckpt": Difference(
        "refused", "8 bytes for a shape that needs 16; MindSpore leaves the rest undefined"
    ),
    "crafted/long_content.ckpt": Difference(
        "refused", "8 bytes for a shape that needs 4; MindSpore drops the rest"
    ),
    "crafted/no_tag.ckpt": Difference(
        "refused", "a required field is missing; MindSpore makes a name up"
    ),
    "crafted/slices_interleaved.ckpt": Difference(
        "refused", "slices of one tensor that are not adjacent; MindSpore mixes tensors up"
    ),
}

AS_MINDSPORE = sorted(golden.ENTRIES.keys() - DELIBERATE_DIFFERENCES.keys())
LOADED_BY_MINDSPORE = [file for file in AS_MINDSPORE if "dict" in golden.ENTRIES[file]["ms_load"]]
REFUSED_BY_MINDSPORE = [file for file in AS_MINDSPORE if "error" in golden.ENTRIES[file]["ms_load"]]
CHECKED_BY_MINDSPORE = [
    file for file in AS_MINDSPORE if "ms_load_crc_check" in golden.ENTRIES[file]
]


def test_the_corpus_is_whole_and_unchanged() -> None:
    """Guards the oracle itself: a checkout that mends line ends would spoil it."""
    found = {path.relative_to(golden.FOLDER).as_posix() for path in golden.FOLDER.rglob("*ckpt")}
    assert found == set(golden.ENTRIES)
    for file, entry in golden.ENTRIES.items():
        assert golden.sha256(golden.read(file)) == entry["sha256"], file


@pytest.mark.parametrize("file", LOADED_BY_MINDSPORE)
def test_a_golden_file_loads_to_what_mindspore_loads(file: str) -> None:
    """Which verifies no checksum unless it is asked to."""
    loaded = load_checkpoint(golden.FOLDER / file, crc_check=False, **golden.key_and_mode(file))
    assert described(loaded) == as_mindspore_loads(file)


@pytest.mark.parametrize("file", [f for f in LOADED_BY_MINDSPORE if "enc" not in golden.ENTRIES[f]])
def test_a_mapped_golden_file_holds_what_mindspore_loads(file: str) -> None:
    loaded = load_checkpoint(golden.FOLDER / file, mmap=True)
    assert described(loaded) == as_mindspore_loads(file)


@pytest.mark.parametrize("file", REFUSED_BY_MINDSPORE)
def test_what_mindspore_refuses_is_a_checkpoint_error(file: str) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(golden.FOLDER / file, **golden.key_and_mode(file))


def error_of_checksum(file: str) -> type[CheckpointError]:
    """What a wrong checksum is: in CBC the same as whatever depends on decrypted bytes."""
    return DecryptionError if file.endswith("cbc.ckpt") else ChecksumError


@pytest.mark.parametrize("file", CHECKED_BY_MINDSPORE)
def test_crc_check_decides_as_mindspore_does(file: str) -> None:
    outcome = golden.ENTRIES[file]["ms_load_crc_check"]
    loads = "dict" in golden.ENTRIES[file]["ms_load"]
    if "dict" in outcome:
        loaded = load_checkpoint(golden.FOLDER / file, crc_check=True, **golden.key_and_mode(file))
        assert described(loaded) == as_mindspore_loads(file, "ms_load_crc_check")
    else:
        # Where the file loads unchecked, nothing but its checksum is wrong.
        with pytest.raises(error_of_checksum(file) if loads else CheckpointError):
            load_checkpoint(golden.FOLDER / file, crc_check=True, **golden.key_and_mode(file))


@pytest.mark.parametrize("file", CHECKED_BY_MINDSPORE)
def test_a_whole_load_decides_as_mindspores_crc_check_where_there_is_a_checksum(file: str) -> None:
    loads = "dict" in golden.ENTRIES[file]["ms_load"]
    if "dict" in golden.ENTRIES[file]["ms_load_crc_check"]:
        loaded = load_checkpoint(golden.FOLDER / file, **golden.key_and_mode(file))
        assert described(loaded) == golden.ENTRIES[file]["ms_load"]["dict"]
    else:
        with pytest.raises(error_of_checksum(file) if loads else CheckpointError):
            load_checkpoint(golden.FOLDER / file, **golden.key_and_mode(file))


@pytest.mark.parametrize("file", DELIBERATE_DIFFERENCES)
def test_we_differ_from_mindspore_only_as_the_table_says(file: str) -> None:
    expected = DELIBERATE_DIFFERENCES[file].loads
    assert golden.ENTRIES[file]["ms_load"].get("dict", []) != expected, (
        "the table is stale: no difference"
    )
    if expected:
        assert described(load_checkpoint(golden.FOLDER / file)) == expected
        assert described(load_checkpoint(golden.FOLDER / file, mmap=True)) == expected
    else:
        with pytest.raises(CheckpointError):
            load_checkpoint(golden.FOLDER / file)
        with pytest.raises(CheckpointError):
            load_checkpoint(golden.FOLDER / file, mmap=True)


def test_the_format_document_lists_every_deliberate_difference() -> None:
    """Each file of the table by its name."""
    document = Path(__file__).parents[1] / "docs" / "format.md"
    text = document.read_text(encoding="utf-8")
    assert [file for file in DELIBERATE_DIFFERENCES if file not in text] == []


def test_crc_check_refuses_a_golden_file_without_a_trailer() -> None:
    """Unlike MindSpore, which warns and loads: who asks for a check gets one."""
    with pytest.raises(ChecksumError):
        load_checkpoint(golden.FOLDER / "dt_all.ckpt", crc_check=True)
