"""The way into a fleet's server, as SQL: where hosts stage events, ``append()`` that takes them, triggers.

``append()`` runs with its owner's rights, for roles that have hardly any. So each name in it is qualified,
the search path is fixed, and it reads no table that a caller could have made: what a host staged is in the
owner's table, whose column ``who`` no host can write. It begins no subtransaction: rows of this very
transaction have its id as their ``xmin``; rows staged within a savepoint have another, and are not taken.
"""

from __future__ import annotations

from collections.abc import Iterator

from msb_cache.eventstore.chain import BEGINNING
from msb_cache.eventstore.row import COLUMNS, GENESIS, INTEGERS
from msb_cache.eventstore.store import MAX_DATA
from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.schema import DECLARED, EVENT_COLUMNS, PARTITIONS, size_of

MAX_EVENTS = 20_000
"""Events of one call of ``append()``."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of one call, as they are counted of a log."""

MAX_ROW = 2 * MAX_DATA
"""Bytes of one event that is staged; what is larger is not even written down."""

MAX_STAGING = 16 << 30
"""Bytes that the staging table, with its index, may take on the disk, or a little more."""

SWEPT = 1 << 30
"""From so many on it is emptied of what nobody will ask for any more, and the disk has them back."""

MAX_NAME = 2048
"""Bytes of an event's id, type, subject or operation: an index of PostgreSQL takes hardly more."""

MAX_NOTES = 16
"""Signed checkpoints of one call."""

MAX_NOTE = 16 * 1024
"""Bytes of one."""

NOTES_KEPT = 1000
"""Signed checkpoints of one log; older ones go."""

MAX_ALERTS = 100
"""Rows that one role can have in ``alert``; the last of them counts what has no row of its own."""

APPEND = f"{SCHEMA}.append(text, bigint, bigint, bigint, bigint, text[])"

_PATH = "SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on"
"""Of each function: names, and what a ``\\`` in its text means, are not as the caller's session has them."""
_PLANNED = "SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off"
"""What is staged changes too fast for statistics. Its index has it in order, and forgets what is dead."""
_GROUPED = "FM9,999,999,999,999,999,999"
_ANEW = "if this home was copied from another machine, `msb-cache log anew` begins a log of its own"

SWEEP = f"{SCHEMA}.sweep(bigint)"

FITS, ROOM = "fits", "room"
"""The names of what is demanded of each row that is staged."""

_STAGED_BYTES = "octet_length(log_id)::bigint + octet_length(hash)" + "".join(
    f" + octet_length({column})" for column in COLUMNS if column not in INTEGERS
)
STAGING = (
    f"CREATE UNLOGGED TABLE {SCHEMA}.staging (who text NOT NULL DEFAULT session_user, log_id text NOT NULL, "
    f"{DECLARED}, hash bytea NOT NULL, CONSTRAINT {FITS} CHECK ({_STAGED_BYTES} <= {MAX_ROW}))"
)


def room(most: int = MAX_STAGING) -> str:
    """Return what bounds the staging table to so many bytes, and the caller's own statement too.

    How large it is costs some µs to ask. So that is asked of each large row, and of others by the clock's
    last digits, which nobody chooses: of one in 256.
    """
    return (
        f"ALTER TABLE {SCHEMA}.staging ADD CONSTRAINT {ROOM} CHECK (({_STAGED_BYTES} < 16384 "
        "AND date_part('microseconds', clock_timestamp())::int & 255 <> 0) "
        f"OR pg_total_relation_size(tableoid) < {most})"
    )


_STORED = f"""
CREATE FUNCTION {SCHEMA}.refuse_change() RETURNS trigger LANGUAGE plpgsql {_PATH} AS $body$
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF OLD.seq <= (SELECT a.seq FROM {SCHEMA}.anchor a WHERE a.log_id = OLD.log_id) THEN
      RETURN OLD;
    END IF;
    RAISE EXCEPTION 'events are only ever appended; those go that are in an archive';
  END IF;
  RAISE EXCEPTION 'events are only ever appended, never changed';
END $body$
"""

