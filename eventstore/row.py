"""The columns of a stored event that the chain hashes, and what they must hold. Hashes nothing itself.

Apart from ``chain``, because a command that only reads events need not load OpenSSL.
"""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = (
    "seq",
    "id",
    "type",
    "version",
    "subject",
    "operation",
    "occurred_at",
    "recorded_at",
    "actor",
    "data",
)
"""The hashed columns, in the order in which they are hashed."""

_TYPES = (int, str, str, int, str, str, int, int, str, str)

INTEGERS = frozenset(name for name, kind in zip(COLUMNS, _TYPES, strict=True) if kind is int)
"""Those that hold integers; the others hold text."""

GENESIS = bytes(32)
"""What stands for the previous hash in event 1."""

Value = int | str | bytes | float | None


def misfit(row: Sequence[object]) -> str | None:
    """Return which hashed column has another type than a log's, as part of a sentence; None: all fit."""
    if tuple(map(type, row)) == _TYPES:
        return None
    for column, value, wanted in zip(COLUMNS, row, _TYPES, strict=True):
        if type(value) is not wanted:
            return f"its {column} is {'no integer' if wanted is int else 'no text'}"
    return None
