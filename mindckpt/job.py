"""Saves that run on: SaveJob, and what this process remembers of its running saves."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mindckpt import _core
from mindckpt.device import raw_stream
from mindckpt.progress import ProgressFunction

if TYPE_CHECKING:
    from mindckpt._core import SaveStats

__all__ = ["Milestone", "SaveJob", "async_ckpt_thread_status"]

# How often a waiting thread looks up: to see a KeyboardInterrupt and to report progress.
_POLL_SECONDS = 0.1


class Milestone:
    """A state that a save comes to, and what went wrong if it did not.

    A SaveJob has three: `staged`, `written` and `durable`, one after the other.
    """

    __slots__ = ("_save", "_state")

    def __init__(self, save: SaveJob, state: str) -> None:
        self._save = save
        self._state = state

    def done(self) -> bool:
        """Whether the state is reached, or can't be any more. Does not wait."""
        self._save._check_process()
        return self._save._job.settled(self._state)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the state is reached, or can't be any more. Ctrl-C ends the waiting.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            bool. Whether that is so.
        """
        return self._save._wait(timeout, self._state)

    def result(self, timeout: float | None = None) -> float:
        """Wait for the state and tell when it was reached.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            float. Seconds from the call of save_checkpoint.

        Raises:
            TimeoutError: The state is not reached yet.
            OSError: The file system said no.
            RuntimeError: A device failed, the save was cancelled, or it was not to be durable.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the save of {self._save.path!r} is not that far after {timeout} s")
        try:
            seconds = self._save._job.reached(self._state)
        except Exception:
            self._save._asked = True
            raise
        if seconds is None:
            raise RuntimeError(f"{self._save.path!r} was saved with durable=False")
        return seconds

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the state; return what `result()` would raise, None when it was reached.

        Raises:
            TimeoutError: The state is not reached yet.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the save of {self._save.path!r} is not that far after {timeout} s")
        try:
            self.result()
        except Exception as error:
            return error
        return None


