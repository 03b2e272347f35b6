"""Builds mindckpt on a machine with a CUDA GPU, tests it there and measures it: `make gpu`.

    python3 tools/gpu.py                                  # everything
    python3 tools/gpu.py --step build                     # one step: within ten minutes
    python3 tools/gpu.py --step bench-large               # again: goes on where the time was up
    python3 tools/gpu.py --collect --for-python 3.12      # before, on a machine with a network

Nothing is fetched: packages and headers are those of the machine, and what it lacks is taken from
the folder that --collect filled. The environment, .venv-gpu, sees the packages of the Python that
runs this, so that its CuPy, torch and JAX are what is tested.

Results are kept in build/gpu from step to step, and written to benchmarks/results after each.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import system_packages
from bootstrap import ROOT, Environment, Interpreter
from system_packages import SetupError

GIB = 1 << 30
# What a step may take, so that a command of one step ends within ten minutes.
STEP_SECONDS = {"build": 400, "test": 540, "bench-small": 560, "bench-large": 560}
# A transfer of the folder of --collect, beside the checkout, is to stay small.
CARRY_BYTES = 64 << 20

_STATE = ROOT / "build" / "gpu"
_TEST_REQUIREMENTS = ("pytest>=9,<10", "hypothesis>=6.100,<7")
# NumPy and CMake are large, and are there where CuPy, torch or JAX and a compiler are.
_WHEELS = (
    "scikit-build-core>=0.11",
    "pybind11>=3.0",
    "ninja",
    "ml_dtypes>=0.5",
    *_TEST_REQUIREMENTS,
)
_NOT_CARRIED = ("numpy-*.whl",)
_GLIBCS = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34")
_LIBRARIES = ("libcrypto.so.3", "libz.so.1")

# What the bench takes of host memory, in payloads: its payload, a pinned copy, what it warms. A
# file in /dev/shm takes as much again.
_MEMORY_FACTOR = 3.25
_DISK_FACTOR = 1.05


@dataclass(frozen=True)
class Gpu:
    """The CUDA devices, as their driver tells.

    Attributes:
        name: Of the first one.
        count: How many there are.
        memory: Bytes of the first one.
        driver: Its version; only the CUDA version where nvidia-smi is not there to tell more.
    """

    name: str
    count: int
    memory: int
    driver: str

    @staticmethod
    def find() -> Gpu:
        """Asks the driver, and nothing that would have to be installed.

        Raises:
            SetupError: There is no GPU that could be used.
        """
        try:
            cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise SetupError(f"no CUDA GPU here: {error}") from None
        number, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("cuInit", (0,)),
            ("cuDriverGetVersion", (ctypes.byref(version),)),
            ("cuDeviceGetCount", (ctypes.byref(number),)),
            ("cuDeviceGetName", (name, len(name), 0)),
            ("cuDeviceTotalMem_v2", (ctypes.byref(memory), 0)),
        ]
        for function, arguments in calls:
            status = getattr(cuda, function)(*arguments)
            if status != 0:
                raise SetupError(f"no CUDA GPU here: {function} of libcuda.so.1 returned {status}")
        told = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        if told:
            driver = f"{told.splitlines()[0]} ({driver})"
        return Gpu(name.value.decode(), number.value, memory.value, driver)

    @property
    def file_name(self) -> str:
        """'nvidia-h100-80gb-hbm3'."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return slug if self.count == 1 else f"{slug}-x{self.count}"


# ---- before: on a machine with a network


