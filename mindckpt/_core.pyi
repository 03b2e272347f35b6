"""The compiled engine. Private: the public interface is the `mindckpt` package.

Errors raised from here: ValueError (a bad argument), OSError (with errno and filename),
mindckpt.errors.CheckpointError and its subclasses (a bad file), RuntimeError (no such cipher here,
or a job that was cancelled).
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

# name, type string as stored ('Float32', 'str', ...), dims, and the payload: an ndarray of any
# strides and byte order, whose elements are written in C order and little-endian, or bytes, written
# as they are.
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
    snapshot_seconds: float  # copying host memory before prepare_save returned
    fill_seconds: float  # the four below are summed over threads
    checksum_seconds: float
    seal_seconds: float
    write_seconds: float
    publish_seconds: float  # sync, rename, sync of the folder

class Job:
    """A save, running on a C++ thread once it is started. Destroying it cancels and joins."""

    def start(self, after: Job | None) -> None:
        """Start writing, once, when the job `after` has ended: saves to one path are ordered."""

    def started(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Whether the save has ended, well or not; waits `timeout` seconds at most.

        The GIL is released meanwhile, and signals are not looked for: call it with a short timeout
        in a loop to stay interruptible.
        """

    def done(self) -> bool: ...
    def cancel(self) -> None:
        """Ask the save to stop at the next block; nothing is published then."""

    def progress(self) -> tuple[int, int]:
        """Bytes of the file written so far, and its whole length."""

    def result(self) -> SaveStats:
        """The stats of a save that has ended, or what went wrong is raised, at each call.

        RuntimeError when it is still running, or was cancelled.
        """

def prepare_save(
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
) -> Job:
    """Plan a file, for a job that is yet to be started.

    Args:
        records: What to save, in order.
        path: The final file, already resolved through symlinks.
        crc: Whether to end with a CRC trailer.
        durable: Whether to sync before and after the file takes its name.
        key: None for a plain file.
        mode: 'AES-GCM', 'AES-CBC' or 'SM4-CBC'; looked at with a key only.
        num_threads: 0 picks.
        block_bytes: At most 64 MiB; 0 picks.
        snapshot: Whether to copy every payload before returning, so that the caller may overwrite
            it at once. If not, the job keeps the arrays alive, and they must not change meanwhile.

    Raises:
        ValueError: A bad key, mode, name or block size.
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
        """Whether seal records vouched for the order, count and length of the file's blocks."""

    def read(
        self,
        indices: Sequence[int],
        dtypes: Sequence[np.dtype[Any]],
        *,
        check_crc: bool,
        num_threads: int,
    ) -> list[npt.NDArray[Any]]:
        """The payloads of entries, each a new, aligned, writable array of its dims and dtype.

        An entry of type 'str' comes as uint8 of shape (nbytes,). With check_crc the checksum of all
        record bytes is verified: ChecksumError, also where there is no trailer.
        """

    def map(
        self, indices: Sequence[int], dtypes: Sequence[np.dtype[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Like read, but copy-on-write views of the mapped file, not aligned.

        A tensor stored in several slices is copied. ValueError for an encrypted file.
        """

def itemsizes() -> dict[str, int]:
    """Type string as stored -> bytes of one element, for every tensor type that can be read."""

def from_dlpack(capsule: object) -> tuple[npt.NDArray[Any], str]:
    """A view of a host DLPack capsule, and its type string.

    Of element types that NumPy has no name for (bfloat16, float8) it is a view of unsigned
    integers. BufferError when the tensor is not in host memory.
    """

def sm4_provider() -> str:
    """'openssl', 'gmssl' (the GmSSL library, found at run time), or '' where there is no SM4."""