class SaveJob:
    """One save under way, as `save_checkpoint(..., async_save=True)` returns it.

    What is saved are the values as of the call (with snapshot='lazy', if they stay until the
    `fence`). The save goes on whether or not the job is kept; the interpreter waits for it at exit,
    and so does a child of multiprocessing. A failure is raised by `result()`; one that nobody asked
    about is raised by the next `save_checkpoint`, or reported on stderr at exit.

    There are two cases in which `save_checkpoint` returns only when the save has ended: the system
    gives no thread (a limit of processes), or the interpreter has waited for the others already, as
    in an exit handler that was registered before this package was imported. In the second case a
    failure is raised at once.

    Attributes:
        staged: Nothing is read from the tensors any more: they may change, and be freed.
        written: Every byte is with the file system, still under another name.
        durable: On storage and under its name. A save with durable=False never is.

    All methods may be called from any thread, but in the process that started the save only.

    Example:
        >>> import mindckpt as ms
        >>> import numpy as np
        >>> job = ms.save_checkpoint({"w": np.zeros(3)}, "job.ckpt", async_save=True)
        >>> job.result()["nbytes"]
        44
        >>> job.done(), job.progress
        (True, (44, 44))
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_in_call_reason",
        "_is_async",
        "_job",
        "_path",
        "_pid",
        "_progress",
        "_reporting",
        "durable",
        "staged",
        "written",
    )

    def __init__(
        self, job: _core.Job, path: str, is_async: bool, progress: ProgressFunction | None
    ) -> None:
        self._job = job
        self._path = path
        self._is_async = is_async
        self._progress = progress
        self._reporting = threading.Lock()
        # Whether somebody was told how it ended, as the caller of a synchronous save always is.
        self._asked = not is_async
        # Why an asynchronous save ended before the call did.
        self._in_call_reason = ""
        self._pid = os.getpid()
        self.staged = Milestone(self, "staged")
        self.written = Milestone(self, "written")
        self.durable = Milestone(self, "durable")

    @property
    def path(self) -> str:
        """The file that is written: the name with `.ckpt`, symbolic links resolved."""
        return self._path

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of the file written so far, and bytes of the whole file."""
        self._check_process()
        return self._job.progress()

    def done(self) -> bool:
        """Whether the save has ended, well or not. Does not wait."""
        self._check_process()
        return self._job.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the save. Ctrl-C ends the waiting, not the save.

        Calls the `progress` of save_checkpoint meanwhile; an exception from it cancels the save and
        is raised.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            bool. Whether the save has ended, well or not.
        """
        return self._wait(timeout, None)

    def fence(self, stream: object = None, device: str | None = None) -> None:
        """Make a stream wait until the tensors may be overwritten; for snapshot='lazy'.

        To be called before the work that overwrites them is put into the stream, such as the step
        of the optimizer. The stream waits on the device; the host waits only until the save has
        put its copies into its own stream (a moment; as long as they take, where there was no
        memory for a snapshot), or for tensors in host memory. Without a stream the host waits.
        With another `snapshot` the streams that made the tensors wait by themselves.

        Args:
            stream: A stream of CuPy, torch, torch_npu or Numba, or the driver's handle of one; None
                to wait here.
            device: Where the stream is, such as 'cuda:1'; None for the first device saved from.

        Raises:
            TypeError: `stream` is no stream.
            ValueError: Nothing is saved from a device.
            RuntimeError: The device failed.
        """
        self._check_process()
        if stream is None:
            self.staged.wait()
        else:
            handle = raw_stream(stream)
            while not self._job.fence(handle, device, _POLL_SECONDS):
                pass  # looks up for signals

    def _wait(self, timeout: float | None, state: str | None) -> bool:
        """Until a state is settled, or the end for None."""
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            seconds = min(left, _POLL_SECONDS)
            job = self._job
            reached = job.wait(seconds) if state is None else job.wait_for(state, seconds)
            job.release_arrays()
            self._report(reached if state is None else job.done())
            if reached or left == 0.0:
                return reached

    def result(self, timeout: float | None = None) -> SaveStats:
        """Wait for the end of the save and tell what it took.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            dict. `path`; `nbytes` (of the file), `payload_nbytes` (of tensor data), `records`,
            `blocks`, `num_threads`, `durable` (synced to storage); `write_way` ('buffered' through
            the page cache, or 'direct' past it: how most bytes got into the file), `reused` (a
            retired file's blocks were written over) and `reuse_reason` (why not, where there was
            one); `refused` (what the file system refused and the save did without, such as the mode
            in 'fchmod: Operation not permitted'; '' for nothing); `snapshot` ('none', 'host',
            'device', 'lazy') and `snapshot_reason` (why, where it was picked); `in_call_reason`
            (why an asynchronous save had ended when save_checkpoint returned; '' where it was not
            to); wall-clock `seconds`, of which `snapshot_seconds` for the snapshot (before
            save_checkpoint returned, of a lazy one after) and `publish_seconds` for sync and
            rename; `staged_seconds`, `written_seconds` and `durable_seconds` from the call to each
            state (0 when not durable); and, summed over the threads, `copy_seconds` (waiting for
            devices), `fill_seconds`, `checksum_seconds`, `seal_seconds`, `write_seconds`.

        Raises:
            TimeoutError: The save is still running.
            OSError: The file system said no. Nothing was published, unless it is the folder that
                could not be synced after the file took its name.
            RuntimeError: The save was cancelled.
        """
        self._await_end(timeout)
        stats = self._job.result()
        stats["in_call_reason"] = self._in_call_reason
        return stats

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the end of the save; return what `result()` would raise, None after a good end.

        Raises:
            TimeoutError: The save is still running.
        """
        self._await_end(timeout)
        return self._failure()

    def trace(self) -> list[tuple[str, int, int, float, float]]:
        """What a save with trace=True has done so far: a tuple for each stage of each block.

        The stage ('copy' from a device, 'wait' for it, 'fill', 'checksum', 'seal', 'write'), the
        worker thread (-1 for a device's copies), the block's number, and when it began and ended,
        in seconds from the call of save_checkpoint.
        """
        self._check_process()
        return self._job.trace()

    def __repr__(self) -> str:
        if os.getpid() != self._pid:
            state = "of another process"
        elif not self._job.done():
            state = "running"
        else:
            state = "saved" if self._failure() is None else "failed"
        return f"<SaveJob {self._path!r} {state}>"

    def _await_end(self, timeout: float | None) -> None:
        if not self.wait(timeout):
            raise TimeoutError(f"the save of {self._path!r} is still running after {timeout} s")
        self._asked = True
        running_saves.forget_settled()

    def _failure(self) -> Exception | None:
        """Why the ended save failed."""
        try:
            self._job.result()
        except Exception as error:
            return error
        return None

    def _run_here(self) -> None:
        """Save in this thread, which looks up for signals and to report progress."""
        self._in_call_reason = "the system gives this process no thread"
        self._job.run_here(lambda: self._call_progress(ended=False))

    def _abort(self) -> None:
        """Cancel and wait for the end: nothing is left behind then, and nobody is to be told."""
        self._asked = True
        self._job.cancel()
        if self._job.started():
            while not self._job.wait(_POLL_SECONDS):
                pass
        running_saves.forget_settled()

    def _report(self, ended: bool) -> None:
        try:
            self._call_progress(ended)
        except KeyboardInterrupt:
            raise  # in the function by chance: the waiting ends, not the save
        except BaseException:
            self._abort()
            raise

    def _call_progress(self, ended: bool) -> None:
        # Two threads may wait for one job, and the user's function may wait for it again: one call
        # at a time.
        if self._progress is None or not self._reporting.acquire(blocking=False):
            return
        try:
            progress = self._progress
            if ended:
                self._progress = None  # the call at the end is the last
            if progress is not None:
                progress(*self._job.progress())
        except KeyboardInterrupt:
            raise
        except BaseException:
            self._progress = None
            raise
        finally:
            self._reporting.release()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(f"the save of {self._path!r} runs in the process that started it")


