"""Import: the same log in another home, or nothing of it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import CorruptLogError, HomeOwnedByMicrosandboxError, ImageCache, LogError
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import chain, export
from tests.carrying import USED, forged, linked, lived_in, refused
from tests.cli.support import APP, TOOL
from tests.docs.markdown import blocks
from tests.imagebuilder import docker_archive


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "original")


def exported(home: Path) -> bytes:
    out = io.BytesIO()
    with ImageCache(home) as cache:
        cache.export(out)
    return out.getvalue()


def content(home: Path) -> dict[str, list[Any]]:
    """Every table of a home's database, but for what is of one machine: its clock, when it read files."""
    with closing(sqlite3.connect(Layout(home).database)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for (name,) in names.fetchall()
            if not name.startswith(("sqlite_", "_sqlite_migrations", "clock_seen", "digest_check"))
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
        monkeypatch.setattr("msb_cache.artifacts.durable.os.link", appear)
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
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    assert says in refused(tmp_path, data)


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


def test_an_id_that_was_there_before(tmp_path: Path) -> None:
    rows = [list(row) for row, _ in export.read(io.BytesIO(forged(tmp_path, USED)))]
    rows[1][1] = rows[0][1]
    assert "only ever appended" in refused(tmp_path, linked(rows))


# -- one way to write a log ---------------------------------------------------------------------------------


def _line(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the line of the first pull."""

    def changed(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        number = next(number for number, line in enumerate(lines) if b'"type":"image.pulled"' in line)
        lines[number] = change(lines[number])
        return b"".join(lines)

    return changed


def _keys(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    return _line(lambda line: msgspec.json.encode(change(json.loads(line))) + b"\n")


def _row(position: int, **fields: Any) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        rows = [list(row) for row, _ in export.read(io.BytesIO(data))]
        row = rows[position - 1]
        rows[position - 1] = [
            fields[name](rows) if name in fields else value
            for name, value in zip(chain.COLUMNS, row, strict=True)
        ]
        return linked(rows)

    return changed


WRITTEN_ANEW: dict[str, Callable[[bytes], bytes]] = {
    "a key twice": _line(lambda line: line.replace(b'{"seq":', b'{"seq":99,"seq":', 1)),
    "a key twice, the first counts": _line(lambda line: line.replace(b',"id":', b',"seq":99,"id":', 1)),
    "a key more": _keys(lambda event: {**event, "more": 1}),
    "a key less": _keys(lambda event: {name: event[name] for name in [*event][:-2]}),
    "another order": _keys(lambda event: {"hash": event.pop("hash"), **event}),
    "a swap of equal columns": _keys(
        lambda event: {
            **{name: event[name] for name in [*event][:6]},
            "recorded_at": event["recorded_at"],
            "occurred_at": event["occurred_at"],
            **{name: event[name] for name in [*event][8:]},
        }
    ),
    "Windows line ends": lambda data: data.replace(b"\n", b"\r\n"),
    "spaces": _line(lambda line: line.replace(b'":', b'": ', 1)),
    "a space at the end": _line(lambda line: line[:-1] + b" \n"),
    "an empty line": _line(lambda line: line + b"\n"),
    "no last line feed": lambda data: data[:-1],
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "an escape more": _line(lambda line: line.replace(b"image.", b"\\u0069mage.", 1)),
    "an escaped slash": _line(lambda line: line.replace(b"/", b"\\/", 1)),
    "a surrogate": _line(lambda line: line.replace(b"image.", b"\\ud800", 1)),
    "no UTF-8": _line(lambda line: line.replace(b"image.", b"\xff", 1)),
    "a number with a point": _line(lambda line: line.replace(b'"version":2', b'"version":2.0')),
    "a number with an exponent": _line(lambda line: line.replace(b'"version":2', b'"version":2e0')),
    "a truth for a number": _line(lambda line: line.replace(b'"version":2', b'"version":true')),
    "a text for a number": _line(lambda line: line.replace(b'"version":2', b'"version":"2"')),
    "a number for a text": _line(lambda line: line.replace(b'"type":"image.', b'"type":1,"x":"')),
    "a number too large": _line(lambda line: line.replace(b'"version":2', b'"version":99999999999999999999')),
    "a hash in capitals": _keys(lambda event: {**event, "hash": event["hash"].upper()}),
    "a list": _line(lambda line: b"[]\n"),
    "no JSON": _line(lambda line: b"event 4\n"),
    "another format": _row(1, data=lambda rows: rows[0][9].replace('"format":1', '"format":2')),
    "it begins twice": _row(
        4,
        type=lambda rows: "log.created",
        subject=lambda rows: rows[0][4],
        data=lambda rows: rows[0][9],
    ),
    "it begins with something else": _row(1, type=lambda rows: "image.used"),
    "time goes back": _row(4, recorded_at=lambda rows: rows[2][7] - 1),
    "a line twice": _line(lambda line: line + line),
    "no event": lambda data: b"",
}


@pytest.fixture(scope="module")
def published() -> Any:
    """The program of docs/event-log.md that checks an export."""
    document = Path(__file__).parents[2] / "docs" / "event-log.md"
    (block,) = [each for each in blocks(document.read_text()) if each.argument == "check_export.py"]
    return compile(block.text, "check_export.py", "exec")


def verdict(program: Any, data: bytes, path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    path.write_bytes(data)
    monkeypatch.setattr(sys, "argv", ["check_export.py", str(path)])
    try:
        exec(program, {})
    except SystemExit as error:
        return str(error.code)
    return None


@pytest.mark.parametrize("how", WRITTEN_ANEW)
def test_the_published_program_and_import_refuse_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Any, how: str
) -> None:
    whole = exported(home)
    assert verdict(published, whole, tmp_path / "whole.jsonl", monkeypatch) is None
    changed = WRITTEN_ANEW[how](whole)
    assert changed != whole
    assert "is not sound at event" in (verdict(published, changed, tmp_path / "log.jsonl", monkeypatch) or "")
    refused(tmp_path, changed)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_python_writes_a_line_as_an_export_does(text: str) -> None:
    """So that the published program can hold a line against what it must be."""
    row = (1, "i", "t", 1, text, "o", 1, 1, text, text)
    fields = {**dict(zip(chain.COLUMNS, row, strict=True)), "hash": "0" * 64}
    written = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
    assert export.line_of(row, bytes(32)) == written.encode()
