"""Saves in stream order on a GPU: what a stream holds is waited for, and nothing else.

Oracle: the values that the stream had written at the call, whatever it writes afterwards.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu.frameworks import framework
from gpu.tensors import MANY, POLICIES, model, on_device, result_of
from mindckpt import load_checkpoint, save_checkpoint
from support import assert_holds


@pytest.mark.parametrize("way", ["current", "named"])
def test_a_save_waits_for_what_its_stream_holds(folder: Path, streamed: Any, way: str) -> None:
    """The stream does not wait for the default one, and is busy when the values are written."""
    tensor = streamed.array(np.zeros(4 * MANY, np.int32))
    stream = streamed.stream()
    for number in range(1, 4):
        with streamed.within(stream):
            streamed.spin()
            streamed.fill(tensor, number)
            assert not streamed.idle(stream)
            if way == "current":
                save_checkpoint({"w": tensor}, folder / "a.ckpt")
        if way == "named":
            save_checkpoint({"w": tensor}, folder / "a.ckpt", stream=stream)
        saved = load_checkpoint(folder / "a.ckpt")["w"]
        assert np.all(saved.asnumpy() == number)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["null", "ptds"])
def test_a_save_waits_for_the_default_streams(folder: Path, kind: str) -> None:
    """The legacy one, and the thread's own."""
    library = framework("cupy")
    tensor = library.array(np.zeros(4 * MANY, np.int32))
    with getattr(library.module.cuda.Stream, kind):
        library.spin()
        library.fill(tensor, 7)
        save_checkpoint({"w": tensor}, folder / "a.ckpt")
    saved = load_checkpoint(folder / "a.ckpt")["w"]
    assert np.all(saved.asnumpy() == 7)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_async_save_has_the_values_of_the_call(folder: Path, streamed: Any, policy: str) -> None:
    """Overwritten at once in their own stream, which waits for no other, many times."""
    count, length = 6, 4 * MANY
    tensors = on_device(streamed, {str(i): np.zeros(length, np.int32) for i in range(count)})
    stream = streamed.stream()
    for number in range(1, 31):
        with streamed.within(stream):
            for at, tensor in enumerate(tensors.values()):
                streamed.fill(tensor, 100 * number + at)
            job = save_checkpoint(
                tensors, folder / "a.ckpt", async_save=True, snapshot=policy, durable=False
            )
            assert job is not None
            if policy == "lazy":
                job.fence(stream)
            for tensor in tensors.values():
                streamed.fill(tensor, -1)
        stats = result_of(job)
        assert stats["snapshot"] == policy or policy == "auto"
        loaded = load_checkpoint(folder / "a.ckpt")
        for at, name in enumerate(tensors):
            saved = loaded[name].asnumpy()  # type: ignore[union-attr]
            assert np.all(saved == 100 * number + at), f"round {number}, tensor {name}"
        assert 0 < job.staged.result() <= job.written.result()


@pytest.mark.parametrize("policy", ["auto", "device", "host"])
def test_jaxs_buffers_may_be_donated_once_they_are_staged(folder: Path, policy: str) -> None:
    library = framework("jax")
    step = library.module.jit(lambda array: array + 1, donate_argnums=0)
    array = library.array(np.zeros(8 * MANY, np.int32))
    for number in range(20):
        job = save_checkpoint({"w": array}, folder / "a.ckpt", async_save=True, snapshot=policy)
        assert job is not None
        job.staged.wait()
        array = step(array)
        result_of(job)
        saved = load_checkpoint(folder / "a.ckpt")["w"]
        assert np.all(saved.asnumpy() == number)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["device", "host", "lazy"])
