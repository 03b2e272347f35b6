"""Settings of the suite. Its helpers are the modules beside it that are no tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

import stand_in

# Its caches stay out of the tree that is tested.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "mindckpt-hypothesis")

# No deadlines: nothing is timed. No database: a failure prints the line that reproduces it.
settings.register_profile(
    "mindckpt",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("mindckpt")

# A driver that was looked for and not found is not looked for again.
stand_in.preload()


@pytest.fixture(params=["cuda", "sim"])
def device(request: pytest.FixtureRequest) -> Iterator[stand_in.StandIn]:
    """A stand-in whose tensors are found by their pointers."""
    found = stand_in.stand_in(request.param)
    found.reset()
    yield found
    found.reset()


@pytest.fixture
def stream(device: stand_in.StandIn) -> Iterator[int]:
    """The training's stream, on the first device."""
    made = device.stream_create(0)
    yield made
    device.stream_destroy(made)
