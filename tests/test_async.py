"""Saves that run on: snapshots, order, failures, exit, fork, interrupts, progress, memory.

Oracles: the arrays as they were when save_checkpoint returned, the list of the folder, and /proc.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mindckpt
from mindckpt import SaveJob, async_ckpt_thread_status, load_checkpoint, save_checkpoint
from stand_in import StandIn
from support import MODES, Array, assert_silent_about, run_python, start_python

KEY = bytes(16)
LARGE = 8 << 20  # float32 values: 32 MB, long enough to be caught in the middle


def large(value: float) -> Array:
    return np.full(LARGE, value, np.float32)


def started(save_obj: object, path: Path, **kwargs: Any) -> SaveJob:
    """An asynchronous save."""
    job = save_checkpoint(save_obj, str(path), **{"async_save": True, **kwargs})
    assert isinstance(job, SaveJob)
    return job


def value_in(path: Path, **kwargs: Any) -> float:
    """The one value that fills the parameter w of a file."""
    array = load_checkpoint(str(path), **kwargs)["w"].asnumpy()
    assert (array == array.flat[0]).all()
    return float(array.flat[0])


def threads() -> set[str]:
    """Every thread of this process, Python's or not."""
    return set(os.listdir("/proc/self/task"))


def assert_no_thread_but(before: set[str]) -> None:
    """The kernel lists a thread for a moment after it was joined, so look again for a while."""
    patience = time.monotonic() + 10
    while threads() - before and time.monotonic() < patience:
        time.sleep(0.001)
    assert threads() - before == set()


@pytest.fixture(autouse=True)
def _no_save_outlives_its_test() -> Iterator[None]:
    yield
    while async_ckpt_thread_status():
        time.sleep(0.001)


# ---- the job


@pytest.mark.parametrize("async_save", [True, "thread", "process"])
def test_an_async_save_returns_a_job_that_ends_in_stats(
    tmp_path: Path, async_save: bool | str
) -> None:
    """Both of MindSpore's names run on a thread here."""
    path = tmp_path / "a.ckpt"
    job = started({"w": np.arange(10.0), "v": np.zeros(3, np.int8)}, path, async_save=async_save)
    assert job.wait() is True
    assert job.done() is True
    assert job.exception() is None
    stats = job.result()
    assert stats["path"] == str(path)
    assert stats["nbytes"] == path.stat().st_size
    assert stats["payload_nbytes"] == 83
    assert stats["records"] == 2
    assert stats["durable"] is True
    assert stats["num_threads"] >= 1
    assert stats["blocks"] >= 1
    assert 0 <= stats["snapshot_seconds"] <= stats["seconds"]
    assert job.result() == stats
    assert job.progress == (stats["nbytes"], stats["nbytes"])


def test_stats_say_that_a_save_was_not_durable(tmp_path: Path) -> None:
    assert (
        started({"w": np.zeros(1)}, tmp_path / "a.ckpt", durable=False).result()["durable"] is False
    )


def test_progress_grows_up_to_the_length_of_the_file(tmp_path: Path) -> None:
    job = started({"w": large(1)}, tmp_path / "a.ckpt", enc_key=KEY, block_bytes=65536)
    seen = [job.progress]
    while not job.wait(0.001):
        seen.append(job.progress)
    seen.append(job.progress)
    size = (tmp_path / "a.ckpt").stat().st_size
    assert [total for _, total in seen] == [size] * len(seen)
    written = [number for number, _ in seen]
    assert written == sorted(written)
    assert written[-1] == size


def test_waiting_without_patience_tells_whether_the_save_is_done(tmp_path: Path) -> None:
    job = started({"w": large(1)}, tmp_path / "a.ckpt")
    outcomes = [job.wait(0) for _ in range(3)]
    assert outcomes == sorted(outcomes), "a save that is done stays done"
    assert job.wait(timeout=None)
    assert job.wait(0)
    assert job.done()


