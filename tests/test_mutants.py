"""The table of planted bugs, against the tree. `make mutants` plants them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from planted_bugs import MUTANTS  # noqa: E402  # tools/ is no package
from planting import Mutant, StaleError, plant, switched  # noqa: E402


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_bug_still_has_its_place(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    planted = plant(mutant, text)
    assert planted != text
    if mutant.is_python:
        compile(planted, mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_bug_names_tests_that_are_there(mutant: Mutant) -> None:
    assert mutant.noticed_by
    cases = "\n".join(
        f"{path.parent.name}/{case}"
        for path in (ROOT / "tests" / "engine").rglob("*_test.cc")
        for case in re.findall(
            r'TEST_CASE(?:_FIXTURE)?\((?:\w+,\s*)?"([^"]*)"', path.read_text(encoding="utf-8")
        )
    )
    for tests in mutant.noticed_by:
        tool, _, selected = tests.partition(" ")
        if tool == "ctest":
            assert re.search(selected, cases, re.MULTILINE), tests
            continue
        assert tool == "pytest"
        paths = [part for part in shlex.split(selected) if part.startswith("tests/")]
        assert paths
        assert all((ROOT / path.partition("::")[0]).exists() for path in paths), tests


def test_planted_bugs_have_names_of_their_own_and_share_a_build() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    texts = switched(MUTANTS, ROOT)
    for mutant in MUTANTS:
        if not mutant.is_python:
            assert texts[mutant.file].count(f'is_planted("{mutant.name}")') == 1


def mutant_of(old: str, new: str, *, file: str = "a.cc", after: str = "") -> Mutant:
    return Mutant("one", "what", file, old, new, ("ctest ^x",), after)


def test_a_statement_and_an_expression_get_a_switch(tmp_path: Path) -> None:
    (tmp_path / "a.cc").write_text("if (a <  b) {\n  f();\n}\n")
    assert switched([mutant_of("f();", "")], tmp_path) == {
        "a.cc": 'if (a <  b) {\n  { if (is_planted("one")) {  } else { f(); } }\n}\n'
    }
    assert switched([mutant_of("a < b", "true")], tmp_path) == {
        "a.cc": 'if ((is_planted("one") ? (true) : (a <  b))) {\n  f();\n}\n'
    }


def test_the_place_is_found_behind_another_text() -> None:
    assert plant(mutant_of("f();", "g();", after="two:"), "one: f(); two: f();") == (
        "one: f(); two: g();"
    )


@pytest.mark.parametrize(
    ("old", "after", "text"),
    [("f();", "", "g();"), ("f();", "", "f(); f();"), ("f();", "two:", "f();")],
    ids=["gone", "twice", "nothing to come after"],
)
def test_a_bug_without_its_place_is_named(old: str, after: str, text: str) -> None:
    with pytest.raises(StaleError, match=r"^one: a\.cc"):
        plant(mutant_of(old, "", after=after), text)
