"""Fuzzes the reader of checkpoint files, in .venv: `make fuzz`.

    FUZZ_SECONDS=3600 make fuzz

The fuzz target (tests/fuzz/reader_fuzz.cc) is built by Clang with libFuzzer, AddressSanitizer and
UndefinedBehaviorSanitizer. It begins with seeds made of the golden files and of files that this
package saves (tests/fuzz/seeds.py), and keeps what it comes upon in build/fuzz/corpus, from where
the next run goes on. An input that ends it is kept in build/fuzz/crashes, and named.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import system_packages
from bootstrap import ROOT, Environment, Interpreter
from system_packages import SetupError

DEFAULT_SECONDS = 60
# Larger inputs are slower, and show nothing that these do not.
_MOST_BYTES = 16 << 10
_TIMEOUT_SECONDS = 20  # for one input: a thousand times what any takes
_MOST_MEGABYTES = 2048

_BUILD = ROOT / "build" / "fuzz"
_CORPUS = _BUILD / "corpus"
_CRASHES = _BUILD / "crashes"
_SOURCES = ROOT / "tests" / "fuzz"
_SANITIZERS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
}


def seconds_wanted(text: str | None) -> int:
    """How long to fuzz, of FUZZ_SECONDS; where it is not set, DEFAULT_SECONDS.

    Raises:
        SetupError: It is no whole number from 1 on.
    """
    if text is None:
        return DEFAULT_SECONDS
    if not re.fullmatch(r"[0-9]+", text) or int(text) == 0:
        raise SetupError(f"FUZZ_SECONDS must be a whole number of seconds, got {text!r}")
    return int(text)


def command(seconds: int, seeds: Path) -> list[str]:
    """The run of the fuzz target, which ends after so many seconds or at the first crash."""
    return [
        str(_BUILD / "tests" / "fuzz" / "reader_fuzz"),
        f"-max_total_time={seconds}",
        f"-max_len={_MOST_BYTES}",
        f"-timeout={_TIMEOUT_SECONDS}",
        f"-rss_limit_mb={_MOST_MEGABYTES}",
        f"-dict={_SOURCES / 'reader.dict'}",
        f"-artifact_prefix={_CRASHES}{os.sep}",
        "-print_final_stats=1",
        str(_CORPUS),
        str(seeds),
    ]


def main() -> None:
    """Exits with 1 where an input crashed the reader, took too long or too much memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    seconds = seconds_wanted(os.environ.get("FUZZ_SECONDS"))
    interpreter = Interpreter.describe(sys.executable)
    system_packages.install(interpreter.missing() + system_packages.missing(tests=True, lint=True))
    system_packages.install(system_packages.missing_for_fuzzing())
    system_packages.install_wanted()
    environment = Environment(ROOT / ".venv", interpreter)
    environment.create()
    environment.install_project(["test"])
    environment.link("clang++", system_packages.clang)
    in_venv = os.environ | {
        "PATH": f"{environment.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        **_SANITIZERS,
    }
    build = ["cmake", "--workflow", "--preset", "fuzz"]
    subprocess.run(build, cwd=ROOT, check=True, env=in_venv)
    for folder in (_CORPUS, _CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = _BUILD / "seeds"
    make_seeds = [str(environment.python), str(_SOURCES / "seeds.py"), str(seeds)]
    subprocess.run(make_seeds, cwd=ROOT, check=True, env=in_venv)
    known = {*_CRASHES.iterdir()}
    status = subprocess.run(command(seconds, seeds), cwd=ROOT, check=False, env=in_venv).returncode
    found = sorted({*_CRASHES.iterdir()} - known)
    for crash in found:
        print(f"the reader failed on {crash.relative_to(ROOT)}; to see it again:")
        print(f"  {_BUILD.relative_to(ROOT)}/tests/fuzz/reader_fuzz {crash.relative_to(ROOT)}")
    if status != 0 or found:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt fuzz: {failure}")
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.returncode)
