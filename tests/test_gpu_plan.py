"""`make gpu`: its plan, taken whole on the stand-ins, and what becomes of it when time is up.

Oracles: the plan itself, workers of a few lines that hang, die and fail, and arithmetic between
figures. No GPU is needed, and nothing is timed: where a test waits, a clock of its own jumps.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import gpu_plan
import gpu_report
import gpu_room
import gpu_run
import raw_loops
from gpu_machine import Gpu, digest_of
from gpu_plan import Plan, Step
from gpu_results import Results
from gpu_run import Runner
from gpu_worker import Item
from stand_in import FOLDER
from system_packages import SetupError

TOOL = ROOT / "tools" / "gpu.py"
needs_stand_ins = pytest.mark.skipif(
    not (FOLDER / "libcuda.so.1").exists(),
    reason="no stand-ins: `cmake --workflow --preset release` builds them",
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(folder: Path, *options: object) -> list[str]:
    places = ["--state", folder / "state", "--results", folder / "results"]
    return [*map(str, [sys.executable, TOOL, "--dry-run", *places, *options])]


def in_this_environment(**more: str) -> dict[str, str]:
    """CMake and Ninja may be beside the interpreter."""
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", **more}


# ---- the whole plan, on stand-ins


class DryRun:
    """A dry run that was killed in its middle, one that went on, and one that found all done."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results" / "stand-in-gpu-x2" / "results.jsonl"
        self.page = self.path.with_suffix(".md")
        self.scratch = gpu_plan.scratch_prefix(folder / "state" / "dry-run")
        self.shown_before = self._kill_after("write, disk, pwrite x 16: ok", folder)
        self.killed_page = self.page.read_text()
        self.killed = self.path.read_text()
        self.second = self._run(folder)
        self.results = lines_of(self.path)[1:]
        self.third = self._run(folder)

    @staticmethod
    def _kill_after(text: str, folder: Path) -> list[str]:
        """What was shown until `text` was, and the process killed."""
        shown = []
        process = subprocess.Popen(
            command(folder),
            env=in_this_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                shown.append(line)
                if text in line:
                    process.send_signal(signal.SIGKILL)
                    break
        process.wait()
        assert process.returncode == -signal.SIGKILL, "".join(shown)
        return shown

    @staticmethod
    def _run(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(folder, "--seconds", 2000),
            env=in_this_environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> DryRun:
    if not (FOLDER / "libcuda.so.1").exists():
        pytest.skip("no stand-ins: `cmake --workflow --preset release` builds them")
    if importlib.util.find_spec("hypothesis") is None:
        pytest.skip("no hypothesis, which tests/gpu needs")
    return DryRun(tmp_path_factory.mktemp("gpu"))


def planned() -> list[tuple[str, str]]:
    chosen = gpu_plan.plan(Path(), Path(), Path(), 540, dry=True)
    return [(step.name, item.name) for step in chosen.steps for item in step.items]


def test_a_dry_run_takes_every_item_of_the_plan(dry_run: DryRun) -> None:
    assert dry_run.second.returncode == 0, dry_run.second.stdout + dry_run.second.stderr
    found = {(line["step"], line["name"]): line for line in dry_run.results}
    unusual = {key: found.get(key) for key in planned() if found.get(key, {}).get("status") != "ok"}
    # A file system may lack O_DIRECT, a library SM4.
    unavailable = [key for key in unusual if "O_DIRECT" in key[1] or "sm4" in key[1]]
    assert [*unusual] == unavailable
    assert {line["status"] for line in dry_run.results} <= {"ok", "skipped", "unavailable"}


def test_a_dry_run_takes_the_tests_of_a_gpu(dry_run: DryRun) -> None:
    tests = [line for line in dry_run.results if "::" in line["name"]]
    passed = Counter(line["name"].partition("::")[0] for line in tests if line["status"] == "ok")
    assert set(passed) == {f"tests/gpu/test_{name}.py" for name in ("values", "streams", "memory")}
    assert all(line["why"] for line in tests if line["status"] == "skipped")


def test_every_save_is_held_to_the_fastest_limits(dry_run: DryRun) -> None:
    """The page's ratio is that of the file's figures."""
    results = {line["name"]: line for line in dry_run.results}

    def fastest(start: str, key: str = "bytes_per_second") -> float:
        return max(
            line[key]
            for name, line in results.items()
            if name.startswith(start) and line["status"] == "ok"
        )

    page = dry_run.page.read_text()
    rows = [row for row in page.splitlines() if row.startswith(("| plain, ", "| gcm, "))]
    assert len(rows) == 2 * len(gpu_plan.PLACES) * len(gpu_plan.POLICIES)
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        mode, place, policy = cells[0].partition(" (")[0].split(", ")
        save = results[f"{mode}, {place}, {policy}"]
        stages = [
            fastest("copy to host"),
            fastest(f"write, {place}, ", "durable_bytes_per_second"),
        ]
        stages += [fastest("gcm alone")] if mode == "gcm" else []
        stages += [fastest("copy on device")] if save["taken"] == "device" else []
        assert cells[-2] == f"{save['bytes_per_second'] / min(stages):.2f}", row
        assert save["bytes_per_second"] * max(save["times"].values()) == pytest.approx(8 << 20)


def test_a_run_that_was_killed_keeps_what_it_had_found(dry_run: DryRun) -> None:
    shown = [line for line in dry_run.shown_before if ": ok" in line and "] " in line]
    names = [line.partition("]     ")[2].partition(": ok")[0] for line in shown]
    kept = [json.loads(line) for line in dry_run.killed.splitlines()][1:]
    assert len(names) > 20
    assert [line["name"] for line in kept][: len(names)] == names
    assert kept[0]["name"] == "raw loops"
    # Its page is one of before, and whole.
    assert "copies of the driver" in dry_run.killed_page


def test_a_second_run_goes_on_with_what_is_left(dry_run: DryRun) -> None:
    kept = [json.loads(line) for line in dry_run.killed.splitlines()][1:]
    before = {line["name"]: line["time"] for line in kept if line["step"] != "build"}
    after = {line["name"]: line["time"] for line in dry_run.results}
    assert before.items() <= after.items()
    assert not any(f"{name} ..." in dry_run.second.stdout for name in before)


def test_a_third_run_finds_all_done(dry_run: DryRun) -> None:
    assert dry_run.third.returncode == 0, dry_run.third.stdout
    assert "bench: 0 of 60 items left" in dry_run.third.stdout
    started = [line for line in dry_run.third.stdout.splitlines() if line.endswith(" ...")]
    assert [line.partition("]     ")[2] for line in started] == ["raw loops ..."]


def test_nothing_is_left_in_memory_or_on_disk(dry_run: DryRun) -> None:
    """Of these runs: others may be under way."""
    for folder in (Path("/dev/shm"), ROOT / "build" / "gpu"):
        assert [*folder.glob(f"{dry_run.scratch}*")] == []


@needs_stand_ins
def test_without_a_gpu_it_says_so_and_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path),
        env=in_this_environment(MINDCKPT_STAND_IN_INIT_ERROR="100"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mindckpt gpu: no CUDA GPU here: cuInit of ")
    assert done.stderr.endswith("returned 100\n")


def test_without_a_driver_there_is_no_gpu() -> None:
    with pytest.raises(SetupError, match=r"no CUDA GPU here: libno-such-driver\.so\.1: "):
        Gpu.find("libno-such-driver.so.1")


# ---- time that is up, and processes that hang and die

WORKER = """
import os, sys, time
sys.path.insert(0, {tools!r})
from gpu_worker import UnavailableError, Worker

def take(item):
    name = item.name.split()[0]
    if name == "sleeps":
        time.sleep(3600)
    if name == "dies":
        os.abort()
    if name == "fails":
        raise AssertionError("other values")
    if name == "lacks":
        raise UnavailableError("no such thing here")
    print(f"printed by {{item.name}}")
    return {{"bytes_per_second": 5.0}}

Worker().run(take)
"""


class Clock:
    """A clock that jumps when it is told."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic_now = time.monotonic

    def monotonic(self) -> float:
        return self.monotonic_now() + self.ahead


class Harness:
    """A runner of steps whose worker is a few lines."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.worker = folder / "worker.py"
        self.worker.write_text(WORKER.format(tools=str(ROOT / "tools")))
        self.clock = Clock()
        monkeypatch.setattr(gpu_run.time, "monotonic", self.clock.monotonic)
        self.jumps: dict[str, float] = {}

    def step(self, name: str, *items: str, seconds: float = 1000, **more: Any) -> Step:
        made = tuple(Item(item, 0.1) for item in items)
        step = Step(name, seconds, str(self.worker), made, ("csrc/base",), 500)
        return Step(**{**vars(step), **more})

    def run(self, *steps: Step, anew: bool = False) -> dict[str, dict[str, Any]]:
        """Name -> the result; a jump is made when its text was shown."""
        chosen = Plan(steps, 1000, Path(sys.executable), {}, "")
        results = Results(
            self.folder / "state.jsonl", self.folder, chosen, lambda found: "", anew=anew
        )
        results.begin({})
        harness = self

        class Watched(Runner):
            def _show(self, data: bytes) -> None:
                super()._show(data)
                for text, seconds in [*harness.jumps.items()]:
                    if text in data.decode():
                        harness.clock.ahead += seconds
                        del harness.jumps[text]

        with (self.folder / "log.txt").open("wb") as log:
            Watched(chosen, results, log, self.clock.monotonic()).run()
        on_storage = [line for line in lines_of(self.folder / "results.jsonl") if "name" in line]
        assert {line["name"]: line for line in on_storage} == {
            line["name"]: line for line in results.lines.values()
        }
        return {line["name"]: line for line in results.lines.values()}


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(tmp_path, monkeypatch)


def statuses(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: line["status"] for name, line in found.items()}


def test_a_step_that_overruns_is_cut_and_named_and_the_next_is_taken(harness: Harness) -> None:
    harness.jumps["sleeps long ..."] = 450
    found = harness.run(
        harness.step("first", "one", "sleeps long", "two", seconds=400),
        harness.step("second", "three", seconds=400),
    )
    assert statuses(found) == {
        "one": "ok",
        "sleeps long": "cut",
        "two": "left out",
        "three": "ok",
    }
    assert (found["sleeps long"]["why"], found["two"]["why"]) == (
        "the time was up",
        "the step was cut before",
    )
    assert b"first: its time was up: cut" in (harness.folder / "log.txt").read_bytes()


def test_what_was_cut_is_the_last_of_the_next_run(harness: Harness) -> None:
    harness.jumps["sleeps long ..."] = 450
    harness.run(harness.step("first", "one", "sleeps long", "two", seconds=400))
    harness.jumps["sleeps long ..."] = 450
    found = harness.run(harness.step("first", "one", "sleeps long", "two", seconds=400))
    assert statuses(found) == {"one": "ok", "two": "ok", "sleeps long": "cut"}


def test_a_step_goes_on_in_the_time_that_others_left(harness: Harness) -> None:
    """Each has 400 s; the second takes 700."""
    harness.jumps["three ..."] = 700
    found = harness.run(
        harness.step("first", "one", seconds=400),
        harness.step("second", "two", "three", "four", seconds=400),
    )
    assert statuses(found) == dict.fromkeys(["one", "two", "three", "four"], "ok")


def test_without_time_everything_is_left_out_by_name(harness: Harness) -> None:
    harness.jumps["one: ok"] = 900
    found = harness.run(
        harness.step("first", "one", "sleeps", seconds=400),
        harness.step("second", "three", "four", seconds=400),
    )
    assert statuses(found)["one"] == "ok"
    assert {statuses(found)[name] for name in ("three", "four")} == {"left out"}


def test_an_item_that_hangs_is_killed_and_the_next_is_taken(harness: Harness) -> None:
    harness.jumps["sleeps ..."] = 501
    found = harness.run(harness.step("first", "one", "sleeps", "two"))
    assert statuses(found) == {"one": "ok", "sleeps": "hung", "two": "ok"}
    assert found["sleeps"]["why"] == "nothing came for 500 s: killed"
    assert harness.run(harness.step("first", "one", "sleeps", "two")) == found, "it is done"


def test_a_process_that_dies_fails_its_item_and_the_next_is_taken(harness: Harness) -> None:
    found = harness.run(harness.step("first", "one", "dies", "two", "fails", "lacks", "three"))
    assert statuses(found) == {
        "one": "ok",
        "dies": "failed",
        "two": "ok",
        "fails": "failed",
        "lacks": "unavailable",
        "three": "ok",
    }
    assert found["dies"]["why"] == "the process was ended by signal 6"
    assert (found["fails"]["why"], found["lacks"]["why"]) == ("other values", "no such thing here")
    assert b"printed by three" in (harness.folder / "log.txt").read_bytes()


def test_a_worker_that_cannot_begin_is_a_failure_of_its_step(harness: Harness) -> None:
    found = harness.run(
        harness.step("first", "one", worker="no_such_worker.py"), harness.step("second", "two")
    )
    assert statuses(found) == {"first": "failed", "one": "left out", "two": "ok"}


def test_without_a_build_the_rest_is_left(harness: Harness) -> None:
    """Unless only what is not needed failed."""
    for needed, status in ((True, "left out"), (False, "ok")):
        items = (Item("fails", 0.1, {}, needed),)
        build = harness.step("build", items=items, is_build=True)
        found = harness.run(build, harness.step("second", "two"), anew=True)
        assert statuses(found) == {"fails": "failed", "two": status}
        assert found["two"].get("why") == ("the build failed" if needed else None)


def test_results_of_other_sources_and_half_a_line_are_forgotten(harness: Harness) -> None:
    step = harness.step("first", "one", "two")
    first = harness.run(step)
    state = harness.folder / "state.jsonl"
    stale = {**first["two"], "sources": "0" * 12, "bytes_per_second": 1.0}
    state.write_text(f"{json.dumps(first['one'])}\n{json.dumps(stale)}\n" + '{"step": "fir')
    found = harness.run(step)
    assert found["one"] == first["one"]
    assert found["two"]["bytes_per_second"] == 5.0
    assert harness.run(step, anew=True).keys() == first.keys()


def test_what_no_time_is_expected_for_is_not_begun(harness: Harness) -> None:
    long = Item("long", 900, {"kind": "of its own"})
    step = harness.step("first", "one", seconds=400)
    found = harness.run(Step(**{**vars(step), "items": (*step.items, long, Item("two", 0.1))}))
    assert statuses(found) == {"one": "ok", "long": "left out", "two": "ok"}
    assert found["long"]["why"].startswith("takes about ")


TESTS = """
import os, time
import pytest

def test_passes(): pass
def test_fails(): assert 2 + 2 == 5
@pytest.mark.skip(reason="there is one device")
def test_is_skipped(): pass
def test_dies(): os.abort()
def test_sleeps(): time.sleep(3600)
@pytest.fixture
def broken(): raise OSError("no such folder")
def test_has_no_fixture(broken): pass
def test_passes_too(): pass
"""


def test_each_test_is_told_of_and_none_takes_the_others_along(harness: Harness) -> None:
    path = harness.folder / "test_some.py"
    path.write_text(TESTS)
    (harness.folder / "test_broken.py").write_text("import no_such_module\n")
    harness.jumps["test_sleeps ..."] = 501
    items = tuple(
        Item(name, 1, {"path": str(harness.folder / name)})
        for name in ("test_some.py", "test_broken.py")
    )
    found = harness.run(harness.step("tests", worker="gpu_tests.py", items=items))
    told = {name.rpartition("::")[2]: line for name, line in found.items()}
    assert statuses(told) == {
        "test_passes": "ok",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
        "test_dies": "failed",
        "test_sleeps": "hung",
        "test_has_no_fixture": "failed",
        "test_passes_too": "ok",
        "test_some.py": "ok",
        "test_broken.py": "failed",
    }
    assert "assert (2 + 2) == 5" in told["test_fails"]["why"]
    assert "there is one device" in told["test_is_skipped"]["why"]
    assert told["test_dies"]["why"] == "the process was ended by signal 6"
    assert "no such folder" in told["test_has_no_fixture"]["why"]
    assert "no_such_module" in told["test_broken.py"]["why"]


# ---- the plan


def test_the_plan_fits_into_nine_minutes_with_the_build_in_two() -> None:
    chosen = gpu_plan.plan(Path(), Path(), Path(), gpu_plan.TOTAL_SECONDS, dry=False)
    assert [step.name for step in chosen.steps] == ["build", "limits", "tests", "bench"]
    assert sum(step.seconds for step in chosen.steps) <= 540 - 10
    assert chosen.steps[0].expected <= chosen.steps[0].seconds <= 120
    names = [(step.name, item.name) for step in chosen.steps for item in step.items]
    assert len(names) == len(set(names))


def test_the_printed_plan_names_every_item_with_its_time() -> None:
    chosen = gpu_plan.plan(Path(), Path(), Path(), 540, dry=False)
    told = gpu_plan.told(chosen, ["limits: gcm alone"])
    for step in chosen.steps:
        for item in step.items:
            listed = f" {item.seconds:.1f} s  {item.name}\n" in told + "\n"
            assert listed == (item.name != "gcm alone"), item.name


def test_all_sizes_ways_and_modes_are_planned() -> None:
    chosen = gpu_plan.plan(Path(), Path(), Path(), 540, dry=False)
    _, limits, _, bench = chosen.steps
    copies = {
        (item.options["direction"], item.options["chunk_bytes"] >> 20)
        for item in limits.items
        if item.options["kind"] == "copy"
    }
    chunks = (1, 4, 16, 64, 256)
    assert {(way, chunk) for way in ("to_host", "to_device") for chunk in chunks} <= copies
    files = {
        tuple(item.options[key] for key in ("kind", "place", "way", "threads", "nbytes"))
        for item in limits.items
        if item.options["kind"] in ("write", "read")
    }
    assert files == {
        (kind, place, way, threads, 8 << 30)
        for kind in ("write", "read")
        for place in ("tmpfs", "disk")
        for way in ("pwrite", "mapping", "O_DIRECT")
        for threads in (1, 4, 16)
    }
    saves = {
        tuple(item.options[key] for key in ("mode", "place", "policy", "nbytes"))
        for item in bench.items
        if item.options["kind"] == "save"
    }
    assert saves == {
        (mode, place, policy, 8 << 30)
        for mode in ("plain", "gcm", "cbc", "sm4")
        for place in ("tmpfs", "disk")
        for policy in ("sync", "device", "host", "lazy", "auto")
    }


def test_every_file_of_tests_for_a_gpu_is_planned() -> None:
    files = {path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert files == set(gpu_plan.TESTS)


def test_sources_decide_what_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_machine.ROOT", tmp_path)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cc").write_text("int a;\n")
    before = digest_of(["csrc"])
    (tmp_path / "csrc" / "notes").write_text("none of the sources\n")
    assert digest_of(["csrc"]) == before
    (tmp_path / "csrc" / "a.cc").write_text("int b;\n")
    assert digest_of(["csrc"]) != before


# ---- room, and limits


@pytest.mark.parametrize(
    ("place", "memory_gib", "free_gib", "gib"),
    [
        ("disk", 128, 64, 8),
        ("disk", 128, 8.2, 4),
        ("disk", 20, 64, 4),
        ("tmpfs", 36, 64, 4),
        ("tmpfs", 37, 64, 8),
        ("disk", 128, 0.53, 0.5),
        ("disk", 128, 0.5, None),
        ("tmpfs", 2, 64, None),
    ],
)
def test_a_size_is_halved_until_there_is_room(
    place: str,
    memory_gib: float,
    free_gib: float,
    gib: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file in memory takes 1.05 times its size of it beside 3.5 times."""

    class Usage:
        free = int(free_gib * 2**30)

    monkeypatch.setattr(gpu_room, "available_memory", lambda: int(memory_gib * 2**30))
    monkeypatch.setattr(gpu_room.shutil, "disk_usage", lambda folder: Usage)
    monkeypatch.setattr(gpu_room, "file_system", lambda folder: "ext2/ext3")
    found = gpu_room.fitting(8 << 30, tmp_path, place, 3.5)
    if gib is None:
        assert isinstance(found, str)
        assert f"{memory_gib:.3g} and {free_gib:.3g} are there" in found
    else:
        assert found == gib * 2**30


def test_a_disk_is_none_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_room, "file_system", lambda folder: "tmpfs")
    assert "name a folder on a disk by --disk" in str(gpu_room.fitting(1, tmp_path, "disk", 1))
    assert "there is no" in str(gpu_room.fitting(1, tmp_path / "no", "disk", 1))


def test_the_limit_is_the_slowest_stage_by_its_fastest_loop() -> None:
    def line(**speeds: float) -> dict[str, Any]:
        return {"status": "ok", **speeds}

    limits = {
        "copy to host, 1 MiB": line(bytes_per_second=20.0),
        "copy to host, 64 MiB": line(bytes_per_second=50.0),
        "copy on device, 64 MiB": line(bytes_per_second=15.0),
        "gcm alone": line(bytes_per_second=30.0),
        "write, tmpfs, pwrite x 1": line(bytes_per_second=3.0, durable_bytes_per_second=3.0),
        "write, tmpfs, mapping x 16": line(bytes_per_second=40.0, durable_bytes_per_second=40.0),
        "write, tmpfs, O_DIRECT x 16": {"status": "unavailable", "why": "Invalid argument"},
        "write, disk, pwrite x 1": line(bytes_per_second=90.0, durable_bytes_per_second=2.0),
        "write, disk, O_DIRECT x 4": line(bytes_per_second=9.0, durable_bytes_per_second=8.0),
    }

    def name(mode: str, place: str, taken: str) -> str:
        limit = gpu_report.limit_of_save(limits, mode, place, taken)
        assert limit is not None
        return limit.name

    assert name("plain", "tmpfs", "none") == "write, tmpfs, mapping x 16"
    assert name("gcm", "tmpfs", "host") == "gcm alone"
    assert name("gcm", "tmpfs", "device") == "copy on device, 64 MiB"
    assert name("gcm", "disk", "lazy") == "write, disk, O_DIRECT x 4"
    assert gpu_report.limit_of_save(limits, "cbc", "disk", "none") is None


WAYS: dict[str, Callable[[], raw_loops.Write]] = {
    "pwrite": lambda: raw_loops.Write(0),
    "fallocated": lambda: raw_loops.Write.FALLOCATE | raw_loops.Write.FDATASYNC,
    "mapping": lambda: raw_loops.Write.MAPPED | raw_loops.Write.FDATASYNC,
    "O_DIRECT": lambda: raw_loops.Write.DIRECT,
    "O_DIRECT without a copy": lambda: raw_loops.Write.DIRECT | raw_loops.Write.WITHOUT_COPY,
}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_the_raw_loops_write_and_read_every_byte(
    way: str, threads: int, dry_run: DryRun, tmp_path: Path
) -> None:
    """Eleven pieces and a part of one, at the buffers' alignment."""
    nbytes = (44 << 20) + 4096
    whole = np.random.default_rng(threads).integers(0, 256, nbytes + 8192, np.uint8)
    begin = -whole.ctypes.data % 4096
    data = whole[begin : begin + nbytes]
    path, how = tmp_path / "raw", WAYS[way]()
    try:
        written, durable = raw_loops.write_and_sync(path, data, how, threads)
    except OSError as error:
        assert how & raw_loops.Write.DIRECT, error
        pytest.skip(f"no O_DIRECT in {tmp_path}")
    assert 0 < written <= durable
    assert path.read_bytes() == data.tobytes()
    to = np.zeros(nbytes + 8192, np.uint8)
    to = to[-to.ctypes.data % 4096 :][:nbytes]
    reading = how & (raw_loops.Write.DIRECT | raw_loops.Write.MAPPED)
    seconds = raw_loops.read(path, nbytes, raw_loops.Memory.RESIDENT, to, reading, threads)
    assert seconds > 0
    assert np.array_equal(to, data)


def test_raw_loops_that_make_no_sense_are_refused(dry_run: DryRun, tmp_path: Path) -> None:
    data = np.zeros(4096, np.uint8)
    for how, threads in (
        (raw_loops.Write.MAPPED | raw_loops.Write.DIRECT, 1),
        (raw_loops.Write.SYNC_FILE_RANGE, 2),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            raw_loops.write(tmp_path / "raw", data, how, threads)
    assert not (tmp_path / "raw").exists()
