"""What list prints: tables for people, JSON for programs, -q for scripts."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.support import (
    APP,
    APP_NEXT,
    BASE,
    ESCAPE,
    MSB_LIST_KEYS,
    RFC3339,
    TOOL,
    Call,
    Put,
    execute,
    written,
)
from tests.fakemsb import FakeMsb
from tests.imagebuilder import file, image, layer

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


class TestList:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("list")
        assert (done.code, done.err) == (0, "")
        header, *lines = done.lines
        assert re.split(" {2,}", header) == ["REFERENCE", "DIGEST", "SIZE", "IN USE", "CREATED", "LAST USED"]
        assert [line.split()[0] for line in lines] == ["example.org/team/tool:2", "app:latest", "app:1"]
        for line in lines:
            assert re.fullmatch(
                rf"\S+ +sha256:[0-9a-f]{{64}} +[\d.]+ KiB +- +{TIME} [+-]\d{{4}} +{TIME} [+-]\d{{4}}", line
            )
        assert ESCAPE not in done.out
        assert len({line.index("sha256:") for line in lines}) == 1

    def test_who_uses_or_holds_it(self, home: Path, call: Call) -> None:
        assert call("hold", "app:1", "sandbox:dev").code == 0
        assert call("hold", "app:1", "snapshot:nightly").code == 0
        held = {line.split()[0]: "sandbox:dev +1" in line for line in call("list").lines[1:]}
        assert held == {"example.org/team/tool:2": False, "app:latest": True, "app:1": True}
        by = {entry["reference"]: entry["held_by"] for entry in call("ls", "--format", "json").json}
        assert by["app:1"] == ["sandbox:dev", "snapshot:nightly"]
        assert by["example.org/team/tool:2"] == []

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("--sort created", ["tool:2", "app:latest", "app:1"]),
            ("--sort name", ["app:1", "app:latest", "tool:2"]),
            ("--sort used", ["app:1", "tool:2", "app:latest"]),
            ("--sort size", ["tool:2", "app:latest", "app:1"]),
            ("--sort used -n 2", ["app:1", "tool:2"]),
            ("-n 1", ["tool:2"]),
            ("--filter reference=app:*", ["app:latest", "app:1"]),
            ("--filter label=team", ["app:latest", "app:1"]),
            ("--filter label!=team", ["tool:2"]),
            ("--filter label=team=green --filter reference=*:1", ["app:1"]),
            ("--filter dangling", []),
            (f"--filter digest={TOOL.digest[7:15]} *", ["tool:2"]),
        ],
    )
    def test_order_and_filter(self, arguments: str, expected: list[str], home: Path, call: Call) -> None:
        assert call("use", "app:1").code == 0
        done = call("list", "-q", *arguments.split())
        assert (done.code, [line.removeprefix("example.org/team/") for line in done.lines]) == (0, expected)

    def test_filters_of_the_past(self, home: Path, call: Call) -> None:
        before = call("events", "--format", "json").json[-1]["seq"]
        assert call("remove", "-f", "app:1").code == 0
        found = call("list", "-q", "--filter", "label=team", "--as-of", f"@{before}").lines
        assert found == ["app:latest", "app:1"]

    def test_a_filter_that_is_none(self, home: Path, call: Call) -> None:
        done = call("list", "--filter", "colour=red")
        assert (done.code, done.out) == (2, "")
        assert "use reference=PATTERN" in done.err

    def test_json(self, home: Path, call: Call) -> None:
        done = call("ls", "--format", "json")
        assert (done.code, done.err) == (0, "")
        for entry in done.json:
            assert entry.keys() >= MSB_LIST_KEYS
            assert RFC3339.fullmatch(entry["created_at"])
            assert RFC3339.fullmatch(entry["last_used_at"])
        newest = done.json[0]
        assert newest["reference"] == "example.org/team/tool:2"
        assert newest["digest"] == TOOL.digest
        assert newest["size_bytes"] == sum(len(each.blob) for each in TOOL.layers)
        assert (newest["architecture"], newest["os"], newest["layer_count"]) == ("amd64", "linux", 2)

    def test_quiet(self, home: Path, call: Call) -> None:
        assert call("list", "-q").lines == ["example.org/team/tool:2", "app:latest", "app:1"]

    def test_nothing(self, own_home: Path, call: Call) -> None:
        assert call("list").out == ""
        assert call("list").err.startswith("No cached images; `msb-cache pull ")
        assert call("list", "--format", "json").json == []
        assert call("list", "-q").raw == b""
        assert not own_home.exists()

    def test_newest_first_and_retag_keeps_its_place(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = {entry["reference"]: entry for entry in call("list", "--format", "json").json}
        assert call("load", "-i", written(tmp_path / "next.tar", APP_NEXT)).code == 0
        after = call("list", "--format", "json").json
        assert [entry["reference"] for entry in after] == list(before)
        moved = next(entry for entry in after if entry["reference"] == "app:1")
        assert moved["digest"] == APP_NEXT.digest
        assert moved["created_at"] == before["app:1"]["created_at"]
        assert moved["last_used_at"] > before["app:1"]["last_used_at"]

    def test_times_are_local_for_people(self, home: Path, call: Call) -> None:
        [utc] = {entry["created_at"][:16] for entry in call("ls", "--format", "json").json[:1]}
        there = execute("ls", TZ="Asia/Kolkata").lines[1]
        here = execute("ls", TZ="UTC").lines[1]
        assert datetime.fromisoformat(utc).strftime("%Y-%m-%d %H:%M") in here
        stamps = [datetime.fromisoformat(re.findall(TIME, line)[0]) for line in (there, here)]
        assert (stamps[0] - stamps[1]).total_seconds() == 5.5 * 3600


def test_wildcards_in_lists(home: Path, call: Call) -> None:
    for pattern, found in {
        "app:*": ["app:latest", "app:1"],
        "docker.io/library/app:*": ["app:latest", "app:1"],
        "app:?": ["app:1"],
        "*/tool:*": ["example.org/team/tool:2"],
        "*": ["app:1", "app:latest", "example.org/team/tool:2"],
        "*p*:*1*": ["app:1"],
    }.items():
        assert sorted(call("list", "-q", pattern).lines) == sorted(found), pattern
    assert sorted(call("list", "-q", "app:1", "*/tool:*").lines) == ["app:1", "example.org/team/tool:2"]


def test_what_is_damaged_is_named_as_it_was_typed(own_home: Path, tmp_path: Path, call: Call) -> None:
    mine, typed = image([BASE, layer([file("mine", b"mine")])], "mine:1"), "docker.io/mine:1"
    call("load", "-q", "-i", written(tmp_path / "mine.tar", mine), "--tag", typed)
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(APP)  # which shares BASE
    fake("image", "rm", "app:1", "app:latest")
    listed = call("list", "--format", "json").json
    assert [(each["reference"], each["damaged"]) for each in listed] == [(typed, True)]


def test_an_image_of_ours_that_msb_took_a_layer_from(
    own_home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = image([BASE, layer([file("mine", b"mine")])], "mine:1")
    call("load", "-q", "-i", written(tmp_path / "mine.tar", mine))
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(APP)  # which shares BASE
    assert call("list", "mine:1").err == ""
    before = call("events", "--format", "json").json[-1]["seq"]
    fake("image", "rm", "app:1", "app:latest")
    listed = call("list")
    assert "note: mine:1 is damaged: another program deleted files of it (event " in listed.err
    assert "`msb-cache pull mine:1`, or loading it again, mends it" in listed.err
    (entry,) = call("list", "--format", "json").json
    assert entry["damaged"]
    why = call("why", "mine:1").out
    assert re.search(r"Damaged: .* layer deleted .* and needed still, seen by ", why)
    assert "Mended by:     `msb-cache pull mine:1`, or loading its archive again" in why
    (event,) = call("why", "mine:1", "--format", "json").json["damage"]
    assert (event["subject"], event["actor"]["observed"]) == (BASE.diff_id, True)
    assert BASE.diff_id[:19] in call("history", "mine:1").out.splitlines()[-1]
    verified = call("verify")
    assert verified.code == 1
    assert "is missing" in verified.out
    assert all(not each["damaged"] for each in call("list", "--as-of", f"@{before}", "--format", "json").json)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    assert call("load", "-q", "-i", tmp_path / "mine.tar").code == 0
    assert call("list").err == ""
    assert "Damaged" not in call("why", "mine:1").out


def test_columns_of_the_settings(home: Path, call: Call, put: Put) -> None:
    put("user", '[columns]\nlist = ["size", "reference"]\n')
    header, *lines = call("list").lines
    assert header.split() == ["SIZE", "REFERENCE"]
    assert lines[0].split() == ["40.0", "KiB", "example.org/team/tool:2"]
    file = put("home", '[columns]\nlist = ["tag"]\n')
    done = call("list")
    assert (done.code, done.out) == (2, "")
    assert f"{file}:2: list has no column" in done.err
    assert "reference, digest, size, in_use, created, last_used" in done.err
    assert file
