"""The ways to save a checkpoint that the benchmarks go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mode:
    """One way to save and load.

    Attributes:
        name: As printed.
        cipher: The cipher, as printed; '' for none.
        crc: Whether a checksum is written, and verified by the load.
        durable: Whether the file is on the disk before the save returns.
    """

    name: str
    cipher: str = ""
    crc: bool = False
    durable: bool = False

    @property
    def save_options(self) -> dict[str, Any]:
        """Keywords of save_checkpoint that MindSpore's knows too."""
        return self._keywords("enc") | {"crc_check": self.crc}

    @property
    def load_options(self) -> dict[str, Any]:
        """Keywords of load_checkpoint, in both libraries."""
        return self._keywords("dec") | {"crc_check": self.crc}

    @property
    def key_bytes_and_name(self) -> tuple[int, str]:
        """Of the cipher: the length of its key, and what `enc_mode` calls it.

        Raises:
            KeyError: There is none.
        """
        return _KEY_BYTES_AND_MODE[self.cipher]

    def _keywords(self, prefix: str) -> dict[str, Any]:
        if not self.cipher:
            return {}
        key_bytes, mode = self.key_bytes_and_name
        return {f"{prefix}_key": bytes(range(key_bytes)), f"{prefix}_mode": mode}


_KEY_BYTES_AND_MODE = {
    "AES-256-GCM": (32, "AES-GCM"),
    "AES-256-CBC": (32, "AES-CBC"),
    "SM4-CBC": (16, "SM4-CBC"),
}

PLAIN = Mode("plain")
DURABLE = Mode("plain, durable", durable=True)
CRC = Mode("CRC", crc=True)
GCM = Mode("AES-256-GCM", cipher="AES-256-GCM")
CBC = Mode("AES-256-CBC", cipher="AES-256-CBC")
SM4 = Mode("SM4-CBC", cipher="SM4-CBC")

DURABLE_GCM = Mode("AES-256-GCM, durable", cipher="AES-256-GCM", durable=True)
DURABLE_CBC = Mode("AES-256-CBC, durable", cipher="AES-256-CBC", durable=True)
DURABLE_SM4 = Mode("SM4-CBC, durable", cipher="SM4-CBC", durable=True)

ALL = (PLAIN, DURABLE, CRC, GCM, CBC, SM4)

# As on a command line; whether a save is durable is another option there.
BY_NAME = {"plain": PLAIN, "crc": CRC, "gcm": GCM, "cbc": CBC, "sm4": SM4}
