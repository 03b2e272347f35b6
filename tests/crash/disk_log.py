"""What a recorded disk remembers, in order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Write:
    """Bytes that the block layer wrote."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Flush:
    """The device's cache is on storage: all that was written before is."""


@dataclass(frozen=True)
class Word:
    """What a process said of itself at that moment."""

    text: str


Entry = Write | Flush | Word
