"""The libraries that are measured: ours, and its peers on the same tensors."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import memory
import mindckpt
from contest import NO_FLOOR, Entry, Floor
from mindckpt.bench import modes
from mindckpt.bench.limits import Limit
from mindckpt.bench.measure import Payload, sample
from mindckpt.bench.modes import Mode
from mindckpt.bench.raw import into_page_cache


@dataclass(frozen=True)
class Library:
    """A library that saves and loads checkpoints.

    Attributes:
        name: As printed.
        save_object: Makes of arrays what `save` takes, without a copy.
        save: Saves the object in a mode.
        load: Loads a file of that mode: name -> tensor.
        as_array: A loaded tensor as a NumPy array.
        modes: Those that it has.
        copies: How many times the payload's size a save or a load takes of the memory, a file in
            the page cache included: so much is warmed before a sample.
    """

    name: str
    save_object: Callable[[Payload], dict[str, Any]]
    save: Callable[[dict[str, Any], Path, Mode], object]
    load: Callable[[Path, Mode], dict[str, Any]]
    as_array: Callable[[Any], Any] = np.asarray
    modes: tuple[Mode, ...] = (modes.PLAIN,)
    copies: int = 1


def _save(save_obj: dict[str, Any], path: Path, mode: Mode) -> None:
    mindckpt.save_checkpoint(save_obj, path, durable=mode.durable, **mode.save_options)


def _load(path: Path, mode: Mode) -> dict[str, Any]:
    return mindckpt.load_checkpoint(path, **mode.load_options)


MINDCKPT = Library("mindckpt", lambda payload: dict(payload.tensors), _save, _load, modes=modes.ALL)


def mindspore() -> Library:
    """The real MindSpore; ImportError where it is not installed."""
    os.environ.setdefault("GLOG_v", "4")  # it warns at every save
    import mindspore as ms

    def save_object(payload: Payload) -> dict[str, Any]:
        return {
            name: ms.Parameter(ms.Tensor.from_numpy(array), name=name)
            for name, array in payload.tensors.items()
        }

    def save(save_obj: dict[str, Any], path: Path, mode: Mode) -> None:
        ms.save_checkpoint(save_obj, str(path), **mode.save_options)

    def load(path: Path, mode: Mode) -> dict[str, Any]:
        return ms.load_checkpoint(str(path), **mode.load_options)

    return Library(
        "MindSpore",
        save_object,
        save,
        load,
        lambda tensor: tensor.asnumpy(),
        (modes.PLAIN, modes.CRC, modes.GCM, modes.CBC, modes.SM4),
        copies=4,
    )


def safetensors() -> Library:
    """Safetensors with NumPy; ImportError where it is not installed."""
    from safetensors import numpy as library

    return Library(
        "safetensors",
        lambda payload: dict(payload.tensors),
        lambda save_obj, path, mode: library.save_file(save_obj, path),
        lambda path, mode: library.load_file(path),
        copies=2,
    )


def _torch_tensors(payload: Payload) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in payload.tensors.items()}


def torch_save() -> Library:
    """torch.save and torch.load; ImportError where it is not installed."""
    import torch

    return Library(
        "torch.save",
        _torch_tensors,
        lambda save_obj, path, mode: torch.save(save_obj, path),
        lambda path, mode: torch.load(path, weights_only=True),
        lambda tensor: tensor.numpy(),
    )


def torch_dcp() -> Library:
    """torch.distributed.checkpoint, one process; ImportError where it is not installed."""
    import torch
    import torch.distributed.checkpoint as dcp

    shapes: dict[Path, dict[str, Any]] = {}

    def save(save_obj: dict[str, Any], path: Path, mode: Mode) -> None:
        shapes[path] = {name: tensor.shape for name, tensor in save_obj.items()}
        dcp.save(save_obj, checkpoint_id=path, no_dist=True)

    def load(path: Path, mode: Mode) -> dict[str, Any]:
        loaded = {name: torch.empty(shape) for name, shape in shapes[path].items()}
        dcp.load(loaded, checkpoint_id=path, no_dist=True)
        return loaded

    return Library("torch DCP", _torch_tensors, save, load, lambda tensor: tensor.numpy(), copies=2)


# By name, for a process that is to measure one of them.
LIBRARIES: dict[str, Callable[[], Library]] = {
    "mindckpt": lambda: MINDCKPT,
    "MindSpore": mindspore,
    "safetensors": safetensors,
    "torch.save": torch_save,
    "torch DCP": torch_dcp,
}


@dataclass
class RoundTrip:
    """Saves in one mode, and loads of what was saved, which are compared with it and removed.

    Attributes:
        library: Who saves and loads.
        mode: The mode.
        payload: What is saved.
        folder: Where to.
        file_bytes: Length of the file, once one was saved.
    """

    library: Library
    mode: Mode
    payload: Payload
    folder: Path
    file_bytes: int = 0
    _save_object: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._save_object = self.library.save_object(self.payload)

    @property
    def save_name(self) -> str:
        """What its save is called in tables."""
        return f"{self.library.name} save {self.mode.name}"

    @property
    def load_name(self) -> str:
        """What its load is called in tables."""
        return f"{self.library.name} load {self.mode.name}"

    def both(
        self,
        save_limit: Limit | None = None,
        save_floor: Floor = NO_FLOOR,
        load_limit: Limit | None = None,
        load_floor: Floor = NO_FLOOR,
    ) -> list[Entry]:
        """A line of saves, and one of loads of what they wrote, which is to follow it at once."""
        return [self.save(save_limit, save_floor, keep=True), self.load(load_limit, load_floor)]

    def save(
        self, limit: Limit | None = None, floor: Floor = NO_FLOOR, *, keep: bool = False
    ) -> Entry:
        """A line of saves, each a new file, which is left where `keep` says so."""

        def take() -> float:
            if self._path.exists():  # what a sample left that is taken again
                self._remove()
            seconds, _ = sample(self._save, self._memory)
            self.file_bytes = self._path.stat().st_size
            if not keep:
                self._remove()
            return seconds

        return Entry(self.save_name, take, limit, floor, self._extra("save_bytes"))

    def load(self, limit: Limit | None = None, floor: Floor = NO_FLOOR, **options: Any) -> Entry:
        """A line of loads of a file in the page cache: the one that `save` kept, or a new one."""

        def load() -> dict[str, Any]:
            if options:
                return mindckpt.load_checkpoint(self._path, **self.mode.load_options, **options)
            return self.library.load(self._path, self.mode)

        def take() -> float | None:
            if not self._path.exists():
                self._save()
            if self._path.is_file():
                into_page_cache(self._path)
            try:
                seconds, loaded = sample(load, self._memory)
            except Exception as error:
                if self.library is MINDCKPT:
                    raise
                # MindSpore refuses what is larger than what it takes for free memory.
                print(f"{self.load_name}: {error}", file=sys.stderr)
                return None
            finally:
                self._remove()
            self._check(loaded)
            return seconds

        name = self.load_name + "".join(f", {key}" for key in options)
        extra = None if options else self._extra("load_bytes")
        return Entry(name, take, limit, floor, extra)

    @property
    def _memory(self) -> int:
        return self.library.copies * self.payload.nbytes

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.library.name} {self.mode.name}.ckpt"

    def _save(self) -> None:
        self.library.save(self._save_object, self._path, self.mode)

    def _remove(self) -> None:
        if self._path.is_dir():
            shutil.rmtree(self._path)
        else:
            self._path.unlink()

    def _check(self, loaded: dict[str, Any]) -> None:
        assert set(loaded) == set(self.payload.tensors), "other names"
        for name, tensor in self.payload.tensors.items():
            array = self.library.as_array(loaded[name])
            assert np.array_equal(array, tensor), f"other values in {name}"

    def _extra(self, which: str) -> Callable[[], int] | None:
        if self.library is not MINDCKPT:
            return None
        count = len(self.payload.tensors)
        size = count, self.payload.nbytes // count
        return lambda: int(
            getattr(memory.peak(self.library.name, self.mode, *size, self.folder), which)
        )


def blocked(
    payload: Payload,
    folder: Path,
    limit: Limit | None = None,
    floor: Floor = NO_FLOOR,
    *,
    first: bool = False,
) -> Entry:
    """How long our asynchronous save keeps its caller: one of many, or the `first`.

    The first one has its snapshot in new memory, which the system must clear; the later ones in
    that of the save before, which is kept for them.
    """
    path = folder / "async.ckpt"

    def save() -> mindckpt.SaveJob | None:
        return mindckpt.save_checkpoint(dict(payload.tensors), path, async_save=True, durable=False)

    def take() -> float:
        if first:
            mindckpt.release_staging()
        else:
            finish(save())
        seconds, job = sample(save, payload.nbytes)
        finish(job)
        return seconds

    def finish(job: mindckpt.SaveJob | None) -> None:
        assert job is not None
        job.result()
        path.unlink()

    name = "mindckpt save plain, async" + (", first" if first else "")
    return Entry(f"{name}: blocked", take, limit, floor)
