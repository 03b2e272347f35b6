"""From the `ckpt_file_name` that a user gives to the file."""

from __future__ import annotations

import errno
import os
import stat

from mindckpt.arrays import type_name

SUFFIX = "ckpt"
_MOST_LINKS = 40  # in a row, as the kernel follows them


def path_to_save(ckpt_file_name: object) -> str:
    """The file that a save publishes: with `.ckpt`, and with symbolic links followed.

    A link at the end of the name is followed where Linux with fs.protected_symlinks would: not if
    another user may have put it there, in a sticky folder that all may write to, such as /tmp.

    Raises:
        TypeError: The name is not a str or os.PathLike[str].
        ValueError: The name contains a NUL character.
        IsADirectoryError: It is, or can only be, a directory.
        FileNotFoundError, NotADirectoryError: Its folder is missing, or is no folder.
        PermissionError: It is a link that is not followed.
        OSError: It exists and is not a regular file; or the file system says no.
    """
    name = _file_name(ckpt_file_name)
    if not os.path.basename(name) or os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, "ckpt_file_name is a directory", name)
    if not name.endswith(SUFFIX):
        name = f"{name}.{SUFFIX}"
    path = _follow_links(name)
    folder = os.path.dirname(path)
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    try:
        mode = os.lstat(path).st_mode
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


def check_file(ckpt_file_name: str | os.PathLike[str]) -> None:
    """Refuse to read what is not there, or not a regular file, by the name that the user gave.

    Raises:
        ValueError: As said; MindSpore, too, does not make it an OSError.
        OSError: The file system does not say; or it does not follow a symbolic link of another user
            (fs.protected_symlinks).
    """
    name = os.fspath(ckpt_file_name)
    try:
        mode = os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"ckpt_file_name {name!r}: there is no such file") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ValueError(f"ckpt_file_name {name!r} is {kind}")


def _follow_links(name: str) -> str:
    """The file that a name leads to, which need not be there, in a folder without links."""
    path = name
    for _ in range(_MOST_LINKS + 1):
        folder, last = os.path.split(path)
        path = os.path.join(os.path.realpath(folder), last)
        target = _target_of_link(path)
        if target is None:
            return path
        path = os.path.join(os.path.dirname(path), target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)


def _target_of_link(path: str) -> str | None:
    """What a symbolic link says; None for anything else, or if nothing is there."""
    try:
        link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            return None
        _check_followed(path, status)
        return os.readlink("", dir_fd=link)  # of the very link that was looked at
    finally:
        os.close(link)


def _check_followed(path: str, link: os.stat_result) -> None:
    """Refuse a symbolic link as Linux with fs.protected_symlinks does, on or not."""
    folder = os.stat(os.path.dirname(path))
    of_all = stat.S_ISVTX | stat.S_IWOTH
    if folder.st_mode & of_all != of_all or link.st_uid in (os.geteuid(), folder.st_uid):
        return
    raise PermissionError(
        errno.EACCES,
        "ckpt_file_name is a symbolic link of another user in a folder that all may write to: it is"
        " not followed",
        path,
    )


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
