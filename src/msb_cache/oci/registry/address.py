"""Web addresses that a user gives: whether a text is one. Not for where it leads."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

MOST_CHARACTERS = 8 << 10


def web_address(text: str, most: int = MOST_CHARACTERS) -> SplitResult | None:
    """Return the parts of an ``http`` or ``https`` URL in printable ASCII; None: it is none, or longer."""
    if len(text) > most or not (text.isascii() and text.isprintable()) or " " in text:
        return None
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if sound else None
