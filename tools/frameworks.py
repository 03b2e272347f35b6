"""Runs the tests of what users of torch, JAX and Paddle save and load, in .venv-frameworks.

The tests that ask for a framework's fixture (`torch`, `jax`, `paddle` of tests/conftest.py) are
skipped by `make test`, which installs none. Here all of them run: one that is skipped fails the
lane. Where the frameworks cannot be installed the lane says so; with CI=true that is a failure.

pip prefers torch's CPU build where an index or a folder of wheels that it knows has it. PyPI has
only the CUDA build for x86-64, which does not import without some gigabytes of CUDA's libraries;
pip then installs these too, and the tests use the CPU all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import system_packages
from bootstrap import ROOT, environment_with
from system_packages import SetupError

FRAMEWORKS = (
    "torch==2.13.0",
    "jax==0.10.2",
    "flax==0.12.8",
    "optax==0.2.8",
    "paddlepaddle==3.3.1",
)
PYTHONS = ((3, 11), (3, 12), (3, 13))
_REPORT = ROOT / "build" / "frameworks.xml"


def not_run(report: Path) -> list[str]:
    """The tests of a JUnit report that were skipped, each with its reason.

    Raises:
        SetupError: The report has no test at all.
    """
    cases = ET.parse(report).findall(".//testcase")
    if not cases:
        raise SetupError(f"{report}: no test ran")
    skipped = [(case, case.find("skipped")) for case in cases]
    return [
        f"{case.get('classname')}::{case.get('name')}: {why.get('message')}"
        for case, why in skipped
        if why is not None
    ]


def main() -> None:
    """Exits with pytest's status, or 0 where there are no frameworks and CI is not true."""
    try:
        environment = environment_with(ROOT / ".venv-frameworks", FRAMEWORKS, PYTHONS)
    except SetupError as error:
        if os.environ.get("CI") == "true":
            raise
        print(f"framework tests SKIPPED: {error}")
        return
    system_packages.install(system_packages.missing())
    environment.install_project(["test"])
    _REPORT.parent.mkdir(exist_ok=True)
    _REPORT.unlink(missing_ok=True)
    command = [str(environment.python), "-m", "pytest", "-m", "framework"]
    command += [f"--junitxml={_REPORT}", "--ignore=tests/interop", "--ignore=tests/gpu"]
    command += [*sys.argv[1:], "tests"]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status == 0 and (skipped := not_run(_REPORT)):
        listed = "\n".join(f"  - {test}" for test in skipped)
        raise SetupError(f"with the frameworks installed no test may be skipped:\n{listed}")
    sys.exit(status)


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt frameworks: {failure}")
