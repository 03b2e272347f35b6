"""A program that has a save or a load fail at one call after the other, and judges each.

It is started by `shim.start`, and reads orders, a line of JSON each: a folder, a job and a
scenario. The job is 'faults', 'memory', 'threads', 'kills', 'load faults', 'load memory' or
'load threads'. It answers with a line of JSON: how many calls there are, their names, how many
cases were tried, and the problems. Each case is a forked child, in a folder prepared anew.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crash import shim
from crash.scenarios import LOADS, RETIRED, SAVES, Folder, Load, Save
from crash.shim import END, FAIL, FAIL_FROM_NOW, FILES, KILL, MEMORY, NONE, SHORT, THREADS, Call
from mindckpt import CheckpointError
from support import temporaries

SECONDS_FOR_A_CASE = 60
ACTION_NAMES = ["nothing", "fails with", "fails from now on with", "stops short", "moves nothing"]

TRANSFERS = ("pwrite", "pwritev", "pwritev2", "pread", "preadv", "preadv2")
# What calls fail with that the engine has an answer to; all others fail with EIO.
ERRORS: dict[str, tuple[int, ...]] = {
    "close": (errno.EIO,),
    "fallocate": (errno.ENOSPC, errno.EOPNOTSUPP, errno.EPERM, errno.EINTR),
    "fchmod": (errno.EPERM, errno.EIO),
    "fcntl": (errno.EAGAIN,),
    "fdatasync": (errno.EIO, errno.EINTR),
    "flistxattr": (errno.EOPNOTSUPP, errno.EIO),
    "flock": (errno.ENOLCK, errno.EINTR),
    "fsync": (errno.EIO, errno.EINVAL, errno.EINTR),
    "getrandom": (errno.ENOSYS,),
    "open": (errno.EMFILE, errno.EACCES),
    "openat": (errno.EMFILE, errno.EACCES),
    "preadv": (errno.EIO, errno.EINTR),
    "pwrite": (errno.EIO, errno.EINVAL, errno.EFAULT, errno.EINTR),
    "pwritev": (errno.ENOSPC, errno.EINTR),
}
MORE_ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ESTALE, errno.ENOMEM)
# Of calls whose manual page lists it: they are restarted, and nobody hears of it.
RESTARTED = (*TRANSFERS, "fallocate", "fdatasync", "flock", "fsync")
# pybind11 keeps a table of its objects, and ends the process when a node of it gets no memory.
PYBIND_NODE_BYTES = "24"
# A lease that can't be given back, which Linux has no reason for, would hold up every open of the
# file for 45 s.
GIVES_BACK_A_LEASE = f" {fcntl.F_SETLEASE} {fcntl.F_UNLCK}"


@dataclass
class Outcome:
    """What a child saw: of the save, then of the folder, then of a save after it."""

    told: str = ""  # 'done', or the error's type
    error: list[Any] = field(default_factory=list)  # errno, filename, text
    calls: list[list[str]] = field(default_factory=list)
    target: str = ""
    retired: str = ""
    temporaries: list[str] = field(default_factory=list)
    mode: int = 0
    leaked: list[str] = field(default_factory=list)
    next_save: str = ""


def open_files() -> set[str]:
    """Descriptors of this process, and what they are of."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def in_child(body: Callable[[], Outcome]) -> tuple[int, Outcome]:
    """Runs `body` in a forked child; returns its wait status and what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            signal.alarm(SECONDS_FOR_A_CASE)
            said = json.dumps(asdict(body()))
            with os.fdopen(writing, "w") as file:
                file.write(said)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    return status, Outcome(**json.loads(said)) if said else Outcome()


def told_by(error: BaseException) -> tuple[str, list[Any]]:
    """An error's type by the documented names, and what it tells."""
    for kind in (CheckpointError, OSError, MemoryError, RuntimeError):
        if isinstance(error, kind):
            name = kind.__name__
            break
    else:
        name = type(error).__name__
    filename = getattr(error, "filename", None)
    return name, [getattr(error, "errno", None), filename and str(filename), str(error)]


