"""docs/cli.md names every environment variable that is read, in one table, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("src/msb_cache", "cli", "eventstore", "migrations", "projections")
BY_OTHERS = {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "TZ"}
"""What is read for us by Python itself."""
NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def variables(tree: ast.Module) -> Iterator[str]:
    """Yield what looks like a variable's name in each function that looks at the environment."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        nodes = [*ast.walk(function)]
        if not any(
            (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
            or (isinstance(node, ast.Name) and node.id == "environ")
            for node in nodes
        ):
            continue
        for node in nodes:
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(node, ast.Name):
                value = constants.get(node.id)
            if isinstance(value, str) and NAME.fullmatch(value):
                yield value


def read_by_the_source() -> set[str]:
    return {
        name
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for name in variables(ast.parse(path.read_text()))
    }


def documented() -> list[str]:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = text.partition("\n## Environment variables\n")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in first for name in re.findall(r"`([A-Z_0-9]+)`", cell)]


def test_a_variable_is_found_wherever_it_is_read() -> None:
    source = """
VARIABLE = "A_B"
def one(): return os.environ.get(VARIABLE)
def two(environ): return environ["C"]
def three():
    said = os.environ.get
    for name in ("D_1", "E"):
        said(name, "x")
def four(): return "NOT_READ"
"""
    assert {*variables(ast.parse(source))} == {"A_B", "C", "D_1", "E"}


def test_every_variable_that_is_read_is_documented_once_and_no_other() -> None:
    assert sorted(documented()) == sorted(read_by_the_source() | BY_OTHERS)
