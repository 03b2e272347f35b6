"""Makes the kernel refuse system calls of this process, by a seccomp filter."""

import ctypes
import platform
import struct
import sys

# Of the architecture: what seccomp calls it, and its numbers of the calls.
_ARCHITECTURES = {
    "x86_64": (
        0xC000003E,
        {
            "fallocate": 285,
            "fchmod": 91,
            "fdatasync": 75,
            "flock": 73,
            "fsync": 74,
            "syncfs": 306,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "fallocate": 47,
            "fchmod": 52,
            "fdatasync": 83,
            "flock": 32,
            "fsync": 82,
            "syncfs": 267,
        },
    ),
}
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06

CAN_REFUSE = sys.platform == "linux" and platform.machine() in _ARCHITECTURES


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def refuse(errors: dict[str, int]) -> None:
    """From now on each of these calls fails with its error number, in this process for good."""
    architecture, numbers = _ARCHITECTURES[platform.machine()]

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    program = [
        instruction(_LOAD, 4),  # the architecture
        instruction(_JUMP_IF_EQUAL, architecture, 1, 0),
        instruction(_RETURN, _ALLOW),
        instruction(_LOAD, 0),  # the number of the call
    ]
    for call, error in errors.items():
        program += [
            instruction(_JUMP_IF_EQUAL, numbers[call], 0, 1),
            instruction(_RETURN, _ERRNO | error),
        ]
    program.append(instruction(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = _Program(len(program), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
