"""Processes that end, or may not have threads: no save is lost without a word, and nothing aborts.

Oracles: the files that are there, exit codes, and what is said on stderr. `many_exits.py` does the
same in large numbers.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import many_exits
from mindckpt import load_checkpoint
from support import NO_THREADS, run_python, start_python, temporaries

# ---- daemon threads at the end of the interpreter


@pytest.mark.parametrize("action", many_exits.ACTIONS)
def test_an_interpreter_exits_with_0_while_a_daemon_thread_is_at_work(
    tmp_path: Path, action: str
) -> None:
    """And what the thread was writing is gone, or whole."""
    assert list(many_exits.exits(action, 4, tmp_path)) == [(0, "")] * 4
    assert temporaries(tmp_path) == []


def test_a_daemon_thread_may_be_in_a_frameworks_code_at_exit(tmp_path: Path) -> None:
    """What a save asks its tensors is Python code, which takes the GIL again and again."""
    code = """
import sys, threading, time
import numpy as np
from mindckpt import save_checkpoint
values = np.zeros(3)
class Slow:
    def __getattr__(self, name):
        if name == "__array_interface__":
            asked.set()
            time.sleep(0.001)
            return values.__array_interface__
        raise AttributeError(name)
asked = threading.Event()
tensors = {str(i): Slow() for i in range(1000)}
def work():
    while True:
        save_checkpoint(tensors, sys.argv[1], durable=False)
threading.Thread(target=work, daemon=True).start()
asked.wait()
"""
    for _ in range(4):
        done = run_python(code, tmp_path / "a.ckpt", check=False)
        assert (done.returncode, done.stderr) == (0, "")


# ---- who would be forgotten at exit


@pytest.mark.parametrize("kind", many_exits.CHILDREN)
def test_a_save_started_in_a_child_of_multiprocessing_is_finished(
    tmp_path: Path, kind: str
) -> None:
    assert many_exits.saved_by_children(kind, 4, tmp_path) == 4
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_tells_of_a_failure_that_nobody_asked_about(
    tmp_path: Path, method: str
) -> None:
    script = tmp_path / "failing.py"
    script.write_text(f"""
import multiprocessing, resource, sys
def fail(path):
    import numpy as np, mindckpt
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    mindckpt.save_checkpoint({{"w": np.zeros(100_000)}}, path, async_save=True)
if __name__ == "__main__":
    child = multiprocessing.get_context("{method}").Process(target=fail, args=(sys.argv[1],))
    child.start()
    child.join()
""")
    done = run_python(
        "import runpy, sys; sys.argv[0:2] = [sys.argv[1]]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')",
        script,
        tmp_path / "a.ckpt",
    )
    assert "a.ckpt" in done.stderr
    assert "File too large" in done.stderr or "No space" in done.stderr


def test_a_child_forked_by_a_thread_finishes_its_saves(tmp_path: Path) -> None:
    code = """
import multiprocessing, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
import numpy as np
import mindckpt
def save():
    mindckpt.save_checkpoint({"w": np.full(500_000, 7.0)}, sys.argv[1], async_save=True,
                             enc_key=bytes(16), num_threads=1)
def fork():
    child = multiprocessing.get_context("fork").Process(target=save)
    child.start()
    child.join()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""
    run_python(code, tmp_path / "a.ckpt")
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=bytes(16))
    assert (loaded["w"].asnumpy() == 7).all()


LATE = {
    "an exit handler registered before the import": "atexit.register(save)",
    "a finalizer made before the import": "weakref.finalize(save, save)",
    "an exit handler that imports the package": "atexit.register(save)\nimported = False",
}
LATE_SAVE = """
import atexit, resource, sys, threading, weakref
def save(path=sys.argv[1], limit=int(sys.argv[2])):
    import numpy as np
    from mindckpt import save_checkpoint
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    job = save_checkpoint({{"w": np.full(500_000, 7.0)}}, path, async_save=True)
    assert job.done()
    assert job.result()["in_call_reason"] == "the interpreter is ending"
imported = True
{how}
if imported:
    import numpy, mindckpt
"""


