"""Settings for tests on a real GPU: `make gpu`, or `pytest --confcutdir=tests/gpu tests/gpu`.

With --confcutdir the conftest.py of tests is left out, which puts a stand-in in the driver's place.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

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
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