def test_the_caller_does_not_wait_for_a_busy_stream(
    folder: Path, streamed: Any, policy: str
) -> None:
    tensor = streamed.array(np.zeros(4 * MANY, np.int32))
    stream = streamed.stream()
    # Memory is pinned, and the device attached.
    result_of(save_checkpoint({"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy))
    with streamed.within(stream):
        for _ in range(3):
            streamed.spin()
        streamed.fill(tensor, 3)
        job = save_checkpoint({"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy)
        assert job is not None
        if policy == "lazy":
            job.fence(stream)
        streamed.fill(tensor, 4)
    assert not streamed.idle(stream)
    assert not job.staged.done()
    result_of(job)
    saved = load_checkpoint(folder / "a.ckpt")["w"]
    assert np.all(saved.asnumpy() == 3)  # type: ignore[union-attr]


def test_a_lazy_save_is_fenced_from_another_stream(folder: Path, streamed: Any) -> None:
    """The training reads in one stream; the optimizer writes in a second, after the fence."""
    tensors = on_device(streamed, {str(i): np.zeros(8 * MANY, np.int32) for i in range(4)})
    training, optimizer = streamed.stream(), streamed.stream()
    for number in range(1, 11):
        with streamed.within(training):
            for tensor in tensors.values():
                streamed.fill(tensor, number)
            job = save_checkpoint(
                tensors, folder / "a.ckpt", async_save=True, snapshot="lazy", durable=False
            )
        assert job is not None
        job.fence(optimizer)
        with streamed.within(optimizer):
            for tensor in tensors.values():
                streamed.fill(tensor, -1)
        assert result_of(job)["snapshot"] == "lazy"
        for parameter in load_checkpoint(folder / "a.ckpt").values():
            assert np.all(parameter.asnumpy() == number)  # type: ignore[union-attr]
        streamed.synchronize()


@pytest.mark.parametrize("policy", POLICIES)
def test_tensors_freed_after_the_call_are_saved(folder: Path, streamed: Any, policy: str) -> None:
    """Their memory is in the framework's cache, for the next tensor, as soon as it lets go."""
    stream = streamed.stream()
    values = np.random.default_rng(3).integers(0, 1 << 30, 8 * MANY, np.int32)
    for _ in range(10):
        with streamed.within(stream):
            tensor = streamed.array(values)
            job = save_checkpoint(
                {"w": tensor}, folder / "a.ckpt", async_save=True, snapshot=policy, durable=False
            )
            del tensor
            for other in [streamed.array(np.zeros_like(values)) for _ in range(3)]:
                streamed.fill(other, -1)
        result_of(job)
        assert_holds(load_checkpoint(folder / "a.ckpt"), {"w": values})


def test_auto_picks_the_device_where_it_has_memory(folder: Path, streamed: Any) -> None:
    tensors = on_device(streamed, model())
    stats = result_of(save_checkpoint(tensors, folder / "a.ckpt", async_save=True))
    assert stats["snapshot"] == "device"
    assert stats["snapshot_reason"]


def test_a_captured_stream_is_refused_and_goes_on_capturing(folder: Path) -> None:
    library = framework("cupy")
    tensor = library.array(np.zeros(1000, np.int32))
    stream = library.stream()
    library.fill(tensor, 0)  # compiled now
    save_checkpoint({"w": tensor}, folder / "a.ckpt")  # the device is attached
    before = (folder / "a.ckpt").read_bytes()
    with stream:
        stream.begin_capture()
        try:
            for options in ({}, *({"async_save": True, "snapshot": p} for p in POLICIES)):
                with pytest.raises((ValueError, RuntimeError), match="captured"):
                    refused(tensor, folder / "a.ckpt", options)
            library.fill(tensor, 5)
        finally:
            graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    assert np.all(library.host(tensor) == 5)
    assert (folder / "a.ckpt").read_bytes() == before
    assert os.listdir(folder) == ["a.ckpt"]


def refused(tensor: Any, path: Path, options: dict[str, Any]) -> None:
    job = save_checkpoint({"w": tensor}, path, **options)
    if job is not None:
        job.result(timeout=60)
