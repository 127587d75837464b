"""The images that a deletion considers, each with its verdict: as a table for people, as fields for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msb_cache.cli.because import because_of
from msb_cache.cli.output import rfc3339
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.queries.resolve import as_typed, familiar
from msb_cache.retention.rules import repository

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


def considered_fields(images: Sequence[ImageVerdict], policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return them as fields."""
    return [
        {
            "reference": None if each.reference is None else as_typed(each.reference, each.spelling),
            "digest": each.manifest_digest,
            "deletes": each.goes,
            "rule": each.rule,
            "policy_rule": each.policy_rule,
            "because": considered_because(each, policy),
            "by": list(each.by),
            "idle_ns": each.idle_ns,
            "age_ns": each.age_ns,
            "rank": each.rank,
            "until": rfc3339(each.until_ns),
            "size_bytes": each.size_bytes,
            "freed_bytes": each.freed_bytes,
        }
        for each in images
    ]


def shown_repository(reference: str | None) -> str | None:
    """Return the repository of a canonical reference as people see it."""
    return None if reference is None else repository(familiar(reference))


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
