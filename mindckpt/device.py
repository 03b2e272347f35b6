"""Devices: which ones there are, plug-ins for more, and the memory that is pinned for them.

No driver is touched before a tensor of a device is saved, or one of these functions is called.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from mindckpt import _core
from mindckpt.arrays import SettingError, type_name

if TYPE_CHECKING:
    from mindckpt._core import Backend, Staging

__all__ = [
    "devices",
    "load_device_plugin",
    "release_staging",
    "set_snapshot_limit",
    "set_staging_limit",
    "staging_stats",
]

_ENTRY_POINT_GROUP = "mindckpt.devices"
_STAGING_VARIABLE = "MINDCKPT_STAGING_BYTES"
_SNAPSHOT_VARIABLE = "MINDCKPT_SNAPSHOT_BYTES"
_MOST_BYTES = 2**63 - 1

_plugins_lock = threading.Lock()
_plugins: dict[str, str] | None = None  # entry point -> why it is not usable, or ""
_snapshots_prepared = False


def devices() -> list[Backend]:
    """The device backends of this process: built in, by plug-in library, and by entry point.

    Looks for the drivers, which may take a moment the first time.

    Returns:
        list of dict. Of each backend `name` (its devices are `name:0`, `name:1`, ...), `origin`
        ('built in', or the plug-in), `version` of the driver, `device_count`, and `unusable`: why
        it can't be used here, '' where it can.

    Example:
        >>> import mindckpt as ms
        >>> [backend["name"] for backend in ms.devices()][:2]
        ['cuda', 'ascend']
    """
    failed = [
        {
            "name": name,
            "origin": f"entry point {name!r}",
            "version": "",
            "device_count": 0,
            "unusable": why,
        }
        for name, why in _load_entry_points().items()
        if why
    ]
    return [*_core.backends(), *failed]  # type: ignore[list-item]


def load_device_plugin(path: str | os.PathLike[str]) -> str:
    """Add a device backend from a shared library; docs/devices.md says how to write one.

    Args:
        path: The library. Those that the environment variable MINDCKPT_DEVICE_PLUGINS names,
            separated by ':', are loaded by themselves.

    Returns:
        str. The backend's name.

    Raises:
        TypeError: `path` is no path.
        ValueError: It can't be loaded, is no backend, or one for another version of mindckpt.
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path must be a str or os.PathLike[str], got {type_name(path)}")
    return _core.load_backend(name)


def staging_stats() -> list[Staging]:
    """The host memory that is pinned for each device that was used, and kept for snapshots.

    Returns:
        list of dict. `device`; of its staging pool `limit_nbytes`, `pinned_nbytes`,
        `in_use_nbytes`, `peak_in_use_nbytes`, `leases` (how many buffers were handed out) and
        `waits` (how many of them had to wait for room); and of whole snapshots `snapshot_nbytes`,
        and of these `kept_snapshot_nbytes` (kept for the next save). The device 'cpu' is there once
        tensors in host memory were saved with `async_save`: it has no pool, and its `limit_nbytes`
        is that of `set_snapshot_limit`.
    """
    return _core.staging_stats()


def release_staging() -> None:
    """Give back the memory that no save or load uses at the moment. The next one takes it anew."""
    _core.trim_staging()


def set_snapshot_limit(nbytes: int) -> None:
    """How much memory of finished asynchronous saves is kept for the snapshots of the next ones.

    It is of snapshots of tensors in host memory: one that finds its memory there does not wait for
    the system to clear new memory, or to get it from its host. What is kept still counts as
    available memory, as the system takes it back by itself when memory runs short; forked processes
    do not have it.

    Args:
        nbytes: Bytes, in all; 0 keeps nothing. At first half of the machine's memory, or what the
            environment variable MINDCKPT_SNAPSHOT_BYTES says.

    Raises:
        TypeError: `nbytes` is not an int.
        ValueError: It is negative.
    """
    if isinstance(nbytes, bool) or not isinstance(nbytes, int):
        raise TypeError(f"nbytes must be an int, got {type_name(nbytes)}")
    if nbytes < 0:
        raise ValueError(f"nbytes must not be negative, got {nbytes}")
    prepare_snapshots()  # which would set the environment's limit
    _core.set_snapshot_limit(min(nbytes, _MOST_BYTES))


