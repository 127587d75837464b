"""What of the index is not as it must be, its rows and its schema: for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msb_cache.cli.tables import hanging, sentence
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.projections.live import Difference


def difference_fields(difference: Difference) -> dict[str, Any]:
    """Return a row that differs as fields for JSON: as the index has it, and as the log says."""
    found: dict[str, Any] = jsonable(difference)
    return found


def print_differences(differences: Sequence[Difference]) -> None:
    """Print rows that differ: as the index has them, and as the log says."""
    for difference in differences:
        key = " ".join(map(str, difference.key))
        sentence(f"{difference.table} {key}")
        hanging(str(difference.live), "  index  ")
        hanging(str(difference.folded), "  log    ")


_WRONG = {"missing": "is missing", "changed": "is another", "extra": "does not belong to msb-cache"}


def schema_fields(problem: SchemaProblem) -> dict[str, Any]:
    """Return a problem with the schema as fields for JSON."""
    found: dict[str, Any] = jsonable(problem)
    return found


def schema_sentence(problem: SchemaProblem) -> str:
    """Return what is wrong with a part of the schema."""
    name = f"{problem.kind} {problem.name}"
    if problem.kind == "setting":
        return f"{name} is {problem.found}, not {problem.expected}"
    return f"{name} {_WRONG[problem.problem]}"
