"""How a bug of the table gets into a file's text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class StaleError(Exception):
    """The text that a bug replaces is not there any more; the message names the bug."""


@dataclass(frozen=True)
class Mutant:
    """A bug to be planted: in one file, one text in place of another.

    Attributes:
        name: As `make mutants` and MINDCKPT_MUTANT name it.
        what: What goes wrong.
        file: The path from the project's root.
        after: A text that comes before the place, where `old` is there more than once.
        old: The text that goes. White space counts as one space. In C++ whole statements, which end
            with ';' or '}', or else an expression; no declarations.
        new: What comes in its place.
        noticed_by: The tests that shall fail: "ctest REGEX", or "pytest" with its arguments. Any
            of them will do.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    noticed_by: tuple[str, ...]
    after: str = ""

    @property
    def is_python(self) -> bool:
        """Whether it is planted in a Python file, and not in C++."""
        return self.file.endswith(".py")


def plant(mutant: Mutant, text: str) -> str:
    """The text of the mutant's file with the bug in it.

    Raises:
        StaleError: `old` is not there, or more than once.
    """
    begin, end = _place(mutant, text)
    return text[:begin] + mutant.new + text[end:]


def switched(mutants: Iterable[Mutant], root: Path) -> dict[str, str]:
    """The texts of all C++ files of a tree that get bugs, with a switch at each: is_planted(name).

    Raises:
        StaleError: As `plant`; of the bugs in Python files, too.
    """
    texts: dict[str, str] = {}
    for mutant in mutants:
        text = texts.get(mutant.file) or (root / mutant.file).read_text()
        if mutant.is_python:
            plant(mutant, text)
        else:
            texts[mutant.file] = _with_switch(mutant, text)
    return texts


def _with_switch(mutant: Mutant, text: str) -> str:
    begin, end = _place(mutant, text)
    old, condition = text[begin:end], f'is_planted("{mutant.name}")'
    if old.rstrip().endswith((";", "}")):
        choice = f"{{ if ({condition}) {{ {mutant.new} }} else {{ {old} }} }}"
    else:
        choice = f"({condition} ? ({mutant.new}) : ({old}))"
    return text[:begin] + choice + text[end:]


def _place(mutant: Mutant, text: str) -> tuple[int, int]:
    begin = 0
    if mutant.after:
        anchor = _search(mutant, mutant.after, text, 0)
        begin = anchor[0].end()
    found = _search(mutant, mutant.old, text, begin)
    if len(found) > 1 and not mutant.after:
        raise StaleError(
            f"{mutant.name}: {mutant.file} has {mutant.old!r} {len(found)} times: "
            "say after which text in tools/planted_bugs.py"
        )
    return found[0].span()


def _search(mutant: Mutant, wanted: str, text: str, begin: int) -> list[re.Match[str]]:
    pattern = re.compile(r"\s+".join(map(re.escape, wanted.split())))
    found = list(pattern.finditer(text, begin))
    if not found:
        raise StaleError(
            f"{mutant.name}: {mutant.file} has no {wanted!r} any more: "
            "bring its entry in tools/planted_bugs.py up to date"
        )
    return found