@pytest.mark.parametrize("how", LATE.values(), ids=LATE)
def test_a_save_that_is_started_at_exit_is_there(tmp_path: Path, how: str) -> None:
    done = run_python(LATE_SAVE.format(how=how), tmp_path / "a.ckpt", 0)
    assert done.stderr == ""
    assert (load_checkpoint(str(tmp_path / "a.ckpt"))["w"].asnumpy() == 7).all()


@pytest.mark.parametrize("how", LATE.values(), ids=LATE)
def test_a_save_that_is_started_at_exit_and_fails_is_told_of(tmp_path: Path, how: str) -> None:
    done = run_python(LATE_SAVE.format(how=how), tmp_path / "a.ckpt", 1000, check=False)
    assert "a.ckpt" in done.stderr
    assert "File too large" in done.stderr or "No space" in done.stderr
    assert os.listdir(tmp_path) == []


def test_an_interrupt_at_exit_aborts_the_running_saves(tmp_path: Path) -> None:
    """Both, there and then, with a line for each, and no file."""
    code = """
import atexit, os, signal, sys, threading, time
jobs = []
atexit.register(lambda: print([job.done() for job in jobs], os.listdir(sys.argv[1])))
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from mindckpt import save_checkpoint
value = np.broadcast_to(np.float64(2), (300_000_000,))  # 2.4 GB of file, of 8 bytes of memory
for name in ("a", "b"):
    jobs.append(save_checkpoint({"w": value}, f"{sys.argv[1]}/{name}.ckpt", async_save=True,
                                snapshot="lazy", num_threads=1, block_bytes=1024,
                                enc_key=bytes(16), durable=False))
main = threading.main_thread().ident
def interrupt():
    while sys._current_frames()[main].f_code.co_name != "_wait_quietly":
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""
    done = run_python(code, tmp_path, check=False)
    assert done.returncode == 0
    assert "a.ckpt' was interrupted" in done.stderr
    assert "b.ckpt' was interrupted" in done.stderr
    assert done.stdout == "[True, True] []\n"


# ---- without threads

WITHOUT_THREADS = (
    NO_THREADS
    + """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
import mindckpt
from mindckpt import load_checkpoint, save_checkpoint
folder = sys.argv[1]
path = os.path.join(folder, "a.ckpt")
key = {"enc_key": bytes(16)}
huge = np.broadcast_to(np.float64(2), (300_000_000,))  # 2.4 GB of file, of 8 bytes of memory
no_threads()
"""
)


def run_without_threads(code: str, folder: Path) -> str:
    """What `code` prints where the system gives no threads."""
    return run_python(WITHOUT_THREADS + code, folder).stdout


@pytest.mark.parametrize("num_threads", [None, 1, 4])
def test_without_threads_saves_and_loads_work_in_the_callers(
    tmp_path: Path, num_threads: int | None
) -> None:
    code = f"""
value = np.arange(1_000_000.0)
for cipher in (None, "AES-GCM", "AES-CBC"):
    write = {{}} if cipher is None else {{"enc_key": bytes(16), "enc_mode": cipher}}
    read = {{}} if cipher is None else {{"dec_key": bytes(16), "dec_mode": cipher}}
    for is_async in (False, True):
        job = save_checkpoint({{"w": value}}, path, crc_check=True, async_save=is_async,
                              num_threads={num_threads}, **write)
        loaded = load_checkpoint(path, crc_check=True, num_threads={num_threads}, **read)
        assert (loaded["w"].asnumpy() == value).all()
        os.remove(path)
        if is_async:
            assert job.done()
            assert job.result()["in_call_reason"] == "the system gives this process no thread"
assert os.listdir(folder) == []
"""
    run_without_threads(code, tmp_path)


def test_without_threads_a_failed_async_save_is_told_by_its_job(tmp_path: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
job = save_checkpoint({"w": np.zeros(100_000)}, path, async_save=True)
assert isinstance(job.exception(), OSError), job.exception()
assert os.listdir(folder) == []
"""
    run_without_threads(code, tmp_path)


