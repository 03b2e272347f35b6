"""Makes a virtual environment with mindckpt built into it, from a bare Debian or Ubuntu.

    python3 tools/bootstrap.py --extra test

installs the system packages that are missing (system_packages.py), creates .venv, and installs the
package into it in editable mode with the extras named. Whatever is there already stays: the
second run takes a fraction of a second, and the package is built again only when its inputs
changed.

Standard library only, and nothing that Python 3.8 cannot parse, so that an old interpreter comes
as far as the message about its version.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import system_packages
from system_packages import Need, SetupError

ROOT = Path(__file__).resolve().parent.parent
MIN_PYTHON = (3, 10)
MIN_CMAKE = (3, 25)

_BUILD = ROOT / "build"
# What the compiled module is made of; Python modules are used from where they lie.
_BUILD_INPUTS = ("pyproject.toml", "CMakeLists.txt", "csrc", "third_party/cmake")

_DESCRIBE = """
import json, sys, sysconfig
try:
    import ensurepip, venv
except ImportError:
    has_venv = False
else:
    has_venv = True
# Inside a virtual environment: the interpreter that it was made from.
executable = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({
    "executable": executable,
    "version": sys.version_info[:2],
    "base_prefix": sys.base_prefix,
    "include": sysconfig.get_path("include"),
    "has_venv": has_venv,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python installation, not a virtual environment."""

    executable: str
    version: tuple[int, int]
    base_prefix: str
    include: str
    has_venv: bool

    @staticmethod
    def describe(command: str) -> Interpreter:
        """Asks an interpreter about itself.

        Raises:
            SetupError: it does not run, or is too old.
        """
        try:
            printed = subprocess.run(
                [command, "-c", _DESCRIBE], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        except OSError as error:
            raise SetupError(f"{command} does not run: {error}") from None
        except subprocess.CalledProcessError as error:
            raise SetupError(f"{command} does not run: status {error.returncode}") from None
        facts = json.loads(printed)
        facts["version"] = tuple(facts["version"])
        if facts["version"] < MIN_PYTHON:
            raise SetupError(
                f"{command} is Python {_dotted(facts['version'])}, mindckpt needs "
                f"{_dotted(MIN_PYTHON)} or newer: set PYTHON, as in `make PYTHON=python3.11 test`"
            )
        return Interpreter(**facts)

    def missing(self) -> list[Need]:
        """What this Python lacks to make a virtual environment and to build for it.

        Raises:
            SetupError: it lacks something and is not the distribution's Python: apt cannot help.
        """
        name = f"python{_dotted(self.version)}"
        needs = []
        if not self.has_venv:
            needs.append(Need(f"Python's venv module ({name})", (f"{name}-venv",)))
        if not Path(self.include, "Python.h").is_file():
            needs.append(Need(f"Python's headers ({name})", (f"{name}-dev",)))
        if needs and self.base_prefix != "/usr":
            raise SetupError(
                f"{self.executable} lacks {' and '.join(need.what for need in needs)}: "
                "complete that installation, or choose another by PYTHON"
            )
        return needs


class Environment:
    """A virtual environment, and a stamp in it that says what was installed from which inputs.

    Attributes:
        venv_options: More arguments of `python -m venv`.
        pip_options: More arguments of `pip install`.
        build_dir: Where CMake builds the package. Each environment has its own, also where two
            share a wheel tag.
        cmake_options: More definitions for CMake, such as 'MINDCKPT_WERROR=ON'.
    """

    venv_options: tuple[str, ...] = ()
    pip_options: tuple[str, ...] = ()
    cmake_options: tuple[str, ...] = ()

    def __init__(self, path: Path, interpreter: Interpreter) -> None:
        self.path = path
        self.interpreter = interpreter
        self.python = path / "bin" / "python"
        self._stamp = path / ".bootstrap.json"
        self.build_dir = _BUILD / path.name.lstrip(".")

    def create(self) -> None:
        """Creates it, anew where it belongs to another interpreter or the project was moved."""
        identity = {
            "path": str(self.path),
            "python": _dotted(self.interpreter.version),
            "base_prefix": self.interpreter.base_prefix,
        }
        found = self._read_stamp().get("identity", identity)
        if found == identity and self._stamp.exists() and self.python.exists():
            return
        # Scripts, the editable install and CMake's caches hold absolute paths.
        moved = found["path"] != identity["path"]
        for stale in (self.path, _BUILD if moved else self.build_dir):
            if stale.exists():
                print(f"+ rm -r {stale}", flush=True)
                shutil.rmtree(stale)
        venv = (self.interpreter.executable, "-m", "venv", *self.venv_options)
        _run([*venv, self.path], "creating the environment")
        self._write_stamp(identity=identity, requirements=[], extras=[], built_from="")

    def install_requirements(self, requirements: Sequence[str]) -> None:
        """Installs requirements beside mindckpt, unless these were the last ones.

        Raises:
            SetupError: pip failed.
        """
        if self._read_stamp()["requirements"] != [*requirements]:
            self._pip_install(*requirements, why=f"installing {', '.join(requirements)}")
            self._write_stamp(requirements=[*requirements])

    def install_project(self, extras: Sequence[str]) -> None:
        """Builds mindckpt and installs it in editable mode, if anything changed since.

        Args:
            extras: names of the extras wanted; those installed before are kept.

        Raises:
            SetupError: pip or the build failed.
        """
        stamp = self._read_stamp()
        built_from = _digest()
        wanted = sorted({*extras, *stamp["extras"]})
        if stamp["built_from"] == built_from and stamp["extras"] == wanted:
            return
        self.link("c++", system_packages.compiler)
        # Without pip's build isolation CMake keeps what it configured and Ninja what it built.
        self._pip_install(*_build_requirements(), why="installing the build tools")
        project = f".[{','.join(wanted)}]" if wanted else "."
        self._pip_install(
            "--no-build-isolation",
            "--editable",
            project,
            *stamp["requirements"],
            why="building mindckpt",
        )
        self._write_stamp(extras=wanted, built_from=built_from)

    def link(self, name: str, find: Callable[[], str | None]) -> None:
        """Makes `name` mean the command that `find` finds, wherever this environment is active.

        For a compiler that is new enough only under its versioned name, such as g++-12.
        """
        link = self.path / "bin" / name
        link.unlink(missing_ok=True)
        found = shutil.which(find() or "")
        if found and found != shutil.which(name):
            link.symlink_to(found)

    def _pip_install(self, *arguments: str, why: str) -> None:
        pip = (self.python, "-m", "pip", "--disable-pip-version-check")
        _run([*pip, "install", *self.pip_options, *arguments], why, env=self._variables())

    def _variables(self) -> dict[str, str]:
        variables = dict(os.environ)
        variables["PATH"] = f"{self.path / 'bin'}{os.pathsep}{variables.get('PATH', '')}"
        variables["VIRTUAL_ENV"] = str(self.path)
        # The one that was looked at: scikit-build-core would take what Python was compiled with.
        variables.setdefault("CXX", "c++")
        variables["SKBUILD_BUILD_DIR"] = str(self.build_dir)
        variables["SKBUILD_BUILD_TARGETS"] = "_core"
        if self.cmake_options:
            variables["SKBUILD_CMAKE_DEFINE"] = ";".join(self.cmake_options)
        return variables

    def _read_stamp(self) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads(self._stamp.read_text())
        except (OSError, ValueError):
            return {}
        return stamp

    def _write_stamp(self, **changes: object) -> None:
        self._stamp.write_text(json.dumps({**self._read_stamp(), **changes}, indent=1) + "\n")


def environment_with(
    path: Path, requirements: Sequence[str], pythons: Sequence[tuple[int, int]]
) -> Environment:
    """An environment with requirements that not every Python has wheels of.

    Args:
        path: Where it is to be.
        requirements: What is installed there. The messages name the first of them.
        pythons: The versions of Python that can hold them.

    Returns:
        The one of the first interpreter in which everything could be installed.

    Raises:
        SetupError: There is none. The message gives the reason for each interpreter.
    """
    reasons = []
    tried = set()
    for command in (sys.executable, *(f"python{_dotted(version)}" for version in pythons)):
        try:
            interpreter = Interpreter.describe(command)
            if interpreter in tried:
                continue
            tried.add(interpreter)
            if interpreter.version not in pythons:
                raise SetupError(f"{command}: no wheel of {requirements[0]} for this Python")
            system_packages.install(interpreter.missing())
            environment = Environment(path, interpreter)
            environment.create()
            environment.install_requirements(requirements)
        except SetupError as error:
            reasons.append(str(error))
        else:
            return environment
    listed = "\n".join(f"  - {reason}" for reason in reasons)
    raise SetupError(f"no {requirements[0]} here:\n{listed}")


def _build_requirements() -> list[str]:
    """build-system.requires of pyproject.toml, and CMake and Ninja where the system's won't do."""
    text = (ROOT / "pyproject.toml").read_text()
    requires = re.search(r"^requires = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
    if requires is None:
        raise SetupError("pyproject.toml: no `requires = [...]` in [build-system]")
    requirements: list[str] = ast.literal_eval(requires[1])  # tomllib came with Python 3.11
    if _cmake_version() < MIN_CMAKE:
        requirements.append(f"cmake>={_dotted(MIN_CMAKE)}")
    if not (shutil.which("ninja") or shutil.which("ninja-build")):
        requirements.append("ninja")
    return requirements


def _cmake_version() -> tuple[int, ...]:
    if not shutil.which("cmake"):
        return (0,)
    printed = subprocess.run(["cmake", "--version"], check=False, capture_output=True, text=True)
    version = re.search(r"version (\d+)\.(\d+)", printed.stdout)
    return (int(version[1]), int(version[2])) if version else (0,)


def _digest() -> str:
    """A hash of everything that decides what an install produces."""
    digest = hashlib.sha256(os.environ.get("CXX", "").encode())
    for path in _files(ROOT / name for name in _BUILD_INPUTS):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
        else:
            yield from sorted(path for path in root.rglob("*") if path.is_file())


def _run(command: Sequence[str | Path], why: str, env: dict[str, str] | None = None) -> None:
    print("+", *command, flush=True)
    status = subprocess.run(command, check=False, cwd=ROOT, env=env).returncode
    if status != 0:
        raise SetupError(f"{why} failed (exit status {status}): see the output above")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)


def main() -> None:
    """Sets up .venv with the extras that the command line names."""
    parser = argparse.ArgumentParser(description="Set up .venv with mindckpt built into it.")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME", dest="extras")
    extras = parser.parse_args().extras
    interpreter = Interpreter.describe(sys.executable)
    needs = system_packages.missing(tests="test" in extras, lint="lint" in extras)
    system_packages.install(interpreter.missing() + needs)
    system_packages.install_wanted()
    environment = Environment(ROOT / ".venv", interpreter)
    if "test" in extras:
        # The preset of that name builds the tests there too: of the same engine, by the same flags.
        environment.build_dir = _BUILD / "release"
        environment.cmake_options = ("MINDCKPT_WERROR=ON",)
    environment.create()
    environment.install_project(extras)
    if "lint" in extras:
        environment.link("clang++", system_packages.clang)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"mindckpt set-up: {error}")
