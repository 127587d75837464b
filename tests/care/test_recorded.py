"""What the files of the index measured, and what of it is reclaimable: what a prune's plan adds up to."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.care.recorded import RecordedFiles, recorded_files
from msb_cache.projections import schema
from msb_cache.projections.moment import set_moment
from msb_cache.projections.state import IndexState, load_observed, load_to_judge
from msb_cache.retention.plan import plan_prune
from msb_cache.session import Session
from tests.cli.support import APP, TOOL, written
from tests.msbhome import MsbHome

NOW = 100
NAMES = ("a:1", "a:2", "B/a:2", "b:1")
REFERENCES = {"B/a:2": "a:2"}
DIGESTS = ("K", "L", "M", "N")
LAYERS = "wxyz"
UNTIL = st.sampled_from([None, NOW - 1, NOW, NOW + 1])
SIZE = st.none() | st.integers(0, 5)


class Home:
    """As much of a session as is asked: who keeps the home, and its index as a prune there sees it."""

    def __init__(self, *, kept_by_msb: bool) -> None:
        self.kept_by_msb = kept_by_msb

    def engine(self) -> Home:
        return self

    def index_to_judge(self, connection: sqlite3.Connection, *, facts: bool, labels: bool) -> IndexState:
        state = load_to_judge(connection, facts=facts, labels=labels)
        return load_observed(connection, state) if self.kept_by_msb else state


def table(connection: sqlite3.Connection, table: str, /, **values: Any) -> None:
    columns = {column[1]: column for column in connection.execute(f"PRAGMA table_info({table})")}
    for column, (_, _, kind, required, *_) in columns.items():
        if required and column not in values:
            values[column] = 0 if kind == "INTEGER" else "x"
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [*values.values()])


def index(
    images: Mapping[str, str],
    manifests: Mapping[str, str],
    sizes: Mapping[str, int | None],
    holds: Mapping[str, int | None],
    pins: Mapping[str, int | None],
    running: set[str],
    unknown: set[str],
) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection)
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, actor TEXT)")
    set_moment(connection, lambda: NOW)
    for name, digest in images.items():
        row = None if name in unknown else f"{name}@1"
        reference = REFERENCES.get(name, name)
        table(connection, "image", name=name, reference=reference, manifest_digest=digest, msb_row=row)
    for digest, layers in manifests.items():
        row = None if digest in unknown else f"{digest}@1"
        size = sizes.get(digest)
        table(connection, "manifest", digest=digest, msb_row=row, fsmeta_bytes=size, vmdk_bytes=size)
        for position, diff_id in enumerate(layers):
            table(connection, "manifest_layer", manifest_digest=digest, position=position, diff_id=diff_id)
    for diff_id in LAYERS:
        if diff_id in sizes:
            table(connection, "layer", diff_id=diff_id, erofs_bytes=sizes[diff_id])
    for digest, until in holds.items():
        table(connection, "hold", manifest_digest=digest, holder="h", until=until, msb_row="1@1")
    for subject, until in pins.items():
        table(connection, "pin", subject=subject, until=until)
    for digest in running:
        table(connection, "open_use", run=digest, manifest_digest=digest)
    return connection


@given(
    images=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(DIGESTS)),
    manifests=st.dictionaries(st.sampled_from(DIGESTS), st.text(LAYERS, max_size=3)),
    sizes=st.dictionaries(st.sampled_from([*DIGESTS, *LAYERS]), SIZE),
    holds=st.dictionaries(st.sampled_from(DIGESTS), UNTIL, max_size=2),
    pins=st.dictionaries(st.sampled_from([*NAMES[:2], *DIGESTS]), UNTIL, max_size=2),
    running=st.sets(st.sampled_from(DIGESTS), max_size=1),
    unknown=st.just(set()) | st.sets(st.sampled_from([*NAMES, *DIGESTS]), max_size=2),
    kept_by_msb=st.booleans(),
)
@example(  # a pin keeps what msb would only delete with all
    {"a:1": "K"}, {"K": "w", "L": "x"}, {"w": 1, "x": 2, "L": 3}, {}, {"a:1": None}, set(), set(), True
)
def test_what_is_reclaimable_is_what_a_plan_deletes(
    images: dict[str, str],
    manifests: dict[str, str],
    sizes: dict[str, int | None],
    holds: dict[str, int | None],
    pins: dict[str, int | None],
    running: set[str],
    unknown: set[str],
    kept_by_msb: bool,
) -> None:
    home = Home(kept_by_msb=kept_by_msb)
    with closing(index(images, manifests, sizes, holds, pins, running, unknown)) as connection:
        layer, fsmeta, vmdk = recorded_files(cast("Session", home), connection)
        plan = plan_prune(home.index_to_judge(connection, facts=False, labels=False))
    layers = [sizes[diff_id] for diff_id in LAYERS if diff_id in sizes]
    own = [sizes.get(digest) for digest in manifests]
    going = sum(sizes.get(digest) or 0 for digest in plan.manifests)
    assert layer == RecordedFiles(
        "layer",
        len(layers),
        layers.count(None),
        sum(each or 0 for each in layers),
        sum(sizes[diff_id] or 0 for diff_id in plan.layers),
    )
    total = sum(each or 0 for each in own)
    assert fsmeta == RecordedFiles("fsmeta", len(own), own.count(None), total, going)
    assert vmdk == replace(fsmeta, kind="vmdk")


def test_in_homes_of_both_kinds_it_is_what_the_plan_of_their_prune_adds_up_to(tmp_path: Path) -> None:
    theirs = MsbHome(tmp_path / "theirs")
    theirs.load("app:1", "app", "xy")
    theirs.load("tool:1", "tool", "xz")
    with ImageCache(tmp_path / "ours") as cache:
        for number, each in enumerate((APP, TOOL)):
            cache.load(written(tmp_path / f"{number}.tar", each))
    for path in (tmp_path / "ours", tmp_path / "theirs"):
        with ImageCache(path) as cache:
            cache.hold(cache.list()[0].reference, "sandbox:dev")
            layers = cache.metrics().files[0]
            plan = cache.preview_prune().plan
            freed = [Layout(path).layer(diff_id).stat().st_size for diff_id in plan.layers]
        assert len(freed) == 1
        assert layers.reclaimable_bytes == sum(freed)
        assert layers.unknown == 0
        assert layers.bytes > sum(freed)
    theirs.close()
