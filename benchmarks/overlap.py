"""How well the stages of an encrypted save from a device overlap, on a simulated device.

The device of tests/plugins copies at a set speed (`cmake --workflow --preset release` builds it). A
save's trace tells how long each stage was busy: the copy engine, the cipher (over all threads), the
writes (with --durable, the sync too). Were they done one after the other, a save would take their
sum; done together, no longer than the longest, or than all cores need for the work of all: the
simulation copies with a core of this machine, too, which a real device does not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindckpt import _core
from mindckpt.bench.measure import machine, prepare, table
from mindckpt.bench.raw import cores
from mindckpt.records import records_of, resolved

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from stand_in import TO_HOST, StandInArray, stand_in

TENSOR_BYTES = 64 << 20
MODES = {
    "AES-256-GCM": ("AES-GCM", 32),
    "AES-256-CBC": ("AES-CBC", 32),
    "SM4-CBC": ("SM4-CBC", 16),
}
STAGES = ("copy", "seal", "write")

Span = tuple[float, float]


def union(spans: Sequence[Span]) -> float:
    """Seconds in which at least one span ran."""
    total = end_before = 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, end_before))
        end_before = max(end_before, end)
    return total


def measure(
    tensors: dict[str, StandInArray], path: Path, mode: str, policy: str, *, durable: bool
) -> dict[str, float]:
    """Seconds of one save in all, of its stages, and of all threads' work over the cores."""
    name, key_bytes = MODES[mode]
    device = stand_in("sim")
    busy_before = device.busy_seconds(0, TO_HOST)
    prepare(sum(tensor.nbytes for tensor in tensors.values()))
    job = _core.prepare_save(
        records_of(tensors, None, None),
        resolved,
        str(path),
        crc=False,
        durable=durable,
        key=bytes(key_bytes),
        mode=name,
        num_threads=0,
        block_bytes=0,
        snapshot=policy,
        stream=None,
        trace=True,
    )
    worked_before = time.process_time()
    job.start(None)
    job.wait(None)
    worked = time.process_time() - worked_before
    result = job.result()
    path.unlink()
    spans: dict[str, list[Span]] = {}
    for stage, _, _, begin, end in job.trace():
        spans.setdefault(stage, []).append((begin, end))
    seal = sum(end - begin for begin, end in spans["seal"])
    write = union(spans["write"])
    if durable:
        write += result["publish_seconds"]
    return {
        "total": result["durable_seconds" if durable else "written_seconds"],
        "copy": device.busy_seconds(0, TO_HOST) - busy_before,
        "seal": seal / cores(),
        "write": write,
        "CPU": worked / cores(),
    }


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, default=8, help="of 64 MiB each; default 8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write; default .")
    parser.add_argument("--speeds", type=float, nargs="+", default=[4, 8, 16], help="GB/s")
    parser.add_argument("--durable", action="store_true", help="sync, too")
    options = parser.parse_args()
    device = stand_in("sim")
    values = np.random.default_rng(0).random(TENSOR_BYTES // 4, np.float32)
    tensors = {f"w{i}": device.array(values) for i in range(options.tensors)}
    rows = []
    with tempfile.TemporaryDirectory(prefix="overlap-", dir=options.dir) as folder:
        print(f"# overlap: {machine(Path(folder))}; {options.rounds} rounds, medians of ms\n")
        for mode in MODES:
            for policy, words in (("none", "staged"), ("lazy", "lazy")):
                for speed in options.speeds:
                    device.set_speed(TO_HOST, speed * 1e9, 1e-5)
                    path = Path(folder) / "overlap.ckpt"
                    taken = [
                        measure(tensors, path, mode, policy, durable=options.durable)
                        for _ in range(options.rounds)
                    ]
                    median = {k: statistics.median(t[k] for t in taken) for k in taken[0]}
                    stages = [median[stage] for stage in STAGES]
                    rows.append(
                        [
                            f"{mode}, {words}, {speed:g} GB/s",
                            *(f"{1000 * median[k]:.0f}" for k in median),
                            f"{median['total'] / max(stages):.2f}",
                            f"{median['total'] / max(*stages, median['CPU']):.2f}",
                            f"{median['total'] / sum(stages):.2f}",
                        ]
                    )
    header = ["", "total", "copy", "seal / cores", "write", "CPU / cores"]
    print(table([*header, "total / longest", "/ longest or CPU", "/ sum"], rows))


if __name__ == "__main__":
    main()