def test_without_threads_progress_is_told_and_its_error_stops_the_save(tmp_path: Path) -> None:
    code = """
calls = []
def progress(written, total):
    calls.append((written, total))
    if len(calls) == 3:
        raise ValueError("enough")
try:
    save_checkpoint({"w": huge}, path, progress=progress, block_bytes=4096, durable=False, **key)
except ValueError:
    pass
else:
    sys.exit("the save ended all the same")
assert len(calls) == 3 and calls == sorted(calls), calls
assert os.listdir(folder) == []
"""
    run_without_threads(code, tmp_path)


def test_without_threads_a_save_to_the_file_that_is_being_saved_is_refused(tmp_path: Path) -> None:
    """From within: it would wait for itself."""
    code = """
said = []
def progress(written, total):
    if said or written == total:
        return
    for act in (lambda: save_checkpoint({"w": np.zeros(3)}, path), lambda: load_checkpoint(path)):
        try:
            act()
        except RuntimeError as error:
            said.append(str(error))
value = np.broadcast_to(np.float64(2), (60_000_000,))
save_checkpoint({"w": value}, path, progress=progress, block_bytes=1024, durable=False, **key)
assert [("thread that makes a save can't" in text) for text in said] == [True] * 2, said
assert load_checkpoint(path, dec_key=bytes(16))["w"].shape == (60_000_000,)
"""
    run_without_threads(code, tmp_path)


@pytest.mark.parametrize("act", ["save", "async save", "load"])
def test_without_threads_an_interrupt_stops_what_the_caller_does(tmp_path: Path, act: str) -> None:
    code = """
act = sys.argv[2]
if act == "load":
    value = np.broadcast_to(np.float64(2), (30_000_000,))
    save_checkpoint({"w": value}, path, block_bytes=1024, durable=False, **key)
try:
    print("ready", flush=True)
    while True:
        if act == "load":
            load_checkpoint(path, dec_key=bytes(16))
        else:
            save_checkpoint({"w": huge}, path, block_bytes=1024, durable=False, **key,
                            **({"async_save": True, "snapshot": "lazy"} if "async" in act else {}))
            sys.exit("the save was over before the interrupt")
except KeyboardInterrupt:
    assert os.listdir(folder) == (["a.ckpt"] if act == "load" else []), os.listdir(folder)
    print("interrupted")
"""
    process = start_python(WITHOUT_THREADS + code, tmp_path, act)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    while act != "load" and not temporaries(tmp_path):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert printed == "interrupted\n"


def test_too_little_address_space_is_a_memory_error_or_none(tmp_path: Path) -> None:
    """At whatever it fails: a thread's stack, a buffer, a snapshot, the arrays of a load."""
    code = """
import errno, os, re, resource, sys
import numpy as np
from mindckpt import load_checkpoint, save_checkpoint
path = sys.argv[1]
value = np.ones(2_000_000)  # 16 MB
write = {"enc_key": bytes(16), "durable": False}
save_checkpoint({"w": value}, path, **write)
used = int(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
failed = worked = 0
for room in range(0, 80 << 20, 1 << 20):
    for act in (
        lambda: save_checkpoint({"w": value}, path, num_threads=2, **write),
        lambda: save_checkpoint({"w": value}, path, async_save=True, **write).result(),
        lambda: load_checkpoint(path, dec_key=bytes(16), num_threads=2),
    ):
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        try:
            act()
            worked += 1
        except MemoryError as error:
            assert "memory" in str(error), error
            failed += 1
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert failed > 0 and worked > 0, (failed, worked)
assert os.listdir(os.path.dirname(path)) == ["a.ckpt"]
"""
    run_python(code, tmp_path / "a.ckpt")
    loaded = load_checkpoint(str(tmp_path / "a.ckpt"), dec_key=bytes(16))
    assert np.array_equal(loaded["w"].asnumpy(), np.ones(2_000_000))
