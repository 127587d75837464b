"""docs/cli.md names every environment variable that is read, in one table, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("src/msb_cache", "cli", "eventstore", "migrations", "projections")
BY_OTHERS = {
    *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "TZ"),
    *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE"),
}
"""What is read for us by Python itself, and by libpq."""
NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def constants_of(tree: ast.Module) -> dict[str, object]:
    """What is assigned to names at the top of a module."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def variables(tree: ast.Module, elsewhere: dict[str, dict[str, object]]) -> Iterator[str]:
    """Yield what looks like a variable's name in each function that looks at the environment.

    ``elsewhere``: the constants of the modules from which names are imported.
    """
    constants = constants_of(tree)
    for each in tree.body:
        if isinstance(each, ast.ImportFrom):
            given = elsewhere.get(each.module or "", {})
            constants |= {name.asname or name.name: given.get(name.name) for name in each.names}
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
            value: object = node.value if isinstance(node, ast.Constant) else None
            if isinstance(node, ast.Name):
                value = constants.get(node.id)
            if isinstance(value, str) and NAME.fullmatch(value):
                yield value


def read_by_the_source() -> set[str]:
    trees = {  # by module; those of the other folders are linked into msb_cache
        ".".join(("msb_cache", *path.relative_to(ROOT / folder).with_suffix("").parts)): ast.parse(
            path.read_text()
        )
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    elsewhere = {module: constants_of(tree) for module, tree in trees.items()}
    return {name for tree in trees.values() for name in variables(tree, elsewhere)}


def documented() -> list[str]:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = text.partition("\n## Environment variables\n")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in first for name in re.findall(r"`([A-Z_0-9]+)`", cell)]


def test_a_variable_is_found_wherever_it_is_read() -> None:
    source = """
from there import OTHER as THIS
VARIABLE = "A_B"
def one(): return os.environ.get(VARIABLE)
def two(environ): return environ["C"]
def three():
    said = os.environ.get
    for name in ("D_1", "E"):
        said(name, "x")
def four(): return "NOT_READ"
def five(): return os.environ.get(THIS)
"""
    found = {*variables(ast.parse(source), {"there": {"OTHER": "F"}})}
    assert found == {"A_B", "C", "D_1", "E", "F"}


def test_every_variable_that_is_read_is_documented_once_and_no_other() -> None:
    assert sorted(documented()) == sorted(read_by_the_source() | BY_OTHERS)
