"""What killed processes left behind."""

from __future__ import annotations

import os

from mindckpt import _core
from mindckpt.arrays import type_name

__all__ = ["remove_leftovers"]


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files that killed saves left in a folder.

    Each is as large as its checkpoint. Every save removes those in the folder it saves to; this is
    for the time when none will come. Files of saves that are running, in this process or another
    one, stay: they are locked. A file that another machine may be writing, or that was left before
    this one was last booted, counts as left behind when nobody has written to it for an hour and it
    is this user's.

    Args:
        folder: Where to look. Folders in it are not looked into.

    Returns:
        list of str. The names of the files that were removed, sorted.

    Raises:
        TypeError: `folder` is not a str or os.PathLike[str].
        ValueError: `folder` contains a NUL character.
        OSError: There is no such folder, it can't be listed, or a file can't be removed.

    Example:
        >>> import mindckpt as ms
        >>> ms.remove_leftovers(".")
        []
    """
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    if not isinstance(path, str):
        raise TypeError(f"folder must be a str or os.PathLike[str], got {type_name(folder)}")
    if "\0" in path:
        raise ValueError("folder contains a NUL character")
    return _core.remove_leftovers(path)
