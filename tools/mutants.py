"""Plants bugs, one at a time, and tells which of them no test notices: `make mutants`.

    python3 tools/mutants.py at_end_swallowed fence_polls_once

Without a name it plants all of tools/planted_bugs.py. That takes a copy of the tree, in
build/mutants, and one build of it. There every bug of the C++ lies beside the code that it
replaces, and the environment variable MINDCKPT_MUTANT picks one by its name when a test runs; a
bug in a Python file is planted in one more copy of the package. First the tests that shall notice
the bugs have to pass without any.

Exits with 1 when a bug survives its tests, or a place to plant one is not found any more.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bootstrap import ROOT
from planted_bugs import MUTANTS
from planting import Mutant, StaleError, plant, switched

_TREE = ROOT / "build" / "mutants"
_BUILD = _TREE / "build" / "release"  # where the Python tests look for the stand-in devices
_COPIED = ("CMakeLists.txt", "pyproject.toml", "csrc", "mindckpt", "tests", "third_party")
_SWITCH = "MINDCKPT_MUTANT"
# A test that does not end by itself has noticed the bug.
_MOST_SECONDS = 120

_SWITCH_HEADER = f"""\
#pragma once
#include <cstdlib>
#include <cstring>
// Whether this process runs with the bug of that name.
inline bool is_planted(const char* name) {{
  static const char* const wanted = std::getenv("{_SWITCH}");
  return wanted != nullptr && std::strcmp(wanted, name) == 0;
}}
"""

# The environment's own mindckpt, in editable mode, would be found before any other.
_SITECUSTOMIZE = """\
import sys

sys.meta_path[:] = [f for f in sys.meta_path if "_editable" not in type(f).__module__]
"""


class MutantsError(Exception):
    """Something other than a survivor that ends the run; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """How some tests ended.

    Attributes:
        passed: Whether all of them did.
        output: What they printed.
        seconds: How long they took.
    """

    passed: bool
    output: str
    seconds: float


def make_tree(mutants: Sequence[Mutant]) -> None:
    """Copies the tree, with all bugs of the C++ planted behind the switch.

    What stays as it is keeps its time, so that Ninja builds again what a change concerns.
    """
    planted = switched(mutants, ROOT)
    header = _TREE / "planted.h"
    wanted = {header: _SWITCH_HEADER, _TREE / "sitecustomize.py": _SITECUSTOMIZE}
    for name in _COPIED:
        for copied in _files(_TREE / name):
            if not (ROOT / copied.relative_to(_TREE)).exists():
                copied.unlink()
        for source in _files(ROOT / name):
            to = _TREE / source.relative_to(ROOT)
            text = planted.get(str(source.relative_to(ROOT)))
            if text is not None:
                wanted[to] = f'#include "{header}"\n{text}'
            elif not to.exists() or to.read_bytes() != source.read_bytes():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, to)
    for to, text in wanted.items():
        if not to.exists() or to.read_text() != text:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(text)


def _files(root: Path) -> Iterable[Path]:
    if root.is_file():
        return [root]
    return [p for p in root.rglob("*") if p.is_file() and p.suffix not in (".so", ".pyc")]


