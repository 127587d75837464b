"""Import: the same log in another home, or nothing of it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import CorruptLogError, HomeOwnedByMicrosandboxError, ImageCache, LogError, MicrosandboxError
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import chain, export
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from tests.carrying import OPERATION, USED, forged, linked, lived_in
from tests.cli.support import APP, TOOL
from tests.imagebuilder import docker_archive
from tests.logs import digest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "original")


def exported(home: Path) -> bytes:
    out = io.BytesIO()
    with ImageCache(home) as cache:
        cache.export(out)
    return out.getvalue()


def content(home: Path) -> dict[str, list[Any]]:
    """Every table of a home's database."""
    with closing(sqlite3.connect(Layout(home).database)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for (name,) in names.fetchall()
            if not name.startswith(("sqlite_", "_sqlite_migrations"))
        }


def test_the_same_log_and_index(home: Path, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "copy") as copy:
        report = copy.import_log(io.BytesIO(exported(home)))
        assert (report.files, report.files_missing) == (5, 5)
        assert content(tmp_path / "copy") == content(home)
        found = copy.verify()
        assert isinstance(found.chain, chain.Verified)
        assert (found.chain.log_id, found.chain.events) == (report.log_id, report.events)
        assert found.differences == []
        assert {problem.problem for problem in found.disk} == {"missing"}
        assert [handle.reference for handle in copy.list()] == ["app:1"]
        assert copy.rebuild() == []
    assert exported(tmp_path / "copy") == exported(home)
    mode = os.stat(Layout(tmp_path / "copy").database).st_mode & 0o777
    assert mode == os.stat(Layout(home).database).st_mode & 0o777 == 0o600
    assert Layout(tmp_path / "copy").interrupted_operations() == []


def test_life_goes_on_after_it(home: Path, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "copy") as copy:
        copy.import_log(io.BytesIO(exported(home)))
        copy.load(io.BytesIO(docker_archive(APP)))
        assert copy.verify().sound
        assert copy.holders("app:1") == ["sandbox:dev"]


def test_an_import_beside_the_files_is_whole(home: Path) -> None:
    """A home whose database was lost, and whose log was kept as an export."""
    data = exported(home)
    for path in Layout(home).db.glob("msb-cache.db*"):
        path.unlink()
    with ImageCache(home) as cache:
        report = cache.import_log(io.BytesIO(data))
        assert (report.files, report.files_missing) == (5, 0)
        assert cache.verify().sound


def test_a_home_with_a_log_is_refused(home: Path) -> None:
    before = content(home)
    with ImageCache(home) as cache, pytest.raises(LogError, match="has a log already"):
        cache.import_log(io.BytesIO(exported(home)))
    assert content(home) == before


def test_a_log_that_appears_meanwhile_stays(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, link = exported(home), os.link
    copy = tmp_path / "copy"

    def appear(source: Path, target: Path) -> None:
        with ImageCache(copy) as other:
            other.load(io.BytesIO(docker_archive(TOOL)))
        link(source, target)

    with ImageCache(copy) as cache:
        monkeypatch.setattr("msb_cache.audit.import_log.os.link", appear)
        with pytest.raises(LogError, match="has a log already"):
            cache.import_log(io.BytesIO(data))
        monkeypatch.undo()
        assert [handle.reference for handle in cache.list()] == ["example.org/team/tool:2"]
        assert Layout(copy).interrupted_operations() == []


def test_a_home_of_msb_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs" / "db").mkdir(parents=True)
    (tmp_path / "theirs" / "db" / "msb.db").touch()
    with ImageCache(tmp_path / "theirs") as cache, pytest.raises(HomeOwnedByMicrosandboxError):
        cache.import_log(io.BytesIO(exported(home)))
    assert sorted(path.name for path in (tmp_path / "theirs").rglob("*")) == ["db", "msb.db"]


def refused(tmp_path: Path, data: bytes) -> str:
    """The sentence with which an export is refused; nothing of it is left."""
    with ImageCache(tmp_path / "refused") as cache:
        with pytest.raises(MicrosandboxError) as caught:
            cache.import_log(io.BytesIO(data))
        assert not (tmp_path / "refused").exists()
    return str(caught.value)


Lines = list[dict[str, Any]]


def _shuffled(lines: Lines) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def _headless(lines: Lines) -> None:
    del lines[0]


def _gap(lines: Lines) -> None:
    del lines[3]


def _twice(lines: Lines) -> None:
    lines.insert(3, lines[3])


def _changed(lines: Lines) -> None:
    lines[3]["data"] = lines[3]["data"].replace("sha256:", "sha256:0", 1)


def _reason(lines: Lines) -> None:
    lines[-1]["actor"] = lines[-1]["actor"].replace("uid", "gid")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_shuffled, "event 4 is missing"),
        (_headless, "event 1 is missing"),
        (_gap, "event 4 is missing"),
        (_twice, "event 5 is missing"),
        (_changed, "the hash of event 4"),
        (_reason, "the hash of event"),
        (list.clear, "no event in it"),
    ],
)
def test_what_does_not_verify(home: Path, tmp_path: Path, change: Callable[[Lines], None], says: str) -> None:
    lines = [json.loads(line) for line in exported(home).splitlines()]
    change(lines)
    data = "".join(json.dumps(line) + "\n" for line in lines)
    assert says in refused(tmp_path, data.encode())


