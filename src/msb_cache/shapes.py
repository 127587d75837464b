"""What the results of the library look like as plain data: the same names as Python values and as JSON.

A leaf: it knows no result. Each says its own shape; by default that is its fields, by two rules: what is
called ``…_at_ns``, ``…since_ns`` or ``…until_ns`` is a time and loses its ``_ns``, and a ``manifest_digest``
is called ``digest``, as everywhere in the command's JSON.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Render = Callable[["Time"], object]


_PLAIN = frozenset({str, int, bool, float, type(None)})
"""Values of just these types are the same outside."""


class Time(int):
    """Nanoseconds since the epoch, UTC: in JSON RFC 3339 with nine digits, else a ``datetime`` to the µs."""

    __slots__ = ()

    @classmethod
    def or_none(cls, ns: int | None) -> Time | None:
        """Return a time; None: there is none."""
        return None if ns is None else cls(ns)


class Result:
    """What the library returns: a value that can be turned into plain data."""

    __slots__ = ()

    _is_plain: ClassVar[bool] = False
    """Whether its shape has neither times nor results in it, so that it is the same in both forms."""

    def _shape(self) -> dict[str, Any]:
        """Return the names and values of both forms; times are ``Time``, results in it stay what they are."""
        return fields(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values by name: times as aware ``datetime`` in UTC, to the µs."""
        found: dict[str, Any] = _rendered(self._shape(), _as_datetime)
        return found

    def to_json(self, *, indent: int | None = None) -> str:
        """Return JSON text of the shape that the command prints: times in RFC 3339, UTC, with nine digits.

        Args:
            indent: spaces by which what is within something is moved in; None: all is one line.
        """
        import json

        return json.dumps(jsonable(self._shape()), indent=indent, ensure_ascii=False)


def fields(value: object, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fields of a struct, a dataclass or a named tuple by the names that they have outside."""
    found = {}
    kind: type = type(value)
    for name, outside, is_time in names_of(kind):
        if name not in without:
            each = getattr(value, name)
            found[outside] = Time.or_none(each) if is_time else each
    return found


def jsonable(value: Any) -> Any:
    """Return a value, with all results and times in it, as JSON has it."""
    return _rendered(value, rfc3339)


def rfc3339(ns: int | None) -> str | None:
    """Return a time (ns since the epoch) as RFC 3339 in UTC with nine digits."""
    import time

    if ns is None:
        return None
    seconds, fraction = divmod(ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09}+00:00"


@cache
def names_of(kind: type) -> tuple[tuple[str, str, bool], ...]:
    """Return the fields that values of a class have, their names outside, and whether they are times."""
    for attribute in ("__struct_fields__", "__dataclass_fields__", "_fields"):
        names: Iterable[str] | None = getattr(kind, attribute, None)
        if names is not None:
            return tuple((name, *_outside(name)) for name in names)
    raise TypeError(f"{kind.__name__} has no fields")


def _outside(name: str) -> tuple[str, bool]:
    if name == "manifest_digest":
        return "digest", False
    if name.endswith(("_at_ns", "since_ns", "until_ns")):
        return name[:-3], True
    return name, False


def _rendered(value: Any, time: Render) -> Any:
    if type(value) in _PLAIN:  # nearly all are, and there are very many
        return value
    match value:
        case Time():
            return time(value)
        case float():
            return float(value)
        case Result():
            shape = value._shape()
            return shape if value._is_plain else _rendered(shape, time)
        case str():
            return str(value)  # of an enumeration the text
        case int():
            return int(value)
        case bytes():
            return value.hex()
        case dict():
            return {
                str(key): each if type(each) in _PLAIN else _rendered(each, time)
                for key, each in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [each if type(each) in _PLAIN else _rendered(each, time) for each in value]
    return _other(value, time)


def _other(value: Any, time: Render) -> Any:
    from collections.abc import Mapping
    from os import PathLike, fspath

    if isinstance(value, Mapping):
        return _rendered({**value}, time)
    if isinstance(value, PathLike):
        return fspath(value)
    raise TypeError(f"{type(value).__name__} has no place in plain data")


def _as_datetime(time: Time) -> object:
    from datetime import UTC, datetime, timedelta

    # Integers: a float of seconds cannot hold today's microseconds exactly.
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time // 1000)
