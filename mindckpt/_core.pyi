"""The compiled engine. Private: the public interface is the `mindckpt` package.

Errors raised from here: ValueError (a bad argument), OSError (with errno and filename),
mindckpt.errors.CheckpointError and its subclasses (a bad file), RuntimeError (no such cipher here,
or a job that was cancelled).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

class Backend(TypedDict):
    name: str
    origin: str  # 'built in', or the plug-in
    version: str  # of the driver; '' where it is not usable
    device_count: int
    unusable: str  # why; '' where it is usable

class Staging(TypedDict):
    device: str  # 'cpu': snapshots of tensors in host memory, not pinned; it has no staging pool
    limit_nbytes: int  # of the staging pool; of 'cpu', what of the snapshots is kept at most
    pinned_nbytes: int
    in_use_nbytes: int
    peak_in_use_nbytes: int
    leases: int  # buffers handed out so far
    waits: int  # of these, how many had to wait for room
    snapshot_nbytes: int  # taken for snapshots of whole checkpoints, and kept
    kept_snapshot_nbytes: int  # of these, what is kept for the next one

class DeviceArray:
    """The contiguous memory of a tensor on a device, kept alive by its owner."""

    @staticmethod
    def find(
        pointer: int, nbytes: int, stream: int | None, owner: object, device: str | None
    ) -> DeviceArray | None:
        """The memory at a pointer, on the device named, or on the one that the pointer belongs to.

        None when it belongs to no device of a usable backend. `stream` is the raw handle of the one
        in which it is written; None when the values are there. RuntimeError for a device that is
        not usable.
        """

    @staticmethod
    def allocate(device: str, nbytes: int) -> DeviceArray:
        """New memory of a device, freed with what this returns.

        Its stream is None, and anything on the device may be writing to it: what reads or writes it
        here waits for all of that first.
        """

    def to_host(self) -> npt.NDArray[np.uint8]:
        """A copy of the bytes, after what the stream holds."""

    def assign(self, array: npt.NDArray[Any]) -> None:
        """Overwrite it with a C-contiguous array of as many bytes, after what the stream holds."""

    def refresh(self, value: object) -> bool:
        """Take the stream that a value's __cuda_array_interface__ names now.

        False when that is not of version 3, or of other memory.
        """

    def sync(self) -> None:
        """Wait for what the stream holds; of memory that `allocate` made for the device."""

    @property
    def stream(self) -> int | None: ...
    @property
    def device(self) -> str: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def dlpack_device_type(self) -> int: ...
    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def copy_alignment(self) -> int:
        """What addresses of copies must be multiples of; 1 for any."""

def backends() -> list[Backend]: ...
def add_backend(capsule: object, origin: str) -> None:
    """Add the backend whose table a capsule named 'mindckpt_device_backend_v1' holds."""

def load_backend(path: str) -> str:
    """Add the backend of a shared library, and return its name."""

def backend_of_dlpack_type(type: int) -> str:
    """The backend whose memory is of that DLPack device type, or ''."""

def check_device(name: str) -> None:
    """RuntimeError that says why a device is unusable: 'cuda:1', or 'cuda' for its first."""

def staging_stats() -> list[Staging]: ...
def trim_staging() -> None: ...
def set_staging_limit(nbytes: int) -> None:
    """Of each device's staging pool."""

def set_snapshot_limit(nbytes: int) -> None:
    """How much of the memory of host tensors' snapshots is kept for the next one."""

# name, type string as stored ('Float32', 'str', ...), dims, and the payload: an ndarray of any
# strides and byte order, whose elements are written in C order and little-endian, or a device's
# memory or bytes, written as they are. Or the payload is an object with __cuda_array_interface__,
# whose type and dims are taken from there where they are None.
Record = tuple[str, str | None, tuple[int, ...] | None, Any]

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
    write_way: str  # 'buffered' or 'direct': the way that most bytes went
    reused: bool  # a retired file's blocks were written over
    reuse_reason: str  # why not, where there was one
    refused: str  # what the file system refused and the save did without
    snapshot: str  # 'none', 'host', 'device' or 'lazy'
    snapshot_reason: str  # why this one, where it was picked
    in_call_reason: str  # why an asynchronous save ended within its call; SaveJob fills it in
    seconds: float  # the whole save, wall clock
    snapshot_seconds: float  # the snapshot, as far as a thread of the host did it
    staged_seconds: float  # from the call to each state
    written_seconds: float
    durable_seconds: float  # 0 when not durable
    copy_seconds: float  # waiting for devices' copies; the five from here are summed over threads
    fill_seconds: float
    checksum_seconds: float
    seal_seconds: float
    write_seconds: float
    publish_seconds: float  # sync, rename, sync of the folder

