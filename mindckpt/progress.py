"""Telling a callable or a progress bar how far a save has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mindckpt.arrays import type_name


class ProgressBar(Protocol):
    """What of tqdm is used: `update(n)`; where it has a `total`, that is set too."""

    def update(self, n: int, /) -> object:
        """Show that `n` bytes more have been written."""


ProgressFunction = Callable[[int, int], object]
Progress = ProgressFunction | ProgressBar


def progress_function(progress: object) -> ProgressFunction | None:
    """A function of (bytes written, bytes in all) that drives `progress`, or None for None.

    Raises:
        TypeError: `progress` is neither callable nor has an `update` method.
    """
    if progress is None:
        return None
    if not isinstance(progress, (type, dict, set)):  # whose update() is another
        if callable(getattr(progress, "update", None)):
            return _BarDriver(progress)
        if callable(progress):
            return progress
    raise TypeError(
        "progress must be a callable f(written_bytes, total_bytes) or a bar with an update method, "
        f"got {type_name(progress)}"
    )


class _BarDriver:
    """Turns running totals into the increments that a bar takes."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._shown_bytes = 0

    def __call__(self, written_bytes: int, total_bytes: int) -> None:
        bar = self._bar
        if hasattr(bar, "total"):
            bar.total = total_bytes
        step, self._shown_bytes = written_bytes - self._shown_bytes, written_bytes
        bar.update(step)
