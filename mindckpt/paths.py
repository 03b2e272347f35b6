"""From the `ckpt_file_name` that a user gives to the file."""

from __future__ import annotations

import errno
import os
import stat

from mindckpt.arrays import type_name

SUFFIX = "ckpt"


def path_to_save(ckpt_file_name: object) -> str:
    """The file that a save publishes: with `.ckpt`, and with symbolic links followed.

    Raises:
        TypeError: The name is not a str or os.PathLike[str].
        ValueError: The name contains a NUL character.
        IsADirectoryError: It is, or can only be, a directory.
        FileNotFoundError, NotADirectoryError: Its folder is missing, or is no folder.
        OSError: It exists and is not a regular file; or the file system says no.
    """
    name = _file_name(ckpt_file_name)
    if not os.path.basename(name) or os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, "ckpt_file_name is a directory", name)
    if not name.endswith(SUFFIX):
        name = f"{name}.{SUFFIX}"
    path = os.path.realpath(name)
    folder = os.path.dirname(path)
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "ckpt_file_name is a directory", path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "ckpt_file_name is not a regular file", path)
    return path


def path_to_reuse(reuse: object, path: str) -> str:
    """The retired file that a save to `path` may write over: with `.ckpt`, links not followed.

    Raises:
        TypeError: It is not a str or os.PathLike[str].
        ValueError: It is `path`, there but not a regular file, or contains a NUL character.
    """
    name = _file_name(reuse, "reuse")
    if not name.endswith(SUFFIX):
        name = f"{name}.{SUFFIX}"
    # Of a link only its own name is known to be retired.
    found = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    if found == path:
        raise ValueError(f"reuse is the file that is saved to: {name!r}")
    try:
        mode = os.lstat(found).st_mode
    except OSError:  # it is gone already, or can't be looked at: the save goes on without
        return found
    if not stat.S_ISREG(mode):
        raise ValueError(f"reuse is not a regular file: {name!r}")
    return found


def path_to_load(ckpt_file_name: object) -> str:
    """The file to read, symbolic links followed. It need not be there yet.

    Raises:
        TypeError: The name is not a str or os.PathLike[str].
        ValueError: The name does not end with 'ckpt' or contains a NUL character.
    """
    name = _file_name(ckpt_file_name)
    if not name.endswith(SUFFIX):
        raise ValueError(f"ckpt_file_name must end with {SUFFIX!r}, got {name!r}")
    return os.path.realpath(name)


def check_file(path: str, ckpt_file_name: str | os.PathLike[str]) -> None:
    """Refuse to read what is not there, or not a regular file, by the name that the user gave.

    Raises:
        ValueError: As said; MindSpore, too, does not make it an OSError.
    """
    if not os.path.exists(path):
        raise ValueError(f"ckpt_file_name {os.fspath(ckpt_file_name)!r}: there is no such file")
    if not os.path.isfile(path):
        kind = "a directory" if os.path.isdir(path) else "not a regular file"
        raise ValueError(f"ckpt_file_name {os.fspath(ckpt_file_name)!r} is {kind}")


def _file_name(ckpt_file_name: object, argument: str = "ckpt_file_name") -> str:
    name = ckpt_file_name
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        raise TypeError(
            f"{argument} must be a str or os.PathLike[str], got {type_name(ckpt_file_name)}"
        )
    if "\0" in name:
        raise ValueError(f"{argument} contains a NUL character")
    return name