class Job:
    """A save, running on a C++ thread once it is started. Destroying it cancels and joins."""

    def start(self, after: Job | None) -> bool:
        """Start writing, once, when the job `after` has ended: saves to one path are ordered.

        False where the system gives no thread: then `run_here` or `cancel` has to be called.
        RuntimeError in the thread that runs `after`, which would wait for itself.
        """

    def run_here(self, look: Callable[[], object]) -> None:
        """Write in this thread, as `start` said, unless the save was cancelled.

        `look` is called ten times a second. What it or a signal's handler raises cancels the save
        and is raised when that has ended; how the save ended is told by `result` alone.
        """

    def started(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Whether the save has ended, well or not; waits `timeout` seconds at most.

        The GIL is released meanwhile, and signals are not looked for: call it with a short timeout
        in a loop to stay interruptible.
        """

    def wait_for(self, state: str, timeout: float | None = None) -> bool:
        """Whether a state is reached, or can't be any more; waits as `wait` does.

        States are 'staged', 'written' and 'durable'.
        """

    def settled(self, state: str) -> bool: ...
    def reached(self, state: str) -> float | None:
        """Seconds from the call to a settled state, or what went wrong is raised.

        None when the save was not to reach it.
        """

    def is_synchronous(self) -> bool:
        """Whether the caller has to wait until it is staged, for want of memory for a snapshot."""

    def fence(self, stream: int, device: str | None, timeout: float) -> bool:
        """Make a raw stream wait, on the device, until the tensors may be overwritten.

        Of the device named, else of the first one saved from. Waits here until every copy is in the
        save's own streams; False when that takes longer than `timeout`.
        """

    def trace(self) -> list[tuple[str, int, int, float, float]]:
        """Stage, worker (-1: a device's copies), block, begin and end in seconds from the call."""

    def release_arrays(self) -> None:
        """Let go of the tensors if nothing is read from them any more."""

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
    resolve: Callable[[Record], Record],
    path: str,
    *,
    crc: bool,
    durable: bool,
    key: bytes | None,
    mode: str,
    num_threads: int,
    block_bytes: int,
    snapshot: str,
    stream: int | None,
    trace: bool,
    reuse: str | None = None,
) -> Job:
    """Plan a file, for a job that is yet to be started.

    Args:
        records: What to save, in order.
        resolve: Called with a record whose payload's interface tells too little, for one with an
            ndarray, a DeviceArray or bytes.
        path: The final file, already resolved through symlinks.
        crc: Whether to end with a CRC trailer.
        durable: Whether to sync before and after the file takes its name.
        key: None for a plain file.
        mode: 'AES-GCM', 'AES-CBC' or 'SM4-CBC'; looked at with a key only.
        reuse: A file that is given up, to be written over where nobody can notice; None for none.
        num_threads: 0 picks.
        block_bytes: At most 64 MiB; 0 picks.
        snapshot: 'none' and 'lazy' copy nothing: the arrays must not change until they are staged.
            After 'host', 'device' and 'auto' they may be overwritten at once, those on devices by
            their streams.
        stream: The raw stream in which all tensors on devices are written; None: each knows its
            own.
        trace: Whether to note when each stage of each block was worked on.

    Raises:
        ValueError: A bad key, mode, name or block size.
    """

def remove_leftovers(folder: str) -> list[str]:
    """Remove what killed saves left in a folder; the names, sorted. OSError where that fails."""

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
        """Whether seal records vouch for the order, count and length of the file's blocks."""

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

    def read_into(
        self,
        indices: Sequence[int],
        arrays: Sequence[DeviceArray],
        *,
        check_crc: bool,
        num_threads: int,
    ) -> None:
        """Like read, into memory of devices of one backend whose copy_alignment is 1."""

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

def device_from_dlpack(
    capsule: object,
) -> tuple[int, int, str, tuple[int, ...], tuple[int, ...] | None, object]:
    """What a DLPack capsule of a device says, which is taken from it.

    Pointer, ordinal, type string, shape, strides in bytes (None: C-contiguous), and an owner that
    keeps it alive. BufferError when it is in host memory.
    """

def to_dlpack(array: DeviceArray, shape: Sequence[int], type: str) -> object:
    """A DLPack capsule over a device's memory; BufferError for a type that DLPack has not."""

def cipher_seconds(mode: str, key: bytes, nbytes: int, num_threads: int, opening: bool) -> float:
    """Seconds to seal, or open, so much in cache, block by block, with nothing else to do.

    ValueError and RuntimeError as of prepare_save, for the key and the mode.
    """

def crc32_seconds(data: npt.NDArray[np.uint8], num_threads: int) -> float:
    """Seconds to sum a contiguous array, by the library that saves use, with nothing else to do."""

def cpu_features() -> str:
    """What kernels may use of the processor, as MINDCKPT_CPU names it: 'aes,avx2', or 'none'."""

def sm4_provider() -> str:
    """Whose SM4 is used: 'lanes' (ours), 'openssl', 'gmssl' (its library), or '' for nobody's."""
