"""Google's protobuf, with MindSpore's own schema, reads our records and would write the same."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from . import oracle
from .cases import ITEMSIZES, Stored, random_append_dict, random_entries, with_appended
from .oracle import Checkpoint


@pytest.mark.parametrize("seed", range(40))
def test_protobuf_parses_our_records_and_serializes_them_to_our_bytes(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(f"protobuf {seed}")
    entries = random_entries(rng, types=ITEMSIZES, empties=True)
    append_dict = random_append_dict(rng, entries)
    path = tmp_path / "ours.ckpt"
    oracle.we_save(oracle.our_object(entries, rng), path, append_dict=append_dict)
    data = path.read_bytes()
    checkpoint = Checkpoint.FromString(data)
    assert [_parsed(value) for value in checkpoint.value] == with_appended(entries, append_dict)
    assert checkpoint.SerializeToString(deterministic=True) == data


@pytest.mark.parametrize("seed", range(40))
def test_zlib_confirms_our_trailer_and_protobuf_the_records_before_it(
    seed: int, tmp_path: Path
) -> None:
    entries = random_entries(random.Random(f"trailer {seed}"), types=ITEMSIZES, empties=True)
    path = tmp_path / "ours.ckpt"
    oracle.we_save(oracle.our_object(entries), path, crc_check=True)
    data = path.read_bytes()
    assert data[-17:] == b"crc_num" + zlib.crc32(data[:-17]).to_bytes(10, "big")
    assert [_parsed(value) for value in Checkpoint.FromString(data[:-17]).value] == entries


def _parsed(value: Any) -> Stored:
    tensor = value.tensor
    if tensor.tensor_type == "str":
        assert list(tensor.dims) == [0]
        # An empty string is stored as one NUL character.
        text = tensor.tensor_content.decode("utf-32-le").rstrip("\0")
        return Stored.string(value.tag, text)
    return Stored(value.tag, tensor.tensor_type, tuple(tensor.dims), tensor.tensor_content)
