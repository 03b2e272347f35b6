"""Builds mindckpt on a machine with a CUDA GPU, tests it there and measures it: `make gpu`.

    python3 tools/gpu.py --collect --for-python 3.12   # before, on a machine with a network
    python3 tools/gpu.py                               # on the GPU's machine: ends within 9 minutes
    python3 tools/gpu.py                               # again: goes on with what is left
    python3 tools/gpu.py --dry-run                     # the same plan without a GPU, far smaller

One call does everything, the most important things first: the build, the raw limits of the machine,
tests/gpu, then saves of 8 GiB in every mode and by every snapshot policy. A step that overruns its
share of the time is cut. The plan is printed first; gpu_plan.py has it.

Each result is on storage as soon as it is there: in build/gpu, from which a later call goes on, and
in benchmarks/results/GPU/results.jsonl, with results.md for people beside it and log.txt. So where
a machine is lent for minutes, and killed at their end, the last line is all that is lost.

On such a machine, without a network and with another checkout than this: collect here, take the
checkout and build/carry there, and run, in one call,

    python3 tools/gpu.py --results DIR

where DIR is a folder that comes back. python3 is the interpreter that sees CuPy, torch and JAX; a
C++ compiler, CMake and nothing else have to be there. `timeout 570` before it does no harm.

Exit status: 0 when everything was run and passed; 1 when something failed; 2 when nothing could be
run here: no GPU, or headers are missing; 3 when nothing failed, but something was left for the next
call.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import gpu_collect
import gpu_machine
import gpu_plan
import gpu_report
from bootstrap import ROOT
from gpu_results import Results
from gpu_run import Runner
from gpu_worker import LEFT
from system_packages import SetupError

_STATE = ROOT / "build" / "gpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--anew", action="store_true", help="forget what earlier calls found")
    add("--dry-run", action="store_true", help="on the stand-in drivers that `make test` built")
    add("--plan", action="store_true", help="print the plan, and do nothing else")
    add(
        "--seconds",
        type=float,
        default=gpu_plan.TOTAL_SECONDS,
        metavar="N",
        help=f"what all of it may take; default {gpu_plan.TOTAL_SECONDS}",
    )
    add(
        "--carry",
        type=Path,
        default=ROOT / "build" / "carry",
        metavar="DIR",
        help="where what the machine lacks was collected; default build/carry",
    )
    add(
        "--results",
        type=Path,
        metavar="DIR",
        help="where the GPU's folder is written; default benchmarks/results, dry build/gpu/dry-run",
    )
    add(
        "--disk",
        type=Path,
        default=_STATE,
        metavar="DIR",
        help="a folder on a disk to write to; default build/gpu",
    )
    add(
        "--state",
        type=Path,
        default=_STATE,
        metavar="DIR",
        help="where what was found is kept for the next call; default build/gpu",
    )
    add("--collect", action="store_true", help="fill the folder of --carry, and do nothing else")
    add(
        "--for-python",
        action="append",
        metavar="X.Y",
        help="the Python to collect wheels for; default the one that runs this",
    )
    return parser


def main() -> int:
    """Does what the command line says, and returns the exit status."""
    begin = time.monotonic()
    options = _parser().parse_args()
    carry = options.carry.resolve()
    if options.collect:
        gpu_collect.collect(carry, options.for_python or ["{}.{}".format(*sys.version_info)])
        return 0
    state = options.state.resolve() / "dry-run" if options.dry_run else options.state.resolve()
    chosen = gpu_plan.plan(
        carry, options.disk.resolve(), state, options.seconds, dry=options.dry_run
    )
    if options.plan:
        print(gpu_plan.told(chosen, []))
        return 0
    gpu = gpu_machine.Gpu.find(chosen.library)
    folder = options.results or (state if options.dry_run else ROOT / "benchmarks" / "results")
    folder = folder.resolve() / gpu.file_name
    options.disk.mkdir(parents=True, exist_ok=True)
    results = Results(
        state / f"{gpu.file_name}.jsonl", folder, chosen, gpu_report.page, anew=options.anew
    )
    print(gpu_plan.told(chosen, [*results.lines]), flush=True)
    results.begin(gpu_machine.facts(gpu, chosen.python, carry))
    signal.signal(signal.SIGTERM, _stop)
    try:
        with (folder / "log.txt").open("ab") as log:
            Runner(chosen, results, log, begin).run()
    finally:
        # The build may have brought what was not there before.
        results.facts = gpu_machine.facts(gpu, chosen.python, carry)
        results.write_page()
    return _conclude(results, folder)


def _conclude(results: Results, folder: Path) -> int:
    """Says by name what failed and what is left; the exit status."""
    failed, left = results.with_status("failed", "hung"), results.with_status(*LEFT)
    for title, lines in (("left for the next call", left), ("failed", failed)):
        if lines:
            names = "\n".join(f"  {line['step']}: {line['name']}" for line in lines)
            print(f"{title}: {len(lines)}\n{names}")
    print(f"written: {folder}{os.sep}results.md and .jsonl", flush=True)
    return 1 if failed else 3 if left else 0


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"mindckpt gpu: {error}", file=sys.stderr)
        sys.exit(2)
