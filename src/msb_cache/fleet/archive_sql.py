"""What lets go of events that are in an archive, as SQL: a function of the owner's, and of nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.schema import size_of

ARCHIVE = f"{SCHEMA}.archive(text, bigint, bigint, bytea, bigint, bytea)"

_PATH = "SET search_path = pg_catalog, pg_temp"

# The head is locked as append() locks it, so that no host compares its events with some that just go; and the
# fold's state as a folder does, so that none begins anew meanwhile from what goes.
_ARCHIVE = f"""
CREATE FUNCTION {SCHEMA}.archive(
  about text, after bigint, upto bigint, upto_hash bytea, version bigint, folded bytea
) RETURNS bigint LANGUAGE plpgsql VOLATILE {_PATH} AS $body$
DECLARE
  anchor_seq bigint;
  anchor_hash bytea;
  has_hash bytea;
  has_time bigint;
  gone bigint;
  freed bigint;
BEGIN
  PERFORM 1 FROM {SCHEMA}.head h WHERE h.log_id = about FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no log %', about;
  END IF;
  SELECT a.seq, a.hash INTO anchor_seq, anchor_hash FROM {SCHEMA}.anchor a WHERE a.log_id = about;
  IF anchor_seq = upto AND anchor_hash = upto_hash THEN
    RETURN 0;
  END IF;
  IF coalesce(anchor_seq, 0) <> after THEN
    RAISE EXCEPTION 'the log % was archived up to event % meanwhile', about, coalesce(anchor_seq, 0);
  END IF;
  PERFORM 1 FROM {SCHEMA}.fold_state f WHERE f.log_id = about AND f.seq >= upto FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the log % is not folded up to event %', about, upto;
  END IF;
  SELECT e.hash, e.recorded_at INTO has_hash, has_time
    FROM {SCHEMA}.events e WHERE e.log_id = about AND e.seq = upto;
  IF has_hash IS DISTINCT FROM upto_hash OR upto <= after THEN
    RAISE EXCEPTION 'event % of the log % is another than that of the archive', upto, about;
  END IF;
  INSERT INTO {SCHEMA}.anchor AS a (log_id, seq, hash, recorded_at, fold_version, rows, archived_at)
  VALUES (about, upto, upto_hash, has_time, version, folded, {SCHEMA}.now_ns())
  ON CONFLICT (log_id) DO UPDATE
     SET seq = excluded.seq, hash = excluded.hash, recorded_at = excluded.recorded_at,
         fold_version = excluded.fold_version, rows = excluded.rows, archived_at = excluded.archived_at;
  WITH deleted AS (
    DELETE FROM {SCHEMA}.events e WHERE e.log_id = about AND e.seq <= upto RETURNING {size_of("e")} AS bytes
  ) SELECT count(*), coalesce(sum(d.bytes), 0) INTO gone, freed FROM deleted d;
  IF gone <> upto - after THEN
    RAISE EXCEPTION 'the log % has % events between % and %, and the archive %',
      about, gone, after, upto, upto - after;
  END IF;
  UPDATE {SCHEMA}.head h SET bytes = h.bytes - freed WHERE h.log_id = about;
  DELETE FROM {SCHEMA}.told t WHERE t.log_id = about AND t.seq <= upto;
  RETURN gone;
END $body$
"""


def statements() -> Iterator[str]:
    """Yield what makes the function; ``append_sql.statements`` were run before."""
    yield _ARCHIVE
    yield f"REVOKE ALL ON FUNCTION {ARCHIVE} FROM PUBLIC"
