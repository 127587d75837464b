"""Who may do what on a fleet's server: an owner, and three groups of which the enrolled are members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from msb_cache.fleet.append_sql import APPEND, SWEEP
from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.schema import EVENT_COLUMNS, TABLES, VIEWS_OF_LOGS, WITHHELD
from msb_cache.projections.rows import ROW_TYPES

OWNER = "msb_cache_owner"

Kind = Literal["host", "folder", "reader"]
"""What an enrolled role does: sends logs, folds them, or asks."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_READ = (
    *("fleet", "head", "alert", "checkpoint", "anchor", "fold_state", "told", "server", "directory"),
    *VIEWS_OF_LOGS,
)
_FOLDED = ("told", "fold_state", "directory")


def group(kind: Kind) -> str:
    """Return the group of a kind."""
    return f"msb_cache_{kind}"


GROUPS = tuple(group(kind) for kind in KINDS)


def grants() -> Iterator[str]:
    """Yield what lets each group do what it is for; the owner says so, and nobody else may do anything."""
    host, folder, reader = GROUPS
    yield f"REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {', '.join(GROUPS)}"
    yield f"GRANT INSERT ({', '.join(EVENT_COLUMNS)}) ON {SCHEMA}.staging TO {host}"
    yield f"GRANT EXECUTE ON FUNCTION {APPEND} TO {host}"
    yield f"GRANT EXECUTE ON FUNCTION {SWEEP} TO {folder}"
    for table in (*TABLES, "events", *VIEWS_OF_LOGS):
        yield f"GRANT SELECT ON {SCHEMA}.{table} TO {folder}"
    for table in _FOLDED:
        yield f"GRANT INSERT, UPDATE, DELETE ON {SCHEMA}.{table} TO {folder}"
    for table in _READ:
        yield f"GRANT SELECT ON {SCHEMA}.{table} TO {reader}"


def grants_of_read_models() -> Iterator[str]:
    """Yield the same for the tables that are folded, which are made anew now and then."""
    _, folder, reader = GROUPS
    for row_type in ROW_TYPES:
        yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.{row_type.table} TO {folder}"
        shown = [name for name in row_type.__struct_fields__ if (row_type.table, name) not in WITHHELD]
        # Of the whole table where that can be: programs that draw tables look for it.
        only = "" if len(shown) == len(row_type.__struct_fields__) else f" (log_id, {', '.join(shown)})"
        yield f"GRANT SELECT{only} ON {SCHEMA}.{row_type.table} TO {reader}"
