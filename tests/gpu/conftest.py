"""Settings for tests on a real GPU: `make gpu`, or `pytest --confcutdir=tests/gpu tests/gpu`.

With --confcutdir the conftest.py of tests is left out, which puts a stand-in in the driver's place.
"""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from gpu.frameworks import NAMES, STREAMED, framework, no_gpu

# Read when JAX is imported: it would take three quarters of the memory from the others.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

HERE = Path(__file__).parent

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "mindckpt-hypothesis")
settings.register_profile(
    "gpu",
    deadline=None,
    database=None,
    print_blob=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What frameworks warn of is theirs; elsewhere any warning fails a test."""
    ours = [item for item in items if HERE in item.path.parents]
    why = no_gpu() if ours else ""
    for item in ours:
        item.add_marker(pytest.mark.filterwarnings("ignore"))
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(params=NAMES)
def library(request: pytest.FixtureRequest) -> Any:
    """Each framework that is here and sees the GPU."""
    return framework(request.param)


@pytest.fixture(params=STREAMED)
def streamed(request: pytest.FixtureRequest) -> Any:
    """Those with streams and tensors that change."""
    return framework(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder emptied after the test, and the frameworks' caches with it."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()
    gc.collect()
    for name in NAMES:
        if name in sys.modules:
            with contextlib.suppress(pytest.skip.Exception):
                framework(name).free_cache()
