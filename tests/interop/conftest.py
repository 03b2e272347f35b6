"""Keeps MindSpore quiet, and big files from piling up."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read once, when MindSpore is imported: only errors that abort the process are logged.
os.environ["GLOG_v"] = "4"  # noqa: SIM112

HERE = Path(__file__).parent
# Of MindSpore's asynchronous saves: it calls Thread.getName and forks beside its own threads.
MINDSPORE_WARNINGS = [
    "ignore:getName:DeprecationWarning",
    "ignore:.*use of fork:DeprecationWarning",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere, and of our own, any warning fails a test."""
    for item in items:
        if HERE in item.path.parents:
            for warning in MINDSPORE_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session", autouse=True)
def _no_core_dumps() -> None:
    """A crash inside MindSpore must not fill the disk with its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder emptied after the test: pytest keeps those of three runs, too much for big files."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()
