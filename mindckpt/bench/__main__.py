"""`python -m mindckpt.bench`: how fast saves are here, against what the machine can do at most.

Prints Markdown. A save is timed as its caller sees it: until save_checkpoint returned (blocked),
the tensors may change (staged), every byte is with the file system (written), and the file is on
storage under its name (durable). Beside each time is its ratio to the slowest of the raw limits on
the way, measured in the same rounds. With --loop a training loop saves now and then, and what
counts is its steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindckpt.bench import cases, limits, loop, modes, report, trace
from mindckpt.bench.cases import SYNC, Case
from mindckpt.bench.measure import MIB, WARM_FACTOR, Payload, available_memory, facts
from mindckpt.bench.report import SaveResult, SizeReport, size
from mindckpt.bench.source import CPU, Source, unusable
from mindckpt.device import devices, load_device_plugin

_SNAPSHOTS = ("auto", "device", "host", "lazy", SYNC)
_HOST_SNAPSHOTS = ("auto", "lazy", SYNC)  # of host memory there is one kind of copy

_UNITS = {"": 1, **{f"{prefix}B": 1000**i for i, prefix in enumerate(["", "K", "M", "G"])}}
_UNITS |= {f"{prefix}iB": 1024**i for i, prefix in enumerate(["K", "M", "G"], 1)}

# What is there beside payloads: staging, the interpreter, a limit's memory.
_MEMORY_RESERVE = 512 * MIB


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindckpt.bench",
        description=(__doc__ or "").replace("`", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default=CPU, help="where the tensors are: cuda:0, sim:0, ...; default cpu")
    add("--plugin", type=Path, action="append", default=[], help="load a device plug-in library")
    add("--dir", type=Path, default=Path(), help="where to save; default .")
    add("--size", type=_list_of(_size), default=[1 << 30], help="payloads; default 1GiB")
    add("--tensor-bytes", type=_size, default=64 * MIB, help="of each tensor; default 64MiB")
    add(
        "--modes",
        type=_list_of(_one_of(modes.BY_NAME)),
        help=f"of {','.join(modes.BY_NAME)}; default all, with --loop plain",
    )
    add(
        "--snapshot",
        type=_list_of(_one_of(_SNAPSHOTS)),
        help=f"policies, of {','.join(_SNAPSHOTS)} (not asynchronous); default all, "
        f"of host memory {','.join(_HOST_SNAPSHOTS)}",
    )
    add(
        "--durable",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether saves are synced to storage; default yes",
    )
    add("--rounds", type=_positive, default=5, help="samples of everything; default 5")
    add("--loop", type=_positive, metavar="STEPS", help="run training loops of so many steps")
    add("--every", type=_positive, metavar="N", default=10, help="save every N steps; default 10")
    add(
        "--step-seconds",
        type=_seconds,
        default=0.1,
        help="how long a step computes, about, when nothing else runs; default 0.1",
    )
    add("--json", type=Path, metavar="FILE", help="write every sample, machine and versions")
    add("--plot", type=Path, metavar="FILE.png", help="draw the results; needs matplotlib")
    add("--trace", type=Path, metavar="FILE", help="write a Perfetto trace of a save of each mode")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints.

    Args:
        arguments: Those of the command line; None takes sys.argv's.

    Raises:
        SystemExit: With status 2 after bad arguments, 1 after what went wrong later.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    _load_plugins(parser, options)
    _check(parser, options)
    try:
        _run(options)
    except (OSError, RuntimeError, MemoryError) as error:
        parser.exit(1, f"{parser.prog}: error: {str(error) or type(error).__name__}\n")


def _run(options: argparse.Namespace) -> None:
    reports = []
    temporary = tempfile.TemporaryDirectory(
        prefix="mindckpt-bench-", dir=options.dir, ignore_cleanup_errors=True
    )
    with temporary as name:
        folder = Path(name)
        found: dict[str, Any] = {**facts(folder), "device": _backend(options.device)}
        title = _title(options, found)
        print(f"# {title}\n", flush=True)
        traces: list[trace.TracedSave] = []
        for nbytes in options.size:
            measured, to_trace = _measure(options, nbytes, folder)
            if options.trace and not traces:
                traces = [trace.traced(case) for case in to_trace]
            reports.append(measured)
            print(measured.markdown(), flush=True)
    if options.trace:
        options.trace.write_text(json.dumps(trace.chrome_trace(traces)) + "\n")
    if options.json:
        content = {
            **found,
            "options": {key: _json(value) for key, value in vars(options).items()},
            "sizes": [measured.as_json() for measured in reports],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot:
        report.plot(reports, title, options.plot)


def _measure(
    options: argparse.Namespace, nbytes: int, folder: Path
) -> tuple[SizeReport, list[Case]]:
    """Everything with one payload, and a case of each mode for a trace."""
    tensor_bytes = min(options.tensor_bytes, nbytes) // 4 * 4
    payload = Payload.of_size(max(1, round(nbytes / tensor_bytes)), tensor_bytes)
    source = Source(payload, options.device)

    def case(mode: str, snapshot: str) -> Case:
        path = folder / "bench.ckpt"
        return Case(modes.BY_NAME[mode], snapshot, source, path, options.durable)

    measured = SizeReport(payload.nbytes, len(payload.tensors))
    planned = [case(*pair) for pair in itertools.product(options.modes, options.snapshot)]
    usable, measured.left_out = cases.checked(planned)
    if not usable:
        raise RuntimeError("; ".join(measured.left_out.values()))
    if options.loop:
        training = loop.Training(source, options.step_seconds)
        measured.loops = loop.run(training, usable, options.loop, options.every, options.rounds)
    else:
        used = list({case.mode.name: case.mode for case in usable}.values())
        raw_limits = limits.raw_limits(source, used, options.durable, folder)
        samples: limits.Samples = {}
        for _ in range(options.rounds):
            limits.take_round(raw_limits, measured.limits)
            cases.take_round(usable, samples)
        samples |= measured.limits
        measured.saves = [SaveResult.of(case, samples) for case in usable]
    to_trace = {case.mode.name: replace(case, snapshot="auto") for case in usable}
    to_trace |= {case.mode.name: case for case in reversed(usable) if case.snapshot != SYNC}
    return measured, [*to_trace.values()]


# ---- what is asked for


def _load_plugins(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for path in options.plugin:
        try:
            load_device_plugin(path.absolute() if path.exists() else path)
        except ValueError as error:
            parser.error(f"--plugin: {error}")


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program where something is wrong that can be known beforehand; fills in defaults."""
    if options.device != CPU:
        try:
            why = unusable(options.device, devices())
        except ValueError as error:  # a bad MINDCKPT_STAGING_BYTES
            why = str(error)
        if why:
            parser.error(f"--device {options.device}: {why}")
    if options.loop and options.every > options.loop:
        parser.error(f"--every {options.every}: no save in --loop {options.loop}")
    if not options.dir.is_dir():
        parser.error(f"--dir {options.dir}: no such folder")
    for name in ("json", "plot", "trace"):
        path = getattr(options, name)
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"--{name} {path}: no such folder")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot: matplotlib is not installed: pip install matplotlib")
    if options.modes is None:
        options.modes = ["plain"] if options.loop else list(modes.BY_NAME)
    if options.snapshot is None:
        options.snapshot = list(_HOST_SNAPSHOTS if options.device == CPU else _SNAPSHOTS)
    _check_room(parser, options)


