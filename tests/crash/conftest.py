"""Says at the end how much was tried."""

from typing import Any

from crash import shim


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if shim.tried:
        counts = (f"{count:,} {what}" for what, count in sorted(shim.tried.items()))
        terminalreporter.write_line(f"tests/crash tried {', '.join(counts)}")
