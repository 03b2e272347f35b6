"""What is raised when a file is not a sound checkpoint.

All three are ValueErrors, which is what MindSpore raises. Mistakes in arguments are plain
TypeErrors and ValueErrors; trouble with the file system is an OSError with errno and filename.
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """The file is not a sound checkpoint, or holds nothing of what was asked for."""


class ChecksumError(CheckpointError):
    """The file's CRC-32 does not match its records, or is missing where it was to be checked."""


class DecryptionError(CheckpointError):
    """A wrong key or mode, a file that is not encrypted, or one that was tampered with."""
