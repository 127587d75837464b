"""The policy file of a home: where it lies, what it says, and of each mistake the line and what is right.

It is TOML, in the words of ``msb-cache prune``::

    max-delete = "50%"

    [keep]
    references = ["python", "registry.example/base/*"]
    labels = ["keep=yes"]

    [[rule]]
    name = "ci"
    filter = ["reference=ci/*"]
    unused-for = "3d"

    [[rule]]
    name = "room"
    max-size = "80GiB"

    [watermarks]
    high = "85%"
    low = "80%"
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidConfigError
from msb_cache.oci.digest import shown
from msb_cache.queries import toml_file
from msb_cache.queries.policy import limit_of, marks_of, rule_of
from msb_cache.queries.toml_file import (
    Kind,
    Mistake,
    Path,
    Reader,
    are_tables,
    is_amount,
    is_list,
    is_number,
    is_table,
    is_text,
    no_toml,
    texts,
)
from msb_cache.queries.user_folder import user_folder
from msb_cache.retention.policy import WATERMARKS, CachePolicy, NamedRule, PrunePolicy, Watermarks
from msb_cache.shapes import Result
from msb_cache.wording import plural, quoted

_MOST_RULES = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_LIMITS = ("unused_for", "older_than", "keep_last", "max_size", "min_free", "filter")
"""What says of a rule that less than all is meant."""


class PolicyMistake(Mistake, Result):
    """One thing that is wrong with a policy file: in which line, at which key, and what would be right.

    ``line`` counts from 1; None: it is about the file as a whole. ``key`` is empty where it is no key's.
    """

    __slots__ = ()


_RULE = {
    "name": Kind(is_text, "text", '"ci"'),
    "filter": Kind(is_list, "a list of texts", '["reference=ci/*"]'),
    "exclude": Kind(is_list, "a list of texts", '["ci/base"]'),
    "unused-for": Kind(is_text, "a duration in quotes", '"14d"'),
    "older-than": Kind(is_text, "a duration in quotes", '"30d"'),
    "keep-last": Kind(is_number, "a number", "2"),
    "keep-last-by": Kind(is_text, "text", '"pulled"'),
    "max-size": Kind(is_amount, "a size in quotes", '"80GiB"'),
    "min-free": Kind(is_amount, "a size or share in quotes", '"10%"'),
    "grace": Kind(is_text, "a duration in quotes", '"1h"'),
}
_KEEP = {
    "references": Kind(is_list, "a list of texts", '["python", "base/*"]'),
    "labels": Kind(is_list, "a list of texts", '["keep=yes"]'),
    "digests": Kind(is_list, "a list of texts", '["sha256:695829d7"]'),
}
_MARKS = {
    "high": Kind(is_amount, "a size or share in quotes", '"85%"'),
    "low": Kind(is_amount, "a size or share in quotes", '"80%"'),
}
_FILE = {
    "max-delete": Kind(is_amount, "a number, or a share in quotes", '"50%"'),
    "keep": Kind(is_table, "a table", "[keep]"),
    "rule": Kind(are_tables, "a list of tables", "[[rule]]"),
    "watermarks": Kind(is_table, "a table", "[watermarks]"),
}
_FILTERS = {"references": "reference", "labels": "label", "digests": "digest"}


def find(layout: Layout) -> str | None:
    """Return the path of the policy that holds in a home: the home's own, else the user's; or None."""
    found = (path for path in places(layout) if os.path.isabs(path) and os.path.lexists(path))
    return next(found, None)  # a user without a home has no configuration: not what lies in this folder


def required(layout: Layout) -> str:
    """Return the path of the policy file that holds in a home.

    Raises:
        InvalidConfigError: there is none.
    """
    found = find(layout)
    if found is None:
        raise missing(layout.home)
    return found


def missing(home: object) -> InvalidConfigError:
    """Return the error about a home without a policy file."""
    return InvalidConfigError(f"{home} has no policy; `msb-cache policy init` writes one to begin with")


def places(layout: Layout) -> tuple[str, str]:
    """Return where a policy file can lie: in the home, and in the user's configuration."""
    return (
        os.path.join(layout.home, "cache-policy.toml"),
        os.path.join(user_folder(), "policy.toml"),
    )


