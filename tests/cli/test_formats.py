"""One set of options for what a command prints, and what each format makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.cli import output
from msb_cache.cli.formats import Shown, Template, shown_options
from tests.cli.support import Call

FOUND = [{"name": "a", "size": 2048, "by": ["x", "y"], "in": {"of": None, "is": True}}, {"name": "b\x1b"}]


def printed(shown: Shown) -> None:
    def table(found: Iterable[dict[str, Any]]) -> None:
        output.line(f"table of {len([*found])}")

    shown.items(FOUND, fields=lambda each: each, name=lambda each: str(each["name"]), table=table)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "table of 2\n"),
        (["-q"], "a\nb\\x1b\n"),
        (["--format", "{name}-{{}}\\n."], "a-{}\n.\nb\\x1b-{}\n.\n"),
    ],
)
def test_each_format(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @shown_options("names")
    def command(shown: Shown) -> None:
        printed(shown)

    command.main(arguments, standalone_mode=False)
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("quiet", [False, True])
def test_json_and_lines_of_it_say_the_same(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    printed(Shown("json", None, quiet))
    whole = json.loads(capsys.readouterr().out)
    printed(Shown("jsonl", None, quiet))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == whole == FOUND


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{name}", "a"),
        ("{name} {size}", "a 2048"),
        ("{size:size}", "2.0 KiB"),
        ("{name:size}|", "|"),
        ("{name:>4}|", "   a|"),
        ("{by}", '["x", "y"]'),
        ("{by.1}", "y"),
        ("{in.of}{in.of.deeper}", ""),
        ("{in.is}", "true"),
        ("{{{name}}}", "{a}"),
        ("a\\tb", "a\tb"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    assert Template.parse(template).of(FOUND[0]) == expected


@pytest.mark.parametrize(
    "template", ["{", "}", "{}", "{a!r}", "{a:999999}", "{a:>{b}}", "{a..b}", "{a:c}", "{0.__class__:x}"]
)
def test_no_templates(template: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Template.parse(template)


@given(st.text(max_size=30))
def test_any_text_is_a_template_or_none(text: str) -> None:
    try:
        template = Template.parse(text)
    except ValueError:
        return
    with suppress(click.UsageError):  # there is no such field
        assert "\x1b" not in template.of(FOUND[0]) or "\x1b" in text


@pytest.mark.parametrize(
    "template", ["{nope}", "{by.7}", "{by.²}", f"{{by.{'9' * 5000}}}", "{name.x}", "{name.__class__}"]
)
def test_an_unknown_field_is_said_with_those_there_are(template: str) -> None:
    with pytest.raises(click.UsageError, match="no field"):
        Template.parse(template).of(FOUND[0])


def test_a_format_that_is_none(home: object, call: Call) -> None:
    done = call("list", "--format", "yaml")
    assert (done.code, done.out) == (2, "")
    assert "use table, json, jsonl, or a template" in done.err
    done = call("list", "--format", "{nope}")
    assert (done.code, done.out) == (2, "")
    assert "there are: reference, digest" in done.err
