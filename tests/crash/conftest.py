"""Says at the end how much was tried."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crash import shim

_PREFIX = "tried: "


@pytest.fixture(autouse=True)
def keep_count(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """In the test's report, so that it gets there from another process too."""
    yield
    for what, number in shim.tried.items():
        record_property(_PREFIX + what, number)
    shim.tried.clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tried: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for name, value in report.user_properties:
                    if name.startswith(_PREFIX):
                        tried[name.removeprefix(_PREFIX)] += value
    if tried:
        counts = (f"{number:,} {what}" for what, number in sorted(tried.items()))
        terminalreporter.write_line(f"tests/crash tried {', '.join(counts)}")