def read(path: str) -> CachePolicy:
    """Return what a policy file says.

    Raises:
        InvalidConfigError: it cannot be read, or has a mistake: names the file, the line and what is right.
    """
    text = text_of(path)
    policy, mistakes = parse(text, os.path.abspath(path))
    if mistakes:
        more = plural(len(mistakes) - 1, "more mistake")
        listed = f" (and {more}; `msb-cache policy check {quoted(path)}` lists them)"
        raise InvalidConfigError(f"{path}: {mistakes[0]}{listed if len(mistakes) > 1 else ''}")
    return policy


def text_of(path: str) -> str:
    """Return the text of a policy file; raises InvalidConfigError, naming the file."""
    return toml_file.text_of(path, "policy")


def parse(text: str, source: str = "") -> tuple[CachePolicy, list[PolicyMistake]]:
    """Return what a policy says, and every mistake in it: with one, nothing may go by it.

    Args:
        text: the file's text.
        source: its path, for the record.
    """
    try:
        document = tomllib.loads(text)
        reader = _Reader(text, document)
        policy = reader.policy(source, f"sha256:{sha256(text.encode()).hexdigest()}")
    except (ValueError, RecursionError) as error:
        return CachePolicy(), [PolicyMistake(*no_toml(error))]
    found = sorted(reader.mistakes, key=lambda each: each.line or 0)
    return policy, [PolicyMistake(*each) for each in found]


class _Reader(Reader):
    """Reads a policy, and collects what is wrong with it."""

    def policy(self, source: str, digest: str) -> CachePolicy:
        found = self.fields(self.document, _FILE, ())
        most = found.get("max_delete")
        if most is not None:
            self.check(("max-delete",), limit_of, PrunePolicy(max_delete=most))
        tables = found.get("rule", [])
        if len(tables) > _MOST_RULES:
            self.wrong(("rule", _MOST_RULES), f"a policy has at most {_MOST_RULES} rules")
        policy = CachePolicy(
            rules=tuple(self._rule(table, number) for number, table in enumerate(tables[:_MOST_RULES])),
            keep=self._keep(found.get("keep", {})),
            watermarks=self._watermarks(found["watermarks"]) if "watermarks" in found else None,
            max_delete=most,
            source=source,
            digest=digest,
        )
        names = {WATERMARKS}
        for number, each in enumerate(policy.rules):
            if each.name in names:
                self.wrong(("rule", number, "name"), f"{each.name!r} is another rule's name; give it its own")
            names.add(each.name)
        return policy

    def _rule(self, table: Mapping[str, Any], number: int) -> NamedRule:
        at: Path = ("rule", number)
        before = len(self.mistakes)
        found = self.fields(table, _RULE, at)
        name = found.pop("name", f"rule-{number + 1}")
        if not _NAME.fullmatch(name):
            self.wrong(
                (*at, "name"), f"{shown(name)} is no name; use at most 64 letters, digits, spaces and _ . -"
            )
        for field in ("filter", "exclude"):
            if field in found:
                found[field] = texts(found[field])
        for field, value in found.items():
            if field != "keep_last_by":  # which goes with another
                self.check((*at, _key(field)), rule_of, PrunePolicy(**{field: value}), 0)
        rule = PrunePolicy(**found)
        if len(self.mistakes) == before:
            self.check((*at, "keep-last-by"), rule_of, rule, 0)
            if not any(getattr(rule, field) not in (None, ()) for field in _LIMITS):
                self.wrong(
                    at, f'rule {name!r} would take every image; give it a limit such as unused-for = "14d"'
                )
        return NamedRule(name=name, rule=rule)

    def _keep(self, table: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        for field, values in self.fields(table, _KEEP, ("keep",)).items():
            filters = [f"{_FILTERS[field]}={text}" for text in texts(values)]
            self.check(("keep", field), rule_of, PrunePolicy(filter=tuple(filters)), 0)
            found += filters
        return tuple(found)

    def _watermarks(self, table: Mapping[str, Any]) -> Watermarks | None:
        at: Path = ("watermarks",)
        found = self.fields(table, _MARKS, at)
        if found.keys() != _MARKS.keys():
            if not self._mistaken(at):
                self.wrong(at, 'it takes both, such as high = "85%" and low = "80%"')
            return None
        marks = Watermarks(**found)
        self.check((*at, "low"), marks_of, marks)
        return marks

    def _mistaken(self, at: Path) -> bool:
        line = self.line(at)
        return any(line is not None and (each.line or 0) >= line for each in self.mistakes)


def _key(field: str) -> str:
    return field.replace("_", "-")
