"""Protobuf's wire format by hand, apart from the engine: to craft records and read them back."""

import zlib
from collections.abc import Iterator, Sequence


def varint(value: int) -> bytes:
    """A base-128 varint; negative numbers as 64-bit two's complement, as protobuf's int64."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def delimited(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(dims: Sequence[int], type_name: str, content: bytes) -> bytes:
    """A TensorProto."""
    coded = b"".join(varint(1 << 3) + varint(dim) for dim in dims)
    return coded + delimited(2, type_name.encode()) + delimited(3, content)


def record(name: str | bytes, dims: Sequence[int], type_name: str, content: bytes) -> bytes:
    """One record of a checkpoint: a Checkpoint message of one Value."""
    tag = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    return delimited(1, delimited(1, tag) + delimited(2, tensor(dims, type_name, content)))


def text_record(name: str, text: str) -> bytes:
    """The record of a str value: UTF-32LE, dims [0]."""
    return record(name, [0], "str", (text or "\0").encode("utf-32-le", "surrogatepass"))


def with_crc(records: bytes, crc: int | None = None) -> bytes:
    """`records` followed by the CRC trailer; `crc` overrides the right number."""
    return records + b"crc_num" + (zlib.crc32(records) if crc is None else crc).to_bytes(10, "big")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Field number, value, and the field's own bytes, for every field of a message."""
    at = 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at)
        value: bytes | int
        if tag & 7 == 0:
            value, at = read_varint(data, at)
        elif tag & 7 == 2:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
            if len(value) != length:
                raise ValueError("a field runs past the end")
        elif tag & 7 in (1, 5):
            width = 8 if tag & 7 == 1 else 4
            value, at = data[at : at + width], at + width
        else:
            raise ValueError(f"wire type {tag & 7}")
        yield tag >> 3, value, data[start:at]


def strip_trailer(plain: bytes) -> bytes:
    """`plain` without a CRC trailer."""
    return plain[:-17] if plain[-17:-10] == b"crc_num" else plain


def only_records(plain: bytes) -> bytes:
    """The records of a plain file alone: without a CRC trailer and without fields beside them."""
    return b"".join(raw for number, _, raw in fields(strip_trailer(plain)) if number == 1)


def split_records(plain: bytes) -> list[bytes]:
    """Every record of a plain file, its outer tag and length included."""
    return [raw for number, _, raw in fields(strip_trailer(plain)) if number == 1]
