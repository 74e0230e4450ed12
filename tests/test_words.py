"""Plain words: the first lines of docstrings are noun phrases or imperatives in the field's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

DIALECT = re.compile(
    r"^(What|Who|Whether nothing|Say|Tell) |\btold\b|\bso many\b|\bstands? on\b|\bgives? back\b|\bgone\b|"
    r"\bworth a word\b|\ba look\b|\bnobody\b|\bsomebody\b"
)
"""Clauses as subjects, riddles and words that the field does not use."""

USER_MESSAGES = {
    # The first line of an error's docstring is its message to users, and those stay as they are.
    "What was downloaded does not have the digest that the service promised.",
}


def first_lines(room: str) -> Iterator[tuple[str, str]]:
    """Yield place and first line of every docstring of a room."""
    for path in sorted((ROOT / room / "tamis").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text.splitlines()[0]


@pytest.mark.parametrize("room", ["native", "selectors", "service"])
def test_first_lines_are_plain(room: str) -> None:
    found = [
        f"{place}: {line}" for place, line in first_lines(room) if DIALECT.search(line) and line not in USER_MESSAGES
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("What is told.", False),
        ("Return how many of so many rows fit.", False),
        ("Names that the code stands on.", False),
        ("Return the number of rows.", True),
        ("The log line of a job that compiles kernels.", True),
    ],
)
def test_the_scan_finds_what_it_looks_for(line: str, plain: bool) -> None:
    assert (DIALECT.search(line) is None) is plain