def collect(carry: Path, versions: Sequence[str]) -> None:
    """Fills the folder with wheels, and with the headers and libraries of this system.

    Args:
        carry: The folder; whatever was in it goes.
        versions: Pythons that the wheels are for, such as '3.12'.

    Raises:
        SetupError: pip failed, something is not here, or it is too much to carry.
    """
    needs = [n for n in system_packages.missing() if "headers" in n.what]
    if needs:
        raise SetupError(f"to collect them, install {', '.join(n.packages[0] for n in needs)}")
    if carry.exists() and not (carry / "wheels").is_dir() and any(carry.iterdir()):
        raise SetupError(f"--carry {carry}: a folder with something else in it")
    shutil.rmtree(carry, ignore_errors=True)
    wheels, include, library = carry / "wheels", carry / "include", carry / "lib"
    for folder in (wheels, include, library):
        folder.mkdir(parents=True)
    machine = platform.machine()
    platforms = [f"manylinux_{glibc}_{machine}" for glibc in _GLIBCS]
    for version in versions:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
        command += [f"--platform={name}" for name in [*platforms, f"manylinux2014_{machine}"]]
        command += ["--quiet", f"--dest={wheels}", *_WHEELS]
        print(f"+ pip download for Python {version}", flush=True)
        if subprocess.run(command).returncode != 0:
            raise SetupError("pip download failed: see its output above")
    for pattern in _NOT_CARRIED:
        for wheel in wheels.glob(pattern):
            wheel.unlink()
    system = Path("/usr/include")
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or f"{machine}-linux-gnu")
    shutil.copytree(system / "openssl", include / "openssl")
    for header in (system / multiarch / "openssl").glob("*.h"):
        shutil.copy(header, include / "openssl")
    for name in ("zlib.h", "zconf.h"):
        found = [folder / name for folder in (system, system / multiarch)]
        shutil.copy(next(path for path in found if path.is_file()), include)
    for name in _LIBRARIES:
        path = _library(name, multiarch)
        # Under both names, as no links: not every transfer keeps them.
        shutil.copy(path, library / name)
        shutil.copy(path, library / name[: name.index(".so") + 3])
    (carry / "commit").write_text(_output("git", "describe", "--always", "--dirty=+") + "\n")
    nbytes = sum(path.stat().st_size for path in carry.rglob("*") if path.is_file())
    print(f"{carry}: {nbytes / (1 << 20):.1f} MiB, for Python {', '.join(versions)}")
    if nbytes > CARRY_BYTES:
        raise SetupError(f"more than {CARRY_BYTES >> 20} MiB: collect for fewer Pythons")


