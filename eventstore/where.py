"""Conditions on events that no index serves, as SQL on the log's own columns; not for finding images."""

from __future__ import annotations

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


ANYTHING = Where()
