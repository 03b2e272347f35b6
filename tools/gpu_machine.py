"""What `make gpu` asks of the machine: its GPU, processor, versions, and the sources it runs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootstrap import ROOT
from system_packages import SetupError

GIB = 1 << 30

_VERSIONS = """
import importlib.metadata as m, json, re
names = ("mindckpt", "numpy", "cupy", "torch", "jax")
found = {}
for d in m.distributions():
    name = re.sub("-cuda.*", "", d.metadata["Name"] or "").lower()
    if name in names: found.setdefault(name, d.version)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Gpu:
    """The CUDA devices, as their driver tells.

    Attributes:
        name: Of the first one.
        count: How many there are.
        memory: Bytes of the first one.
        driver: Its version; only the CUDA version where nvidia-smi is not there to tell more.
    """

    name: str
    count: int
    memory: int
    driver: str

    @staticmethod
    def find(library: str = "libcuda.so.1") -> Gpu:
        """Asks the driver, and nothing that would have to be installed.

        Raises:
            SetupError: There is no GPU that could be used.
        """
        try:
            cuda = ctypes.CDLL(library)
        except OSError as error:
            raise SetupError(f"no CUDA GPU here: {error}") from None
        number, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("cuInit", (0,)),
            ("cuDriverGetVersion", (ctypes.byref(version),)),
            ("cuDeviceGetCount", (ctypes.byref(number),)),
            ("cuDeviceGetName", (name, len(name), 0)),
            ("cuDeviceTotalMem_v2", (ctypes.byref(memory), 0)),
        ]
        for function, arguments in calls:
            status = getattr(cuda, function)(*arguments)
            if status != 0:
                raise SetupError(f"no CUDA GPU here: {function} of {library} returned {status}")
        told = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        if told:
            driver = f"{told.splitlines()[0]} ({driver})"
        return Gpu(name.value.decode(), number.value, memory.value, driver)

    @property
    def file_name(self) -> str:
        """'nvidia-h100-80gb-hbm3'."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return slug if self.count == 1 else f"{slug}-x{self.count}"


def facts(gpu: Gpu, python: Path, carry: Path) -> dict[str, Any]:
    """What results are worth nothing without.

    Args:
        gpu: The devices.
        python: The interpreter whose packages are tested; need not be there yet.
        carry: The folder of --collect, which knows the commit where the checkout does not.
    """
    printed = output(str(python), "-c", _VERSIONS)
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1].strip() if found else platform.machine()
    return {
        "gpu": {
            "name": gpu.name,
            "count": gpu.count,
            "memory_gib": round(gpu.memory / GIB, 1),
            "driver": gpu.driver,
        },
        "machine": {
            "processor": f"{processor} x {len(os.sched_getaffinity(0))}",
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB),
            "kernel": platform.release(),
        },
        "versions": {
            "Python": platform.python_version(),
            **(json.loads(printed) if printed else {}),
        },
        "commit": _commit(carry),
    }


def digest_of(paths: Iterable[str]) -> str:
    """A short hash of sources, committed or not.

    Args:
        paths: Files and folders of the checkout.
    """
    digest = hashlib.sha256()
    for path in paths:
        whole = ROOT / path
        for file in [whole] if whole.is_file() else sorted(whole.rglob("*")):
            if file.suffix in (".cc", ".h", ".py", ".txt", ".toml", ".cmake"):
                digest.update(f"{file.relative_to(ROOT)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def file_system(folder: Path) -> str:
    """Its type as stat names it: 'tmpfs', 'ext2/ext3'."""
    return output("stat", "--file-system", "--format=%T", str(folder))


def output(*command: str) -> str:
    """What a command prints; '' where it fails, or is not there."""
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _commit(carry: Path) -> str:
    """Of this checkout; where it came without its history, of the one that was collected from."""
    found = output("git", "describe", "--always", "--dirty=+")
    if found:
        return found
    try:
        return (carry / "commit").read_text().strip() + " (when the carried folder was filled)"
    except OSError:
        return "unknown"