def _library(name: str, multiarch: str) -> Path:
    for folder in (f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/lib64", "/usr/lib"):
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise SetupError(f"no {name} here to collect")


# ---- build


class GpuEnvironment(Environment):
    """.venv-gpu: sees the packages of the Python that runs this; is given no network."""

    venv_options = ("--system-site-packages", "--without-pip")

    def __init__(self, carry: Path) -> None:
        super().__init__(ROOT / ".venv-gpu", Interpreter.describe(sys.executable))
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
        own = Path(_output(str(self.python), "-c", query))
        if str(own) not in outer:
            (own / "outer.pth").write_text("\n".join(dict.fromkeys(outer)) + "\n")
        if subprocess.run([self.python, "-c", "import pip"], capture_output=True).returncode == 0:
            return
        bootstrap: list[str | Path] = [self.python, "-m", "ensurepip"]
        if subprocess.run(bootstrap, stdout=subprocess.DEVNULL).returncode != 0:
            raise SetupError(f"{sys.executable} has neither pip nor ensurepip")


def build(carry: Path) -> None:
    """Makes .venv-gpu with the package and what its tests need.

    Args:
        carry: The folder that --collect filled; need not be there.

    Raises:
        SetupError: Something lacks, here and there, or the build failed.
    """
    if (carry / "include").is_dir() and system_packages.missing():
        os.environ["CMAKE_PREFIX_PATH"] = str(carry)
        if not all(_is_loadable(name) for name in _LIBRARIES):
            os.environ["SKBUILD_CMAKE_ARGS"] = f"-DCMAKE_INSTALL_RPATH={carry / 'lib'}"
    needs = system_packages.missing()
    if needs:
        lacks = ", ".join(need.what for need in needs)
        raise SetupError(
            f"missing here, and not in {carry}: {lacks}; run `python3 tools/gpu.py --collect` on a "
            "machine with a network, and carry that folder along"
        )
    environment = GpuEnvironment(carry)
    environment.create()
    environment.install_project([])
    environment.install_requirements(_TEST_REQUIREMENTS)


def _is_loadable(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


# ---- test and measure


class Limit:
    """The time that a step has left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; 0 when there are none."""
        return max(0.0, self._end - time.monotonic())

    def run(self, command: Sequence[str | Path], capture: bool = False) -> tuple[int | None, str]:
        """Runs a command, and ends it with all that it started when the time is up.

        Args:
            command: What to run, in the root of the checkout.
            capture: Whether its stderr is returned instead of shown.

        Returns:
            Its exit status, None when the time was up; and its stderr.
        """
        print("+", *command, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE if capture else None,
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=self.left())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, errors or ""


def test(limit: Limit) -> dict[str, Any]:
    """Runs tests/gpu; what it returns says how many passed, and which did not."""
    xml = _STATE / "tests.xml"
    xml.unlink(missing_ok=True)
    # Without the conftest.py of tests, which puts the stand-ins in the place of the drivers.
    command: list[str | Path] = [_python(), "-m", "pytest", "--confcutdir=tests/gpu"]
    status, _ = limit.run([*command, f"--junitxml={xml}", "tests/gpu"])
    summary: dict[str, Any] = {"passed": status == 0}
    if status is None:
        summary["error"] = "the time was up"
    elif xml.exists():
        # Of our own pytest, and so simple that no parser is needed.
        counts = dict(re.findall(r'\b(tests|failures|errors|skipped)="(\d+)"', xml.read_text()))
        summary |= {name: int(count) for name, count in counts.items()}
    return summary


@dataclass(frozen=True)
class Run:
    """One run of the bench: a mode and a size, to one place.

    Attributes:
        mode: As `python -m mindckpt.bench` calls it.
        gib: The payload.
        place: 'tmpfs' or 'disk'.
        rounds: Samples of everything.
    """

    mode: str
    gib: int
    place: str
    rounds: int

    @property
    def name(self) -> str:
        """'gcm, 8 GiB, tmpfs'."""
        return f"{self.mode}, {self.gib} GiB, {self.place}"

    @property
    def snapshots(self) -> list[str]:
        """All policies; two where a save takes so long that all would take more than minutes."""
        if self.gib > 8 or self.mode in ("cbc", "sm4"):
            return ["lazy", "sync"]
        return ["auto", "device", "host", "lazy", "sync"]

    @property
    def work(self) -> int:
        """GiB saved in all; each case is checked by one more save beforehand."""
        return self.gib * len(self.snapshots) * (self.rounds + 1)


def planned(step: str) -> list[Run]:
    """What a step runs, the most telling first."""
    sizes = [(1, 3)] if step == "bench-small" else [(8, 2), (32, 1)]
    plan = []
    for modes in (("plain", "gcm"), ("crc", "cbc", "sm4")):
        for gib, rounds in sizes:
            for mode in modes:
                samples = 1 if mode in ("cbc", "sm4") else rounds
                plan += [Run(mode, gib, place, samples) for place in ("tmpfs", "disk")]
    return plan


def bench(step: str, limit: Limit, disk: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """Runs what is planned, and was not run before, as far as memory, space and time suffice.

    Args:
        step: 'bench-small' or 'bench-large'.
        limit: Of all runs together.
        disk: A folder on a disk.
        earlier: The runs of the same sources, whose times tell how long larger ones take.

    Returns:
        Under 'runs' each run's JSON of the bench and its seconds, under 'left_out' the reasons.
    """
    places = {"tmpfs": Path("/dev/shm"), "disk": disk}
    plan = planned(step)
    runs = {run.name: earlier[run.name] for run in plan if run.name in earlier}
    left_out: dict[str, str] = {}
    passed = True
    for run in plan:
        if run.name in runs:
            continue
        folder = places[run.place]
        why = _too_little(run, folder) or _too_long(run, limit.left(), {**earlier, **runs})
        if not why:
            out = _STATE / "bench.json"
            out.unlink(missing_ok=True)
            command: list[str | Path] = [_python(), "-m", "mindckpt.bench", "--device", "cuda:0"]
            command += ["--size", f"{run.gib}GiB", "--modes", run.mode, "--dir", folder]
            command += ["--snapshot", ",".join(run.snapshots), "--rounds", str(run.rounds)]
            begin = time.monotonic()
            status, errors = limit.run([*command, "--json", out], capture=True)
            seconds = time.monotonic() - begin
            if status == 0:
                result = json.loads(out.read_text())
                runs[run.name] = {"work": run.work, "seconds": round(seconds, 1), "result": result}
            elif status is None:
                why = f"the time was up after {seconds:.0f} s"
                _remove_leftovers(folder)
            else:
                why = (errors.strip().splitlines() or [f"exit status {status}"])[-1]
                passed &= status == 2  # the bench itself found too little of something
        if why:
            print(f"left out: {run.name}: {why}", flush=True)
            left_out[run.name] = why
    return {"passed": passed, "runs": runs, "left_out": left_out}


def _too_little(run: Run, folder: Path) -> str:
    """Why the memory or the space is too little for a run; '' where it is enough."""
    if not folder.is_dir():
        return f"there is no {folder}"
    if run.place == "disk" and _file_system(folder) in ("tmpfs", "ramfs"):
        return f"{folder} is in memory: name a folder on a disk by --disk"
    nbytes = run.gib * GIB
    memory = int((_MEMORY_FACTOR + (_DISK_FACTOR if run.place == "tmpfs" else 0)) * nbytes)
    available = _available_memory()
    if available < memory:
        return f"takes {memory / GIB:.1f} GiB of memory, {available / GIB:.1f} are available"
    free = shutil.disk_usage(folder).free
    if free < _DISK_FACTOR * nbytes:
        return f"takes {_DISK_FACTOR * run.gib:.1f} GiB in {folder}, {free / GIB:.1f} are free"
    return ""


def _too_long(run: Run, left: float, earlier: dict[str, Any]) -> str:
    """Why there is no time for a run, by what the same took with less; '' where there may be."""
    same = [name for name in earlier if name.startswith(f"{run.mode},") and run.place in name]
    if not same:
        return "" if left > 10 else "no time is left"
    known = earlier[same[-1]]
    seconds = known["seconds"] * run.work / known["work"]
    return "" if seconds < left else f"takes about {seconds:.0f} s, {left:.0f} are left"


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob("mindckpt-bench-*"):
        shutil.rmtree(path, ignore_errors=True)


def _file_system(folder: Path) -> str:
    return _output("stat", "--file-system", "--format=%T", str(folder))


def _available_memory() -> int:
    """Bytes that can be had without swapping, as the kernel and the control group say."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    available = int(found[1]) << 10 if found else 0
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # ValueError for "max"
        return min(available, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return available


def _python() -> Path:
    python = ROOT / ".venv-gpu" / "bin" / "python"
    if not python.exists():
        raise SetupError("there is no .venv-gpu yet: `python3 tools/gpu.py --step build` makes it")
    return python


# ---- results


class Results:
    """What was found on this machine, kept from step to step.

    Attributes:
        content: As it is written: facts, and under 'steps' what each step returned.
    """

    def __init__(self, gpu: Gpu, carry: Path) -> None:
        self._gpu = gpu
        self._path = _STATE / f"{gpu.file_name}.json"
        try:
            self.content: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            self.content = {"steps": {}}
        self.content["gpu"] = {
            "name": gpu.name,
            "count": gpu.count,
            "memory_gib": round(gpu.memory / GIB, 1),
            "driver": gpu.driver,
        }
        self.content["machine"] = {
            "processor": f"{_processor()} x {len(os.sched_getaffinity(0))}",
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB),
            "kernel": platform.release(),
        }
        self._source = {"commit": _commit(carry), "sources": _digest_of("csrc", "mindckpt")}

    @property
    def runs(self) -> dict[str, Any]:
        """The bench's runs of these sources, of all steps."""
        sources = self._source["sources"]
        steps = [s for s in self.content["steps"].values() if s["sources"] == sources]
        return {name: run for step in steps for name, run in step.get("runs", {}).items()}

    def add(self, step: str, found: dict[str, Any]) -> None:
        """Keeps what a step found, with the commit and the versions that it ran with."""
        self.content["versions"] = _versions()
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.content["steps"][step] = {**self._source, "time": now, **found}
        self._path.write_text(json.dumps(self.content, indent=1) + "\n")

    def write(self, folder: Path) -> None:
        """Writes them as JSON and as Markdown, named after the GPU."""
        folder.mkdir(parents=True, exist_ok=True)
        json_path = folder / f"{self._gpu.file_name}.json"
        json_path.write_text(json.dumps(self.content, indent=1) + "\n")
        json_path.with_suffix(".md").write_text(self._markdown())
        print(f"written: {json_path} and .md")

    def _markdown(self) -> str:
        content = self.content
        gpu, machine = content["gpu"], content["machine"]
        lines = [
            f"# {gpu['name']}",
            "",
            f"{gpu['count']} x {gpu['memory_gib']} GiB, driver {gpu['driver']}; "
            f"{machine['processor']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}.",
            ", ".join(f"{name} {version}" for name, version in content["versions"].items()) + ".",
            "",
            "Written by `make gpu`. Times are medians; a ratio is to the slowest of the raw limits",
            "on the way, measured in the same rounds.",
        ]
        for name, step in content["steps"].items():
            lines += [
                "",
                f"## {name}: commit {step['commit']}, sources {step['sources']}, {step['time']}",
                "",
            ]
            if name == "test":
                counts = [key for key in ("tests", "failures", "errors", "skipped") if key in step]
                told = [f"{step[key]} {key}" for key in counts]
                lines.append(", ".join(told) or step.get("error", "pytest failed"))
            if step.get("runs"):
                lines += _bench_table(step["runs"])
            if step.get("left_out"):
                lines += ["", "Left out:", ""]
                lines += [f"- {run}: {why}" for run, why in step["left_out"].items()]
        return "\n".join(lines) + "\n"


def _bench_table(runs: dict[str, Any]) -> list[str]:
    milestones = ("blocked", "staged", "written", "durable")
    lines = [f"| | rounds | {' | '.join(f'{name} ms' for name in milestones)} | GB/s | ratio |"]
    lines.append("|---" + "|---:" * 7 + "|")
    for name, run in runs.items():
        result = run["result"]
        for save in result["sizes"][0]["saves"]:
            timings = {timing["milestone"]: timing for timing in save["timings"]}
            last = save["timings"][-1]
            cells = [
                f"{1000 * timings[m]['median']:.1f}" if m in timings else "" for m in milestones
            ]
            taken = save["snapshot_taken"]
            picked = f" ({taken})" if save["snapshot"] == "auto" else ""
            cells.append(f"{last['bytes_per_second'] / 1e9:.2f}")
            cells.append("" if last["ratio"] is None else f"{last['ratio']:.2f}")
            rounds = len(last["seconds"])
            lines.append(f"| {name}, {save['snapshot']}{picked} | {rounds} | {' | '.join(cells)} |")
    return lines


def _versions() -> dict[str, str]:
    code = """
import importlib.metadata as m, json, re
names = ("mindckpt", "numpy", "cupy", "torch", "jax")
found = {}
for d in m.distributions():
    name = re.sub("-cuda.*", "", d.metadata["Name"] or "").lower()
    if name in names: found.setdefault(name, d.version)
print(json.dumps(found))
"""
    printed = _output(str(_python()), "-c", code)
    return {"Python": platform.python_version(), **(json.loads(printed) if printed else {})}


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _digest_of(*folders: str) -> str:
    """A short hash of sources, committed or not."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".cc", ".h", ".py"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _commit(carry: Path) -> str:
    """Of this checkout; where it came without its history, of the one that was collected from."""
    found = _output("git", "describe", "--always", "--dirty=+")
    if found:
        return found
    try:
        return (carry / "commit").read_text().strip() + " (when the carried folder was filled)"
    except OSError:
        return "unknown"


def _output(*command: str) -> str:
    """What a command prints; '' where it fails, or is not there."""
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


# ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--step",
        action="append",
        choices=list(STEP_SECONDS),
        help="what to do, in the order of this list; default all",
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
        default=ROOT / "benchmarks" / "results",
        metavar="DIR",
        help="where to write; default benchmarks/results",
    )
    add(
        "--disk",
        type=Path,
        default=_STATE,
        metavar="DIR",
        help="a folder on a disk for the benchmarks; default build/gpu",
    )
    add("--collect", action="store_true", help="fill the folder of --carry, and do nothing else")
    add(
        "--for-python",
        action="append",
        metavar="X.Y",
        help="the Python to collect wheels for; default the one that runs this",
    )
    return parser


def main() -> None:
    """Does what the command line says; exits with 1 when a step failed."""
    options = _parser().parse_args()
    carry = options.carry.resolve()
    if options.collect:
        collect(carry, options.for_python or [f"{sys.version_info[0]}.{sys.version_info[1]}"])
        return
    steps = [step for step in STEP_SECONDS if step in (options.step or STEP_SECONDS)]
    # A build by itself needs no GPU.
    results = None
    if steps != ["build"]:
        results = Results(Gpu.find(), carry)
    _STATE.mkdir(parents=True, exist_ok=True)
    failed = []
    for step in steps:
        limit = Limit(STEP_SECONDS[step])
        if step == "build":
            _within(limit, step, lambda: build(carry))
            continue
        assert results is not None
        if step == "test":
            found = test(limit)
        else:
            found = bench(step, limit, options.disk.resolve(), results.runs)
        results.add(step, found)
        results.write(options.results)
        if not found["passed"]:
            failed.append(step)
    if failed:
        raise SetupError(f"failed: {', '.join(failed)}; see above")


def _within(limit: Limit, step: str, work: Callable[[], None]) -> None:
    """Does work that runs commands of its own, and is interrupted when the time is up."""

    def stop(*_: object) -> None:
        raise SetupError(f"{step}: the time was up after {STEP_SECONDS[step]} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit.left())
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"mindckpt gpu: {error}")
