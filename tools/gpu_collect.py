"""What `make gpu` needs on a machine without a network, collected on one that has it.

`python3 tools/gpu.py --collect --for-python 3.12` fills build/carry with wheels, and with OpenSSL's
and zlib's headers and libraries.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import system_packages
from gpu_machine import output
from system_packages import SetupError

# A transfer of the folder, beside the checkout, is to stay small.
CARRY_BYTES = 64 << 20

LIBRARIES = ("libcrypto.so.3", "libz.so.1")
TEST_REQUIREMENTS = ("pytest>=9,<10", "hypothesis>=6.100,<7")
# NumPy and CMake are large, and are there where CuPy, torch or JAX and a compiler are.
_WHEELS = (
    "scikit-build-core>=0.11",
    "pybind11>=3.0",
    "ninja",
    "ml_dtypes>=0.5",
    *TEST_REQUIREMENTS,
)
_NOT_CARRIED = ("numpy-*.whl",)
_GLIBCS = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34")


def collect(carry: Path, versions: Sequence[str]) -> None:
    """Fills the folder with wheels, and with the headers and libraries of this system.

    Args:
        carry: The folder; whatever was in it goes.
        versions: Pythons that the wheels are for, such as '3.12'.

    Raises:
        SetupError: pip failed, something is not here, or it is too much to carry.
    """
    needs = [n for n in system_packages.missing() if "headers" in n.what]
    if needs:
        raise SetupError(f"to collect them, install {', '.join(n.packages[0] for n in needs)}")
    if carry.exists() and not (carry / "wheels").is_dir() and any(carry.iterdir()):
        raise SetupError(f"--carry {carry}: a folder with something else in it")
    shutil.rmtree(carry, ignore_errors=True)
    wheels, include, library = carry / "wheels", carry / "include", carry / "lib"
    for folder in (wheels, include, library):
        folder.mkdir(parents=True)
    machine = platform.machine()
    platforms = [f"manylinux_{glibc}_{machine}" for glibc in _GLIBCS]
    for version in versions:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
        command += [f"--platform={name}" for name in [*platforms, f"manylinux2014_{machine}"]]
        command += ["--quiet", f"--dest={wheels}", *_WHEELS]
        print(f"+ pip download for Python {version}", flush=True)
        if subprocess.run(command).returncode != 0:
            raise SetupError("pip download failed: see its output above")
    for pattern in _NOT_CARRIED:
        for wheel in wheels.glob(pattern):
            wheel.unlink()
    system = Path("/usr/include")
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or f"{machine}-linux-gnu")
    shutil.copytree(system / "openssl", include / "openssl")
    for header in (system / multiarch / "openssl").glob("*.h"):
        shutil.copy(header, include / "openssl")
    for name in ("zlib.h", "zconf.h"):
        found = [folder / name for folder in (system, system / multiarch)]
        shutil.copy(next(path for path in found if path.is_file()), include)
    for name in LIBRARIES:
        path = _library(name, multiarch)
        # Under both names, as no links: not every transfer keeps them.
        shutil.copy(path, library / name)
        shutil.copy(path, library / name[: name.index(".so") + 3])
    (carry / "commit").write_text(output("git", "describe", "--always", "--dirty=+") + "\n")
    nbytes = sum(path.stat().st_size for path in carry.rglob("*") if path.is_file())
    print(f"{carry}: {nbytes / (1 << 20):.1f} MiB, for Python {', '.join(versions)}")
    if nbytes > CARRY_BYTES:
        raise SetupError(f"more than {CARRY_BYTES >> 20} MiB: collect for fewer Pythons")


def _library(name: str, multiarch: str) -> Path:
    for folder in (f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/lib64", "/usr/lib"):
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise SetupError(f"no {name} here to collect")
