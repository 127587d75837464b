"""What of a home is told to strangers: no values of environments and labels, and on request no people.

Images of one's own carry tokens there. It works on the library's values, so that words and JSON that are made
of them say no more than they do. What a field is, its name says: wherever a result has ``labels``, they are
labels, so that a new result with a known name is kept private without a line here.

Of people nothing is told but what a program did: no users, hosts, units and containers, no reasons and error
texts (these name files), and of paths the last part. Names of images and sandboxes are told; names of their
own that people give to these are theirs to choose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from dataclasses import replace as replaced
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar, cast, get_args, get_type_hints

from msgspec import Struct
from msgspec.structs import replace

from msb_cache.eventstore.events import ArtifactKept
from msb_cache.eventstore.store import Actor

T = TypeVar("T")

LEFT_OUT = "…"
"""Stands where a text was left out."""

_PLAIN = frozenset({int, bool, float, bytes, type(None)})
_LABEL = re.compile(r"\s*label\s*!?=[^=]*=", re.IGNORECASE)
"""How a filter of labels begins that asks for a value."""
_DEPTH = 8
"""How deep a policy goes at most; what a log from elsewhere has deeper is left out."""
_SNAPSHOT = "snapshot:"
_KEPT = frozenset(get_args(get_type_hints(ArtifactKept)["reason"]))
"""Reasons that are a word of ours, and no text."""


class Privacy(Struct, frozen=True):
    """What is told.

    Attributes:
        config: the values of environments and of labels, of images, of sandboxes and of the filters of
            policies. Else an environment is empty, and a label's value is ``LEFT_OUT``.
        people: users, machines, folders, and reasons. Else an actor is no more than its program.
    """

    config: bool = False
    people: bool = True

    def of(self, value: T) -> T:
        """Return a value of the library, whatever stands in it, without what is not told."""
        if self.config and self.people:
            return value
        return cast("T", self._of(value))

    def _of(self, value: Any) -> Any:
        kind: type = type(value)
        if kind in _PLAIN:
            return value
        match value:
            case str():
                return value if self.people else _without_folder_of_snapshot(value)
            case PurePath():
                return value if self.people else kind(value.name)
            case Actor():
                return value if self.people else _nobody(value)
            case Mapping():
                return {self._of(name): self._of(each) for name, each in value.items()}
        if names := _names(kind):
            return self._record(value, names)
        if isinstance(value, list | tuple | set | frozenset):
            return kind(map(self._of, value))
        return value

    def _record(self, record: Any, names: tuple[str, ...]) -> Any:
        changed = {}
        for name in names:
            value = getattr(record, name)
            if type(value) not in _PLAIN:
                told = self._field(record, name, value)
                if told is not value:
                    changed[name] = told
        if not changed:
            return record
        if isinstance(record, Struct):
            return replace(record, **changed)
        if isinstance(record, tuple):
            return type(record)(*(changed.get(name, getattr(record, name)) for name in names))
        return replaced(record, **changed)

    def _field(self, record: Any, name: str, value: Any) -> Any:
        if name in _OF_IMAGES:  # as it is, else: it can be any JSON, however deep
            return value if self.config else _OF_IMAGES[name](value)
        if name in _OF_POLICIES:
            value = self._policy(value, _DEPTH)
            if isinstance(value, Mapping):
                return value
        if not self.people and name in _OF_PEOPLE:
            value = _OF_PEOPLE[name](record, value)
        return self._of(value)

    def _policy(self, value: Any, depth: int) -> Any:
        """Return a policy as the log keeps it, or a part of it."""
        match value:
            case str():
                found = None if self.config else _LABEL.match(value)
                return value if found is None else f"{found[0].strip()}{LEFT_OUT}"
            case Mapping() | list() | tuple() if depth == 0:
                return LEFT_OUT
            case Mapping():
                hidden = () if self.people else ("file",)
                return {
                    name: _last_part(None, each) if name in hidden else self._policy(each, depth - 1)
                    for name, each in value.items()
                }
            case list() | tuple() if type(value) in (list, tuple):
                return type(value)(self._policy(each, depth - 1) for each in value)
        return value


def _nobody(actor: Actor) -> Actor:
    return Actor(user="", uid=-1, host="", program=actor.program, observed=actor.observed)


@cache
def _names(kind: type) -> tuple[str, ...]:
    """Return the fields of a struct, a dataclass or a named tuple; none: it is nothing of these."""
    if issubclass(kind, Struct):
        return kind.__struct_fields__
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind) if field.init)
    found: tuple[str, ...] = getattr(kind, "_fields", ())
    return found


def _hidden(labels: Any) -> Any:
    if isinstance(labels, Mapping):
        return dict.fromkeys(labels, LEFT_OUT)
    return None if labels is None else LEFT_OUT


def _without_folder_of_snapshot(text: str) -> str:
    """Return a text; if it names a snapshot by its path, with the last part of that."""
    if not text.startswith(_SNAPSHOT) or "/" not in text:
        return text
    return _SNAPSHOT + PurePath(text.removeprefix(_SNAPSHOT)).name


def _last_part(_: object, path: Any) -> Any:
    return PurePath(path).name if isinstance(path, str) else path


def _of_source(source: Any, name: Any) -> Any:
    return _last_part(source, name) if getattr(source, "kind", None) == "archive" else name


def _of_way(way: Any, place: Any) -> Any:
    return _last_part(way, place) if getattr(way, "how", None) == "load" else place


def _unpinned(record: Any, value: Any) -> Any:
    """Return who keeps an image: sandboxes and snapshots, and not who pinned it."""
    if isinstance(value, str):
        return LEFT_OUT
    return type(value)() if getattr(record, "rule", None) == "pinned" else value


def _word(_: object, reason: Any) -> Any:
    return reason if reason in _KEPT else LEFT_OUT


def _unsaid(_: object, text: Any) -> Any:
    return LEFT_OUT if isinstance(text, str) else type(text)()


_OF_IMAGES: dict[str, Callable[[Any], Any]] = {"labels": _hidden, "env": lambda env: type(env)()}
"""What images and sandboxes were given, by the names of the fields that have it."""

_OF_POLICIES = frozenset({"policy", "rules", "filter", "keep"})

_OF_PEOPLE: dict[str, Callable[[Any, Any], Any]] = {
    "by": _unpinned,
    "holders": _unpinned,
    "reason": _word,
    "name": _of_source,
    "place": _of_way,
    **dict.fromkeys(("home", "file", "path", "program", "database"), _last_part),
    "source": _last_part,
    **dict.fromkeys(("notes", "why", "refused", "msb_schema_note"), _unsaid),
    "host": lambda _, host: "",
}
"""What names people, machines or their folders, by the names of the fields that have it."""
