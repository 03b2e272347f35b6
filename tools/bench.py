"""Runs the benchmarks, in .venv-bench, and keeps what they measured: `make bench`.

    python3 tools/bench.py --dir /data --name my-machine

The peers that are measured beside us must be installed. MindSpore and safetensors are, where there
are wheels for a Python at hand; torch, which may be gigabytes, is measured where it is there:
`.venv-bench/bin/pip install torch`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import interop
import system_packages
from bootstrap import ROOT, Environment, Interpreter
from system_packages import SetupError

# With how many rounds each is run, where nobody says otherwise: all of them within 15 minutes, of
# which MindSpore takes one for each round.
BENCHMARKS = {"limits": 3, "host_save": 5, "host_load": 5, "peers": 3}
# Nothing is held to what the first one measures but the ciphers, whose speeds do not depend on it.
GIGABYTES = {"limits": 1}
_WITH_MINDSPORE = (*interop.MINDSPORE, "safetensors")
_WITHOUT = ("safetensors",)


def environment() -> Environment:
    """The environment with the peers in it, MindSpore among them where it can be had."""
    try:
        return interop.mindspore_environment(ROOT / ".venv-bench", _WITH_MINDSPORE)
    except SetupError as error:
        print(f"MindSpore is not measured: {error}", flush=True)
    interpreter = Interpreter.describe(sys.executable)
    system_packages.install(interpreter.missing())
    made = Environment(ROOT / ".venv-bench", interpreter)
    made.create()
    made.install_requirements(_WITHOUT)
    return made


def main() -> None:
    """Exits with the first status of a benchmark that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmarks", nargs="*", default=[*BENCHMARKS], help="default: all")
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="where files are written")
    parser.add_argument("--name", default="local", help="folder under benchmarks/results; 'local'")
    defaults = ", ".join(f"{rounds} of {name}" for name, rounds in BENCHMARKS.items())
    parser.add_argument("--rounds", type=int, help=f"samples of each line; default: {defaults}")
    options = parser.parse_args()
    for name in options.benchmarks:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}, only {', '.join(BENCHMARKS)}")
    options.dir.mkdir(parents=True, exist_ok=True)
    system_packages.install(system_packages.missing())
    made = environment()
    made.install_project(["bench"])
    in_venv = os.environ | {"PATH": f"{made.path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    build = ["cmake", "--workflow", "--preset", "bench"]
    subprocess.run(build, cwd=ROOT, check=True, env=in_venv)
    results = ROOT / "benchmarks" / "results" / options.name
    for benchmark in options.benchmarks:
        rounds = BENCHMARKS[benchmark] if options.rounds is None else options.rounds
        command = [made.python, ROOT / "benchmarks" / f"{benchmark}.py", "--results", results]
        command += ["--dir", options.dir, "--rounds", str(rounds)]
        if benchmark in GIGABYTES:
            command += ["--gb", str(GIGABYTES[benchmark])]
        subprocess.run([*map(str, command)], cwd=ROOT, check=True)
    if not all((results / f"{benchmark}.json").exists() for benchmark in BENCHMARKS):
        print(f"{results} has not all that the picture shows: it is not drawn")
        return
    plot = [made.python, ROOT / "benchmarks" / "plot.py", results, ROOT / "docs" / "speed.svg"]
    subprocess.run([*map(str, plot)], cwd=ROOT, check=True)


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt bench: {failure}")
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.returncode)
