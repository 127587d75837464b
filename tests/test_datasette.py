"""What Datasette is told of a home's database is so: its views, their columns, and queries that run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.projections.views import VIEWS
from tests.logs import PYTHON
from tests.projections.test_views import some

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "datasette"
(NAME,) = json.loads((FOLDER / "metadata.json").read_text())["databases"]
TOLD: dict[str, Any] = json.loads((FOLDER / "metadata.json").read_text())["databases"][NAME]


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    some(tmp_path).close()
    return ImageCache(tmp_path)


def test_it_is_told_of_the_database_by_its_files_name(cache: ImageCache) -> None:
    with cache:
        assert cache.info().database.stem == NAME


def test_it_is_told_of_every_table_or_not_to_show_it(cache: ImageCache) -> None:
    with cache:
        there = {
            row["name"] for row in cache.sql("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        }
    assert {*TOLD["tables"]} == there
    shown = {name for name, table in TOLD["tables"].items() if not table.get("hidden")}
    assert shown == {"events", *(view.name for view in VIEWS)}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_what_it_is_told_of_a_view_is_what_the_view_says(view: Any) -> None:
    told = TOLD["tables"][view.name]
    means = {column.name: column.meaning for column in view.columns}
    # That of a time in ns is said once for all.
    assert told["columns"] == {name: text for name, text in means.items() if not name.endswith("_ns")}
    assert told["sortable_columns"] == [*means]
    assert {*told.get("facets", ()), told.get("sort_desc", "seq")} <= {*means}
    assert told["description"]


@pytest.mark.parametrize("name", TOLD["queries"])
def test_a_query_that_it_offers_runs(name: str, cache: ImageCache) -> None:
    query = TOLD["queries"][name]
    with cache:
        rows = cache.sql(query["sql"], {"reference": PYTHON} if ":reference" in query["sql"] else ())
    assert rows
    assert query["title"]
    assert query["description"]
