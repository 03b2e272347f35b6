"""What many tests share: comparing what was loaded, fresh interpreters, leftovers."""

import re
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from mindckpt import Parameter, _core

Array = npt.NDArray[Any]

needs_sm4 = pytest.mark.skipif(
    not _core.sm4_provider(), reason="neither OpenSSL nor GmSSL offers SM4 on this machine"
)
MODES = ["AES-GCM", "AES-CBC", pytest.param("SM4-CBC", marks=needs_sm4)]
MODES_AND_LENGTHS = [
    *[(mode, length) for mode in ("AES-GCM", "AES-CBC") for length in (16, 24, 32)],
    pytest.param("SM4-CBC", 16, marks=needs_sm4),
]
AVAILABLE_MODES = ["AES-GCM", "AES-CBC", *(["SM4-CBC"] if _core.sm4_provider() else [])]

# Every NumPy type that has a type string. HiFloat8 and qint4x2 have no NumPy type.
TYPE_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(kind): name
    for kind, name in [
        (np.int8, "Int8"),
        (np.int16, "Int16"),
        (np.int32, "Int32"),
        (np.int64, "Int64"),
        (np.uint8, "UInt8"),
        (np.uint16, "UInt16"),
        (np.uint32, "UInt32"),
        (np.uint64, "UInt64"),
        (np.float16, "Float16"),
        (np.float32, "Float32"),
        (np.float64, "Float64"),
        (ml_dtypes.bfloat16, "BFloat16"),
        (np.bool_, "Bool"),
        (np.complex64, "Complex64"),
        (np.complex128, "Complex128"),
        (ml_dtypes.float8_e4m3fn, "Float8E4M3FN"),
        (ml_dtypes.float8_e5m2, "Float8E5M2"),
    ]
}


def shown(value: object) -> str:
    """`str` for the names of tests, which must be the same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def canonical(array: npt.ArrayLike) -> Array:
    """`array` in C order and native byte order, by NumPy: what a load must return."""
    array = np.asarray(array)
    return np.array(array.astype(array.dtype.newbyteorder("="), copy=False), order="C")


def assert_holds(loaded: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """`loaded` has exactly the names, order, types, shapes and bytes of `expected`."""
    assert list(loaded) == list(expected)
    for name, want in expected.items():
        got = loaded[name]
        if isinstance(want, str):
            assert isinstance(got, str)
            assert got == want, name
            continue
        want = canonical(want)
        assert isinstance(got, Parameter)
        assert str(got.dtype) == TYPE_NAMES[want.dtype], name
        assert got.shape == want.shape, name
        assert got.asnumpy().tobytes() == want.tobytes(), name


def temporaries(folder: Path) -> list[str]:
    """Names of the temporary files of saves in `folder`."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", entry.name)
    )


def everything_said(error: BaseException) -> str:
    """All that an exception tells anyone: message, repr, arguments, notes, traceback, chain."""
    said = [*traceback.format_exception(type(error), error, error.__traceback__)]
    link: BaseException | None = error
    while link is not None:
        said += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(said)


def assert_silent_about(key: bytes, text: str) -> None:
    """No run of four bytes of `key` shows in `text`: as characters, hex or numbers."""
    pieces = [key[at : at + 4] for at in range(len(key) - 3)]
    for piece in pieces:
        shown = [
            piece.hex(),
            piece.decode("latin-1"),
            repr(piece)[2:-1],
            ", ".join(map(str, piece)),
        ]
        for form in shown:
            assert form not in text


def run_python(
    code: str, *arguments: object, check: bool = True, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter with `arguments`; fails unless it exits with 0."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start `code` in a fresh interpreter with pipes to it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Code for a fresh interpreter: after no_threads() the system gives it no more, as at a limit of
# processes, which does not hold for root. Their stacks would have to be larger than any memory.
NO_THREADS = """
def no_threads():
    import ctypes
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(64)  # of 56 bytes, or 64 on aarch64
    assert libc.pthread_attr_init(attributes) == 0
    assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(1 << 50)) == 0
    assert libc.pthread_setattr_default_np(attributes) == 0
    import threading
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        return
    raise SystemExit("a thread was to be had")
"""