def build() -> None:
    """Builds the copy: the engine's tests, the stand-in devices and the Python module.

    Raises:
        MutantsError: The build failed.
    """
    pybind11 = subprocess.run(
        [sys.executable, "-c", "import pybind11; print(pybind11.get_cmake_dir())"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    configure = ["cmake", "-S", str(_TREE), "-B", str(_BUILD), "-G", "Ninja"]
    # Optimised a little: the tests of races and of large files would take long.
    configure += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"]
    configure += ["-DMINDCKPT_BUILD_TESTS=ON", "-DMINDCKPT_BUILD_PYTHON=ON"]
    configure += [f"-Dpybind11_DIR={pybind11}", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", str(_BUILD)]):
        if subprocess.run(command, check=False).returncode != 0:
            raise MutantsError("the copy with the planted bugs does not build: see above")
    module = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    shutil.copyfile(_BUILD / module, _TREE / "mindckpt" / module)


def run_tests(tests: str, mutant: Mutant | None, folder: Path) -> Outcome:
    """Runs one selection of tests, with a bug or without.

    Args:
        tests: "ctest REGEX", or "pytest" with its arguments.
        mutant: The bug; None for none.
        folder: Temporary, for a copy of the package and for what tests write.
    """
    variables = {**os.environ, "TMPDIR": str(folder)}
    variables.pop(_SWITCH, None)
    if mutant is not None and not mutant.is_python:
        variables[_SWITCH] = mutant.name
    tool, _, selected = tests.partition(" ")
    if tool == "ctest":
        command = ["ctest", "--test-dir", str(_BUILD), "--no-tests=error", "--output-on-failure"]
        command += ["--stop-on-failure", "--timeout", str(_MOST_SECONDS), "-R", selected]
        tree = _TREE
    else:
        tree = _python_tree(mutant, folder)
        variables["PYTHONPATH"] = str(tree)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += [f"--basetemp={folder / 'pytest'}", *shlex.split(selected)]
    return _run(command, tree, variables)


def _python_tree(mutant: Mutant | None, folder: Path) -> Path:
    """The tree that the Python tests run in: the copy itself where the bug is in the C++."""
    if mutant is None or not mutant.is_python:
        return _TREE
    tree = folder / "tree"
    for name in ("mindckpt", "tests"):
        shutil.copytree(_TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "sitecustomize.py"):
        shutil.copyfile(_TREE / name, tree / name)
    (tree / "build").symlink_to(_TREE / "build")
    path = tree / mutant.file
    path.write_text(plant(mutant, path.read_text()))
    return tree


def _run(command: Sequence[str], tree: Path, variables: dict[str, str]) -> Outcome:
    begin = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=tree,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=_MOST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nnot ended after {_MOST_SECONDS} s\n"
    return Outcome(process.returncode == 0, output, time.monotonic() - begin)


def check_unplanted(mutants: Sequence[Mutant], pool: ThreadPoolExecutor) -> None:
    """Runs all tests that shall notice something, without any bug.

    Raises:
        MutantsError: Some fail, or none are selected.
    """

    def check(tests: str) -> tuple[str, Outcome]:
        with tempfile.TemporaryDirectory(dir=_TREE) as folder:
            return tests, run_tests(tests, None, Path(folder))

    selections = sorted({tests for mutant in mutants for tests in mutant.noticed_by})
    for tests, outcome in pool.map(check, selections):
        if not outcome.passed:
            raise MutantsError(f"{outcome.output}\nwithout any bug these fail: {tests}")
        print(f"passes    {tests}  ({outcome.seconds:.1f} s)", flush=True)


def survivors(mutants: Sequence[Mutant], pool: ThreadPoolExecutor) -> list[Mutant]:
    """Plants one after the other; returns those that no test noticed."""

    def is_noticed(mutant: Mutant) -> tuple[Mutant, str, float]:
        seconds = 0.0
        for tests in mutant.noticed_by:
            with tempfile.TemporaryDirectory(dir=_TREE) as folder:
                outcome = run_tests(tests, mutant, Path(folder))
            seconds += outcome.seconds
            if not outcome.passed:
                return mutant, tests, seconds
        return mutant, "", seconds

    found = []
    for mutant, tests, seconds in pool.map(is_noticed, mutants):
        if tests:
            print(f"noticed   {mutant.name}  ({seconds:.1f} s; {tests})", flush=True)
        else:
            print(f"SURVIVES  {mutant.name}  ({seconds:.1f} s): {mutant.what}", flush=True)
            found.append(mutant)
    return found


def main() -> None:
    """Exits with 1 when a bug survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of bugs in the table; default: all")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at once")
    options = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    for name in options.names:
        if name not in known:
            parser.error(f"there is no bug {name!r} in the table")
    chosen = [known[name] for name in options.names] or MUTANTS
    make_tree(MUTANTS)
    build()
    with ThreadPoolExecutor(options.jobs) as pool:
        check_unplanted(chosen, pool)
        found = survivors(chosen, pool)
    print(f"{len(chosen) - len(found)} of {len(chosen)} planted bugs were noticed", flush=True)
    if found:
        raise MutantsError("no test noticed " + ", ".join(mutant.name for mutant in found))


if __name__ == "__main__":
    try:
        main()
    except (MutantsError, StaleError) as failure:
        sys.exit(f"mindckpt mutants: {failure}")