class Cases:
    """All that can happen to one scenario, and what was wrong about it."""

    def __init__(self, control: shim.Shim, folder: Path, kinds: int) -> None:
        self.shim = control
        self.path = folder
        self.kinds = kinds
        self.cases = 0
        self.problems: list[str] = []

    def chosen(self, calls: list[Call]) -> Iterator[tuple[int, Call]]:
        """Numbers, from 1 on, of the calls to be tried: all, or the first and last of each name."""
        of_name: dict[str, list[int]] = defaultdict(list)
        for nth, call in enumerate(calls, 1):
            of_name[call.name].append(nth)
        for nth, call in enumerate(calls, 1):
            of_this = of_name[call.name]
            if call.name == "new" and call.about == PYBIND_NODE_BYTES:
                continue
            if call.name == "new":  # there are a hundred
                is_chosen = nth % 4 == 0
            else:
                is_chosen = nth in (*of_this[:2], of_this[-1]) or len(of_this) <= 6
            if shim.is_torture or is_chosen:
                yield nth, call

    def ways_to_fail(self, call: Call) -> list[tuple[int, int]]:
        """Pairs of an action and an errno."""
        if self.kinds == MEMORY:
            return [(FAIL, errno.ENOMEM), (FAIL_FROM_NOW, errno.ENOMEM)]
        if self.kinds == THREADS:
            return [(FAIL, errno.EAGAIN), (FAIL_FROM_NOW, errno.EAGAIN)]
        if call.about.endswith(GIVES_BACK_A_LEASE):
            return []
        errors = ERRORS.get(call.name, (errno.EIO,))
        if shim.is_torture:
            errors = tuple(dict.fromkeys((*errors, *MORE_ERRORS)))
        ways = [(FAIL, error) for error in errors]
        if call.name in TRANSFERS:
            ways += [(SHORT, 0), (END, 0)]
        # Once interrupted, always interrupted, would go on for ever; and what can't be removed
        # stays.
        ways += [
            (FAIL_FROM_NOW, error)
            for error in errors
            if error != errno.EINTR and call.name not in ("unlinkat", "unlink")
            and (shim.is_torture or call.name in (*TRANSFERS, "renameat"))
        ]  # fmt: skip
        return ways

    def problem(self, nth: int, call: str, action: int, error: int, text: str) -> None:
        name = errno.errorcode.get(error, "")
        did = "the process is killed" if action == KILL else f"{ACTION_NAMES[action]} {name}"
        self.problems.append(f"call {nth}, {call}, {did.strip()}: {text}")


