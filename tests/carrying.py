"""For tests of export, import and replay: a home with a life, and forged logs whose chain is right."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache, MicrosandboxError
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import chain, export
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.home.connect import open_database
from tests.cli.support import APP, TOOL
from tests.imagebuilder import docker_archive
from tests.logs import ACTOR, digest

OPERATION = "01a208e6-ab10-7741-a5e9-d0d4e76814bf"
USED = NewEvent(ev.ImageUsed(manifest_digest=digest(1)), "docker.io/library/app:1")


def lived_in(home: Path) -> Path:
    """Make a home with a bit of everything in its log; app:1 is left, held by sandbox:dev."""
    with ImageCache(home) as cache:
        cache.load(io.BytesIO(docker_archive(APP)))
        cache.load(io.BytesIO(docker_archive(TOOL)))
        cache.use("app:1", holder="sandbox:dev")
        cache.remove("app:latest")
        cache.hold("app:1", "sandbox:dev")
        cache.prune()
    return home


def forged(tmp_path: Path, *events: NewEvent, operation: str = OPERATION, **columns: Any) -> bytes:
    """Return an export of a log with these events, whose last row has these columns, linked as it must be."""
    connection = open_database(Layout(tmp_path / "forge"), pytest.fail)
    connection.execute("BEGIN")
    EventStore(connection).append(events, operation=operation, actor=ACTOR)
    rows = [list(row) for row, _ in chain.raw_rows(connection)]
    connection.close()
    rows[-1] = [columns.get(name, value) for name, value in zip(chain.COLUMNS, rows[-1], strict=True)]
    return linked(rows)


def linked(rows: list[list[Any]]) -> bytes:
    """Return rows as an export whose hashes are right."""
    data, previous = b"", chain.GENESIS
    for row in rows:
        previous = chain.link(previous, row)
        data += export.line_of(tuple(row), previous)
    return data


def refused(tmp_path: Path, data: bytes) -> str:
    """The sentence with which an export is refused; nothing of it is left."""
    with ImageCache(tmp_path / "refused") as cache:
        with pytest.raises(MicrosandboxError) as caught:
            cache.import_log(io.BytesIO(data))
        assert not (tmp_path / "refused").exists()
    return str(caught.value)
