"""docs/reliability.md names tests: each of them exists."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_every_promise_has_its_test() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    functions: dict[str, set[str]] = {}
    for file, _ in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        functions[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not [f"{file}::{test}" for file, test in named if test not in functions[file]]


def test_every_row_has_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert not [row for row in rows[1:] if row.count(" | ") == 3 and "::" not in row and "---" not in row]
