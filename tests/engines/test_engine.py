"""What is asked of an engine: both answer all of it, in the words of the protocol."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.engines.engine import Engine, PullRequest
from msb_cache.engines.msb.engine import MsbEngine
from msb_cache.engines.own.engine import OwnEngine
from msb_cache.eventstore.events import Source
from msb_cache.home.ledger import Ledger
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.projections.state import EMPTY

ASKED = [name for name, asked in vars(Engine).items() if inspect.isfunction(asked) and name[0] != "_"]


@pytest.mark.parametrize("engine", [OwnEngine, MsbEngine])
@pytest.mark.parametrize("name", ASKED)
def test_each_method_has_the_parameters_of_the_protocol(engine: type, name: str) -> None:
    def parameters(method: Any) -> list[tuple[str, Any, Any]]:
        return [
            (each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()
        ]

    assert {"add", "pull", "plan", "delete", "recover", "orphans"} <= set(ASKED)
    assert parameters(getattr(engine, name)) == parameters(getattr(Engine, name))


def test_an_engine_loads_what_works_only_when_it_is_asked() -> None:
    program = (
        "import sys; from msb_cache.engines.own import engine; from msb_cache.engines.msb import engine\n"
        "print(*(name for name in sys.modules if name.startswith('msb_cache.engines.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rooms = {"add", "load", "pull", "delete"}
    assert not [name for name in done.stdout.split() if name.rpartition(".")[2] in rooms]


def test_files_that_no_index_names_are_orphans(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    lone = layout.layer("sha256:" + "0" * 64)
    lone.parent.mkdir(parents=True)
    lone.write_bytes(b"x")
    found = OwnEngine(Ledger(layout)).orphans(EMPTY)
    assert found.judged
    assert [*found.files] == [("layer", "sha256:" + "0" * 64, lone)]


def test_a_pull_comes_from_the_references_registry() -> None:
    request = PullRequest(reference=Reference.parse("ghcr.io/x/y:1"), began_ns=0, options=RegistryOptions())
    assert request.source == Source(kind="registry", name="ghcr.io")