def test_a_tail_is_no_log(home: Path, tmp_path: Path) -> None:
    out = io.BytesIO()
    with ImageCache(home) as cache:
        cache.export(out, since_seq=4)
    assert "event 1 is missing" in refused(tmp_path, out.getvalue())


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_refused_or_says_the_same(
    home: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = exported(home)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        same = list(export.read(io.BytesIO(changed))) == list(export.read(io.BytesIO(whole)))
    except CorruptLogError:
        same = False
    if not same:
        refused(tmp_path, changed)


# -- a chain that verifies, of events that msb-cache does not write ------------------------------------

REMOVED = ev.ImageRemoved(manifest_digest=digest(1), cause="external")


def _added(**fields: Any) -> ev.ManifestAdded:
    given: dict[str, Any] = {
        "media_type": "m",
        "config_digest": digest(2),
        "config": ev.ImageConfig(),
        "layers": (),
        **fields,
    }
    return ev.ManifestAdded(**given)


def _layer(**fields: Any) -> ev.Layer:
    given: dict[str, Any] = {
        "diff_id": digest(3),
        "blob_digest": digest(4),
        "media_type": "m",
        "size": 1,
        **fields,
    }
    return ev.Layer(**given)


def test_the_forger_can_make_what_is_accepted(tmp_path: Path) -> None:
    """Else the refusals below would prove nothing."""
    data = forged(tmp_path, USED, NewEvent(_added(layers=(_layer(),)), digest(1)))
    with ImageCache(tmp_path / "home") as cache:
        assert cache.import_log(io.BytesIO(data)).events == 3


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (NewEvent(REMOVED, "not canonical"), "canonical reference"),
        (NewEvent(REMOVED, "app:1"), "canonical reference"),
        (NewEvent(REMOVED, "docker.io/../../etc:1"), "canonical reference"),
        (NewEvent(REMOVED, ""), "canonical reference"),
        (NewEvent(ev.ImageHeld(holder="sandbox:dev"), "../../x"), "not a digest"),
        (NewEvent(ev.ImageHeld(holder=""), digest(1)), "holder"),
        (NewEvent(ev.ImageHeld(holder="x" * 5000), digest(1)), "holder"),
        (NewEvent(ev.ManifestDeleted(), "sha256:00"), "not a digest"),
        (NewEvent(ev.LayerDeleted(bytes=1), "/etc/passwd"), "not a digest"),
        (NewEvent(ev.MetadataDeleted(bytes=1), "../x.json"), "canonical reference"),
        (NewEvent(ev.LayerDeleted(bytes=-1), digest(1)), "'bytes' is -1"),
        (NewEvent(ev.LayerDeleted(bytes=2**62), digest(1)), "'bytes' is"),
        (NewEvent(ev.LayerDeleted(bytes=10**300), digest(1)), "damaged|'bytes' is"),
        (NewEvent(ev.ImageUsed(manifest_digest="x"), "docker.io/library/a:1"), "manifest_digest"),
        (NewEvent(_added(layers=(_layer(diff_id="../../../x"),)), digest(1)), "diff_id"),
        (NewEvent(_added(layers=(_layer(blob_digest="x"),)), digest(1)), "blob_digest"),
        (NewEvent(_added(layers=(_layer(size=-5),)), digest(1)), "'size' is -5"),
        (NewEvent(_added(layers=(_layer(erofs_size=2**60),)), digest(1)), "'erofs_size' is"),
        (
            NewEvent(
                ev.DeletionStarted(
                    kind="prune",
                    policy={},
                    artifacts=(ev.PlannedArtifact(kind="layer", subject="../../x"),),
                ),
                OPERATION,
            ),
            "not a digest",
        ),
        (NewEvent(ev.DeletionStarted(kind="prune", policy={"n": 2**64}), OPERATION), "'n' is"),
        (NewEvent(ev.LogCreated(log_id="f" * 32, format=1), "other"), "log id"),
    ],
    ids=lambda value: f"{value.event.type} {value.subject[:20]}" if isinstance(value, NewEvent) else None,
)
def test_events_that_msb_cache_does_not_write(tmp_path: Path, event: NewEvent, says: str) -> None:
    said = refused(tmp_path, forged(tmp_path, event))
    assert any(part in said for part in says.split("|")), said


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"type": "image.frozen"}, "unknown type 'image.frozen'"),
        ({"version": 99}, "version 99"),
        ({"data": "{"}, "damaged image.used"),
        ({"data": "[]"}, "damaged image.used"),
        ({"data": '{"manifest_digest": 5}'}, "damaged image.used"),
        ({"data": '{"x":' + "[" * 50_000 + "]" * 50_000 + "}"}, "damaged image.used"),
        ({"actor": "{}"}, "damaged actor"),
        ({"actor": '{"user":"a","uid":"b","host":"c","program":"d"}'}, "damaged actor"),
        ({"actor": '{"user":"a","uid":-7,"host":"c","program":"d"}'}, "'uid' is -7"),
        ({"operation": "../../x"}, "operation is no id"),
        ({"recorded_at": 1}, "was recorded before event 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_columns_that_msb_cache_does_not_write(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    assert says in refused(tmp_path, forged(tmp_path, USED, **columns))


def test_an_id_that_was_there_before(tmp_path: Path) -> None:
    rows = [list(row) for row, _ in export.read(io.BytesIO(forged(tmp_path, USED)))]
    rows[1][1] = rows[0][1]
    assert "only ever appended" in refused(tmp_path, linked(rows))


def test_sizes_whose_sum_no_column_holds(tmp_path: Path) -> None:
    layers = (_layer(size=2**50),) * 9000
    assert "too large" in refused(tmp_path, forged(tmp_path, NewEvent(_added(layers=layers), digest(1))))
