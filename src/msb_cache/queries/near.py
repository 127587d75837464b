"""What was probably meant by a word that names nothing here: an image, an event type, a holder, an operation.

Only for errors: a list of ten thousand images is compared in a fraction of a second.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

from msb_cache.errors import InvalidReferenceError
from msb_cache.oci.reference import Reference
from msb_cache.wording import as_text

_OFFERED = 3
_LIKE_ENOUGH = 0.6
_COMPARED = 2000
"""Names that are compared with all of a word; what has next to nothing in common with it comes last."""
_LONGEST = 300  # characters: what is longer is no mistyped name
_OPERATIONS = 500


def meant(word: str, names: Iterable[str]) -> str:
    """Return the end of a sentence that offers the name most like a word; empty if none is like it."""
    return _question(get_close_matches(word[:_LONGEST], [*dict.fromkeys(names)], 1, _LIKE_ENOUGH))


def image_meant(word: str, references: Iterable[str]) -> str:
    """Return the end of a sentence that offers the references most like a word; empty if none is.

    Args:
        word: what was typed.
        references: those there are, as people see them; the word itself is never offered.
    """
    try:
        typed = Reference.parse(word).familiar
    except InvalidReferenceError:
        typed = word
    if len(typed) > _LONGEST:
        return ""
    known: dict[str, list[str]] = {}
    for reference in references:
        if reference == typed:  # it is there, but not where it was looked for
            continue
        known.setdefault(_last_name(reference), []).append(reference)
    # The right name in another registry or with another tag is nearer than one with a letter in common.
    wanted = _last_name(typed)
    names = get_close_matches(wanted, known, _OFFERED * 2, _LIKE_ENOUGH)
    same = _nearest(typed, known.get(wanted, ()), 0.0)
    others = (reference for name in names if name != wanted for reference in known[name])
    return _question([*same, *_nearest(typed, others, _LIKE_ENOUGH)])


def operation_meant(connection: sqlite3.Connection, prefix: str) -> str:
    """Return the end of a sentence that offers an operation whose id begins almost so; empty if none does."""
    length = max(len(prefix), 8)
    rows = connection.execute(
        "SELECT DISTINCT operation FROM (SELECT operation, seq FROM events ORDER BY seq DESC LIMIT ?) "
        "ORDER BY seq DESC",
        (_OPERATIONS,),
    )
    return meant(prefix, (operation[:length] for (operation,) in rows))


def path_meant(path: str) -> str:
    """Return the end of a sentence that offers the home beside a path whose name is most like it, if any."""
    above, name = os.path.split(os.path.abspath(path))
    try:
        with os.scandir(above) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_COMPARED), strict=False)]
    except OSError:
        return ""
    homes = [each for each in names if os.path.isdir(os.path.join(above, each, "db"))]
    found = get_close_matches(name[:_LONGEST], homes, 1, _LIKE_ENOUGH)
    return _question(os.path.join(above, each) for each in found)


def _last_name(reference: str) -> str:
    """Return the last part of a reference's name: ``tool`` of ``example.org/team/tool:2``."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _nearest(typed: str, references: Iterable[str], least: float) -> list[str]:
    matcher = SequenceMatcher(b=typed)
    found: list[tuple[float, str]] = []
    for reference, _ in zip(references, range(_COMPARED), strict=False):
        matcher.set_seq1(reference)
        if matcher.real_quick_ratio() >= least and (likeness := matcher.ratio()) >= least:
            found.append((-likeness, reference))
    return [reference for _, reference in sorted(found)[:_OFFERED]]


def _question(names: Iterable[str]) -> str:
    offered = [as_text(name) for name in dict.fromkeys(names)][:_OFFERED]
    return f"; did you mean {' or '.join(offered)}?" if offered else ""
