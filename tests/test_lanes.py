"""The lanes of CI that install frameworks run every test that needs one, and can fail."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/frameworks.py."""
    monkeypatch.syspath_prepend(str(HERE.parent / "tools"))
    return importlib.import_module("frameworks")


def report(folder: Path, *cases: str) -> Path:
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


PASSED = '<testcase classname="tests.test_a" name="test_x"/>'
SKIPPED = (
    '<testcase classname="tests.test_a" name="test_y">'
    '<skipped type="pytest.skip" message="torch is not installed"/></testcase>'
)


def test_a_framework_test_that_is_skipped_is_named(tmp_path: Path, lane: ModuleType) -> None:
    assert lane.not_run(report(tmp_path, PASSED)) == []
    assert lane.not_run(report(tmp_path, PASSED, SKIPPED)) == [
        "tests.test_a::test_y: torch is not installed"
    ]


def test_a_lane_without_tests_is_an_error(tmp_path: Path, lane: ModuleType) -> None:
    with pytest.raises(lane.SetupError, match="no test ran"):
        lane.not_run(report(tmp_path))


def test_pytest_writes_what_the_lane_reads(tmp_path: Path, lane: ModuleType) -> None:
    """Oracle: a run of pytest with a test that passes and one that skips."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_needs_more(): pytest.importorskip('no_such_framework', reason='not here')\n"
    )
    written = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--junitxml={written}"]
    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert lane.not_run(written) == ["test_it::test_needs_more: not here"]


def test_the_tests_that_need_a_framework_are_marked() -> None:
    """By the fixture that they ask for, whether or not the framework is installed."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "framework"]
    command += ["--ignore=tests/interop", "--ignore=tests/gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for test in (
        "tests/test_arrays.py::test_a_torch_state_dict_saves_as_it_is",
        "tests/test_arrays.py::test_jax_arrays_save_right_values[float32]",
        "tests/test_examples.py::test_an_example_trains_saves_and_loads[torch]",
        "tests/test_examples.py::test_an_example_trains_saves_and_loads[jax]",
        "tests/test_parameter.py::test_torch_takes_a_tensor_through_dlpack",
        "tests/frameworks/test_paddle.py::test_numpy_views_of_tensors_save_right_values",
    ):
        assert test in done.stdout.splitlines()
    assert "[mindspore]" not in done.stdout


def test_no_test_gets_a_framework_but_by_its_fixture() -> None:
    """One that does would be skipped by every lane."""
    direct = re.compile(
        r"""^\s*import (torch|jax|paddle)\b|importorskip\(["'](torch|jax|paddle)\b""", re.MULTILINE
    )
    looked_at = [*HERE.glob("*.py"), *(HERE / "frameworks").glob("*.py")]
    assert len(looked_at) > 20
    for path in looked_at:
        assert not direct.search(path.read_text()), path
