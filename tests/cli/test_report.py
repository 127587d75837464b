"""The report command writes one private file, or prints what it would show."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.support import FAILED, USAGE, Call, fingerprint


def test_the_page_is_a_file_for_its_owner_only(home: Path, call: Call, tmp_path: Path) -> None:
    before = fingerprint(home)
    path = tmp_path / "report.html"
    path.write_text("an older one, which all may read")
    path.chmod(0o644)
    done = call("report", "-o", path)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(f"  ✓ Reported   {path}  ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert fingerprint(home) == before
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("example.org/team/tool:2") >= 2
    assert [each.name for each in tmp_path.glob(".*.part")] == []


def test_the_page_on_stdout_is_the_same_markup(home: Path, call: Call) -> None:
    done = call("report", "-o", "-")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("<!DOCTYPE html>")
    assert done.out.rstrip().endswith("</html>")


def test_quiet_prints_the_path(home: Path, call: Call, tmp_path: Path) -> None:
    done = call("report", "-q", "-o", tmp_path / "a.html")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'a.html'}\n", "")


def test_json_is_what_the_page_shows(home: Path, call: Call) -> None:
    done = call("report", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json["image_count"] == 3
    assert {life["reference"] for life in done.json["lives"]} >= {"app:1", "app:latest"}
    (line,) = call("report", "--format", "jsonl").lines
    assert json.loads(line).keys() == done.json.keys()
    assert call("report", "--format", "{image_count} {bytes:size}").out.startswith("3 ")


def test_as_text(home: Path, call: Call) -> None:
    done = call("report", "--text")
    assert (done.code, done.err) == (0, "")
    assert "for 3 images" in done.out
    assert "Longest idle" in done.out


def test_the_past_and_people(home: Path, call: Call) -> None:
    call("remove", "app:latest", "--reason", "of no use")
    assert "of no use" in call("report", "-o", "-").out
    private = call("report", "--no-people", "-o", "-").out
    assert "of no use" not in private
    assert str(home) not in private
    past = call("report", "--as-of", "@1", "--since", "@1", "-o", "-")
    assert "As it was" in past.out
    assert "of no use" not in past.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), USAGE, "say where the page goes, -o report.html, or --text"),
        (("-q",), USAGE, "say where the page goes"),
        (("-o", ""), USAGE, "it is empty"),
        (("-o", "x.html", "--format", "json"), USAGE, "three ways to show it; give one"),
        (("-o", "x.html", "--text"), USAGE, "three ways to show it; give one"),
        (("--text", "-q"), USAGE, "leave -q out"),
        (("-o", "missing/x.html"), FAILED, "missing/x.html: No such file or directory; check the path"),
        (("-o", "x.html", "--since", "sometime"), USAGE, "sometime"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    home: Path,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("report", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert [*tmp_path.glob("*.html")] == []


def test_without_jinja_the_extra_is_named(
    home: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = call("report", "-o", tmp_path / "a.html")
    assert done.code == FAILED
    assert "pip install 'msb-cache[web]'" in done.err
    assert not (tmp_path / "a.html").exists()
    assert call("report", "--format", "json").code == 0


def test_a_moment_before_the_log_is_said(home: Path, call: Call, tmp_path: Path) -> None:
    done = call("report", "--as-of", "2001-01-01", "-o", tmp_path / "a.html")
    assert done.code == 0
    assert "note: there was no log then, so the report is empty" in done.err


def test_a_home_without_a_log_has_an_empty_page(own_home: Path, call: Call, tmp_path: Path) -> None:
    done = call("report", "-o", tmp_path / "a.html")
    assert done.code == 0
    assert "note: there is no log yet, so the report is empty" in done.err
    assert "Nothing is in the cache yet" in (tmp_path / "a.html").read_text()
    assert not own_home.exists()
