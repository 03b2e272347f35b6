"""Processes that end in the middle of saves and loads, many of them; by hand and by test_exit.py.

    .venv/bin/python tests/many_exits.py --rounds 200

It prints a line for each kind: how many interpreters ended well that exited while a daemon thread
was saving, loading or waiting, and how many files there are of as many asynchronous saves in the
children of multiprocessing.
"""

import argparse
import multiprocessing
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import mindckpt

DAEMON = """
import itertools, sys, threading, time
import numpy as np
from mindckpt import load_checkpoint, save_checkpoint
action, folder, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
value = {str(i): np.full(50_000, i, np.float32) for i in range(20)}
path = folder + "/a.ckpt"
keys = {"enc_key": bytes(16)}, {"dec_key": bytes(16)}
save_checkpoint(value, path, **keys[0])
names = itertools.cycle(f"{folder}/step_{i}.ckpt" for i in range(100))
begun = threading.Event()
def work():
    while True:
        begun.set()
        if action == "load":
            load_checkpoint(path, **keys[1])
        elif action == "mapped load":
            load_checkpoint(folder + "/plain.ckpt", mmap=True, crc_check=True)
        elif action == "save":
            save_checkpoint(value, next(names), **keys[0])
        else:
            job = save_checkpoint(value, next(names), async_save=True, **keys[0])
            getattr(job, action)()
save_checkpoint(value, folder + "/plain.ckpt", crc_check=True)
threading.Thread(target=work, daemon=True).start()
begun.wait()
time.sleep(seconds)
"""
ACTIONS = ["load", "mapped load", "save", "wait", "result"]


def exits(action: str, rounds: int, folder: Path) -> Iterator[tuple[int, str]]:
    """Exit codes, and what was said, of interpreters that exit while a daemon thread acts."""
    chance = random.Random(action)
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", DAEMON, action, str(folder), str(chance.uniform(0, 0.05))],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        yield done.returncode, done.stderr


def save_and_leave(path: str) -> None:
    """What a child does: it starts a save and does not look after it."""
    value = np.full(500_000, 7, np.float32)
    mindckpt.save_checkpoint({"w": value}, path, async_save=True, enc_key=bytes(16), num_threads=1)


def _by_process(method: str, paths: list[str]) -> None:
    context = multiprocessing.get_context(method)
    for start in range(0, len(paths), 10):
        children = [
            context.Process(target=save_and_leave, args=(path,))
            for path in paths[start : start + 10]
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0


def _by_pool(paths: list[str]) -> None:
    pool = multiprocessing.get_context("fork").Pool(4, maxtasksperchild=10)
    pool.map(save_and_leave, paths, chunksize=1)
    pool.close()
    pool.join()


def _by_executor(paths: list[str]) -> None:
    for start in range(0, len(paths), 10):
        with ProcessPoolExecutor(4) as executor:
            list(executor.map(save_and_leave, paths[start : start + 10]))


CHILDREN = ["fork", "spawn", "forkserver", "Pool", "ProcessPoolExecutor"]


def saved_by_children(kind: str, rounds: int, folder: Path) -> int:
    """How many of the files of asynchronous saves in children of that kind are there, and right."""
    paths = [str(folder / f"{kind}_{i}.ckpt") for i in range(rounds)]
    if kind == "Pool":
        _by_pool(paths)
    elif kind == "ProcessPoolExecutor":
        _by_executor(paths)
    else:
        _by_process(kind, paths)
    count = 0
    for path in paths:
        if Path(path).exists():
            loaded = mindckpt.load_checkpoint(path, dec_key=bytes(16))["w"].asnumpy()
            count += int(loaded.shape == (500_000,) and bool((loaded == 7).all()))
    return count


def main() -> None:
    """Run all kinds and print their counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for action in ACTIONS:
            ends = list(exits(action, rounds, Path(folder)))
            good = sum(end == (0, "") for end in ends)
            print(f"exit during {action}: {good} of {rounds} ended with 0", flush=True)
            for code, said in {end for end in ends if end != (0, "")}:
                print(f"    {code}: {said.strip()[-300:]}", flush=True)
        for kind in CHILDREN:
            count = saved_by_children(kind, rounds, Path(folder))
            print(f"saves in children by {kind}: {count} files of {rounds}", flush=True)


if __name__ == "__main__":
    main()
