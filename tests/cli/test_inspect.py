"""What inspect prints of one image, and what finds it."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path

import pytest

from tests.cli.support import APP, MSB_LIST_KEYS, TOOL, Call, on_terminal, written
from tests.imagebuilder import image
from tests.msbhome import MsbHome

MSB_INSPECT_KEYS = MSB_LIST_KEYS | {"config", "layers"}
MSB_CONFIG_KEYS = {
    "cmd",
    "digest",
    "entrypoint",
    "env",
    "labels",
    "stop_signal",
    "user",
    "working_dir",
}
MSB_LAYER_KEYS = {
    "blob_digest",
    "compressed_size_bytes",
    "diff_id",
    "erofs_size_bytes",
    "media_type",
    "position",
}


class TestInspect:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("inspect", "app:1")
        assert (done.code, done.err) == (0, "")
        text = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.lines)}
        assert text["Reference"] == "app:1"
        assert text["Digest"] == APP.digest
        assert text["Platform"] == "linux/amd64"
        assert text["Held by"] == "nobody"
        assert text["Entrypoint"] == "/usr/bin/env"
        assert text["Cmd"] == "serve 'a b'"
        assert text["Working dir"] == "/srv"
        assert text["User"] == "1000:1000"
        assert text["Stop signal"] == "SIGINT"
        assert "    GREETING=good day" in done.lines
        assert "    team=green" in done.lines
        bottom, top = done.lines[-2:]
        assert bottom.split()[:2] == ["0", APP.layers[0].diff_id]
        assert top.split()[:2] == ["1", APP.layers[1].diff_id]

    def test_its_name_and_a_template(self, home: Path, call: Call) -> None:
        assert call("inspect", "app:1", "-q").lines == ["app:1"]
        assert call("inspect", "app:1", "--format", "{layers.1.diff_id} {config.user}").lines == [
            f"{APP.layers[1].diff_id} 1000:1000"
        ]

    def test_on_a_terminal_times_are_told_twice(self, home: Path) -> None:
        lines = on_terminal(["inspect", "app:1"], NO_COLOR="1").said.splitlines()
        assert f"Digest:          {APP.digest[7:19]}" in lines
        (created,) = (line for line in lines if line.startswith("Created:"))
        assert re.search(r" \d\d:\d\d:\d\d [+-]\d{4} \((\d+ \w+ ago|just now)\)$", created)
        whole = on_terminal(["inspect", "app:1", "--no-trunc", "--absolute"], NO_COLOR="1").said
        assert f"Digest:          {APP.digest}" in whole
        assert " ago" not in whole

    def test_json(self, home: Path, call: Call) -> None:
        detail = call("inspect", "app:1", "--format", "json").json
        assert detail.keys() >= MSB_INSPECT_KEYS
        assert detail["config"].keys() >= MSB_CONFIG_KEYS
        assert detail["config"]["env"] == ["PATH=/usr/bin:/bin", "GREETING=good day"]
        assert detail["config"]["labels"] == {"team": "green"}
        for position, (shown, built) in enumerate(zip(detail["layers"], APP.layers, strict=True)):
            assert shown.keys() >= MSB_LAYER_KEYS
            assert (shown["position"], shown["diff_id"]) == (position, built.diff_id)
            assert (shown["blob_digest"], shown["compressed_size_bytes"]) == (built.digest, len(built.blob))
            path = home / "cache" / "layers" / f"{built.diff_id.replace(':', '_')}.erofs"
            assert shown["erofs_size_bytes"] == path.stat().st_size

    def test_every_spelling_finds_it(self, home: Path, call: Call) -> None:
        for spelling in (
            "app:1",
            "library/app:1",
            "docker.io/app:1",
            "docker.io/library/app:1",
            "index.docker.io/library/app:1",
            f"app@{APP.digest}",
            f"app:1@{APP.digest}",
        ):
            assert call("inspect", spelling, "--format", "json").json["digest"] == APP.digest
        assert call("inspect", "app", "--format", "json").json["reference"] == "app:latest"
        assert call("inspect", f"app:1@{TOOL.digest}").code == 3

    def test_holders_are_named(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        call("hold", "app:latest", "snapshot:/snaps/one")
        shown = call("inspect", "app:1", "--format", "json").json["holders"]
        assert sorted(shown) == ["sandbox:dev", "snapshot:/snaps/one"]
        assert "sandbox:dev" in call("inspect", "app:1").out

    def test_pins_are_told(self, home: Path, call: Call) -> None:
        assert "Pinned" not in call("inspect", "app:1").out
        assert call("inspect", "app:1", "--format", "json").json["pins"] == []
        (last,) = call("events", "--reverse", "-n", "1", "--format", "json").json
        call("pin", "app:1", "--reason", "the demo", "--until", "2099-01-01")
        call("pin", APP.digest)
        lines = [line for line in call("inspect", "app:1").lines if line.startswith("Pinned by:")]
        by = getpass.getuser()
        assert lines == [
            f"Pinned by:       {by} until 2099-01-01 00:00:00 +0000: the demo",
            f"Pinned by:       {by} by its digest",
        ]
        first, second = call("inspect", "app:1", "--format", "json").json["pins"]
        assert (first["reference"], first["reason"], second["reference"]) == ("app:1", "the demo", None)
        assert len(call("inspect", "app:latest", "--format", "json").json["pins"]) == 1
        assert call("inspect", "example.org/team/tool:2", "--format", "json").json["pins"] == []
        then = f"@{last['seq']}"
        assert call("inspect", "app:1", "--as-of", then, "--format", "json").json["pins"] == []

    def test_an_image_without_settings_has_no_empty_heading(
        self, home: Path, call: Call, tmp_path: Path
    ) -> None:
        call("load", "-i", written(tmp_path / "bare.tar", image(TOOL.layers, "bare:1")))
        assert "\nConfig\n\n" not in call("inspect", "bare:1").out

    def test_control_characters_do_not_reach_the_terminal(
        self, home: Path, call: Call, tmp_path: Path
    ) -> None:
        evil = {"Cmd": ["\x1b[31mred"], "Env": ["A=\x1b]0;title\x07"], "Labels": {"k": "\r\nfake: line"}}
        call("load", "-i", written(tmp_path / "evil.tar", image(TOOL.layers, "evil:1", config=evil)))
        shown = call("inspect", "evil:1").out
        assert not set(shown) & set("\x1b\x07\r")
        assert call("inspect", "evil:1", "--format", "json").json["config"]["cmd"] == ["\x1b[31mred"]


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        ({"a": "b", "n": None, "deep": {"x": [1]}}, ["    a=b", "    n=null", '    deep={"x":[1]}']),
        (["one", "two"], ['    ["one","two"]']),
        ("text", ["    text"]),
        (-7.5, ["    -7.5"]),
        ([], []),
    ],
)
def test_labels_are_shown_whatever_they_are(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, labels: object, lines: list[str]
) -> None:
    """In a home of msb, its database can have any JSON there."""
    monkeypatch.setenv("MSB_HOME", str(tmp_path))
    home = MsbHome(tmp_path)
    home.load("app:1", "one")
    home.connection.execute("UPDATE config SET labels = ?", (json.dumps(labels),))
    home.close()
    done = call("inspect", "app:1")
    shown = done.out.partition("Labels:\n")[2].partition("\n\n")[0]
    assert (done.code, shown.splitlines()) == (0, lines)
    assert call("inspect", "app:1", "--format", "json").json["config"]["labels"] == labels


def test_what_msb_does_not_know_is_a_dash(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_HOME", str(tmp_path))
    home = MsbHome(tmp_path)
    home.load("app:1", "one", "x")
    home.connection.execute("UPDATE manifest SET total_size_bytes = NULL")
    home.connection.execute("UPDATE layer SET compressed_size_bytes = NULL, media_type = NULL")
    home.connection.execute("DELETE FROM config")
    home.connection.execute("UPDATE image_ref SET created_at = NULL")
    home.close()
    done = call("inspect", "app:1")
    assert "Size:            -" in done.lines
    assert "Created:         -" in done.lines
    assert done.lines[-1].split()[2:] == ["-", "8.0", "KiB", "-"]
    assert "Config" not in done.lines
    found = call("inspect", "app:1", "--format", "json").json
    assert (found["size_bytes"], found["config"], found["layers"][0]["media_type"]) == (None, None, None)
    assert found["created_at"] is None
    assert call("list").lines[1].split()[2] == "-"
