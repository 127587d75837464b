"""What of the index is not as it must be, its rows and its schema, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msb_cache.cli.tables import hanging, sentence

if TYPE_CHECKING:
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.projections.live import Difference


def print_differences(differences: Sequence[Difference]) -> None:
    """Print rows that differ: as the index has them, and as the log says."""
    for difference in differences:
        key = " ".join(map(str, difference.key))
        sentence(f"{difference.table} {key}")
        hanging(str(difference.live), "  index  ")
        hanging(str(difference.folded), "  log    ")


_WRONG = {"missing": "is missing", "changed": "is another", "extra": "does not belong to msb-cache"}


def schema_sentence(problem: SchemaProblem) -> str:
    """Return what is wrong with a part of the schema."""
    name = f"{problem.kind} {problem.name}"
    if problem.kind == "setting":
        return f"{name} is {problem.found}, not {problem.expected}"
    return f"{name} {_WRONG[problem.problem]}"
