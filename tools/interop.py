"""Runs tests/interop with the real MindSpore, in .venv-interop.

MindSpore needs its own environment: it pins NumPy below 2 and has wheels for a few Python versions
only. Where it cannot be had the tests are skipped and said to be; with CI=true that is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import system_packages
from bootstrap import ROOT, Environment, environment_with
from system_packages import SetupError

MINDSPORE = ("mindspore==2.10.0", "numpy<2")
MINDSPORE_PYTHONS = ((3, 11), (3, 12), (3, 10))
# Skipped by `make test`, which installs no framework.
_EXAMPLE = "tests/test_examples.py::test_an_example_trains_saves_and_loads[mindspore]"


def mindspore_environment(path: Path, requirements: Sequence[str]) -> Environment:
    """The environment with MindSpore in it, made with the first interpreter that can hold it.

    Args:
        path: Where it is to be.
        requirements: What is installed there, MINDSPORE first.

    Raises:
        SetupError: there is none; the message gives the reason for each interpreter.
    """
    return environment_with(path, requirements, MINDSPORE_PYTHONS)


def main() -> None:
    """Exits with pytest's status, or 0 where MindSpore cannot be had and CI is not true."""
    try:
        environment = mindspore_environment(ROOT / ".venv-interop", MINDSPORE)
    except SetupError as error:
        if os.environ.get("CI") == "true":
            raise
        print(f"interop tests SKIPPED: {error}")
        return
    system_packages.install(system_packages.missing())
    environment.install_project(["test"])
    tests = ("tests/interop", _EXAMPLE)
    pytest = subprocess.run([environment.python, "-m", "pytest", *tests], cwd=ROOT)
    sys.exit(pytest.returncode)


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt interop: {failure}")
