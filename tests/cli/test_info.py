"""Whose cache this is, and how much there is."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import RFC3339, Call, fingerprint
from tests.msbhome import MsbHome


def lines(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def test_a_home_of_our_own(home: Path, call: Call) -> None:
    call("hold", "app:1", "sandbox:dev")
    before = fingerprint(home)
    done = call("info")
    assert (done.code, done.err) == (0, "")
    found = lines(done.out)
    assert found["Home"] == str(home)
    assert found["Engine"].startswith("msb-cache (")
    assert found["Log"] == str(home / "db" / "msb-cache.db")
    assert found["Events"].startswith("17 since ")
    assert found["Images"] == "3 (2 manifests)"
    assert found["Layers"].startswith("3, ")
    assert found["Layers"].endswith(" as EROFS images")
    assert found["Holds"] == "1"
    assert not {"msb", "Last sync", "Unfinished"} & found.keys()
    assert fingerprint(home) == before


def test_json(home: Path, call: Call) -> None:
    found = call("info", "--format", "json").json
    assert (found["home"], found["engine"], found["writable"]) == (str(home), "msb-cache", True)
    assert (found["events"], found["images"], found["manifests"], found["layers"]) == (16, 3, 2, 3)
    files = (home / "cache" / "layers").glob("*.erofs")
    assert found["layer_bytes"] == sum(path.stat().st_size for path in files)
    assert RFC3339.fullmatch(found["began_at"])
    assert found["synced_at"] is None
    assert found["unfinished"] == []


def test_a_home_without_a_log(own_home: Path, call: Call) -> None:
    assert lines(call("info").out)["Events"] == "none yet"
    assert call("info", "--format", "json").json["schema"] is None
    assert not own_home.exists()


def test_a_home_that_msb_keeps(msb_home: MsbHome, call: Call, no_msb: None) -> None:
    call("sync")
    done = call("info")
    assert done.code == 0
    found = lines(done.out)
    assert found["Engine"].startswith("msb (")
    assert found["Images"] == "2 (2 manifests)"
    assert found["Last sync"] != "-"
    shown = call("info", "--format", "json").json
    assert (shown["engine"], shown["program"], shown["writable"]) == ("msb", None, False)
    assert RFC3339.fullmatch(shown["synced_at"])


def test_a_schema_of_msb_that_was_not_tried_is_named(msb_home: MsbHome, call: Call, no_msb: None) -> None:
    msb_home.connection.execute("CREATE TABLE seaql_migrations (version varchar)")
    call("list")
    assert call("info").err == ""
    name = "m20990101_000001_\x1b[31m"
    msb_home.connection.execute("INSERT INTO seaql_migrations VALUES (?)", (name,))
    for command in ("info", "sync --force"):
        done = call(*command.split())
        assert done.code == 0
        assert done.err.startswith("note: msb's database has a schema that this msb-cache was not tried with")
        assert r"m20990101_000001_\x1b[31m" in done.err
    shown = call("info", "--format", "json").json
    assert shown["msb_schema"] == name
    assert "m20990101" in shown["msb_schema_note"]
    assert call("list").err == ""
