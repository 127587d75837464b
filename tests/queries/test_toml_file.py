"""Files that people write in TOML: each key is found in its line, and of each mistake what is right."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidConfigError
from msb_cache.queries.toml_file import (
    Kind,
    Mistake,
    Reader,
    are_tables,
    is_amount,
    is_list,
    is_number,
    is_table,
    is_text,
    lines,
    no_toml,
    text_and_owner,
    text_of,
    texts,
)

KINDS = {
    "some-size": Kind(is_amount, "a size in quotes", '"80GiB"'),
    "part": Kind(is_table, "a table", "[part]"),
    "rule": Kind(are_tables, "a list of tables", "[[rule]]"),
}


keys = st.text("abé\"'\n =[]#.", max_size=6)
values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("ab\"'\n\\#=]}", max_size=6),
    lambda some: st.lists(some, max_size=3),
    max_leaves=6,
)


def written(value: object, long: bool) -> str:
    """A value as TOML; a long one over several lines."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        between = ",\n  # another ]\n  " if long else ", "
        return f"[{between.join(written(each, long) for each in value)}]"
    if isinstance(value, str):
        escaped = "".join(
            each if each.isalnum() or (each == "\n" and long) else f"\\u{ord(each):04x}" for each in value
        )
        return f'"""\n{escaped}"""' if long else f'"{escaped}"'
    return str(value)


@given(
    st.lists(
        st.tuples(st.sampled_from(("", "[a]", "[[b]]", "[c.d]")), keys, values, st.booleans()), max_size=6
    )
)
def test_every_key_is_found_in_the_line_in_which_it_stands(
    statements: list[tuple[str, str, object, bool]],
) -> None:
    """Whatever the document is: the lines of its keys are those in which they were written."""
    text, expected, path, opened, many = "", {}, (), set(), 0
    for number, (table, key, value, long) in enumerate(statements):
        if table and table not in opened:
            if table == "[[b]]":
                path, many = ("b", many), many + 1
            else:
                path = tuple(table.strip("[]").split("."))
                opened.add(table)
            text += f"# about {table}\n  {table} # here\n"
            expected[path] = text.count("\n")
        name = f"{number}{key}"
        line = text.count("\n") + 1
        text += f"{written(name, False)} = {written(value, long)}\n\n"
        expected[(*path, name)] = line
    tomllib.loads(text)
    found = dict(lines(text))
    assert {path: found.get(path) for path in expected} == expected


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("a", {is_text, is_amount, is_list}),
        (1, {is_number, is_amount}),
        (True, set()),
        (2**63, set()),
        (1.5, set()),
        ([], {is_list, are_tables}),
        (["a"], {is_list}),
        (["a", 1], set()),
        ([{}], {are_tables}),
        ({}, {is_table}),
    ],
)
def test_what_a_value_is(value: object, fits: set[object]) -> None:
    kinds = (is_text, is_number, is_amount, is_list, is_table, are_tables)
    assert {kind for kind in kinds if kind(value)} == fits


def test_one_text_stands_for_a_list_of_it() -> None:
    assert texts("a") == ("a",)
    assert texts(["a", "b"]) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("some-size = 1", []),
        ("some-size = true", ['line 1: some-size: it takes a size in quotes; write some-size = "80GiB"']),
        ("\nSome_Size = 1", ["line 2: Some_Size: there is no such key; did you mean some-size?"]),
        ("zzz = 1", ["line 1: zzz: there is no such key; there are some-size, part, rule"]),
        ('"\\u001b" = 1', ["line 1: '\\x1b': there is no such key; there are some-size, part, rule"]),
        ("part = 1", ["line 1: part: it takes a table; write [part]"]),
        ("[rule]", ["line 1: rule: it takes a list of tables; write [[rule]]"]),
    ],
)
def test_what_a_table_cannot_have(text: str, says: list[str]) -> None:
    reader = Reader(text, tomllib.loads(text))
    reader.fields(reader.document, KINDS, ())
    assert [str(each) for each in reader.mistakes] == says


def test_fields_have_names_of_python_s() -> None:
    assert Reader("", {}).fields({"some-size": 1}, KINDS, ()) == {"some_size": 1}


def test_a_sentence_of_what_gives_a_value_its_meaning() -> None:
    def meaning(value: str) -> None:
        raise InvalidConfigError(f"{value} is none")

    reader = Reader("[[rule]]\nname = 'x'\n[[rule]]\n", {})
    reader.check(("rule", 0, "name"), meaning, "x")
    reader.check(("rule",), meaning, "y")
    reader.wrong(("rule", 1, "size"), "so")
    assert reader.mistakes == [(2, "name", "x is none"), (1, "rule", "y is none"), (3, "size", "so")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = b\n", Mistake(1, "", "it is no TOML: Invalid value, column 5")),
        ('a = """', Mistake(None, "", "it is no TOML: Unterminated string")),
    ],
)
def test_what_is_no_toml(text: str, says: Mistake) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as raised:
        tomllib.loads(text)
    assert no_toml(raised.value) == says


def test_what_is_nested_too_deep_is_no_toml() -> None:
    assert no_toml(RecursionError("…")).problem == "it is no TOML: it is nested too deep"


def test_a_file_and_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("a = 'ä'\n")
    assert text_and_owner(str(path), "policy") == ("a = 'ä'\n", os.getuid())
    path.write_bytes(b"#" * (64 * 1024 + 1))
    with pytest.raises(InvalidConfigError, match=r"is longer than 64 KiB, so it is no policy$"):
        text_of(str(path), "policy")
