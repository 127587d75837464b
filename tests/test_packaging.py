"""What a user installs and imports: one package, cheap to import, with every folder inside it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import msb_cache
from msb_cache.cli.main import command_names, module_of
from tests.logs import PYTHON, new_ledger, some_events

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "src" / "msb_cache"
FOLDERS = ("cli", "eventstore", "migrations", "projections")


def test_every_folder_at_the_top_is_linked_into_the_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FOLDERS)
    for name in FOLDERS:
        link = PACKAGE / name
        assert link.is_symlink()
        assert link.readlink() == Path("..", "..", name)


def test_every_package_is_named_for_the_build_and_nothing_else() -> None:
    found = {
        Path(folder) for folder, _, files in os.walk(PACKAGE, followlinks=True) if "__init__.py" in files
    }
    names = {".".join(folder.relative_to(PACKAGE.parent).parts) for folder in found}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == names


def test_ruff_and_the_links_agree() -> None:
    ruff = PYPROJECT["tool"]["ruff"]
    assert set(ruff["extend-exclude"]) == {f"src/msb_cache/{name}" for name in FOLDERS}
    banned = ruff["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {name for name in banned if "." not in name} == set(FOLDERS)


def test_every_public_name_can_be_had() -> None:
    assert sorted(msb_cache.__all__) == msb_cache.__all__
    assert len(set(msb_cache.__all__)) == len(msb_cache.__all__)
    assert set(msb_cache.__all__) <= set(dir(msb_cache))
    for name in msb_cache.__all__:
        assert getattr(msb_cache, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = msb_cache.nothing  # type: ignore[attr-defined]


def test_every_error_is_public() -> None:
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert errors == {name for name in msb_cache.__all__ if name.endswith("Error")}


def imported_by(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


HEAVY = {"asyncio", "dateutil", "msgspec", "rich", "sqlite_utils", "sqlite3", "structlog", "urllib.request"}


def test_importing_the_package_is_cheap() -> None:
    modules = imported_by("import msb_cache; dir(msb_cache)")
    assert modules.isdisjoint(HEAVY | {"dataclasses", "importlib.metadata", "msb_cache.backends"})


@pytest.mark.parametrize(
    ("name", "needed"), [("LocalBackend", set()), ("ImageHandle", {"msgspec"}), ("ImageNotFoundError", set())]
)
def test_a_name_loads_only_what_it_needs(name: str, needed: set[str]) -> None:
    assert imported_by(f"from msb_cache import {name}").isdisjoint(HEAVY - needed)


# Each would cost a command that starts and reads half a millisecond to five.
OF_NO_READING = {
    *{"dataclasses", "dateutil", "fcntl", "hashlib", "json", "pathlib", "pkgutil", "rich"},
    *{"shlex", "signal", "sqlite_utils", "structlog", "urllib.parse", "msb_cache.oci.layer.zstd"},
    "msb_cache.cli.fields",
    *{"msb_cache.artifacts.locks", "msb_cache.backends", "msb_cache.queries.times"},
}
OF_NO_LIST = OF_NO_READING | {"heapq", "msb_cache.eventstore"}


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (["list"], OF_NO_LIST),
        (["list", "--as-of", "@2"], {"dateutil", "msb_cache.queries.times"}),
        (["inspect", PYTHON], OF_NO_READING | {"msb_cache.eventstore.store", "msb_cache.queries.events"}),
        (["history", PYTHON], OF_NO_READING | {"msb_cache.queries.images", "msb_cache.projections.fold"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_reads_imports_only_what_it_runs(
    command: list[str], unneeded: set[str], tmp_path: Path
) -> None:
    new_ledger(tmp_path, some_events()[:2]).close()
    # An editable install's own start imports some of them: so without it.
    program = (
        f"import sys; sys.path[:0] = [{str(PACKAGE.parent)!r}, {sysconfig.get_path('purelib')!r}]\n"
        "from msb_cache.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "print(code, *sorted(sys.modules), sep=chr(10))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *command],
        env={**os.environ, "MSB_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "0" in lines, done.stdout + done.stderr
    assert {"click", "msb_cache.cache"} <= set(lines)
    assert unneeded.isdisjoint(lines)
    assert {module_of(name) for name in command_names()}.intersection(lines) == {module_of(command[0])}


# Declarations without behaviour, or words that only pass on: what uses them tests them.
WITHOUT_TESTS = {
    "engines/msb/engine.py",  # tests/engines/test_engine.py holds both to the protocol
    "engines/own/engine.py",
    "eventstore/telling.py",  # a struct; tests/eventstore/test_events.py
    "oci/layer/zstd.py",  # which module Zstandard is; tests/oci/layer/test_compression.py
    "oci/registry/options.py",  # a struct
    "report/facts.py",  # structs
    "report/fleet_facts.py",  # structs
}


def test_every_module_has_the_test_file_that_its_name_promises() -> None:
    modules = {
        Path(folder, name).relative_to(PACKAGE)
        for folder, _, names in os.walk(PACKAGE, followlinks=True)
        for name in names
        if name.endswith(".py") and name != "__init__.py"
    }
    tests = ROOT / "tests"
    missing = {str(path) for path in modules if not (tests / path.with_name(f"test_{path.name}")).exists()}
    assert missing == WITHOUT_TESTS


# --- the import contracts -----------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [program, "--no-cache", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


# Each on a line of its own in a copy of the tree, all at once: a run of the linter takes a second.
PLANTED = [
    ("src/msb_cache/errors.py", "import msb_cache.models"),
    ("eventstore/planted.py", "import msb_cache.projections"),
    ("eventstore/planted.py", "from msb_cache import Image"),
    ("src/msb_cache/oci/planted.py", "import msb_cache.artifacts"),
    ("src/msb_cache/oci/planted.py", "def late():\n    from msb_cache.eventstore import events"),
    ("src/msb_cache/artifacts/erofs/planted.py", "import msb_cache.oci"),
    ("src/msb_cache/artifacts/planted.py", "import msb_cache.cache"),
    ("migrations/planted.py", "import msb_cache.eventstore"),
    ("projections/planted.py", "import msb_cache.oci"),
    ("projections/planted.py", "import msb_cache.models"),
    ("src/msb_cache/models.py", "def late():\n    from msb_cache.image import Image"),
    ("src/msb_cache/models.py", "import msb_cache.cache"),
    ("src/msb_cache/session.py", "import msb_cache.commands.remove"),
    ("src/msb_cache/commands/planted.py", "import msb_cache.audit.verify"),
    ("src/msb_cache/audit/planted.py", "import msb_cache.care.disk_usage"),
    ("src/msb_cache/care/planted.py", "import msb_cache.cache"),
    ("src/msb_cache/queries/planted.py", "import msb_cache.session"),
    ("src/msb_cache/engines/msb/planted.py", "import msb_cache.engines.own.add"),
    ("src/msb_cache/engines/own/planted.py", "import msb_cache.engines.msb.delete"),
    ("src/msb_cache/home/ledger.py", "import msb_cache.home.index_cache"),
    ("src/msb_cache/diagnostics.py", "import msb_cache.models"),
    ("src/msb_cache/cache.py", "import msb_cache.cli"),
]


def dotted(path: str) -> str:
    return ".".join(("msb_cache", *Path(path.removeprefix("src/msb_cache/")).with_suffix("").parts))


@pytest.fixture(scope="module")
def refused(tree: Path) -> str:
    """What the linter says of all that is planted."""
    before = {path: path.read_text() if path.exists() else None for path in {tree / to for to, _ in PLANTED}}
    try:
        for to, statement in PLANTED:
            with (tree / to).open("a") as file:
                file.write(f"\n{statement}\n")
        done = lint_imports(tree)
    finally:
        for path, text in before.items():
            path.unlink() if text is None else path.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("planted", "statement"), PLANTED)
def test_the_contracts_refuse(refused: str, planted: str, statement: str) -> None:
    found = re.search(r"(?:from (\S+) )?import (\S+)", statement)
    assert found is not None
    imported = {found[2]} if found[1] is None else {found[1], f"{found[1]}.{found[2]}"}
    pairs = re.findall(r"(\S+) ->\s+(\S+)", refused)
    assert [pair for pair in pairs if pair[0] == dotted(planted) and pair[1] in imported], refused


def test_a_room_that_stands_on_no_floor_is_refused(tree: Path) -> None:
    for room in ("planted", "engines/planted", "home/planted"):
        (tree / "src" / "msb_cache" / f"{room}.py").touch()
    try:
        done = lint_imports(tree)
    finally:
        for room in ("planted", "engines/planted", "home/planted"):
            (tree / "src" / "msb_cache" / f"{room}.py").unlink()
    assert done.returncode == 1
    for contract in ("floors", "the two engines", "the ledger"):
        assert re.search(rf"{contract}.*BROKEN", " ".join(done.stdout.split())), done.stdout


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("msb_cache", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 150
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_the_contracts_allow_what_is_there(tree: Path) -> None:
    (tree / "projections" / "planted.py").write_text("import msb_cache.errors\nimport msb_cache.eventstore\n")
    try:
        done = lint_imports(tree)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        (tree / "projections" / "planted.py").unlink()