class SaveCases(Cases):
    """A save, with one of its calls failing or the process killed there."""

    def __init__(self, control: shim.Shim, folder: Path, kinds: int, save: Save) -> None:
        super().__init__(control, folder, kinds)
        self.save = save
        save.choose_write_way()
        self.folder = Folder(folder, save)
        _, counted = self.attempt(0, NONE, 0)
        assert counted.told == "done", counted
        assert counted.target == "new", counted
        self.calls = [Call(*call) for call in counted.calls]

    def attempt(self, nth: int, action: int, error: int) -> tuple[int, Outcome]:
        """Saves in a child, and once more there after what happened."""
        self.folder.prepare()

        def body() -> Outcome:
            outcome = Outcome()
            before = open_files()
            try:
                with self.shim.armed(self.kinds, nth, action, error):
                    self.save.run(self.path)
                outcome.told = "done"
            except BaseException as failure:
                outcome.told, outcome.error = told_by(failure)
            outcome.calls = [[call.name, call.about] for call in self.shim.log()]
            outcome.leaked = sorted(open_files() - before)
            outcome.target = self.folder.state_of_target()
            outcome.retired = self.folder.state_of_retired()
            outcome.temporaries = temporaries(self.path)
            if outcome.target == "new":
                outcome.mode = stat.S_IMODE((self.path / "a.ckpt").stat().st_mode)
            outcome.next_save = self.next_save()
            return outcome

        return in_child(body)

    def next_save(self) -> str:
        """What is wrong after another save; ''."""
        try:
            self.save.run(self.path, 3)
        except Exception as error:
            return repr(error)
        state = self.folder.state_of_target(3)
        if state != "new" or self.folder.names() != ["a.ckpt"]:
            return f"the target is {state} among {self.folder.names()}"
        return ""

    def try_faults(self) -> None:
        for nth, call in self.chosen(self.calls):
            for action, error in self.ways_to_fail(call):
                self.cases += 1
                status, outcome = self.attempt(nth, action, error)
                if status != 0:
                    how = "hangs" if os.WTERMSIG(status) == signal.SIGALRM else "dies"
                    self.problem(nth, call.name, action, error, f"the process {how}: {status}")
                    continue
                done = outcome.calls[nth - 1][0] if nth <= len(outcome.calls) else call.name
                for text in self.judged(nth, action, error, outcome):
                    self.problem(nth, done, action, error, text)

    def judged(self, nth: int, action: int, error: int, outcome: Outcome) -> Iterator[str]:
        """What is wrong about how a save with a failing call ended."""
        calls = [Call(*call) for call in outcome.calls]
        failing = calls[nth - 1] if nth <= len(calls) else Call("none", "")
        failed = failed_calls(calls, nth, action)
        published = published_at(calls)
        is_published = published is not None and published not in failed
        old = "old" if self.save.replaces else "absent"
        if outcome.told == "done":
            if outcome.target != "new":
                yield f"it is told to be saved, and the target is {outcome.target}"
            needed = [
                at
                for at in failed
                if calls[at].name == "fdatasync"
                or (calls[at].name == "fsync" and published is not None and at > published)
            ]
            if self.save.is_durable and needed and error == errno.EIO:
                yield "it is told to be durable"
            if outcome.mode != 0o400 and failing.name != "fchmod":
                yield f"its mode is {outcome.mode:o}"
            if RETIRED in self.folder.names() and self.save.reuses:
                yield "the folder holds the retired file"
        else:
            # Without memory the caller may not hear of a save that went well.
            right = [old, "new"] if self.kinds == MEMORY else ["new" if is_published else old]
            if outcome.target not in right:
                yield f"{outcome.told}, and the target is {outcome.target}"
            yield from self.judged_error(failing, action, error, outcome)
        # Its mode can't be given back where that is what fails.
        right = ["absent", "whole", *(["of another mode"] if failing.name == "fchmod" else [])]
        if outcome.retired not in right:
            yield f"the retired file is {outcome.retired}"
        if outcome.temporaries and failing.name != "unlinkat" and not self.save.leftover:
            yield "a temporary stays"
        if outcome.leaked:
            yield f"descriptors leak: {outcome.leaked}"
        if outcome.next_save:
            yield f"the next save: {outcome.next_save}"

    def judged_error(
        self, failing: Call, action: int, error: int, outcome: Outcome
    ) -> Iterator[str]:
        number, filename, text = outcome.error
        if action == SHORT:
            yield f"{outcome.told}: {text}"
        if error == errno.EINTR and failing.name in RESTARTED:
            yield f"{outcome.told}: {text}"
        if self.kinds == MEMORY:
            if outcome.told != "MemoryError":
                yield f"{outcome.told}: {text}"
        elif self.kinds == THREADS:
            if outcome.told not in ("OSError", "RuntimeError"):
                yield f"{outcome.told}: {text}"
        elif outcome.told == "RuntimeError" and "no random numbers" in text:
            pass  # for a cipher: that has nothing to do with the file
        else:
            if outcome.told != "OSError" or number != (errno.EIO if action == END else error):
                yield f"{outcome.told} with errno {number}: {text}"
            elif not filename or not filename.startswith(str(self.path)):
                yield f"the error's filename is {filename!r}: {text}"

    def try_kills(self) -> None:
        published = published_at(self.calls)
        assert published is not None
        for nth, call in self.chosen(self.calls):
            self.cases += 1
            status, _ = self.attempt(nth, KILL, 0)
            target = self.folder.state_of_target()
            old = "old" if self.save.replaces else "absent"
            right = ["new" if nth > published + 1 else old]
            if not self.save.has_one_order:
                right = ["new", old]
            texts = []
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                if self.save.has_one_order:
                    texts.append(f"it was not killed: {status}")
                continue
            if target not in right:
                texts.append(f"the target is {target}")
            # Killed while its mode is that of a file to be written: the bytes are whole still.
            if self.folder.state_of_retired() == "torn":
                texts.append("the retired file is torn")
            if len(temporaries(self.path)) > 1:
                texts.append(f"there are {temporaries(self.path)}")
            next_save = self.next_save()
            if next_save:
                texts.append(f"the next save: {next_save}")
            for text in texts:
                self.problem(nth, call.name, KILL, 0, text)