_ALERTED = f"""
CREATE FUNCTION {SCHEMA}.alerted(about text, kind text, seq bigint, detail text) RETURNS void
LANGUAGE plpgsql {_PATH} AS $body$
#variable_conflict use_column
DECLARE
  now_ns bigint := {SCHEMA}.now_ns();
  known bigint;
BEGIN
  -- One at a time of a role, so that what is counted is all there is.
  PERFORM 1 FROM {SCHEMA}.enrolment e WHERE e.role = session_user FOR UPDATE;
  UPDATE {SCHEMA}.alert a
     SET times = a.times + 1, last_at = now_ns, seq = alerted.seq, detail = alerted.detail
   WHERE a.role = session_user AND a.log_id = about AND a.kind = alerted.kind;
  IF FOUND THEN
    RETURN;
  END IF;
  SELECT count(*) INTO known FROM {SCHEMA}.alert a WHERE a.role = session_user;
  INSERT INTO {SCHEMA}.alert AS a (role, log_id, kind, seq, detail, first_at, last_at, times)
  SELECT session_user,
         CASE WHEN known < {MAX_ALERTS - 1} THEN about ELSE '' END,
         CASE WHEN known < {MAX_ALERTS - 1} THEN alerted.kind ELSE 'further' END,
         alerted.seq, alerted.detail, now_ns, now_ns, 1
  ON CONFLICT (role, log_id, kind) DO UPDATE
     SET times = a.times + 1, last_at = excluded.last_at, seq = excluded.seq, detail = excluded.detail;
END $body$
"""

_NOW = f"""
CREATE FUNCTION {SCHEMA}.now_ns() RETURNS bigint LANGUAGE sql VOLATILE {_PATH} AS $body$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000
$body$
"""


def _encoded(column: str) -> str:
    """Return the canonical encoding of a column, as ``eventstore.chain.encode`` has it."""
    if column in INTEGERS:
        return f"'\\x6900000008'::bytea || int8send(s.{column})"
    return f"'\\x74'::bytea || int4send(octet_length(s.{column})) || convert_to(s.{column}, 'UTF8')"


_HASHED = "\n             || ".join(map(_encoded, COLUMNS))
_NAMES = (
    "greatest("
    + ", ".join(f"octet_length(s.{name})" for name in ("id", "type", "subject", "operation"))
    + ")"
)
_STAGED = f"{SCHEMA}.staging s WHERE s.who = session_user AND s.log_id = append.log_id AND s.xmin = my_xid"
_ITS_LOGS = (
    "format('this enrolment has its %s logs already; "
    "`msb-cache fleet enrol --max-logs` allows more', may_own)"
)
_KEPT = "verdict := '{}'; at_seq := {}; detail := {}; EXIT asked;"


def _refused(verdict: str, seq: str, detail: str) -> str:
    return _KEPT.format(verdict, seq, detail)


