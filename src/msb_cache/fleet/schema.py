"""The tables of a fleet: the hosts' logs, and the read models that are folded from them, by log.

The same tables stand in PostgreSQL and in a file. What only the server has, the way in and who may what, is
in ``admission``.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from msb_cache.eventstore.row import COLUMNS, INTEGERS
from msb_cache.fleet.place import SCHEMA
from msb_cache.projections.rows import ROW_TYPES, Row

VERSION = 1
"""Of the tables below; the read models have the fold's."""

PARTITIONS = 4
"""Of the events, each vacuumed and indexed by itself: as many as autovacuum works on at once, and one.

A new connection learns of every partition and its indexes before it plans its first question, which takes
half a millisecond for each.
"""

STATISTICS = {"log_id": 10, "subject": 10, "operation": 10} | dict.fromkeys(
    ("id", "version", "actor", "data", "hash"), 0
)
"""How many common values of the events' columns PostgreSQL keeps; it reads those of all partitions to plan.

They are long, and no question is planned by those of the columns with none.
"""

EVENT_COLUMNS = ("log_id", *COLUMNS, "hash")
ROW_BYTES = len(INTEGERS) * 8 + 2 * 32
"""What an event counts beside its texts: its numbers, the log's id and the hash."""

DECLARED = ", ".join(f"{name} {'bigint' if name in INTEGERS else 'text'} NOT NULL" for name in COLUMNS)
"""The hashed columns as tables declare them."""
_EVENTS = (
    f"log_id text NOT NULL, {DECLARED}, hash bytea NOT NULL CHECK (length(hash) = 32), "
    "PRIMARY KEY (log_id, seq)"
)

WITHHELD = frozenset({("manifest", "config")})
"""Columns of read models that no reader may see: an image's environment is in it, as in its event."""

TABLES = {
    # One row: of which version the tables are, and of which fold the read models.
    "fleet": "one bigint PRIMARY KEY CHECK (one = 1), version bigint NOT NULL, fold_version bigint NOT NULL",
    # A role that may own so many logs, none of more bytes (NULL: of any). Times here and below in ns since
    # the epoch, UTC, by this clock.
    "enrolment": (
        "role text PRIMARY KEY, max_logs bigint NOT NULL CHECK (max_logs >= 0), "
        "max_log_size bigint CHECK (max_log_size >= 0), enrolled_at bigint NOT NULL, log_key text"
    ),
    # A log's end; whose it is; what its host said of itself when it was last seen; and how many bytes its
    # events here have, as `size_of` counts them. NULL: nobody counted, as in a file.
    "head": (
        "log_id text PRIMARY KEY, role text NOT NULL, size bigint NOT NULL, hash bytea NOT NULL, "
        "recorded_at bigint NOT NULL, claimed_at bigint NOT NULL, seen_at bigint NOT NULL, "
        "host_size bigint NOT NULL, cache_bytes bigint, free_bytes bigint, disk_bytes bigint, "
        "bytes bigint"
    ),
    # What was refused. At most 100 rows a role; what is refused again is counted.
    "alert": (
        "role text NOT NULL, log_id text NOT NULL, kind text NOT NULL, seq bigint NOT NULL, "
        "detail text NOT NULL, first_at bigint NOT NULL, last_at bigint NOT NULL, times bigint NOT NULL, "
        "PRIMARY KEY (role, log_id, kind)"
    ),
    # Signed checkpoints as the host sent them.
    "checkpoint": (
        "log_id text NOT NULL, origin text NOT NULL, size bigint NOT NULL, note text NOT NULL, "
        "received_at bigint NOT NULL, PRIMARY KEY (log_id, origin, size)"
    ),
    # A log's events up to here are in an archive. `rows` are what was folded from them, which has no images'
    # configurations.
    "anchor": (
        "log_id text PRIMARY KEY, seq bigint NOT NULL, hash bytea NOT NULL, recorded_at bigint NOT NULL, "
        "fold_version bigint NOT NULL, rows bytea NOT NULL, archived_at bigint NOT NULL"
    ),
    # How far a log is folded, and by the way checked again; what ended that; whose name its events say; up to
    # where signed checkpoints agree; and of its Merkle tree what further events need.
    "fold_state": (
        "log_id text PRIMARY KEY, seq bigint NOT NULL, hash bytea NOT NULL, recorded_at bigint NOT NULL, "
        "folded_at bigint NOT NULL, host text NOT NULL, problem text, checkpoint_size bigint, "
        "checkpoint_problem text, tree bytea"
    ),
    # The data of events that have an image's configuration, without it.
    "told": "log_id text NOT NULL, seq bigint NOT NULL, data text NOT NULL, PRIMARY KEY (log_id, seq)",
    # Further servers, each complete in itself, and which log is where.
    "server": "name text PRIMARY KEY, dsn text NOT NULL, added_at bigint NOT NULL",
    "directory": "log_id text PRIMARY KEY, server text NOT NULL",
}

SELDOM = "type IN ('image.pull_failed', 'image.removed', 'manifest.deleted')"
"""Of which types there are few events about a subject, beside its uses; the index of them is asked so."""

INDEXES = {
    "events_by_subject": "events (subject, log_id, seq)",
    # The newest of an image's events are found without the others, on however many hosts it is.
    "events_by_time": "events (subject, recorded_at)",
    "events_by_operation": "events (operation, log_id, seq)",
    "events_seldom": f"events (subject, log_id) WHERE {SELDOM}",
    "head_by_role": "head (role)",
    "fold_state_by_host": "fold_state (host)",
    # In a log whose clock never went back that is nothing.
    "events_behind": "events (log_id, id, seq) WHERE {behind}",
}

