"""Tables that say which test holds a promise name tests that exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
_NAMED = re.compile(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)(?:::(\w+))?`")


def named(table: Path) -> list[tuple[str, str]]:
    """Each file, and the test in it or an empty name."""
    return _NAMED.findall(table.read_text(encoding="utf-8"))


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("file,test", named(TESTS / "pains" / "TABLE.md"))
def test_every_trouble_names_a_test_that_exists(file, test):
    assert (TESTS / file).is_file(), f"there is no tests/{file}"
    assert not test or test in functions_of(TESTS / file), f"tests/{file} has no {test}"


def test_the_table_is_read_and_every_line_of_it_names_a_test():
    lines = [line for line in (TESTS / "pains" / "TABLE.md").read_text().splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) > 25 and all(_NAMED.search(line) for line in lines if not line.startswith("| trouble"))
