"""How amounts, digests and errors read in sentences and tables. Not for dates, and not for a layout."""

from __future__ import annotations

import errno
import os

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_DURATIONS = {"day": 86400, "hour": 3600, "minute": 60}


def size(count: int | None) -> str:
    """Return bytes as people read them: ``90.0 KiB``."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration(ns: int) -> str:
    """Return nanoseconds in the largest unit that fits: ``3 days``, ``under a minute``."""
    seconds = ns // 10**9
    for unit, length in _DURATIONS.items():
        if seconds >= length:
            return plural(seconds // length, unit)
    return "under a minute"


_LONG_AGO = (("year", 365.2425, 730), ("month", 30.436875, 60), ("week", 7, 14))
"""Units, their lengths in days, and from how many days on they are used."""


def ago(ns: int) -> str:
    """Return how long ago something was, in nanoseconds: ``3 days ago``, ``just now`` for less than a minute;
    of a time to come ``in 3 days``.
    """
    seconds = abs(ns) // 10**9
    if seconds < 60:
        return "just now" if ns >= 0 else "in a moment"
    said = duration(abs(ns))
    days = seconds // 86400
    for unit, length, least in _LONG_AGO:
        if days >= least:
            said = plural(int(days / length), unit)
            break
    return f"{said} ago" if ns > 0 else f"in {said}"


def short(digest: str | None) -> str:
    """Return a digest with its first twelve digits, as msb shows it."""
    return "-" if digest is None else digest[:19]


def short_log_id(log_id: str) -> str:
    """Return as much of a log's id as sentences and tables show."""
    return log_id[:12]


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun: ``1 layer``, ``2 layers``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def printable(text: str) -> str:
    """Return text from outside without characters that drive a terminal, turn text around or are not seen.

    They are shown as Python writes them: ``\\x1b``, ``\\u202e``.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def as_text(name: str) -> str:
    """Return a name from the operating system as text that UTF-8 can hold; odd bytes are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


_MENDS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "use an account that may",
    errno.EPERM: "use an account that may",
    errno.ENOSPC: "make room and try again",
    errno.EDQUOT: "make room and try again",
}
"""What to do about some errors of the system."""


def as_sentence(error: Exception) -> str:
    """Return what went wrong as a sentence that says what to do next, where that is known."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this"
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{where}{reason_of(error)}"
    return str(error) or type(error).__name__


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, without the file, and what to do next, where that is known."""
    mends = _MENDS.get(error.errno or 0)
    return f"{error.strerror or error}{f'; {mends}' if mends else ''}"


def quoted(word: str) -> str:
    """Quote a word for the shell; with its own escapes for what a terminal must not get."""
    import os
    import re
    import shlex

    if word.isprintable():
        return shlex.quote(word)
    plain = re.compile(r"[^\\']")
    units = (
        one
        if one.isprintable() and plain.match(one)
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(one))
        for one in word
    )
    return f"$'{''.join(units)}'"
