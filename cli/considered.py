"""The images that a deletion considers, each with its verdict, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msb_cache.cli.because import because_of
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.queries.resolve import as_typed
from msb_cache.retention.because import shown_repository

if TYPE_CHECKING:
    from msb_cache.engines.decision import ImageVerdict

_NAMED = 20
"""Holders that are named; of the others the number."""


_COLUMNS = (
    Column("IMAGE", "name"),
    Column("", "word"),
    Column("IDLE", "duration", leave=1),
    Column("SIZE", "size", leave=2),
    Column("FREES", "size"),
    Column("BECAUSE", "prose"),
)


def print_considered(images: Sequence[ImageVerdict], policy: Mapping[str, Any], *, err: bool = False) -> None:
    """Print them in the order given; the sum of FREES is what comes free by images."""
    show(_COLUMNS, (_row(each, policy) for each in images), err=err)


def _row(each: ImageVerdict, policy: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        _name(each),
        "DELETE" if each.goes else "KEEP",
        each.idle_ns,
        each.size_bytes,
        each.freed_bytes if each.goes else None,
        considered_because(each, policy),
    )


def _name(each: ImageVerdict) -> str:
    return each.manifest_digest if each.reference is None else as_typed(each.reference, each.spelling)


def considered_because(each: ImageVerdict, policy: Mapping[str, Any], *, named: bool = True) -> str:
    """Return why an image goes or stays, in words; ``named``: by a file, the rule's name comes first."""
    return because_of(
        each,
        policy,
        goes=each.goes,
        by=each.by[:_NAMED],
        more=max(0, len(each.by) - _NAMED),
        repository=shown_repository(each.reference),
        named=named,
    )
