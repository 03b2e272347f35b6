"""Settings of the suite. Its helpers are the modules beside it that are no tests."""

import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


# ---- Frameworks. `make frameworks` runs the tests that ask for one, and fails if one is skipped.

FRAMEWORKS = ("torch", "jax", "paddle")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"framework: needs one of {', '.join(FRAMEWORKS)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what asks for a framework's fixture, and sees to it that names do not change.

    Processes that share the tests must know them by the same names.
    """
    for item in items:
        if re.search(r"\b0x[0-9a-f]{6,}", item.name):
            raise pytest.UsageError(f"an address is in a test's name, use ids=shown: {item.nodeid}")
        if set(FRAMEWORKS) & set(getattr(item, "fixturenames", ())):
            item.add_marker("framework")


def _framework(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of while it is imported is its own affair
        return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="session")
def torch() -> Any:
    return _framework("torch")


@pytest.fixture(scope="session")
def jax() -> Any:
    """With four devices, all of them this processor."""
    module = _framework("jax")
    module.config.update("jax_num_cpu_devices", 4)
    return module


@pytest.fixture(scope="session")
def paddle() -> Any:
    return _framework("paddle")


# ---- Devices


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
