"""How large a file may be, of what memory and file systems have room for."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpu_machine import GIB, file_system
from mindckpt.bench.measure import available_memory

_FILE_FACTOR = 1.05
# Smaller than a sixteenth of what was asked for, a result would say little.
_HALVINGS = 4


def fitting(nbytes: int, folder: Path, place: str, memory_factor: float) -> int | str:
    """What there is room for: `nbytes`, or halves of it; else why there is too little.

    Args:
        nbytes: The size wanted.
        folder: Where the file will be.
        place: 'tmpfs' or 'disk'.
        memory_factor: How many times its size is needed in memory, beside a file that is there.
    """
    if not folder.is_dir():
        return f"there is no {folder}"
    kind = file_system(folder)
    if place == "disk" and kind in ("tmpfs", "ramfs"):
        return f"{folder} is in memory: name a folder on a disk by --disk"
    if place == "tmpfs":
        memory_factor += _FILE_FACTOR
    memory, free = available_memory(), shutil.disk_usage(folder).free
    for size in (nbytes >> shift for shift in range(_HALVINGS + 1)):
        if size * memory_factor <= memory and size * _FILE_FACTOR <= free:
            return size
    return (
        f"{nbytes / GIB:.3g} GiB take {nbytes * memory_factor / GIB:.3g} GiB of memory and as much "
        f"in {folder}: {memory / GIB:.3g} and {free / GIB:.3g} are there"
    )
