"""Exports for tests, and what a fleet's file has."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from msb_cache import ImageCache

Content = dict[str, list[Any]]
"""The rows of each table of a fleet's file."""


def exported(home: Path) -> bytes:
    """Return the export of a home's log."""
    out = io.BytesIO()
    with ImageCache(home) as cache:
        cache.export(out)
    return out.getvalue()


def content(path: Path) -> Content:
    """Return every table of a fleet's file, but for when it was seen."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for (name,) in names.fetchall()
        }