def _check_room(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    largest = max(options.size)
    # In a loop the old file stays while the new one is written.
    disk = int((2.1 if options.loop else 1.05) * largest)
    free = shutil.disk_usage(options.dir).free
    if free < disk:
        where = options.dir.absolute()
        parser.error(f"--dir {where} has {size(free)} free, {size(largest)} take {size(disk)}")
    # The payload, what is warmed before a sample, and a pinned copy of what is on a device.
    copies = 1 + WARM_FACTOR + (options.device != CPU)
    memory = int(copies * largest) + _MEMORY_RESERVE
    available = available_memory()
    if available < memory:
        parser.error(
            f"--size {size(largest)} takes {size(memory)} of host memory, "
            f"{size(available)} are available"
        )


def _list_of(element: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def elements(text: str) -> list[Any]:
        return list(dict.fromkeys(element(part.strip()) for part in text.split(",")))

    return elements


def _one_of(choices: Sequence[str] | dict[str, Any]) -> Callable[[str], str]:
    def choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return choice


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    nbytes = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if nbytes < 4:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of 4 bytes or more, such as 64MiB")
    return nbytes


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds below 3600")
    return seconds


# ---- what is told about it


def _backend(device: str) -> dict[str, Any]:
    """The device's name, and its backend as `devices` lists it."""
    name = device.partition(":")[0]
    found = [backend for backend in devices() if backend["name"] == name] if device != CPU else []
    return {"device": device, **(found[0] if found else {})}


def _title(options: argparse.Namespace, found: dict[str, Any]) -> str:
    driver = found["device"].get("version", "")
    versions = [f"{name} {version}" for name, version in found["versions"].items()]
    return "; ".join(
        [
            "mindckpt.bench",
            f"from {options.device}" + (f" ({driver})" if driver else ""),
            f"{options.rounds} rounds",
            "durable" if options.durable else "not synced",
            ", ".join([*found["machine"].values(), *versions]),
        ]
    )


def _json(value: object) -> object:
    if isinstance(value, list):
        return [_json(element) for element in value]
    return os.fspath(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
