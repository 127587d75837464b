"""What people type who come from docker, podman, git or msb, and which command of ours that is."""

from __future__ import annotations

ALIASES = {
    "ls": "list",
    "rm": "remove",
    "images": "list",
    "rmi": "remove",
    "delete": "remove",
    "holds": "holders",
}
"""Other names of commands."""

GROUPS_ELSEWHERE = {
    "image": ("ls", "list", "rm", "remove", "prune", "inspect", "pull", "load", "save", "history"),
    "system": ("df", "info", "events"),
}
"""Groups of docker's and msb's, and what of them is a command here: ``image ls`` is ``ls``."""

_HELP = ("-h", "--help")
_OF_LOG = "acknowledge"
_ANEW = "anew"
"""Commands of ``log``; the short one as it is, for images have short names."""


def meant(words: list[str]) -> list[str]:
    """Return the words of a command line, options of ours before the command left out, as they are said here.

    ``help`` and ``version`` stay as they are.
    """
    if not words:
        return words
    first, *rest = words
    if first in GROUPS_ELSEWHERE:
        return _in_group(first, rest)
    if first == "log":
        return _of_log(rest)
    if first == "help" and rest:
        return ["help"] if rest[0] in ("help", "version") else [*_helped(rest), "--help"]
    return words


def _helped(words: list[str]) -> list[str]:
    return words if words[0] == "log" else meant(words)


def _in_group(group: str, rest: list[str]) -> list[str]:
    if not rest:
        return []
    if rest[0] in _HELP:
        return ["help"]
    return rest if rest[0] in GROUPS_ELSEWHERE[group] else [f"{group} {rest[0]}"]


def _of_log(rest: list[str]) -> list[str]:
    """Return what ``log`` means: as git's it shows the log, or what happened to an image."""
    if not rest:
        return ["events"]
    from difflib import get_close_matches  # with heapq, which other commands need not

    word = rest[0]
    if word in (*_HELP, _ANEW) or get_close_matches(word, [_OF_LOG], 1, 0.7):
        return ["log", *rest]
    return ["events", *rest] if word.startswith("-") else ["history", *rest]
