"""A disk that remembers in which order it was written to and flushed.

    python -m crash.recorded_disk FOLDER IMAGE LOG SOCKET

It is a file system (FUSE) with one file, `disk`, which begins as a copy of IMAGE. A loop device on
it passes on every write of the block layer, and each flush of the device's cache as an fsync. A
process that connects to SOCKET puts words of its own between them: it writes one and reads a byte
back. At the end of its standard input the program writes the log and ends.

The protocol is that of the kernel's include/uapi/linux/fuse.h; no library is needed for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import select
import socket
import stat
import struct
import sys
from pathlib import Path

from crash.disk_log import Entry, Flush, Word, Write

# Requests, and their answers' layouts.
LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 18, 20, 25, 26, 36, 38, 42
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_READ_WRITE_IN = struct.Struct("<QQIIQII")
_ROOT, _DISK = 1, 2
_MAX_WRITE = 1 << 20
_MAX_PAGES_FLAG, _BIG_WRITES_FLAG = 1 << 22, 1 << 5


class RecordedDisk:
    """The file system's server."""

    def __init__(self, image: bytearray) -> None:
        self._image = image
        self.log: list[Entry] = []

    def answer(self, request: bytes) -> bytes | None:
        """What the kernel is told; None where it waits for no answer."""
        _, opcode, unique, node, *_ = _IN_HEADER.unpack_from(request)
        body = request[_IN_HEADER.size :]
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return None
        error = 0
        said = b""
        if opcode == INIT:
            flags = _MAX_PAGES_FLAG | _BIG_WRITES_FLAG
            said = _INIT_OUT.pack(
                7, 31, 1 << 17, flags, 16, 12, _MAX_WRITE, 1, _MAX_WRITE >> 12, 0, 0, 0
            )
        elif opcode == LOOKUP and node == _ROOT and body == b"disk\0":
            said = struct.pack("<4Q2I", _DISK, 0, 3600, 3600, 0, 0) + self._attributes(_DISK)
        elif opcode == GETATTR:
            said = struct.pack("<Q2I", 3600, 0, 0) + self._attributes(node)
        elif opcode == OPEN:
            said = struct.pack("<Q2I", 0, 0, 0)
        elif opcode == READ:
            _, offset, nbytes, *_ = _READ_WRITE_IN.unpack_from(body)
            said = bytes(self._image[offset : offset + nbytes])
        elif opcode == WRITE:
            _, offset, nbytes, *_ = _READ_WRITE_IN.unpack_from(body)
            data = body[_READ_WRITE_IN.size : _READ_WRITE_IN.size + nbytes]
            self._image[offset : offset + nbytes] = data
            self.log.append(Write(offset, data))
            said = struct.pack("<2I", nbytes, 0)
        elif opcode == FSYNC:
            self.log.append(Flush())
        elif opcode == STATFS:
            said = struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        elif opcode not in (RELEASE, FLUSH, DESTROY):
            error = errno.ENOENT if opcode == LOOKUP else errno.ENOSYS
        return _OUT_HEADER.pack(_OUT_HEADER.size + len(said), -error, unique) + said

    def _attributes(self, node: int) -> bytes:
        if node == _ROOT:
            return _ATTRIBUTES.pack(
                node, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o700, 2, 0, 0, 0, 4096, 0
            )
        size = len(self._image)
        return _ATTRIBUTES.pack(
            node, size, size >> 9, 0, 0, 0, 0, 0, 0, stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0
        )


def mount(folder: str) -> int:
    """Mounts a file system on `folder`; returns what its server reads requests from."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"recorded", os.fsencode(folder), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount", folder)
    return device


def main() -> None:
    folder, image, log, where = sys.argv[1:]
    disk = RecordedDisk(bytearray(Path(image).read_bytes()))
    device = mount(folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(where)
    listener.listen()
    print("ready", flush=True)

    # Before the kernel has a request's answer nothing else is looked at: what the log has before a
    # word was written before it.
    connections: dict[int, socket.socket] = {}
    while True:
        watched = [device, listener.fileno(), sys.stdin.fileno(), *connections]
        for ready in select.select(watched, [], [])[0]:
            if ready == device:
                try:
                    request = os.read(device, _MAX_WRITE + (1 << 13))
                except OSError as error:
                    if error.errno in (errno.EINTR, errno.ENOENT):  # of a request that was aborted
                        continue
                    raise
                answer = disk.answer(request)
                if answer is not None:
                    os.write(device, answer)
            elif ready == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
            elif ready in connections:
                word = connections[ready].recv(4096)
                if word:
                    disk.log.append(Word(word.decode()))
                    connections[ready].send(b"\0")
                else:
                    connections.pop(ready).close()
            elif sys.stdin.readline() == "write the log\n":
                Path(log).write_bytes(pickle.dumps(disk.log))
                print("written", flush=True)
            else:
                return


if __name__ == "__main__":
    main()
