"""The step 'build' of `make gpu`: .venv-gpu with the package in it, and the raw loops.

Nothing is fetched: packages and headers are those of the machine, and what it lacks is taken from
the folder that --collect filled. The environment sees the packages of the Python that runs this, so
that its CuPy, torch and JAX are what is tested.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import system_packages
from bootstrap import ROOT, Environment, Interpreter
from gpu_collect import LIBRARIES, TEST_REQUIREMENTS
from gpu_machine import output
from gpu_worker import Item, Worker
from system_packages import SetupError

ENVIRONMENT = ROOT / ".venv-gpu"
STAND_INS = ROOT / "build" / "release" / "tests" / "plugins"


class GpuEnvironment(Environment):
    """.venv-gpu: sees the packages of the Python that runs this; is given no network."""

    venv_options = ("--system-site-packages", "--without-pip")

    def __init__(self, carry: Path) -> None:
        super().__init__(ENVIRONMENT, Interpreter.describe(sys.executable))
        wheels = carry / "wheels"
        self.pip_options = ("--no-index",)
        if wheels.is_dir():
            self.pip_options += (f"--find-links={wheels}",)

    def create(self) -> None:
        """Creates it, and lets it see the packages of this Python, and their pip.

        Raises:
            SetupError: There is no pip, and Python has none to install.
        """
        super().create()
        # An environment that is made from another one sees what that was made from, not it.
        outer = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = Path(output(str(self.python), "-c", query))
        if str(own) not in outer:
            (own / "outer.pth").write_text("\n".join(dict.fromkeys(outer)) + "\n")
        if subprocess.run([self.python, "-c", "import pip"], capture_output=True).returncode == 0:
            return
        bootstrap: list[str | Path] = [self.python, "-m", "ensurepip"]
        if subprocess.run(bootstrap, stdout=subprocess.DEVNULL).returncode != 0:
            raise SetupError(f"{sys.executable} has neither pip nor ensurepip")


def build_package(carry: Path) -> None:
    """Makes .venv-gpu with the package and what its tests need, on all cores.

    Args:
        carry: The folder that --collect filled; need not be there.

    Raises:
        SetupError: Something lacks, here and there, or the build failed.
    """
    environment = GpuEnvironment(carry)
    environment.create()
    environment.install_project([])
    environment.install_requirements(TEST_REQUIREMENTS)


def build_raw_loops(python: Path) -> None:
    """Builds the loops of benchmarks/raw_loops.cc, and nothing else.

    Args:
        python: The interpreter beside which CMake and Ninja may be installed.

    Raises:
        SetupError: It failed.
    """
    paths = [str(python.parent), os.environ.get("PATH", "")]
    variables = {**os.environ, "PATH": os.pathsep.join(paths)}
    compiler = system_packages.compiler()
    if compiler:
        variables.setdefault("CXX", compiler)
    for command in (
        # Another compiler may warn of what ours does not.
        ["cmake", "--preset", "bench", "-DMINDCKPT_WERROR=OFF"],
        ["cmake", "--build", "--preset", "bench", "--target", "mindckpt_raw_loops"],
    ):
        print("+", *command, flush=True)
        if subprocess.run(command, cwd=ROOT, env=variables).returncode != 0:
            raise SetupError(f"{' '.join(command)} failed: see the output above")


def _take_what_is_carried(carry: Path) -> None:
    """Lets CMake find the headers that were brought along, where the system lacks them."""
    if (carry / "include").is_dir() and system_packages.missing():
        os.environ["CMAKE_PREFIX_PATH"] = str(carry)
        if not all(_is_loadable(name) for name in LIBRARIES):
            os.environ["SKBUILD_CMAKE_ARGS"] = f"-DCMAKE_INSTALL_RPATH={carry / 'lib'}"
    needs = system_packages.missing()
    if needs:
        lacks = ", ".join(need.what for need in needs)
        raise SetupError(
            f"missing here, and not in {carry}: {lacks}; run `python3 tools/gpu.py --collect` on a "
            "machine with a network, and carry that folder along"
        )


def _is_loadable(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _take(item: Item) -> dict[str, Any]:
    carry, python = Path(item.options["carry"]), Path(item.options["python"])
    _take_what_is_carried(carry)
    if item.options["kind"] == "package":
        build_package(carry)
    else:
        build_raw_loops(python)
    return {}


if __name__ == "__main__":
    Worker().run(_take, failures=(SetupError,))