_APPEND = f"""
CREATE FUNCTION {SCHEMA}.append(
  log_id text, host_size bigint, cache_bytes bigint DEFAULT NULL, free_bytes bigint DEFAULT NULL,
  disk_bytes bigint DEFAULT NULL, notes text[] DEFAULT '{{}}'
) RETURNS TABLE (verdict text, size bigint, hash bytea, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {_PATH} {_PLANNED} AS $body$
#variable_conflict use_column
DECLARE
  nothing CONSTANT bytea := '\\x{GENESIS.hex()}';
  my_xid CONSTANT xid := pg_current_xact_id()::xid;
  about text := CASE WHEN log_id ~ '^[0-9a-f]{{32}}$' THEN log_id ELSE '' END;
  at_seq bigint := 0;
  may_own bigint;
  has_head boolean := false;
  has_size bigint := 0;
  has_hash bytea := nothing;
  has_time bigint := 0;
  has_bytes bigint := 0;
  new_bytes bigint := 0;
  may_have bigint;
  anchor_seq bigint;
  anchor_hash bytea;
  staged bigint;
  staged_bytes bigint;
  longest bigint;
  longest_name bigint;
  first_seq bigint;
  last_seq bigint;
  now_ns bigint := {SCHEMA}.now_ns();
  left_out bigint := 0;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'append() is called in a transaction that is READ COMMITTED';
  END IF;
  size := 0;
  hash := nothing;
  -- What this role staged in transactions that did not end with append(): no one asks for it any more.
  DELETE FROM {SCHEMA}.staging WHERE ctid IN (
    SELECT s.ctid FROM {SCHEMA}.staging s WHERE s.who = session_user AND s.xmin <> my_xid
    FOR UPDATE SKIP LOCKED);

  <<asked>> BEGIN
    SELECT e.max_logs INTO may_own FROM {SCHEMA}.enrolment e WHERE e.role = session_user;
    IF NOT FOUND THEN
      about := '';
      {_refused("unknown", "0", "'this role is not enrolled; `msb-cache fleet enrol` does that'")}
    END IF;
    IF about = '' THEN
      {_refused("forged", "0", "'a log id is 32 hexadecimal digits'")}
    END IF;

    -- Another role's log is not locked: its shippers need not wait for who only asks.
    SELECT h.size, h.hash, h.recorded_at, coalesce(h.bytes, 0) INTO has_size, has_hash, has_time, has_bytes
      FROM {SCHEMA}.head h WHERE h.log_id = append.log_id AND h.role = session_user FOR UPDATE;
    has_head := FOUND;
    -- Each statement sees what was committed before it: another shipper of this role may begin the log
    -- between these, and that is no reason to refuse.
    IF NOT has_head AND EXISTS (SELECT FROM {SCHEMA}.head h
                                 WHERE h.log_id = append.log_id AND h.role <> session_user) THEN
      {_refused("claimed", "0", f"'the log is of another enrolment; {_ANEW}'")}
    END IF;
    IF NOT has_head THEN
      has_size := 0; has_hash := nothing; has_time := {-(2**63)}; has_bytes := 0;
      IF (SELECT count(*) FROM {SCHEMA}.head h
           WHERE h.role = session_user AND h.log_id <> append.log_id) >= may_own THEN
        {_refused("full", "0", _ITS_LOGS)}
      END IF;
    END IF;
    size := has_size;
    hash := has_hash;

    SELECT count(*), coalesce(sum(t.bytes), 0), coalesce(sum(t.bytes) FILTER (WHERE t.seq > has_size), 0),
           max(t.data), max(t.names), min(t.seq), max(t.seq)
      INTO staged, staged_bytes, new_bytes, longest, longest_name, first_seq, last_seq
      FROM (SELECT s.seq, {size_of("s")} AS bytes, octet_length(s.data) AS data, {_NAMES} AS names
              FROM {_STAGED} LIMIT {MAX_EVENTS + 1}) t;
    IF staged > {MAX_EVENTS} OR staged_bytes > {MAX_BYTES} OR longest > {MAX_DATA}
       OR longest_name > {MAX_NAME} THEN
      {
    _refused(
        "forged",
        "first_seq",
        f"'one call takes {MAX_EVENTS} events and {MAX_BYTES} bytes, and "
        f"{MAX_DATA} bytes of data and {MAX_NAME} of a name an event'",
    )
}
    END IF;
    IF staged > 0 THEN
      IF first_seq < 1 THEN
        {_refused("forged", "first_seq", "'events are counted from 1'")}
      END IF;
      -- What is here already must be what is sent. Below the anchor nothing is known any more.
      SELECT a.seq, a.hash INTO anchor_seq, anchor_hash
        FROM {SCHEMA}.anchor a WHERE a.log_id = append.log_id;
      SELECT min(s.seq) INTO at_seq
        FROM {SCHEMA}.staging s
        LEFT JOIN {SCHEMA}.events e ON e.log_id = append.log_id AND e.seq = s.seq
       WHERE s.who = session_user AND s.log_id = append.log_id AND s.xmin = my_xid
         AND s.seq <= has_size AND s.seq >= coalesce(anchor_seq, 0)
         AND s.hash IS DISTINCT FROM CASE WHEN s.seq = anchor_seq THEN anchor_hash ELSE e.hash END;
      IF at_seq IS NOT NULL THEN
        {
    _refused(
        "fork", "at_seq", f"format('event %s is another than the one that was sent before; {_ANEW}', at_seq)"
    )
}
      END IF;
      at_seq := 0;
    END IF;
    IF host_size < has_size THEN
      {
    _refused(
        "truncated",
        "host_size",
        "format('the host has %s events, and %s were sent before; "
        "a backup may have been restored', host_size, has_size)",
    )
}
    END IF;
    IF first_seq > has_size + 1 THEN
      verdict := 'gap';
      detail := format('event %s comes next', has_size + 1);
      EXIT asked;
    END IF;

    IF last_seq > has_size THEN
      -- Asked when the log's end is locked, so that what is allowed is no older than what is there.
      SELECT e.max_log_size INTO may_have FROM {SCHEMA}.enrolment e WHERE e.role = session_user;
      IF new_bytes > may_have - has_bytes THEN
        {
    _refused(
        "full",
        "has_size",
        "format('the log has %s of the %s bytes that it may have here; `msb-cache fleet enrol "
        "--max-log-size` allows more, and `msb-cache fleet archive` makes room', "
        + ", ".join(f"to_char({name}, '{_GROUPED}')" for name in ("has_bytes", "may_have"))
        + ")",
    )
}
      END IF;
      SELECT c.seq, c.problem INTO at_seq, detail FROM (
        SELECT s.seq, CASE
          WHEN s.seq - s.before <> 1 THEN format('event %s stands behind event %s', s.seq, s.before)
          WHEN (s.seq = 1) <> (s.type = '{BEGINNING}') OR s.seq = 1 AND s.subject <> append.log_id
            THEN CASE s.seq WHEN 1 THEN 'event 1 does not begin this log'
                 ELSE format('event %s is {BEGINNING}, and a log begins once', s.seq) END
          WHEN s.hash <> sha256(s.linked || {_HASHED})
            THEN format('the hash of event %s does not match its contents', s.seq)
          WHEN s.recorded_at < s.earlier THEN format('event %s was recorded before event %s', s.seq, s.before)
          END AS problem
        FROM (
          SELECT s.*, lag(s.seq, 1, has_size) OVER positions AS before,
                 lag(s.hash, 1, has_hash) OVER positions AS linked,
                 lag(s.recorded_at, 1, has_time) OVER positions AS earlier
            FROM {_STAGED} AND s.seq > has_size
          WINDOW positions AS (ORDER BY s.who, s.log_id, s.seq)
        ) s
      ) c WHERE c.problem IS NOT NULL ORDER BY c.seq LIMIT 1;
      IF FOUND THEN
        verdict := 'forged';
        EXIT asked;
      END IF;
      SELECT s.hash, s.recorded_at INTO hash, has_time FROM {_STAGED} AND s.seq = last_seq;
      size := last_seq;

      IF NOT has_head THEN
        -- One claim at a time of a role, so that it owns no more logs than it may.
        SELECT e.max_logs INTO may_own FROM {SCHEMA}.enrolment e WHERE e.role = session_user FOR UPDATE;
        IF EXISTS (SELECT FROM {SCHEMA}.head h WHERE h.log_id = append.log_id AND h.role = session_user) THEN
          verdict := 'gap';
          size := 0;
          hash := nothing;
          detail := 'another shipper has begun this log just now; ask again';
          EXIT asked;
        END IF;
        IF (SELECT count(*) FROM {SCHEMA}.head h WHERE h.role = session_user) >= may_own THEN
          size := 0; hash := nothing;
          {_refused("full", "0", _ITS_LOGS)}
        END IF;
        INSERT INTO {SCHEMA}.head
               (log_id, role, size, hash, recorded_at, claimed_at, seen_at, host_size, bytes)
        VALUES (append.log_id, session_user, size, hash, has_time, now_ns, now_ns, size, 0)
        ON CONFLICT (log_id) DO NOTHING;
        IF NOT FOUND THEN
          size := 0; hash := nothing;
          {_refused("claimed", "0", f"'the log is of another enrolment; {_ANEW}'")}
        END IF;
        has_head := true;
      END IF;
      INSERT INTO {SCHEMA}.events ({", ".join(EVENT_COLUMNS)})
      SELECT {", ".join(f"s.{column}" for column in EVENT_COLUMNS)}
        FROM {_STAGED} AND s.seq > has_size ORDER BY s.who, s.log_id, s.seq;
    END IF;

    verdict := 'accepted';
    IF has_head THEN
      UPDATE {SCHEMA}.head h
         SET size = append.size, hash = append.hash, recorded_at = has_time, seen_at = now_ns,
             bytes = h.bytes + new_bytes,
             host_size = greatest(append.size, coalesce(append.host_size, h.host_size)),
             -- Who only asks says nothing of these.
             cache_bytes = CASE WHEN append.cache_bytes >= 0 THEN append.cache_bytes ELSE h.cache_bytes END,
             free_bytes = CASE WHEN append.free_bytes >= 0 THEN append.free_bytes ELSE h.free_bytes END,
             disk_bytes = CASE WHEN append.disk_bytes >= 0 THEN append.disk_bytes ELSE h.disk_bytes END
       WHERE h.log_id = append.log_id;
      IF cardinality(notes) > 0 THEN
        left_out := {SCHEMA}.noted(append.log_id, notes, now_ns);
        IF left_out > 0 THEN
          detail := format('%s of %s signed checkpoints were not kept', left_out, cardinality(notes));
        END IF;
      END IF;
    END IF;
  END asked;

  DELETE FROM {_STAGED};
  IF verdict NOT IN ('accepted', 'gap') THEN
    PERFORM {SCHEMA}.alerted(about, verdict, coalesce(at_seq, 0), detail);
  END IF;
  RETURN NEXT;
END $body$
"""

