"""What a build needs from the system, and how apt installs the part that is missing.

pip brings the rest: CMake and Ninja too, where the system has none or an old one. apt is called
only when something is missing, as root or through sudo; where neither works the message says what
to install.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIN_GCC = 12
MIN_CLANG = 15
# Newer releases than these are found under their unversioned names.
_GXX_NAMES = ("g++", *(f"g++-{major}" for major in range(MIN_GCC, 17)))
_CLANGXX_NAMES = ("clang++", *(f"clang++-{major}" for major in range(MIN_CLANG, 23)))


class SetupError(Exception):
    """Something that the set-up cannot do; the message says what the user can."""


@dataclass(frozen=True)
class Need:
    """One thing that a build needs from the system.

    Attributes:
        what: its name in messages.
        packages: Debian packages that bring it, the preferred one first; one is enough.
        min_major: least major version of the package, 0 for any.
    """

    what: str
    packages: tuple[str, ...]
    min_major: int = 0


def compiler() -> str | None:
    """The C++20 compiler to build with: $CXX, or the first on the PATH that is new enough.

    Raises:
        SetupError: $CXX is set to something that is no compiler of the versions that we support.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        if not _is_new_enough(chosen):
            raise SetupError(
                f"CXX={chosen} is not g++ {MIN_GCC} or clang++ {MIN_CLANG}, or newer: "
                "set another compiler, or unset CXX"
            )
        return chosen
    return _first_new_enough(("c++", *_GXX_NAMES, *_CLANGXX_NAMES))


def clang() -> str | None:
    """The first clang++ on the PATH that is new enough."""
    return _first_new_enough(_CLANGXX_NAMES)


def missing(*, tests: bool = False, lint: bool = False) -> list[Need]:
    """What the system lacks for a build, for the engine's tests, and for `make lint`."""
    needs = []
    if compiler() is None:
        needs.append(Need(f"a C++20 compiler (g++ {MIN_GCC} or newer)", _GXX_NAMES, MIN_GCC))
    if lint and clang() is None:
        packages = tuple(name.replace("++", "") for name in _CLANGXX_NAMES)
        needs.append(Need(f"clang++ {MIN_CLANG} or newer", packages, MIN_CLANG))
    headers = [("OpenSSL 3", "openssl/evp.h", "libssl-dev"), ("zlib", "zlib.h", "zlib1g-dev")]
    if tests:
        headers.append(("doctest", "doctest/doctest.h", "doctest-dev"))
    for what, header, package in headers:
        if not any((root / header).is_file() for root in _include_dirs()):
            needs.append(Need(f"{what} headers ({header})", (package,)))
    return needs


def missing_for_fuzzing() -> list[Need]:
    """What `clang`, which must be there, lacks to build with libFuzzer and the sanitizers."""
    name = clang()
    if name is None or _builds_fuzz_targets(name):
        return []
    major = _macros(name)["__clang_major__"]
    packages = (f"libclang-rt-{major}-dev", f"libclang-common-{major}-dev")
    return [Need(f"libFuzzer for {name}", packages)]


def wanted() -> list[Need]:
    """What makes the program faster where the system has it; it does without as well."""
    if platform.machine() != "x86_64" or _has_library("libisal.so.2"):
        return []
    return [Need("ISA-L's library (libisal.so.2), for faster CRC-32", ("libisal2",))]


def install_wanted() -> None:
    """Installs what `wanted` names, if that can be done; says so where it can't."""
    for need in wanted():
        try:
            install([need])
        except SetupError as error:
            print(f"goes on without {need.what}: {error}", flush=True)


def install(needs: Sequence[Need]) -> None:
    """Installs what is needed by apt; does nothing, and calls nothing, for an empty list.

    Raises:
        SetupError: there is no apt, no right to use it, no fitting package, or it failed.
    """
    if not needs:
        return
    wanted = "missing on this system:\n" + "".join(
        f"  - {need.what}: Debian package {need.packages[0]}\n" for need in needs
    )
    apt_get = _apt_get(wanted)
    print(wanted, end="", flush=True)
    _run([*apt_get, "update"], wanted)
    packages = [_offered(need) for need in needs]
    _run([*apt_get, "install", "--yes", "--no-install-recommends", *packages], wanted)


def _apt_get(wanted: str) -> list[str]:
    """apt-get with the right to install and without questions."""
    if not shutil.which("apt-get"):
        raise SetupError(f"{wanted}This is not a Debian or Ubuntu: install them, then run again.")
    # A fresh cloud machine often upgrades itself in the background and holds the lock meanwhile.
    options = ["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", *options]
    if os.geteuid() == 0:
        return command
    if not shutil.which("sudo"):
        raise SetupError(f"{wanted}Neither root nor sudo here: ask an administrator for them.")
    # Without a terminal nobody can type a password: fail rather than wait for it.
    return ["sudo", *([] if sys.stdin.isatty() else ["-n"]), *command]


def _run(command: Sequence[str], wanted: str) -> None:
    print("+", *command, flush=True)
    if subprocess.run(command).returncode != 0:
        raise SetupError(f"{wanted}`{' '.join(command)}` failed: see its output above.")


def _offered(need: Need) -> str:
    """The first of a need's packages that apt offers in a version that will do."""
    for package in need.packages:
        policy = _output(["apt-cache", "policy", package])
        candidate = re.search(r"Candidate: (?:\d+:)?(\d+)?", policy)
        if candidate and (need.min_major == 0 or int(candidate[1] or 0) >= need.min_major):
            return package
    raise SetupError(f"apt offers no package for {need.what}: tried {', '.join(need.packages)}")


def _first_new_enough(names: Iterable[str]) -> str | None:
    return next((name for name in names if shutil.which(name) and _is_new_enough(name)), None)


def _is_new_enough(command: str) -> bool:
    """Whether a compiler says by its macros that it is a GCC or Clang that we support."""
    macros = _macros(command)
    if "__clang_major__" in macros:  # which calls itself GCC 4 as well
        return int(macros["__clang_major__"]) >= MIN_CLANG
    return int(macros.get("__GNUC__", 0)) >= MIN_GCC


def _macros(compiler: str) -> dict[str, str]:
    """A compiler's own macros that tell what it is."""
    return dict(
        re.findall(
            r"^#define (__clang_major__|__GNUC__) (\d+)$",
            _output([*compiler.split(), "-dM", "-E", "-x", "c++", os.devnull]),
            re.MULTILINE,
        )
    )


def _builds_fuzz_targets(name: str) -> bool:
    """Whether a Clang has the libraries that a fuzz target is linked with."""
    source = (
        'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) {return 0;}'
    )
    options = ["-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", os.devnull]
    tried = subprocess.run([name, *options], input=source, text=True, capture_output=True)
    return tried.returncode == 0


def _include_dirs() -> list[Path]:
    """Where the compiler, or CMake as told by the environment, finds headers."""
    roots = [Path("/usr/include"), Path("/usr/local/include")]
    for variable in ("CPATH", "CPLUS_INCLUDE_PATH"):
        roots += [Path(entry) for entry in os.environ.get(variable, "").split(":") if entry]
    for variable in ("CMAKE_PREFIX_PATH", "OPENSSL_ROOT_DIR", "ZLIB_ROOT", "doctest_ROOT"):
        prefixes = os.environ.get(variable, "").split(":")
        roots += [Path(prefix, "include") for prefix in prefixes if prefix]
    return roots


def _has_library(name: str) -> bool:
    """Whether the system's loader finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _output(command: Sequence[str]) -> str:
    """Standard output of a command, '' when it cannot be run."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout
    except OSError:
        return ""