def prepare_snapshots() -> None:
    """Once, before the first asynchronous save: the environment's limit.

    Raises:
        ValueError: It is no number of bytes.
    """
    global _snapshots_prepared
    if _snapshots_prepared:
        return
    limit = os.environ.get(_SNAPSHOT_VARIABLE)
    if limit is not None:
        if not limit.isdecimal():
            raise ValueError(f"{_SNAPSHOT_VARIABLE} must be a number of bytes, got {limit!r}")
        _core.set_snapshot_limit(min(int(limit), _MOST_BYTES))
    _snapshots_prepared = True


def set_staging_limit(nbytes: int) -> None:
    """How much host memory is pinned for a device's staging pool, at most.

    Snapshots of whole checkpoints are pinned beside it. What is pinned beyond a new limit is
    unpinned as soon as it is free.

    Args:
        nbytes: Bytes for each device, at least 1 MiB. At first 256 MiB, or what the environment
            variable MINDCKPT_STAGING_BYTES says.

    Raises:
        TypeError: `nbytes` is not an int.
        ValueError: It is less than 1 MiB, or no machine has that much; or MINDCKPT_STAGING_BYTES is
            no such number.
    """
    if isinstance(nbytes, bool) or not isinstance(nbytes, int):
        raise TypeError(f"nbytes must be an int, got {type_name(nbytes)}")
    _check_limit("nbytes", nbytes)
    _load_entry_points()  # with which the environment's limit is set
    _core.set_staging_limit(nbytes)


def prepare_devices() -> None:
    """Once, before the first tensor that is on a device: the environment's limit, the plug-ins."""
    _load_entry_points()


def raw_stream(stream: Any) -> int:
    """The driver's handle of a stream, as an int.

    Args:
        stream: A handle, or a stream of CuPy, torch, torch_npu or Numba, or an object with
            `__cuda_stream__`.

    Raises:
        TypeError: It is nothing of the kind.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if callable(protocol):
        return int(protocol()[1])
    for attribute in ("cuda_stream", "npu_stream", "ptr", "handle"):
        handle = getattr(stream, attribute, None)
        if handle is not None:
            return int(getattr(handle, "value", handle) or 0)
    raise TypeError(
        "a stream must be a handle (int) or a stream of CuPy, torch or Numba, "
        f"got {type_name(stream)}"
    )


def _check_limit(what: str, nbytes: int) -> None:
    if not 1 << 20 <= nbytes < 1 << 63:
        raise SettingError(f"{what} must be at least 1 MiB and less than 2**63, got {nbytes}")


def _forget_parents_lock() -> None:
    """In a forked child: the thread that held the lock is not here."""
    global _plugins_lock
    _plugins_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_parents_lock)


def _load_entry_points() -> dict[str, str]:
    global _plugins
    with _plugins_lock:
        if _plugins is not None:
            return _plugins
        limit = os.environ.get(_STAGING_VARIABLE)
        if limit is not None:
            if not limit.isdecimal() or len(limit) > 20:  # as many as 64 bits have
                raise SettingError(f"{_STAGING_VARIABLE} must be a number of bytes, got {limit!r}")
            _check_limit(_STAGING_VARIABLE, int(limit))
            _core.set_staging_limit(int(limit))
        from importlib.metadata import entry_points  # takes longer than the rest of the package

        plugins = {}
        for entry in entry_points(group=_ENTRY_POINT_GROUP):
            try:
                _core.add_backend(entry.load()(), f"entry point {entry.value!r}")
                plugins[entry.name] = ""
            except Exception as error:  # whatever a plug-in does: the others are not to suffer
                plugins[entry.name] = f"{type(error).__name__}: {error}"
        _plugins = plugins
        return plugins