_NOTED = f"""
CREATE FUNCTION {SCHEMA}.noted(log text, notes text[], now_ns bigint) RETURNS bigint
LANGUAGE plpgsql {_PATH} AS $body$
DECLARE
  each text;
  kept bigint := 0;
BEGIN
  IF array_ndims(notes) <> 1 THEN
    RETURN cardinality(notes);
  END IF;
  FOREACH each IN ARRAY notes[1:{MAX_NOTES}] LOOP
    CONTINUE WHEN each IS NULL OR octet_length(each) > {MAX_NOTE}
      OR octet_length(split_part(each, E'\\n', 1)) NOT BETWEEN 1 AND 255
      OR split_part(each, E'\\n', 2) !~ '^(0|[1-9][0-9]{{0,17}})$';
    -- The first that came of a size stays; only signatures may be added to it.
    INSERT INTO {SCHEMA}.checkpoint AS c (log_id, origin, size, note, received_at)
    VALUES (log, split_part(each, E'\\n', 1), split_part(each, E'\\n', 2)::bigint, each, now_ns)
    ON CONFLICT (log_id, origin, size) DO UPDATE SET note = excluded.note, received_at = excluded.received_at
     WHERE length(excluded.note) > length(c.note) AND starts_with(excluded.note, c.note);
    kept := kept + 1;
  END LOOP;
  DELETE FROM {SCHEMA}.checkpoint c USING (
    SELECT o.origin, o.size FROM {SCHEMA}.checkpoint o WHERE o.log_id = log
    ORDER BY o.received_at DESC, o.size DESC OFFSET {NOTES_KEPT}) older
   WHERE c.log_id = log AND c.origin = older.origin AND c.size = older.size;
  RETURN cardinality(notes) - kept;
END $body$
"""

