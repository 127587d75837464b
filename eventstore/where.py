"""Conditions on events that no index serves, as SQL on the log's own columns; not for finding images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

_LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
_USER, _LOGIN, _HOST = (f"json_extract(actor, '$.{name}')" for name in ("user", "login", "host"))
_BY = (
    f"(? IN ({_USER}, {_USER} || '@' || {_HOST}, {_LOGIN}, {_LOGIN} || '@' || {_HOST}) OR EXISTS ("  # noqa: S608
    "SELECT 1 FROM json_each(actor, '$.claimed') WHERE value = ? OR key || '=' || value = ?))"
)


class Where(msgspec.Struct, frozen=True):
    """What an event must fit besides its position, type, subject and operation; None: anything.

    Attributes:
        actor: the user who did it or who had logged in, or ``user@host``; or what the caller claimed, as a
            value or ``name=value``.
        host: the machine it was done on.
        holder: who held, released or used.
        digest: about this digest, or naming it in its data.
        text: has this text in its subject, its data or its actor, whatever the case of ASCII letters.
        occurred_from_ns: occurred at or after this time (ns since the epoch, UTC).
        occurred_until_ns: occurred at or before this time.
    """

    actor: str | None = None
    host: str | None = None
    holder: str | None = None
    digest: str | None = None
    text: str | None = None
    occurred_from_ns: int | None = None
    occurred_until_ns: int | None = None

    def sql(self) -> tuple[list[str], list[int | str]]:
        """Return SQL conditions that all must hold, and their arguments in order."""
        found: list[tuple[str, list[int | str]]] = []
        if self.actor is not None:
            found.append((_BY, [self.actor] * 3))
        if self.host is not None:
            found.append(("json_extract(actor, '$.host') = ?", [self.host]))
        if self.holder is not None:
            found.append(("json_extract(data, '$.holder') = ?", [self.holder]))
        if self.digest is not None:
            found.append(("(subject = ? OR instr(data, ?))", [self.digest, self.digest]))
        if self.text is not None:
            # The columns are JSON, in which a quote or a backslash has another before it.
            plain, encoded = self.text, msgspec.json.encode(self.text).decode()[1:-1]
            condition = " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in ("subject", "data", "actor"))
            like = [f"%{text.translate(_LIKE)}%" for text in (plain, encoded, encoded)]
            found.append((f"({condition})", [*like]))
        if self.occurred_from_ns is not None:
            found.append(("occurred_at >= ?", [self.occurred_from_ns]))
        if self.occurred_until_ns is not None:
            found.append(("occurred_at <= ?", [self.occurred_until_ns]))
        return [condition for condition, _ in found], [value for _, values in found for value in values]

    def test(self) -> Callable[[str, int, str, str], bool]:
        """Return the same conditions as a test of a stored event's subject, ``occurred_at``, actor and data.

        The texts are those of the columns. It is for logs in a database that has no such functions.
        """
        tests = [*self._tests()]
        return lambda *columns: all(test(*columns) for test in tests)

    def _tests(self) -> Iterator[Callable[[str, int, str, str], bool]]:
        if (actor := self.actor) is not None:
            yield lambda _subject, _at, who, _data: _is_by(_decode_by(who), actor)
        if (host := self.host) is not None:
            yield lambda _subject, _at, who, _data: _decode_by(who).host == host
        if (holder := self.holder) is not None:
            yield lambda _subject, _at, _who, data: _decode_held(data).holder == holder
        if (digest := self.digest) is not None:
            yield lambda subject, _at, _who, data: subject == digest or digest in data
        if self.text is not None:
            plain, encoded = _lower(self.text), _lower(msgspec.json.encode(self.text).decode()[1:-1])
            yield (
                lambda subject, _at, who, data: (
                    plain in _lower(subject) or encoded in _lower(data) or encoded in _lower(who)
                )
            )
        if (since_ns := self.occurred_from_ns) is not None:
            yield lambda _subject, at, _who, _data: at >= since_ns
        if (until_ns := self.occurred_until_ns) is not None:
            yield lambda _subject, at, _who, _data: at <= until_ns


class _By(msgspec.Struct):
    user: str | None = None
    login: str | None = None
    host: str | None = None
    claimed: dict[str, Any] | None = None


class _Held(msgspec.Struct):
    holder: Any = None


_decode_by = msgspec.json.Decoder(_By).decode
_decode_held = msgspec.json.Decoder(_Held).decode


def _is_by(by: _By, name: str) -> bool:
    named = [who for who in (by.user, by.login) if who is not None]
    if name in named or (by.host is not None and name in [f"{who}@{by.host}" for who in named]):
        return True
    return any(name in (value, f"{key}={value}") for key, value in (by.claimed or {}).items())


def _lower(text: str) -> bytes:
    return text.encode(errors="surrogatepass").lower()  # of bytes, only ASCII letters


ANYTHING = Where()
