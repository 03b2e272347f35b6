"""Holds our declarations of CUDA's driver API and of AscendCL to the real headers: `make headers`.

The headers come out of wheels on PyPI, which are unpacked below build/headers, and out of toolkits
that are installed here. tests/headers is compiled against each of them, by GCC and by Clang. Where
the wheels cannot be had this says so; with CI=true that is a failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import system_packages
from bootstrap import ROOT
from system_packages import SetupError

_FOLDER = ROOT / "build" / "headers"
_SOURCES = ROOT / "tests" / "headers"


@dataclass(frozen=True)
class Headers:
    """The headers of one release, or of a toolkit that is installed here.

    Attributes:
        check: The file of tests/headers that is compiled against them.
        where: The folder that is given to the compiler.
        defines: What that release has beyond the oldest one.
    """

    check: str
    where: Path
    defines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wheel:
    """A wheel that ships headers.

    Attributes:
        requirement: Its name and version.
        python: The Python that it is for; which one does not matter for the headers.
        include: The folder in it that is given to the compiler.
        check: As in Headers.
        defines: As in Headers.
    """

    requirement: str
    python: str
    include: str
    check: str
    defines: tuple[str, ...] = ()


# The oldest release that has headers in a wheel, the last of each ABI that we ask for, and the
# newest.
WHEELS = (
    Wheel("nvidia-cuda-runtime-cu11==11.7.99", "3.11", "nvidia/cuda_runtime/include", "cuda"),
    Wheel("nvidia-cuda-runtime-cu12==12.9.79", "3.11", "nvidia/cuda_runtime/include", "cuda"),
    Wheel("nvidia-cuda-runtime==13.5.37", "3.11", "nvidia/cu13/include", "cuda"),
    Wheel("torch-npu==2.1.0.post8", "3.10", "torch_npu/include/third_party/acl/inc", "ascend"),
    Wheel(
        "torch-npu==2.14.0",
        "3.11",
        "torch_npu/include/third_party/acl/inc",
        "ascend",
        ("HAS_POINTER_ATTRIBUTES",),
    ),
)
_PLATFORMS = [f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_17", "2014", "1")]


def unpacked(wheel: Wheel) -> Headers:
    """The headers of a wheel, which is downloaded unless that was done before.

    Raises:
        SetupError: It can't be downloaded, or ships no such folder.
    """
    folder = _FOLDER / re.sub(r"[^\w.]+", "-", wheel.requirement)
    done = folder / "unpacked"
    if not done.exists():
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp"]
        command += [f"--python-version={wheel.python}", f"--dest={folder}"]
        command += [f"--platform={name}" for name in _PLATFORMS]
        print(f"+ pip download {wheel.requirement}", flush=True)
        if subprocess.run([*command, wheel.requirement]).returncode != 0:
            raise SetupError(f"{wheel.requirement} can't be downloaded: see the output above")
        for path in folder.glob("*.whl"):
            with zipfile.ZipFile(path) as archive:
                inside = [n for n in archive.namelist() if n.startswith(f"{wheel.include}/")]
                archive.extractall(folder, inside)
            path.unlink()
        if not (folder / wheel.include).is_dir():
            raise SetupError(f"{wheel.requirement} has no folder {wheel.include}")
        done.touch()
    return Headers(wheel.check, folder / wheel.include, wheel.defines)


def installed() -> Iterator[Headers]:
    """The headers of the toolkits that are installed here."""
    for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if root and Path(root, "include", "cuda.h").is_file():
            yield Headers("cuda", Path(root, "include"))
            break
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        include = Path(os.environ.get(variable, ""), "include")
        declared = include / "acl" / "acl_rt.h"
        if os.environ.get(variable) and declared.is_file():
            newer = "aclrtPointerGetAttributes" in declared.read_text()
            yield Headers("ascend", include, ("HAS_POINTER_ATTRIBUTES",) if newer else ())
            break


def compile_check(compiler: str, headers: Headers, *more: str) -> subprocess.CompletedProcess[str]:
    """Compiles a check against headers; nothing is written."""
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-I{ROOT / 'csrc'}", f"-I{_SOURCES}", "-isystem", str(headers.where)]
    flags += [f"-D{name}" for name in (*headers.defines, *more)]
    source = _SOURCES / f"{headers.check}_check.cc"
    return subprocess.run(
        [*compiler.split(), *flags, str(source)], capture_output=True, text=True, check=False
    )


def planted(check: str) -> list[str]:
    """The mistakes that a check's source can be compiled with."""
    return re.findall(r"PLANTED_MISTAKE == \d+", (_SOURCES / f"{check}_check.cc").read_text())


def hold(compiler: str, headers: Headers) -> list[str]:
    """What is wrong: a declaration of ours, or a planted mistake that compiles."""
    said = f"{headers.check}_api.h, {compiler}, {headers.where}"
    done = compile_check(compiler, headers)
    if done.returncode != 0:
        return [f"{said}:\n{done.stderr}"]
    return [
        f"{said}: it compiles with {mistake}"
        for mistake in planted(headers.check)
        if compile_check(compiler, headers, mistake.replace(" == ", "=")).returncode == 0
    ]


def main() -> None:
    """Exits with 0 where every declaration is that of the real headers."""
    system_packages.install(system_packages.missing(lint=True))
    try:
        found = [unpacked(wheel) for wheel in WHEELS]
    except SetupError as error:
        if os.environ.get("CI") == "true":
            raise
        print(f"the headers on PyPI are SKIPPED: {error}")
        found = []
    found += installed()
    compilers = [c for c in (system_packages.compiler(), system_packages.clang()) if c]
    wrong = [line for c in compilers for headers in found for line in hold(c, headers)]
    if wrong:
        raise SetupError("declarations are not those of the real headers:\n" + "\n".join(wrong))
    mistakes = sum(len(planted(headers.check)) for headers in found)
    print(f"{len(found)} releases' headers x {len(compilers)} compilers: all as declared;")
    print(f"{mistakes * len(compilers)} planted mistakes: all refused")


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt headers: {failure}")