def test_a_result_that_is_not_there_in_time_is_a_timeout_error(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from mindckpt import save_checkpoint
job = save_checkpoint({"w": np.zeros(50_000_000, np.float32)}, sys.argv[1], async_save=True,
                      enc_key=bytes(16), num_threads=1, block_bytes=4096)
for ask in (job.result, job.exception):
    try:
        ask(timeout=0)
    except TimeoutError:
        pass
    else:
        sys.exit("200 MB were encrypted and written in no time")
assert not job.done()
job.result()
"""
    run_python(code, tmp_path / "a.ckpt")


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_arrays_may_be_overwritten_as_soon_as_the_save_returns(tmp_path: Path, cipher: str) -> None:
    """The file holds what they held then."""
    write = {"enc_key": KEY, "enc_mode": cipher} if cipher != "plain" else {}
    read = {"dec_key": KEY, "dec_mode": cipher} if cipher != "plain" else {}
    whole, strided = large(1), np.zeros((LARGE // 2, 2), np.float32)
    strided[:] = 2
    buffer = bytearray(b"\x03" * 1000)
    save_obj = {"w": whole, "v": strided[:, 0], "u": buffer}
    job = started(save_obj, tmp_path / "a.ckpt", append_dict={"n": whole[:5]}, **write)
    whole[:] = -1
    strided[:] = -1
    buffer[:] = bytes(1000)
    save_obj.clear()
    job.result()
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"), **read)
    assert [
        (value.asnumpy() == want).all()
        for value, want in zip(loaded.values(), (1, 2, 3, 1), strict=True)
    ] == [True] * 4


def test_a_dropped_job_is_saved_all_the_same(tmp_path: Path) -> None:
    started({"w": large(5)}, tmp_path / "a.ckpt")
    save_checkpoint({"w": np.zeros(1)}, str(tmp_path / "b.ckpt"))
    while async_ckpt_thread_status():
        time.sleep(0.001)
    assert value_in(tmp_path / "a.ckpt") == 5


# ---- order


def test_saves_to_one_path_land_in_the_order_they_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    jobs = [started({"w": large(i)[: LARGE >> i]}, path, durable=False) for i in range(5)]
    for job in jobs:
        job.result()
    assert value_in(path) == 4
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_save_is_held_up_by_one_to_its_path_that_is_held_up(
    tmp_path: Path, device: StandIn, stream: int
) -> None:
    """Its tensor's stream is paused: it cannot end before that goes on."""
    path = tmp_path / "a.ckpt"
    first_value = device.array(np.full(1000, 1, np.float32), stream=stream)
    device.stream_pause(stream)
    try:
        first = started({"w": first_value}, path, stream=stream, snapshot="lazy")
        second = started({"w": np.full(9, 2)}, path)
        other = started({"w": np.full(9, 3)}, tmp_path / "b.ckpt")
        other.result()  # which is not held up: the second would have been through as well
        assert not second.wait(0.3)
        assert not first.done()
        assert not path.exists()
    finally:
        device.stream_resume(stream)
    second.result()
    assert first.done()
    first.result()
    assert value_in(path) == 2


def test_a_sync_save_comes_after_a_running_one_to_the_same_path(tmp_path: Path) -> None:
    """By another name of it, too."""
    path = tmp_path / "a.ckpt"
    (tmp_path / "link.ckpt").symlink_to("a.ckpt")
    job = started({"w": large(1)}, path)
    save_checkpoint({"w": np.array([2.0])}, str(tmp_path / "link.ckpt"))
    assert job.done()
    assert value_in(path) == 2
    job.result()
    assert value_in(path) == 2


def test_saves_to_many_paths_run_side_by_side(tmp_path: Path) -> None:
    jobs = [
        started({"w": np.full(100_000, i)}, tmp_path / f"{i}.ckpt", durable=False)
        for i in range(20)
    ]
    assert [job.result()["records"] for job in jobs] == [1] * 20
    assert [value_in(tmp_path / f"{i}.ckpt") for i in range(20)] == list(range(20))


def test_a_load_waits_for_a_running_save_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint({"w": np.array([0.0])}, str(path))
    (tmp_path / "link.ckpt").symlink_to("a.ckpt")
    for i, name in enumerate(["a.ckpt", "link.ckpt"], start=1):
        job = started({"w": large(i)}, path)
        assert value_in(tmp_path / name) == i
        job.result()


def test_a_load_waits_for_the_first_save_of_its_path(tmp_path: Path) -> None:
    """There is no file yet when it is called."""
    job = started({"w": large(3)}, tmp_path / "a.ckpt", enc_key=KEY, num_threads=1)
    assert value_in(tmp_path / "a.ckpt", dec_key=KEY) == 3
    job.result()


def test_the_status_tells_whether_a_save_is_running(tmp_path: Path) -> None:
    """As MindSpore's async_ckpt_thread_status."""
    assert async_ckpt_thread_status() is False
    job = started({"w": large(1)}, tmp_path / "a.ckpt", enc_key=KEY, num_threads=1)
    running = async_ckpt_thread_status()
    assert running in (True, False)
    assert running or job.done()
    job.wait()
    assert async_ckpt_thread_status() is False


def test_saves_from_many_threads_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def save(number: int) -> None:
        try:
            for i in range(5):
                kwargs = {"async_save": i % 2 == 0, "durable": False}
                save_checkpoint(
                    {"w": np.full(20_000, number)}, str(tmp_path / f"{number}.ckpt"), **kwargs
                )
                save_checkpoint(
                    {"w": np.full(20_000, number)}, str(tmp_path / "shared.ckpt"), **kwargs
                )
                assert value_in(tmp_path / f"{number}.ckpt") == number
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert value_in(tmp_path / "shared.ckpt") in range(4)


# ---- failures

FAILING = """
import os, resource, sys, traceback
import numpy as np
from mindckpt import async_ckpt_thread_status, save_checkpoint
folder = sys.argv[1]
def fail(name):
    "Start a save that runs out of space."
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    job = save_checkpoint({"w": np.zeros(100_000)}, os.path.join(folder, name), async_save=True)
    job.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    return job
def works():
    save_checkpoint({"w": np.zeros(9)}, os.path.join(folder, "sound.ckpt"))
"""


def test_a_job_raises_what_went_wrong_as_often_as_it_is_asked(tmp_path: Path) -> None:
    code = """
job = fail("broken.ckpt")
assert job.done()
for _ in range(2):
    try:
        job.result()
    except OSError as error:
        assert "broken.ckpt" in str(error.filename), error
    else:
        sys.exit("no error")
    assert isinstance(job.exception(), OSError)
works()
assert os.listdir(folder) == ["sound.ckpt"]
"""
    assert run_python(FAILING + code, tmp_path).stderr == ""


def test_a_failure_that_nobody_asked_about_is_raised_by_the_next_save(tmp_path: Path) -> None:
    """Once; and it says which file it was."""
    code = """
fail("broken.ckpt")
try:
    works()
except OSError as error:
    said = traceback.format_exception(type(error), error, error.__traceback__)
    assert "broken.ckpt" in "".join(said)
else:
    sys.exit("the failure was forgotten")
works()
"""
    assert run_python(FAILING + code, tmp_path).stderr == ""


def test_a_failure_of_a_dropped_job_is_raised_by_the_next_async_save_too(tmp_path: Path) -> None:
    code = """
import gc
fail("broken.ckpt")
gc.collect()
try:
    save_checkpoint({"w": np.zeros(9)}, os.path.join(folder, "sound.ckpt"), async_save=True)
except OSError:
    pass
else:
    sys.exit("the failure was forgotten")
"""
    assert run_python(FAILING + code, tmp_path).stderr == ""


def test_a_failure_that_was_asked_about_is_not_raised_again(tmp_path: Path) -> None:
    code = """
assert isinstance(fail("broken.ckpt").exception(), OSError)
works()
"""
    assert run_python(FAILING + code, tmp_path).stderr == ""


@pytest.mark.parametrize("ask", ["result()", "exception()"])
def test_a_failure_that_a_milestone_told_is_not_raised_again(tmp_path: Path, ask: str) -> None:
    code = f"""
job = fail("broken.ckpt")
try:
    error = job.durable.{ask}
except OSError as raised:
    error = raised
assert isinstance(error, OSError), error
works()
"""
    assert run_python(FAILING + code, tmp_path).stderr == ""


def test_a_failure_that_nobody_asked_about_is_reported_at_exit(tmp_path: Path) -> None:
    for ending in ("", "\nsys.exit(0)", "\nraise SystemExit"):
        done = run_python(FAILING + "fail('broken.ckpt')" + ending, tmp_path)
        assert "broken.ckpt" in done.stderr
        assert "File too large" in done.stderr or "No space" in done.stderr


def test_wrong_arguments_are_raised_at_once_not_by_the_job(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"fc\.weight"):
        started({"fc.weight": None}, tmp_path / "a.ckpt")
    assert not async_ckpt_thread_status()
    assert os.listdir(tmp_path) == []


# ---- exit, fork, interrupts


@pytest.mark.parametrize(
    "ending", ["", "sys.exit(3)", "raise RuntimeError('on purpose')", "del job"]
)
def test_the_interpreter_waits_for_running_saves(tmp_path: Path, ending: str) -> None:
    code = f"""
import sys
import numpy as np
from mindckpt import save_checkpoint
value = np.full({LARGE}, 7, np.float32)
job = save_checkpoint({{"w": value}}, sys.argv[1], async_save=True, enc_key=bytes(16),
                      num_threads=1)
{ending}
"""
    done = run_python(code, tmp_path / "a.ckpt", check=False)
    assert done.returncode == {"sys.exit(3)": 3, "": 0, "del job": 0}.get(ending, 1), done.stderr
    assert value_in(tmp_path / "a.ckpt", dec_key=KEY) == 7
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_forked_child_starts_without_its_parents_saves(tmp_path: Path) -> None:
    """It saves and exits by itself; the parent's save goes on."""
    code = f"""
import os, sys, warnings
import numpy as np
from mindckpt import async_ckpt_thread_status, load_checkpoint, save_checkpoint
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
folder = sys.argv[1]
value = np.full({2 * LARGE}, 1, np.float32)
job = save_checkpoint({{"w": value}}, folder + "/parent.ckpt", async_save=True,
                      enc_key=bytes(16), num_threads=1)
child = os.fork()
if child == 0:
    assert async_ckpt_thread_status() is False
    save_checkpoint({{"w": np.full(9, 2)}}, folder + "/child.ckpt")
    save_checkpoint({{"w": np.full(9, 3)}}, folder + "/child_async.ckpt", async_save=True)
    assert load_checkpoint(folder + "/child.ckpt")["w"].asnumpy()[0] == 2
    sys.exit(0)  # runs the child's exit handlers
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
job.result()
"""
    run_python(code, tmp_path)
    assert value_in(tmp_path / "parent.ckpt", dec_key=KEY) == 1
    assert value_in(tmp_path / "child.ckpt") == 2
    assert value_in(tmp_path / "child_async.ckpt") == 3
    assert sorted(os.listdir(tmp_path)) == ["child.ckpt", "child_async.ckpt", "parent.ckpt"]


INTERRUPTED = """
import os, signal, sys, time
# Under nohup it is ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from mindckpt import load_checkpoint, save_checkpoint
folder, cipher = sys.argv[1:]
path = os.path.join(folder, "a.ckpt")
kwargs = {"enc_key": bytes(16), "enc_mode": cipher} if cipher != "plain" else {}
save_checkpoint({"w": np.full(9, 1)}, path)
value = np.broadcast_to(np.float64(2), (300_000_000,))  # 2.4 GB of file, of 8 bytes of memory
tasks = len(os.listdir("/proc/self/task"))
print("saving", flush=True)
try:
    save_checkpoint({"w": value}, path, num_threads=1, block_bytes=65536, **kwargs)
except KeyboardInterrupt:
    assert os.listdir(folder) == ["a.ckpt"], os.listdir(folder)
    patience = time.monotonic() + 10  # the kernel lists a joined thread for a moment
    while len(os.listdir("/proc/self/task")) > tasks:
        assert time.monotonic() < patience
    assert load_checkpoint(path)["w"].asnumpy()[0] == 1
    save_checkpoint({"w": np.full(9, 3)}, path)
    print("interrupted")
else:
    sys.exit("the save was over before the interrupt")
"""


@pytest.mark.parametrize("cipher", ["plain", "AES-GCM"])
def test_an_interrupt_stops_a_long_save_and_leaves_the_old_file(
    tmp_path: Path, cipher: str
) -> None:
    process = start_python(INTERRUPTED, tmp_path, cipher)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    while not any(name.endswith(".tmp") for name in os.listdir(tmp_path)):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert printed == "interrupted\n"
    assert value_in(tmp_path / "a.ckpt") == 3


def test_an_interrupt_while_waiting_for_a_job_leaves_the_job_running(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, threading
import numpy as np
from mindckpt import save_checkpoint
value = np.full({4 * LARGE}, 7, np.float32)
job = save_checkpoint({{"w": value}}, sys.argv[1], async_save=True, enc_key=bytes(16),
                      num_threads=1, block_bytes=4096)
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.01)
try:
    job.wait()
except KeyboardInterrupt:
    print("interrupted")
job.result()
"""
    assert run_python(code, tmp_path / "a.ckpt").stdout == "interrupted\n"
    assert value_in(tmp_path / "a.ckpt", dec_key=KEY) == 7


# ---- progress


class Bar:
    """What progress bars like tqdm's offer."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.updates: list[int] = []

    def update(self, n: int) -> None:
        assert self.total is not None, "the total is known before the first byte"
        self.updates.append(n)


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
@pytest.mark.parametrize("cipher", ["plain", "AES-GCM"])
def test_a_progress_function_hears_of_bytes_up_to_the_whole_file(
    tmp_path: Path, size: int, cipher: str
) -> None:
    kwargs = {"enc_key": KEY, "num_threads": 1, "block_bytes": 65536} if cipher != "plain" else {}
    calls: list[tuple[int, int]] = []
    callers = set()

    def progress(written: int, total: int) -> None:
        calls.append((written, total))
        callers.add(threading.get_ident())

    save_obj = {"w": np.zeros(size, np.float32)}
    save_checkpoint(save_obj, str(tmp_path / "a.ckpt"), progress=progress, **kwargs)
    length = (tmp_path / "a.ckpt").stat().st_size
    assert calls[-1] == (length, length)
    assert {total for _, total in calls} == {length}
    assert calls == sorted(calls)
    assert callers == {threading.get_ident()}


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_progress_bar_is_moved_to_its_end(tmp_path: Path, size: int) -> None:
    bar = Bar()
    save_checkpoint({"w": np.zeros(size, np.float32)}, str(tmp_path / "a.ckpt"), progress=bar)
    length = (tmp_path / "a.ckpt").stat().st_size
    assert bar.total == length
    assert sum(bar.updates) == length
    assert min(bar.updates) >= 0


def test_a_bar_without_a_total_is_moved_all_the_same(tmp_path: Path) -> None:
    class Plain:
        __slots__ = ("moved",)

        def __init__(self) -> None:
            self.moved = 0

        def update(self, n: int) -> None:
            self.moved += n

    bar = Plain()
    save_checkpoint({"w": np.zeros(9)}, str(tmp_path / "a.ckpt"), progress=bar)
    assert bar.moved == (tmp_path / "a.ckpt").stat().st_size


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_progress_stops_the_save_and_comes_through(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint({"w": np.array([1.0])}, str(path))
    huge = np.broadcast_to(
        np.float64(2), (300_000_000,)
    )  # 2.4 GB of file: the first call comes in the middle

    def progress(written: int, total: int) -> None:
        assert written < total
        raise error("enough")

    before = threads()
    with pytest.raises(error, match="enough"):
        save_checkpoint({"w": huge}, str(path), progress=progress, num_threads=1, block_bytes=65536)
    assert_no_thread_but(before)
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert value_in(path) == 1


def test_progress_of_an_async_save_is_told_by_its_wait(tmp_path: Path) -> None:
    calls: list[tuple[int, int, int]] = []

    def progress(written: int, total: int) -> None:
        calls.append((written, total, threading.get_ident()))

    job = started({"w": large(1)}, tmp_path / "a.ckpt", progress=progress)
    job.result()
    length = (tmp_path / "a.ckpt").stat().st_size
    assert calls[-1] == (length, length, threading.get_ident())
    assert {caller for _, _, caller in calls} == {threading.get_ident()}


@pytest.mark.parametrize("wait", [SaveJob.wait, SaveJob.result])
def test_an_error_in_progress_while_waiting_for_an_async_save_cancels_it(
    tmp_path: Path, wait: Callable[[SaveJob], object]
) -> None:
    path = tmp_path / "a.ckpt"
    huge = np.broadcast_to(np.float64(2), (300_000_000,))  # 2.4 GB of file

    def progress(written: int, total: int) -> None:
        assert written < total
        raise ValueError("enough")

    job = started(
        {"w": huge}, path, progress=progress, snapshot="lazy", num_threads=1, block_bytes=65536
    )
    with pytest.raises(ValueError, match="enough"):
        wait(job)
    assert job.done()
    assert isinstance(job.exception(), RuntimeError)
    assert os.listdir(tmp_path) == []


def test_other_python_threads_run_during_a_save(tmp_path: Path) -> None:
    """The lock of the interpreter is let go of for all of it."""
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.wait(0.0001):
            turns += 1

    counter = threading.Thread(target=count)
    counter.start()
    while not turns:
        time.sleep(0.0001)
    before = turns
    value = np.broadcast_to(np.uint8(1), (128 << 20,))
    save_checkpoint({"w": value}, str(tmp_path / "a.ckpt"), enc_key=KEY, num_threads=1)
    during = turns - before
    stop.set()
    counter.join()
    assert during >= 3


@pytest.mark.parametrize("async_save", [False, True])
def test_nothing_of_a_save_shows_its_key(tmp_path: Path, async_save: bool) -> None:
    key = bytes(range(150, 166))
    job = save_checkpoint(
        {"w": np.zeros(3)}, str(tmp_path / "a.ckpt"), enc_key=key, async_save=async_save
    )
    shown = repr(job) + str(job)
    if isinstance(job, SaveJob):
        shown += repr(job.result()) + repr(getattr(job, "__dict__", ""))
    assert_silent_about(key, shown)


# ---- threads and memory


@pytest.mark.parametrize("cipher", ["plain", *MODES])
def test_no_thread_stays_after_a_save_or_a_load(tmp_path: Path, cipher: str) -> None:
    write = {"enc_key": KEY, "enc_mode": cipher} if cipher != "plain" else {}
    read = {"dec_key": KEY, "dec_mode": cipher} if cipher != "plain" else {}
    before = threads()
    for num_threads in (1, 4):
        save_checkpoint({"w": large(1)}, str(tmp_path / "a.ckpt"), num_threads=num_threads, **write)
        assert_no_thread_but(before)
        load_checkpoint(str(tmp_path / "a.ckpt"), num_threads=num_threads, **read)
        assert_no_thread_but(before)
    with pytest.raises(OSError, match="missing"):
        save_checkpoint({"w": large(1)}, str(tmp_path / "missing" / "a.ckpt"), **write)
    assert_no_thread_but(before)


def test_no_thread_stays_after_an_async_save_was_waited_for(tmp_path: Path) -> None:
    before = threads()
    job = started({"w": large(1)}, tmp_path / "a.ckpt")
    job.result()
    del job
    assert_no_thread_but(before)


def test_no_file_descriptor_stays_after_saves_and_loads(tmp_path: Path) -> None:
    path = str(tmp_path / "a.ckpt")
    save_checkpoint({"w": np.zeros(9)}, path)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        save_checkpoint({"w": np.zeros(9)}, path)
        save_checkpoint({"w": np.zeros(9)}, path, enc_key=KEY)
        started({"w": np.zeros(9)}, tmp_path / "b.ckpt").result()
        load_checkpoint(path, dec_key=KEY)
        loaded = load_checkpoint(str(tmp_path / "b.ckpt"), mmap=True)
        del loaded
        with pytest.raises(ValueError, match=r"a\.ckpt"):
            load_checkpoint(path)
        with pytest.raises(OSError, match="missing"):
            save_checkpoint({"w": np.zeros(9)}, str(tmp_path / "missing" / "a.ckpt"))
    assert sorted(os.listdir("/proc/self/fd")) == before


PEAK = """
import re, sys
import numpy as np
from mindckpt import save_checkpoint
path, cipher, layout = sys.argv[1:]
kwargs = {"enc_key": bytes(16), "enc_mode": cipher} if cipher not in ("plain", "crc") else {}
kwargs["crc_check"] = cipher == "crc"
value = np.ones((8192, 8192), np.float64)  # 512 MiB
if layout == "transposed":
    value = value.T
elif layout == "big-endian":
    value = value.view(">f8")
save_obj = {"w": value} if layout != "many" else {str(i): row for i, row in enumerate(value)}
save_checkpoint({"w": value[:10]}, path, **kwargs)  # what is set up once is set up now
def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = memory("VmRSS")
save_checkpoint(save_obj, path, durable=False, **kwargs)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("cipher", "layout"),
    [
        ("plain", "C order"),
        ("plain", "transposed"),
        ("plain", "big-endian"),
        ("plain", "many"),
        ("crc", "C order"),
        *itertools.product(MODES[:2], ["C order"]),
        pytest.param("SM4-CBC", "C order", marks=MODES[2].marks),
        ("AES-GCM", "transposed"),
    ],
)
def test_a_save_of_512_mib_takes_less_than_64_mib_of_memory(
    tmp_path: Path, cipher: str, layout: str
) -> None:
    """Oracle: the kernel's count of resident pages. A quarter of the payload would be 128 MiB."""
    done = run_python(PEAK, tmp_path / "a.ckpt", cipher, layout, timeout=300)
    (tmp_path / "a.ckpt").unlink()
    assert int(done.stdout) < 64 << 20


def host_snapshots() -> dict[str, int]:
    """What staging_stats says of tensors in host memory."""
    rows = [row for row in mindckpt.staging_stats() if row["device"] == "cpu"]
    return {
        key: rows[0][key] for key in ("snapshot_nbytes", "kept_snapshot_nbytes", "limit_nbytes")
    }


def test_the_snapshot_of_a_finished_save_is_kept_for_the_next_one(tmp_path: Path) -> None:
    mindckpt.release_staging()
    for step in range(3):
        value = np.full(1_000_000, step, np.float32)
        job = save_checkpoint({"w": value}, tmp_path / "a.ckpt", async_save=True)
        value[:] = -1
        job.result()
        assert value_in(tmp_path / "a.ckpt") == step
        stats = host_snapshots()
        assert value.nbytes <= stats["kept_snapshot_nbytes"] < value.nbytes + (1 << 17)
        assert stats["snapshot_nbytes"] == stats["kept_snapshot_nbytes"]
    mindckpt.release_staging()
    assert not [row for row in mindckpt.staging_stats() if row["device"] == "cpu"]


def test_a_snapshot_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
os.environ["MINDCKPT_SNAPSHOT_BYTES"] = "0"
import numpy as np, mindckpt
def save():
    mindckpt.save_checkpoint({"w": np.ones(1_000_000)}, sys.argv[1], async_save=True).result()
    return [row["kept_snapshot_nbytes"] for row in mindckpt.staging_stats()]
assert save() == [], "the environment's limit"
mindckpt.set_snapshot_limit(1 << 30)
assert save() >= [8_000_000]
mindckpt.set_snapshot_limit(0)
assert save() == []
"""
    run_python(code, tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("nbytes", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_snapshot_limit_is_a_number_of_bytes(nbytes: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="nbytes"):
        mindckpt.set_snapshot_limit(nbytes)