class RunningSaves:
    """The saves of this process that have not ended, or failed without anyone having been told.

    Keeps their jobs alive and saves to one path in order.
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler may save while its thread is in here.
        self._lock = threading.RLock()
        self._jobs: list[SaveJob] = []
        # Whether nobody will wait for a save any more that is started now.
        self._finished = False

    def start(self, save: SaveJob) -> None:
        """Start a save after those that this process has running to the same path.

        It has ended when this returns if no thread can be had for it, or if nobody would wait for
        it: then what went wrong is raised, as by `run`.
        """
        try:
            with self._locked():
                self.forget_settled()
                earlier = self._last_to(save.path)
                has_thread = save._job.start(None if earlier is None else earlier._job)
                self._jobs.append(save)
                nobody_waits = save._is_async and self._finished
            if not has_thread:
                save._run_here()
            if nobody_waits:
                save._in_call_reason = "the interpreter is ending"
                save.result()
        except BaseException:
            save._abort()
            raise

    def run(self, save: SaveJob) -> None:
        """Start a save, wait for it and raise what went wrong; interrupted, cancel it first."""
        self.start(save)
        try:
            save.result()
        except BaseException:
            save._abort()
            raise

    def wait_until_staged(self, save: SaveJob) -> None:
        """Wait until the tensors may change; interrupted, cancel the save, which reads them."""
        try:
            save.staged.wait()
        except BaseException:
            save._abort()
            raise

    def wait_for(self, path: str) -> None:
        """Wait for the saves to one path that are running, however they end."""
        with self._locked():
            save = self._last_to(path)
        if save is not None:
            _wait_quietly(save)

    def any_async(self) -> bool:
        """Whether an asynchronous save is running."""
        with self._locked():
            return any(save._is_async and not save.done() for save in self._jobs)

    def raise_untold(self) -> None:
        """Raise the first failure that nobody asked about, if any; all count as told then."""
        failures = self._take_untold()
        if not failures:
            return
        path, error = failures[0]
        told = "an earlier asynchronous save failed"
        if len(failures) > 1:
            told = f"{len(failures)} earlier asynchronous saves failed; the first"
        if isinstance(error, OSError) and error.errno is not None:
            # Of the same type, so that who handles a full disk handles this too.
            raise OSError(error.errno, f"{told}: {error.strerror}", error.filename) from error
        raise RuntimeError(f"{told}, to {path!r}: {error}") from error

    def finish(self) -> None:
        """At exit: wait for all, and report on stderr the failures that nobody asked about."""
        with self._locked():
            self._finished = True
            saves = list(self._jobs)
        try:
            for save in saves:
                _wait_quietly(save)
        except KeyboardInterrupt:
            for save in saves:
                if not save.done():
                    save._abort()
                    _complain(f"the asynchronous save to {save.path!r} was interrupted")
        for path, error in self._take_untold():
            _complain(f"the asynchronous save to {path!r} failed: {type(error).__name__}: {error}")

    def finish_in_child(self) -> None:
        """At the end of a main thread: `finish`, where the process leaves without exit handlers."""
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            self.finish()

    def forget_all(self) -> None:
        """In a forked child: the saves, and maybe the lock's holder, are threads of the parent."""
        self._lock = threading.RLock()
        self._jobs = []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # When the interpreter is finalizing this thread is the only one left, and one that had the
        # lock, a daemon, will not give it back.
        acquired = self._lock.acquire(blocking=not sys.is_finalizing())
        try:
            yield
        finally:
            if acquired:
                self._lock.release()

    def _last_to(self, path: str) -> SaveJob | None:
        for save in reversed(self._jobs):
            if save.path == path and not save.done():
                return save
        return None

    def _take_untold(self) -> list[tuple[str, Exception]]:
        with self._locked():
            self.forget_settled()
            failures = []
            for save in self._jobs:
                if save.done() and not save._asked:
                    error = save._failure()
                    save._asked = True
                    if error is not None:
                        failures.append((save.path, error))
            self.forget_settled()
            return failures

    def forget_settled(self) -> None:
        """Let go of the jobs that have ended and whose end somebody was told."""
        with self._locked():
            for save in self._jobs:
                save._job.release_arrays()
            self._jobs = [save for save in self._jobs if not save.done() or _is_untold(save)]


def _is_untold(save: SaveJob) -> bool:
    return not save._asked and save._failure() is not None


def _wait_quietly(save: SaveJob) -> None:
    while not save._job.wait(_POLL_SECONDS):
        pass


def _complain(message: str) -> None:
    if sys.stderr is not None:
        print(f"mindckpt: {message}", file=sys.stderr)


running_saves = RunningSaves()
atexit.register(running_saves.finish)
os.register_at_fork(after_in_child=running_saves.forget_all)
# Children of multiprocessing leave by os._exit, in most versions of Python without a call of what
# is registered with atexit, but after the end of their threads.
try:
    threading._register_atexit(running_saves.finish_in_child)  # type: ignore[attr-defined]
except RuntimeError:  # imported in an exit handler
    running_saves.finish()


def async_ckpt_thread_status() -> bool:
    """Whether an asynchronous save of this process is running, as in MindSpore.

    Example:
        >>> import mindckpt as ms
        >>> ms.async_ckpt_thread_status()
        False
    """
    return running_saves.any_async()
