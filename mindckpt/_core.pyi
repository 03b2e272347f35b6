"""The compiled engine. Private: the public interface is the `mindckpt` package.

Errors raised from here: ValueError (a bad argument), OSError (with errno and filename),
mindckpt.errors.CheckpointError and its subclasses (a bad file), RuntimeError (no such cipher here).
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

# name, type string as stored ('Float32', 'str', ...), dims, and the payload: an ndarray of any strides and
# byte order, whose elements are written in C order and little-endian, or bytes, written as they are.
Record = tuple[str, str, tuple[int, ...], npt.NDArray[Any] | bytes]

# name, type string, dims, payload bytes, role: 'tensor', or 'map_key', 'map_value', 'map_status'.
Entry = tuple[str, str, tuple[int, ...], int, str]

class SaveStats(TypedDict):
    path: str
    nbytes: int  # length of the file
    payload_nbytes: int  # bytes of tensor data in it
    records: int
    blocks: int
    num_threads: int
    durable: bool  # synced to storage before it was published
    seconds: float  # the whole save, wall clock
    snapshot_seconds: float  # copying host memory before start_save returned; 0.0 without a snapshot
    fill_seconds: float  # the four below are summed over threads
    checksum_seconds: float
    seal_seconds: float
    write_seconds: float
    publish_seconds: float  # sync, rename, sync of the folder

class Job:
    """A save under way on a C++ thread. Destroying an unfinished one cancels and joins it."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds (None: for ever), GIL released. True when finished, well or not.
        Does not look for signals: call with a short timeout in a loop to stay interruptible."""

    def done(self) -> bool: ...
    def cancel(self) -> None:
        """Ask the save to stop at the next block; nothing is published. Harmless when finished."""

    def progress(self) -> tuple[int, int]:
        """Bytes of the file written so far, and its whole length."""

    def result(self) -> SaveStats:
        """The stats of a finished save; raises what went wrong (every time it is called).
        RuntimeError when still running, or cancelled."""

def start_save(
    records: Sequence[Record],
    path: str,
    *,
    crc: bool,
    durable: bool,
    key: bytes | None,
    mode: str,
    num_threads: int,
    block_bytes: int,
    snapshot: bool,
    after: Job | None,
) -> Job:
    """Plan the file, then start writing it on a C++ thread.

    path: the final file, already resolved through symlinks. num_threads, block_bytes: 0 picks.
    snapshot: copy every payload before returning, so that the caller may overwrite it at once; otherwise
    the Job keeps the arrays alive and the caller must not write to them until it is done.
    after: start writing only when that job has finished (saves to one path are ordered).
    Raises ValueError for a bad key, mode, name or block size before anything is started.
    """

class Reader:
    """An open checkpoint file whose records have been found. Payloads are not read yet."""

    def __init__(self, path: str, key: bytes | None, mode: str) -> None: ...
    @property
    def entries(self) -> list[Entry]: ...
    @property
    def has_crc(self) -> bool:
        """Whether a CRC trailer follows the records."""

    @property
    def sealed(self) -> bool:
        """Whether the file carries mindckpt's seal records: order, count and length of its blocks were checked."""

    def read(
        self,
        indices: Sequence[int],
        dtypes: Sequence[np.dtype[Any]],
        *,
        check_crc: bool,
        num_threads: int,
    ) -> list[npt.NDArray[Any]]:
        """Payloads of the entries `indices`, each as a new, aligned, writable array of the entry's dims and the
        dtype beside it. An entry of type 'str' comes as uint8 of shape (nbytes,) whatever its dtype. With
        check_crc the checksum of all record bytes is verified (ChecksumError, also when there is no trailer)."""

    def map(self, indices: Sequence[int], dtypes: Sequence[np.dtype[Any]]) -> list[npt.NDArray[Any]]:
        """Like read, but copy-on-write views of the mapped file, not aligned. A tensor stored in several
        slices is copied. ValueError for an encrypted file."""

def itemsizes() -> dict[str, int]:
    """Type string as stored -> bytes of one element, for every tensor type that can be read ('str' excepted)."""

def from_dlpack(capsule: object) -> tuple[npt.NDArray[Any], str]:
    """A view of a host DLPack capsule and its type string: for element types NumPy cannot import itself
    (bfloat16, float8) the view is of unsigned integers. BufferError when it is not host memory."""

def sm4_provider() -> str:
    """'openssl', 'gmssl' (the GmSSL library, found at run time), or '' where there is no SM4."""