def failed_calls(calls: list[Call], nth: int, action: int) -> set[int]:
    """Which calls, from 0 on, were made to fail."""
    if action == FAIL and nth <= len(calls):
        return {nth - 1}
    if action == FAIL_FROM_NOW and nth <= len(calls):
        return {at for at in range(nth - 1, len(calls)) if calls[at].name == calls[nth - 1].name}
    return set()


def published_at(calls: list[Call]) -> int | None:
    """Which call, from 0 on, gives the new file its name."""
    for at, call in enumerate(calls):
        if call.name in ("renameat", "renameat2") and call.about.endswith("/a.ckpt"):
            return at
    return None


class LoadCases(Cases):
    """A load with one of its calls failing: the right values, or an error."""

    def __init__(self, control: shim.Shim, folder: Path, kinds: int, load: Load) -> None:
        super().__init__(control, folder, kinds)
        self.load = load
        load.save.run(folder)
        _, counted = self.attempt(0, NONE, 0)
        assert counted.told == "done", counted
        self.calls = [Call(*call) for call in counted.calls]

    def attempt(self, nth: int, action: int, error: int) -> tuple[int, Outcome]:
        def body() -> Outcome:
            outcome = Outcome()
            before = open_files()
            try:
                with self.shim.armed(self.kinds, nth, action, error):
                    self.load.run(self.path)
                outcome.told = "done"
            except BaseException as failure:
                outcome.told, outcome.error = told_by(failure)
            outcome.calls = [[call.name, call.about] for call in self.shim.log()]
            outcome.leaked = sorted(open_files() - before)
            try:
                self.load.run(self.path)
            except Exception as failure:
                outcome.next_save = repr(failure)
            return outcome

        return in_child(body)

    def try_faults(self) -> None:
        for nth, call in self.chosen(self.calls):
            for action, error in self.ways_to_fail(call):
                self.cases += 1
                status, outcome = self.attempt(nth, action, error)
                if status != 0:
                    self.problem(nth, call.name, action, error, f"the process dies: {status}")
                    continue
                for text in self.judged(call, action, error, outcome):
                    self.problem(nth, call.name, action, error, text)

    def judged(self, call: Call, action: int, error: int, outcome: Outcome) -> Iterator[str]:
        is_heard_of = outcome.told != "done"
        number, filename, text = outcome.error or (None, None, "")
        if is_heard_of and (action == SHORT or (error == errno.EINTR and call.name in RESTARTED)):
            yield f"{outcome.told}: {text}"
        elif outcome.told == "OSError":
            if number != error or filename != str(self.path / "a.ckpt"):
                yield f"errno {number}, filename {filename!r}: {text}"
        elif outcome.told == "CheckpointError":
            if action != END:
                yield f"{outcome.told}: {text}"
        elif outcome.told == "MemoryError":
            if self.kinds != MEMORY and call.name != "mmap":
                yield f"{outcome.told}: {text}"
        elif is_heard_of:
            yield f"{outcome.told}: {text}"
        is_lost = action in (FAIL, FAIL_FROM_NOW, END) and error != errno.EINTR
        if not is_heard_of and is_lost and call.name in TRANSFERS:
            yield "a read that failed is not told"
        if outcome.leaked:
            yield f"descriptors leak: {outcome.leaked}"
        if outcome.next_save:
            yield f"the next load: {outcome.next_save}"


def carried_out(control: shim.Shim, folder: Path, job: str, scenario: str) -> dict[str, Any]:
    """Tries all cases of an order."""
    kinds = {"memory": MEMORY, "threads": THREADS}.get(job.split()[-1], FILES)
    cases: SaveCases | LoadCases
    if job.startswith("load"):
        cases = LoadCases(control, folder, kinds, LOADS[scenario])
        cases.try_faults()
    else:
        cases = SaveCases(control, folder, kinds, SAVES[scenario])
        if job == "kills":
            cases.try_kills()
        else:
            cases.try_faults()
    return {
        "calls": len(cases.calls),
        "names": sorted({call.name for call in cases.calls}),
        "cases": cases.cases,
        "problems": cases.problems,
    }


def main() -> None:
    control = shim.Shim()
    control.skip_syncs()
    for order in sys.stdin:
        folder, job, scenario = json.loads(order)
        print(json.dumps(carried_out(control, Path(folder), job, scenario)), flush=True)


if __name__ == "__main__":
    main()
