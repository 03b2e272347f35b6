"""`python -m mindckpt.bench`: what it prints and writes. Nothing is timed.

Oracles: the options given, the engine's statistics in the report, and arithmetic between figures.
"""

import importlib.util
import json
import math
import mmap
import os
import re
import statistics
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindckpt import _core
from mindckpt.bench import driver, measure
from mindckpt.bench.__main__ import main
from stand_in import ON_DEVICE, TO_DEVICE, TO_HOST, stand_in
from support import AVAILABLE_MODES

SIM = Path(__file__).parents[1] / "build/release/tests/plugins/libmindckpt_sim.so"
needs_sim = pytest.mark.skipif(
    not SIM.exists(), reason="no simulated device: `cmake --workflow --preset release` builds it"
)
SPEED = "d2h=8e9,h2d=8e9,d2d=1e12,latency=1e-5"

MODES = ["plain", "CRC", "AES-256-GCM", "AES-256-CBC", "SM4-CBC"]
MILESTONES = ["blocked", "staged", "written", "durable"]
SMALL = ["--size", "3MiB", "--tensor-bytes", "1MiB"]


def usable_modes() -> list[str]:
    return [mode for mode in MODES if mode != "SM4-CBC" or mode in AVAILABLE_MODES]


def bench_on_sim(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which loads the plug-in."""
    command = [sys.executable, "-m", "mindckpt.bench", "--plugin", SIM, "--device", "sim:0"]
    return subprocess.run(
        [*map(str, [*command, *arguments])],
        env={**os.environ, "MINDCKPT_STAND_IN_SPEED": SPEED},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_on_sim(*arguments: object) -> str:
    """What is printed by one that ends well."""
    done = bench_on_sim(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, first: str) -> list[list[str]]:
    """The cells of the Markdown table whose header begins with `first`, without header and rule."""
    lines = iter(printed.splitlines())
    header = next(line for line in lines if line.startswith(f"| {first} "))
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    assert all(len(row) == header.count("|") - 1 for row in found)
    return found[1:]


def check_saves(report: dict[str, Any], rounds: int) -> None:
    """Figures that follow from others, in every size of a report."""
    for of_size in report["sizes"]:
        names = set(of_size["limits"])
        assert all(len(seconds) == rounds for seconds in of_size["limits"].values())
        for save in of_size["saves"]:
            medians = []
            for timing in save["timings"]:
                seconds = timing["seconds"]
                assert len(seconds) == rounds
                assert all(value > 0 for value in seconds)
                assert timing["median"] == pytest.approx(statistics.median(seconds))
                assert timing["median"] <= timing["p95"] <= timing["p99"] <= max(seconds)
                speed = of_size["nbytes"] / timing["median"]
                assert timing["bytes_per_second"] == pytest.approx(speed)
                check_ratios(of_size, timing)
                assert set(timing["limits"]) <= names
                medians.append(timing["median"])
            assert medians == sorted(medians), "a milestone comes before an earlier one"


def check_ratios(of_size: dict[str, Any], timing: dict[str, Any]) -> None:
    if not timing["limits"]:
        assert (timing["ratios"], timing["ratio"], timing["bottleneck"]) == ([], None, "")
        return
    limits = {name: of_size["limits"][name] for name in timing["limits"]}
    slowest = [max(of_round) for of_round in zip(*limits.values(), strict=True)]
    ratios = [limit / own for limit, own in zip(slowest, timing["seconds"], strict=True)]
    assert timing["ratios"] == pytest.approx(ratios)
    assert timing["ratio"] == pytest.approx(statistics.median(ratios))
    assert timing["bottleneck"] == max(limits, key=lambda name: statistics.median(limits[name]))


def check_trace(trace: dict[str, Any], names: list[str]) -> None:
    """A process for each of the saves, whose spans lie as they must."""
    spans = defaultdict(list)
    processes = {}
    tracks = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "M":
            if event["name"] == "process_name":
                processes[event["pid"]] = event["args"]["name"]
            if event["name"] == "thread_name":
                tracks[event["pid"], event["tid"]] = event["args"]["name"]
            continue
        assert event["ph"] == "X"
        assert event["dur"] >= 0
        spans[event["pid"], event["tid"]].append(event)
    assert [*processes.values()] == names
    assert set(spans) == set(tracks)
    for process in processes:
        by_track = {tracks[key]: events for key, events in spans.items() if key[0] == process}
        check_save_of_trace(by_track)


def check_save_of_trace(tracks: dict[str, list[dict[str, Any]]]) -> None:
    (call,) = tracks.pop("caller")
    assert (call["name"], call["ts"]) == ("save_checkpoint", 0)
    milestones = tracks.pop("milestones")
    assert [event["name"] for event in milestones] == [
        f"until {name}" for name in ("durable", "written", "staged")
    ]
    lengths = [event["dur"] for event in milestones]
    assert lengths == sorted(lengths, reverse=True), "what begins at once is not nested"
    end = lengths[0]
    rounding = 1e-3  # of microseconds, which these are
    written = []
    for name, events in tracks.items():
        assert re.fullmatch(r"worker \d+|device to host", name)
        latest = 0.0
        for event in events:  # each begins when the one before it on this track has ended
            assert event["ts"] >= latest - rounding
            latest = event["ts"] + event["dur"]
            assert latest <= end + rounding, "a span outlives its save"
            if event["name"] == "write":
                written.append(event["args"]["block"])
        if name == "device to host":
            assert {event["name"] for event in events} == {"copy"}
    assert sorted(written) == [*range(milestones[0]["args"]["blocks"])]


# ---- saves


def test_saves_in_every_mode_and_policy_from_host_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_path, trace_path = tmp_path / "report.json", tmp_path / "trace.json"
    folder = tmp_path / "saves"
    folder.mkdir()
    options = ["--dir", folder, "--rounds", 1, "--json", report_path, "--trace", trace_path]
    main([*SMALL, *map(str, options)])
    printed = capsys.readouterr().out
    assert list(folder.iterdir()) == []

    report = json.loads(report_path.read_text())
    assert report["device"] == {"device": "cpu"}
    assert {"mindckpt", "NumPy", "Python", "Linux", "commit"} == set(report["versions"])
    assert {"processor", "memory", "file_system"} == set(report["machine"])
    assert report["options"]["size"] == [3 << 20]
    (of_size,) = report["sizes"]
    assert (of_size["nbytes"], of_size["tensors"]) == (3 << 20, 3)
    policies = ["auto", "lazy", "sync"]
    assert [(save["mode"], save["snapshot"]) for save in of_size["saves"]] == [
        (mode, policy) for mode in usable_modes() for policy in policies
    ]
    for save in of_size["saves"]:
        seen = [timing["milestone"] for timing in save["timings"]]
        assert seen == (MILESTONES[:1] if save["snapshot"] == "sync" else MILESTONES)
        taken = {"auto": "host", "lazy": "lazy", "sync": "none"}[save["snapshot"]]
        assert save["snapshot_taken"] == taken
    check_saves(report, rounds=1)
    check_trace(json.loads(trace_path.read_text()), [f"{mode}, auto" for mode in usable_modes()])

    shown = [
        [save["mode"], timing["milestone"]]
        for save in of_size["saves"]
        for timing in save["timings"]
    ]
    table = rows(printed, "mode, snapshot")
    assert [[row[0].partition(",")[0], row[1]] for row in table] == shown
    assert [row[0] for row in rows(printed, "limit")] == [*of_size["limits"]]


def test_several_sizes_rounds_and_no_sync(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    options = "--size 64KiB,1MB --modes crc,plain --snapshot lazy,host,device --rounds 3"
    main([*options.split(), "--no-durable", "--dir", str(tmp_path), "--json", str(path)])
    report = json.loads(path.read_text())
    assert [of_size["nbytes"] for of_size in report["sizes"]] == [64 << 10, 10**6]
    for of_size in report["sizes"]:
        assert [(save["mode"], save["snapshot"]) for save in of_size["saves"]] == [
            (mode, policy) for mode in ("CRC", "plain") for policy in ("lazy", "host", "device")
        ]
        assert "raw durable write" not in of_size["limits"]
        for save in of_size["saves"]:
            assert [timing["milestone"] for timing in save["timings"]] == MILESTONES[:3]
    check_saves(report, rounds=3)
    printed = capsys.readouterr().out
    assert "not synced" in printed
    assert "## 64 KiB in 1 tensors of 64 KiB" in printed


def test_without_a_cipher_its_limit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mindckpt._core.sm4_provider", lambda: "")
    path = tmp_path / "report.json"
    options = "--size 64KiB --modes sm4 --snapshot lazy --rounds 1 --dir"
    main([*options.split(), str(tmp_path), "--json", str(path)])
    (save,) = json.loads(path.read_text())["sizes"][0]["saves"]
    assert save["timings"][-1]["limits"] == ["raw durable write"]
    assert "can't be measured here" in capsys.readouterr().out


def test_copies_of_the_driver_move_every_chunk_and_are_given_back() -> None:
    """By the stand-in's count: a warm-up of the whole buffer, then seven chunks of 3 KiB."""
    device = stand_in("cuda")
    device.reset()
    kinds = (b"stream", b"device_memory", b"pinned_memory", b"context")
    before = [device.live(kind) for kind in kinds]
    with driver.Driver(ring_bytes=10 << 10) as copies:
        for direction in ("to_host", "to_device", "on_device"):
            assert copies.copy_seconds(direction, 3 << 10, 20 << 10) > 0
        assert device.copied(0, TO_HOST) == device.copied(0, ON_DEVICE) == 21 << 10
        assert device.copied(0, TO_DEVICE) == (10 << 10) + (21 << 10)
        with pytest.raises(ValueError, match="1 to 10240 are possible"):
            copies.copy_seconds("to_host", 11 << 10, 11 << 10)
    assert [device.live(kind) for kind in kinds] == before


@pytest.mark.parametrize(
    "function",
    [
        "cuInit",
        "cuDevicePrimaryCtxRetain",
        "cuMemHostAlloc",
        "cuMemAlloc_v2",
        "cuMemcpyHtoDAsync_v2",
    ],
)
def test_a_failing_driver_is_named_and_nothing_of_it_stays(function: str) -> None:
    device = stand_in("cuda")
    device.reset()
    kinds = (b"stream", b"device_memory", b"pinned_memory", b"context")
    before = [device.live(kind) for kind in kinds]
    device.fail(function.encode(), 1)
    with pytest.raises(RuntimeError, match=f"{function} of libcuda.so.1 returned "):
        driver.Driver(ring_bytes=10 << 10)
    assert [device.live(kind) for kind in kinds] == before


def test_ciphers_and_checksums_alone_are_measured() -> None:
    data = np.arange(1 << 20, dtype=np.uint8)
    assert _core.crc32_seconds(data, 2) > 0
    for opening in (False, True):
        assert _core.cipher_seconds("AES-CBC", bytes(32), 1 << 20, 2, opening) > 0
    with pytest.raises(ValueError, match="num_threads"):
        _core.cipher_seconds("AES-CBC", bytes(32), 1, 0, False)
    with pytest.raises(ValueError, match="num_threads"):
        _core.crc32_seconds(data, 0)
    for strided in (data[::-1], data[::2], np.broadcast_to(np.uint8(0), 1 << 20)):
        with pytest.raises(ValueError, match="contiguous"):
            _core.crc32_seconds(strided, 1)
    with pytest.raises(ValueError, match="16, 24 or 32"):
        _core.cipher_seconds("AES-CBC", bytes(3), 1, 1, False)


def test_memory_is_warmed_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    processors = os.sched_getaffinity(0)
    held = []

    def hold(processor: int, nbytes: int, seconds: float, barrier: threading.Barrier) -> None:
        held.append((processor, nbytes, seconds))
        hold_on(processor, nbytes, 0, barrier)
        assert os.sched_getaffinity(0) == {processor}

    hold_on = measure._hold_on
    monkeypatch.setattr(measure, "_hold_on", hold)
    monkeypatch.setattr(measure, "LITTLE_BYTES", 6 << 20)
    for takes, nbytes, seconds, warmed in (
        (False, 8 << 20, 0, 10 << 20),
        (True, 4 << 20, 0, min(len(processors) * (5 << 20), 6 << 20)),
        (True, 8 << 20, measure.SETTLE_SECONDS, 10 << 20),
    ):
        held.clear()
        monkeypatch.setattr(measure, "_host_takes_memory", lambda takes=takes: takes)
        measure.prepare(nbytes)
        assert {on for on, _, _ in held} == processors
        assert sum(share for _, share, _ in held) == pytest.approx(warmed, abs=len(held))
        assert {waited for _, _, waited in held} == {seconds}
    # What a thread was bound to ends with it.
    assert os.sched_getaffinity(0) == processors


def test_a_processor_that_cannot_warm_memory_ends_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    least = min(os.sched_getaffinity(0))
    real = measure.mmap.mmap

    def refuse(fd: int, nbytes: int, *flags: int) -> mmap.mmap:
        if least not in os.sched_getaffinity(0):
            return real(fd, nbytes, *flags)
        raise OSError(f"no memory for {nbytes}")

    monkeypatch.setattr(measure.mmap, "mmap", refuse)
    with pytest.raises(OSError, match="no memory for"):
        measure.prepare(1 << 20)


@pytest.mark.parametrize(
    ("features", "takes"), [("0110010", True), ("0110000", False), ("011", False), (None, False)]
)
def test_whether_the_host_takes_free_memory(
    features: str | None, takes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "features"
    if features is not None:
        file.write_text(features + "\n")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([file]))
    assert measure._host_takes_memory() is takes


# ---- training loops


def test_a_training_loop_with_every_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    options = "--loop 5 --every 2 --rounds 2 --step-seconds 0 --dir"
    main([*SMALL, *options.split(), str(tmp_path), "--json", str(path)])
    check_loops(json.loads(path.read_text()), ["auto", "lazy", "sync"])
    (of_size,) = json.loads(path.read_text())["sizes"]
    assert (of_size["saves"], of_size["limits"]) == ([], {})
    table = rows(capsys.readouterr().out, "loop")
    assert [row[0] for row in table] == [loop["name"] for loop in of_size["loops"]]


def check_loops(report: dict[str, Any], policies: list[str]) -> None:
    """Of --loop 5 --every 2 --rounds 2."""
    (of_size,) = report["sizes"]
    without, *loops = of_size["loops"]
    assert [loop["name"] for loop in loops] == [f"plain, {policy}" for policy in policies]
    assert (without["name"], without["saves"], without["overheads"]) == ("no saves", 0, [])
    for loop in of_size["loops"]:
        assert [len(steps) for steps in loop["steps"]] == [5, 5]
        assert len(loop["save_seconds"]) == 2 * loop["saves"]
    base = [math.fsum(steps) for steps in without["steps"]]
    for loop in loops:
        assert loop["saves"] == 2
        totals = [math.fsum(steps) for steps in loop["steps"]]
        expected = [total / alone - 1 for total, alone in zip(totals, base, strict=True)]
        assert loop["overheads"] == pytest.approx(expected)


# ---- from a device


@needs_sim
def test_saves_from_a_device_with_every_policy(tmp_path: Path) -> None:
    report_path, trace_path = tmp_path / "report.json", tmp_path / "trace.json"
    options = "--modes plain,gcm --rounds 2 --dir"
    files = ["--json", report_path, "--trace", trace_path]
    printed = run_on_sim(*SMALL, *options.split(), tmp_path, *files)
    report = json.loads(report_path.read_text())
    assert (report["device"]["device"], report["device"]["name"]) == ("sim:0", "sim")
    check_saves(report, rounds=2)
    (of_size,) = report["sizes"]
    taken = {"auto": "device", "device": "device", "host": "host", "lazy": "lazy", "sync": "none"}
    assert [(save["mode"], save["snapshot"]) for save in of_size["saves"]] == [
        (mode, policy) for mode in ("plain", "AES-256-GCM") for policy in taken
    ]
    for save in of_size["saves"]:
        assert save["snapshot_taken"] == taken[save["snapshot"]]
        assert bool(save["snapshot_reason"]) == (save["snapshot"] == "auto")
        limits = {timing["milestone"]: timing["limits"] for timing in save["timings"]}
        if save["snapshot"] != "sync":
            assert limits["blocked"] == []
            copy = "copy on the device" if save["snapshot_taken"] == "device" else None
            assert limits["staged"] == [copy or "pinned copy to the host"]
    assert {"pinned copy to the host", "copy on the device"} < set(of_size["limits"])
    check_trace(json.loads(trace_path.read_text()), ["plain, auto", "AES-256-GCM, auto"])
    assert "device to host" in trace_path.read_text()
    assert "auto took device: " in printed


@needs_sim
def test_a_training_loop_on_a_device(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    options = "--loop 5 --every 2 --rounds 2 --step-seconds 0 --dir"
    run_on_sim(*SMALL, *options.split(), tmp_path, "--json", path)
    check_loops(json.loads(path.read_text()), ["auto", "device", "host", "lazy", "sync"])


@needs_sim
def test_a_device_that_the_backend_lacks_is_refused(tmp_path: Path) -> None:
    for device, reason in (("sim:99", "sim has 2 devices"), ("sim:x", "such as sim:0")):
        done = bench_on_sim("--device", device, "--dir", tmp_path)
        assert done.returncode == 2
        assert f"--device {device}: " in done.stderr
        assert reason in done.stderr


# ---- the picture


@pytest.mark.parametrize("loop", [[], ["--loop", "2", "--every", "1", "--step-seconds", "0"]])
def test_a_picture_is_drawn_or_matplotlib_asked_for(
    loop: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.png"
    options = ["--size", "64KiB", "--modes", "plain", "--rounds", "1", "--plot"]
    arguments = [*options, str(path), "--dir", str(tmp_path), *loop]
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--plot: matplotlib is not installed" in capsys.readouterr().err
        return
    main(arguments)
    assert path.read_bytes().startswith(b"\x89PNG")


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 3", "'3' is no size of 4 bytes or more"),
        ("--size 1XB", "'1XB' is no size"),
        ("--tensor-bytes -5", "--tensor-bytes"),
        ("--modes plain,aes", "'aes' is none of plain, crc, gcm, cbc, sm4"),
        ("--snapshot auto,none", "'none' is none of auto, device, host, lazy, sync"),
        ("--rounds 0", "'0' is no number of 1 or more"),
        ("--loop 5 --every 6", "--every 6: no save in --loop 5"),
        ("--loop 5 --step-seconds nan", "'nan' is no number of seconds"),
        ("--dir /nowhere/at/all", "--dir /nowhere/at/all: no such folder"),
        ("--json /nowhere/report.json", "--json /nowhere/report.json: no such folder"),
        ("--trace /nowhere/trace.json", "--trace /nowhere/trace.json: no such folder"),
        ("--device nothing:0", "there is no backend 'nothing', only cpu, cuda, ascend"),
        ("--device cuda:99", "--device cuda:99: cuda"),
        ("--plugin ./no-such-plugin.so", "--plugin: "),
        ("--size 1000000GiB", "free"),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments.split())
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_too_little_memory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindckpt.bench.__main__.available_memory", lambda: 1 << 29)
    with pytest.raises(SystemExit) as refused:
        main(["--size", "64MiB", "--dir", str(tmp_path)])
    assert refused.value.code == 2
    assert "of host memory, 512 MiB are available" in capsys.readouterr().err


def test_a_mode_that_fails_everywhere_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no SM4 in the libraries of this machine")

    monkeypatch.setattr("mindckpt.bench.cases.save_checkpoint", fail)
    with pytest.raises(SystemExit) as refused:
        main(["--size", "64KiB", "--modes", "sm4", "--dir", str(tmp_path)])
    assert refused.value.code == 1
    assert "error: no SM4 in the libraries" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