# What is there and can be locked is of transactions that have ended, and append() takes only rows of its own.
# Who is in the middle of one has a lock, which is waited for.
_SWEEP = f"""
CREATE FUNCTION {SWEEP.replace("bigint", "above bigint")} RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {_PATH} SET lock_timeout = '1s' AS $body$
BEGIN
  IF pg_total_relation_size('{SCHEMA}.staging'::regclass) < above THEN
    RETURN false;
  END IF;
  TRUNCATE {SCHEMA}.staging;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $body$
"""


def statements() -> Iterator[str]:
    """Yield what makes the way in, and what keeps events as they are; the tables are there already."""
    yield STAGING.replace(" text", ' text COLLATE "C"')
    yield room()
    yield f"CREATE INDEX staged ON {SCHEMA}.staging (who, log_id, seq)"
    yield f"ALTER TABLE {SCHEMA}.head SET (fillfactor = 70)"  # each call writes there
    yield from (_NOW, _ALERTED, _NOTED, _APPEND, _STORED, _SWEEP)
    yield (
        f"CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON {SCHEMA}.events "
        f"FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.refuse_change()"
    )
    parts = [f"{SCHEMA}.events_{number:02}" for number in range(PARTITIONS)]
    for table in (f"{SCHEMA}.events", *parts):
        yield (
            f"CREATE TRIGGER kept_whole BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse_change()"
        )
        # Also for a superuser whose session replicates, where usual triggers are silent.
        yield f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER kept"
        yield f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER kept_whole"
    yield f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {SCHEMA} FROM PUBLIC"