FOR_ALL = {
    "deletion": {"deletion_by_start": "started_at", "deletion_by_operation": "operation"},
    "undoing": {"undoing_by_operation": "operation"},
    "pointed_at": {"pointed_at_by_reference": "reference", "pointed_at_by_manifest": "manifest_digest"},
}
"""Indexes of read models that questions to all hosts need, and those to one do not; by table."""

WITH_CONFIG = "manifest.added"
"""The type of the events whose data has an image's configuration."""

TOLD = (
    "SELECT e.log_id, e.seq, e.id, e.type, e.version, e.subject, e.operation, e.occurred_at, e.recorded_at, "
    f"e.actor, CASE WHEN e.type = '{WITH_CONFIG}' THEN t.data ELSE e.data END AS data, e.hash "
    f"FROM {SCHEMA}.events e LEFT JOIN {SCHEMA}.told t ON t.log_id = e.log_id AND t.seq = e.seq "
    f"AND e.type = '{WITH_CONFIG}'"
)
"""The view ``event``: the log without configurations; ``data`` is null where that is not folded yet."""

VIEWS_OF_LOGS = ("event", "behind")
"""That one, and which events were appended while their host's clock was behind."""

_BEHIND = {
    True: "id < lpad(to_hex(recorded_at / 65536000000), 8, '0') || '-' || "
    "lpad(to_hex(recorded_at / 1000000 % 65536), 4, '0')",
    False: "id < printf('%08x-%04x', recorded_at / 65536000000, recorded_at / 1000000 % 65536)",
}
"""By whether it is PostgreSQL, the condition of the latter: its id is older than its time."""


def size_of(alias: str) -> str:
    """Return SQL of PostgreSQL for what an event counts towards the size of its log, in bytes.

    No text is read for it: PostgreSQL knows how long each is.
    """
    texts = " + ".join(f"octet_length({alias}.{name})" for name in COLUMNS if name not in INTEGERS)
    return f"{ROW_BYTES} + {texts}"


def tables(*, postgres: bool) -> Iterator[str]:
    """Yield what makes the tables of the logs, their indexes and views."""
    events = _EVENTS
    partitioned = " PARTITION BY HASH (log_id)" if postgres else ""
    yield _typed(f"CREATE TABLE {SCHEMA}.events ({events}){partitioned}", postgres=postgres)
    for number in range(PARTITIONS if postgres else 0):
        yield (
            f"CREATE TABLE {SCHEMA}.events_{number:02} PARTITION OF {SCHEMA}.events "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    if postgres:
        kept = ", ".join(f"ALTER {name} SET STATISTICS {number}" for name, number in STATISTICS.items())
        yield f"ALTER TABLE {SCHEMA}.events {kept}"
    for name, columns in TABLES.items():
        yield _typed(f"CREATE TABLE {SCHEMA}.{name} ({columns})", postgres=postgres)
    for name, on in INDEXES.items():
        yield _index(name, on.format(behind=_BEHIND[postgres]), postgres=postgres)
    behind = f"SELECT log_id, id, seq FROM {SCHEMA}.events WHERE {_BEHIND[postgres]}"
    for name, query in zip(VIEWS_OF_LOGS, (TOLD, behind), strict=True):
        # Without the schema's name in it a file can be opened by itself, too.
        yield f"CREATE VIEW {SCHEMA}.{name} AS {query if postgres else query.replace(f'{SCHEMA}.', '')}"


def read_models(*, postgres: bool) -> Iterator[str]:
    """Yield what makes the tables that are folded, each a host's own with ``log_id`` before its columns."""
    for row_type in ROW_TYPES:
        columns = ", ".join(("log_id text NOT NULL", *_columns(row_type)))
        key = ", ".join(("log_id", *row_type.__struct_fields__[: row_type.key_length]))
        made = f"CREATE TABLE {SCHEMA}.{row_type.table} ({columns}, PRIMARY KEY ({key}))"
        yield _typed(made, postgres=postgres)
        for name, on in {**row_type.indexes, **FOR_ALL.get(row_type.table, {})}.items():
            on, where, condition = on.partition(" WHERE ")
            # With the log in them, one host's rows are found among those of many that have the same.
            yield _index(name, f"{row_type.table} ({on}, log_id){where}{condition}", postgres=postgres)


def dropped() -> Iterator[str]:
    """Yield what drops the tables that are folded; views of them go first."""
    for row_type in ROW_TYPES:
        yield f"DROP TABLE IF EXISTS {SCHEMA}.{row_type.table}"


def _columns(row_type: type[Row]) -> Iterator[str]:
    info = msgspec.inspect.type_info(row_type)
    assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101
    for field in info.fields:
        types = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        kinds = {type(each) for each in types}
        null = "" if msgspec.inspect.NoneType in kinds else " NOT NULL"
        yield f"{field.encode_name} {'text' if msgspec.inspect.StrType in kinds else 'bigint'}{null}"


def _typed(statement: str, *, postgres: bool) -> str:
    if postgres:  # bytes, and not a language's order of words: hosts' own indexes compare so
        return statement.replace(" text", ' text COLLATE "C"')
    return statement.replace(" bytea", " blob")


def _index(name: str, on: str, *, postgres: bool) -> str:
    # SQLite has an index in the schema of its table, and says so at its name.
    return f"CREATE INDEX {name} ON {SCHEMA}.{on}" if postgres else f"CREATE INDEX {SCHEMA}.{name} ON {on}"
