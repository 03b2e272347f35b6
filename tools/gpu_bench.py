"""The step 'bench' of `make gpu`: saves from the device as `python -m mindckpt.bench` takes them.

One process with one payload for all modes, policies and places: what takes long is to make it. The
report holds each save to the fastest of the raw limits that the step 'limits' found.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from gpu_room import fitting
from gpu_worker import Item, UnavailableError, Worker
from mindckpt.bench import modes
from mindckpt.bench.cases import Case
from mindckpt.bench.measure import Payload
from mindckpt.bench.source import Source

_DEVICE = "cuda:0"
_TENSORS = 8
# The payload, a pinned copy of it, what is warmed.
_MEMORY_FACTOR = 3.3


class Bench:
    """Takes the items."""

    def __init__(self, worker: Worker) -> None:
        self._places = {name: Path(path) for name, path in worker.options["places"].items()}
        self._scratch: str = worker.options["scratch"]
        self._folders: dict[str, Path] = {}
        self._source: Source | None = None
        self._small: Source | None = None
        self._warm: set[str] = set()

    def prepare(self, item: Item) -> None:
        """Puts the tensors on the device; pins what a policy keeps, by a save of all of them."""
        options = item.options
        if options["kind"] == "check":
            if self._small is None:
                payload = Payload.of_size(_TENSORS, options["nbytes"] // _TENSORS // 4 * 4)
                self._small = Source(payload, _DEVICE)
            return
        if self._source is None:
            self._small = None
            nbytes = self._nbytes(options["nbytes"])
            count = max(1, nbytes // options["tensor_bytes"])
            self._source = Source(Payload.of_size(count, options["tensor_bytes"]), _DEVICE)
        if options["policy"] not in self._warm:
            self._case(item, self._source, durable=False).take()
            self._warm.add(options["policy"])

    def take(self, item: Item) -> dict[str, Any]:
        """One save, timed; or one that is loaded and compared."""
        if item.options["kind"] == "check":
            assert self._small is not None
            self._case(item, self._small).check()
            return {"nbytes": self._small.payload.nbytes}
        assert self._source is not None
        case = self._case(item, self._source)
        times = case.take()
        reason = case.stats["snapshot_reason"] if case.stats else ""
        found = {"nbytes": self._source.payload.nbytes, "times": times, "taken": case.taken}
        return (
            found
            | {"bytes_per_second": self._source.payload.nbytes / max(times.values())}
            | ({"reason": reason} if reason else {})
        )

    def close(self) -> None:
        """Removes the folders."""
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def _case(self, item: Item, source: Source, durable: bool = True) -> Case:
        place = item.options.get("place", "tmpfs")
        if place not in self._folders:
            found = fitting(source.payload.nbytes, self._places[place], place, 0)
            if not isinstance(found, int) or found < source.payload.nbytes:
                raise UnavailableError(f"{place}: too little room: {found}")
            made = tempfile.mkdtemp(prefix=self._scratch, dir=self._places[place])
            self._folders[place] = Path(made)
        mode = modes.BY_NAME[item.options["mode"]]
        path = self._folders[place] / "bench.ckpt"
        return Case(mode, item.options["policy"], source, path, durable)

    def _nbytes(self, wanted: int) -> int:
        """The largest payload for which both places have room, or the one that has any."""
        found = [
            fitting(wanted, folder, place, _MEMORY_FACTOR) for place, folder in self._places.items()
        ]
        sizes = [size for size in found if isinstance(size, int)]
        if not sizes:
            raise UnavailableError("; ".join(map(str, found)))
        return min(sizes)


if __name__ == "__main__":
    worker = Worker()
    bench = Bench(worker)
    try:
        worker.run(bench.take, bench.prepare)
    finally:
        bench.close()
