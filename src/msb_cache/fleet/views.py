"""Views of a fleet in PostgreSQL, for psql, Grafana and Metabase: names as they are typed, times as times.

They hold nothing. Each is a question to what was folded and to what is known of the logs themselves; none
reads events, whose data has images' environments. Whoever may read a view sees all hosts in it. What each
column says is also a comment in the database, which such programs show.
"""

from __future__ import annotations

from collections.abc import Iterator

from msb_cache.fleet.place import SCHEMA
from msb_cache.projections.views import VIEWS as OF_ONE_HOST
from msb_cache.projections.views import Column, View

READERS = ("msb_cache_folder", "msb_cache_reader")

_DOCKER = "docker.io/"
_OFFICIAL = "docker.io/library/"
_NOW = "(extract(epoch FROM now()) * 1000000000)::bigint"


def statements() -> Iterator[str]:
    """Yield what makes the views, says what their columns are, and who may read them; for their owner."""
    for view in VIEWS:
        yield view.statement
        yield f"COMMENT ON VIEW {view.name} IS {_quoted(f'Each row is {view.row}.')}"
        for column in view.columns:
            yield f"COMMENT ON COLUMN {view.name}.{column.name} IS {_quoted(column.meaning)}"
        yield f"GRANT SELECT ON {view.name} TO {', '.join(READERS)}"


def familiar(reference: str) -> str:
    """Return SQL that gives a canonical reference in familiar form, as ``Reference.familiar`` does."""
    official, rest = (f"substr({reference}, {len(prefix) + 1})" for prefix in (_OFFICIAL, _DOCKER))
    head = f"split_part({rest}, '/', 1)"
    is_official = f"starts_with({reference}, '{_OFFICIAL}') AND strpos({official}, '/') = 0"
    is_id = f"{official} ~ '^[0-9a-f]{{64}}($|[:@])'"  # such a text alone would be an image's id
    is_registry = f"strpos({head}, '.') > 0 OR strpos({head}, ':') > 0 OR {head} = 'localhost'"
    return (
        f"CASE WHEN {is_official} THEN CASE WHEN {is_id} THEN {reference} ELSE {official} END "
        f"WHEN NOT starts_with({reference}, '{_DOCKER}') OR (strpos({rest}, '/') > 0 AND ({is_registry})) "
        f"THEN {reference} ELSE {rest} END"
    )


def moment(time_ns: str) -> str:
    """Return SQL that gives a time in ns since the epoch as ``timestamptz``, to the µs."""
    # In two steps: an interval times a number is calculated in floating point.
    seconds = f"({time_ns} / 1000000000) * interval '1 second'"
    return f"timestamptz 'epoch' + {seconds} + ({time_ns} / 1000 % 1000000) * interval '1 microsecond'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _time(name: str, time_ns: str, meaning: str) -> Column:
    return Column(name, moment(time_ns), meaning)


def _as_on_a_host(view: str, *names: str) -> Iterator[Column]:
    """Yield columns of a view of one host's index, whose SQL is the same here."""
    found = {column.name: column for each in OF_ONE_HOST if each.name == view for column in each.columns}
    return (found[name] for name in names)


def _name(of: str) -> str:
    return f"coalesce({of}.spelling, {familiar(f'{of}.reference')})"


def _lasts(of: str) -> str:
    return f"({of}.until IS NULL OR {of}.until > {_NOW})"


def _from(table: str) -> str:
    """Return what a view of a read model's rows is taken from: these, and the log that each is of."""
    return (
        f"{SCHEMA}.{table} JOIN {SCHEMA}.fold_state ON fold_state.log_id = {table}.log_id "
        f"JOIN {SCHEMA}.head ON head.log_id = {table}.log_id"
    )


_HOST = (
    Column("host", "coalesce(fold_state.host, head.role)", "the machine's name, as its own events say"),
    Column("log_id", "head.log_id", "the id of its log, which tells two of one name apart"),
)
_FOLDED = Column("folded_events", "fold_state.seq", "the last event of its log that this row knows")

_HOSTS = View(
    f"{SCHEMA}.hosts",
    "the log of a host",
    (
        *_HOST,
        Column("role", "head.role", "the role that sends it"),
        _time("last_seen", "head.seen_at", "when it was last in touch, by the server's clock"),
        _time("last_event_at", "head.recorded_at", "when its last event here was recorded, by its own clock"),
        Column("events", "head.size", "how many events were shipped"),
        Column(
            "unshipped_events",
            "greatest(head.host_size - head.size, 0)",
            "how many it had that were not, when it was last seen",
        ),
        Column("folded_events", "coalesce(fold_state.seq, 0)", "how many are folded, and checked again"),
        Column("unfolded_events", "head.size - coalesce(fold_state.seq, 0)", "how many are not yet"),
        _time("folded_at", "fold_state.folded_at", "when some were last folded"),
        Column(
            "signed_events", "fold_state.checkpoint_size", "up to where signed checkpoints agree; NULL: none"
        ),
        Column("cache_bytes", "head.cache_bytes", "of its cache; NULL: not said"),
        Column("free_bytes", "head.free_bytes", "free on the file system of its cache; NULL: not said"),
        Column("disk_bytes", "head.disk_bytes", "of that file system; NULL: not said"),
        Column("log_bytes", "head.bytes", "what its events here count towards the size that it may have"),
        Column(
            "images",
            f"(SELECT count(*) FROM {SCHEMA}.image i WHERE i.log_id = head.log_id)",
            "how many images it has",
        ),
        Column(
            "problem",
            "coalesce(fold_state.problem, fold_state.checkpoint_problem)",
            "why its log is folded no further, or what is wrong with a signed checkpoint; NULL: nothing",
        ),
    ),
    f"{SCHEMA}.head LEFT JOIN {SCHEMA}.fold_state ON fold_state.log_id = head.log_id",
)

_HELD = (
    f"EXISTS (SELECT 1 FROM {SCHEMA}.hold h WHERE h.log_id = image.log_id "
    f"AND h.manifest_digest = image.manifest_digest AND {_lasts('h')})"
)
_IN_USE = f"(image.in_use_since IS NOT NULL OR {_HELD})"
_ENDED = (
    f"(SELECT max(h.until) FROM {SCHEMA}.hold h WHERE h.log_id = image.log_id "
    f"AND h.manifest_digest = image.manifest_digest AND h.until <= {_NOW})"
)
_IDLE_SINCE = (
    f"CASE WHEN NOT {_IN_USE} THEN greatest(image.last_used_at, coalesce(image.idle_since, 0), "
    f"coalesce({_ENDED}, 0)) END"
)
_PINNED = (
    f"EXISTS (SELECT 1 FROM {SCHEMA}.pin p WHERE p.log_id = image.log_id "
    f"AND p.subject IN (image.reference, image.manifest_digest) AND {_lasts('p')})"
)

_IMAGES = View(
    f"{SCHEMA}.images",
    "an image in the cache of a host",
    (
        *_HOST,
        Column("image", _name("image"), "its reference as people type it"),
        *_as_on_a_host("v_images", "reference", "manifest_digest", "size_bytes"),
        *_as_on_a_host("v_images", "layer_count", "architecture", "os"),
        _time("pulled_at", "image.pulled_at", "when it was last pulled or loaded"),
        _time("last_used_at", "image.last_used_at", "when it was last pulled, used or booted"),
        Column("in_use", _IN_USE, "whether a boot of it lasts or something holds it"),
        _time("idle_since", _IDLE_SINCE, "since when nothing uses it; NULL while something does"),
        Column("pinned", _PINNED, "whether it, or its manifest, is pinned"),
        _FOLDED,
    ),
    _from("image"),
)

_IDLE_IMAGES = View(
    f"{SCHEMA}.idle_images",
    "an image that nothing uses and nobody pinned",
    (
        Column("host", "images.host", "the machine's name, as its own events say"),
        Column("log_id", "images.log_id", "the id of its log, which tells two of one name apart"),
        Column("image", "images.image", "its reference as people type it"),
        Column("manifest_digest", "images.manifest_digest", "the manifest that it points at"),
        Column("size_bytes", "images.size_bytes", "of its blobs, as they were fetched; NULL: not known"),
        Column("last_used_at", "images.last_used_at", "when it was last pulled, used or booted"),
        Column("idle_since", "images.idle_since", "since when nothing uses it"),
        Column("idle_for", "now() - images.idle_since", "for how long that is"),
    ),
    f"{SCHEMA}.images WHERE NOT images.in_use AND NOT images.pinned",
)

_SPREAD = View(
    f"{SCHEMA}.image_spread",
    "a reference, on all hosts that have it",
    (
        Column("image", f"min({familiar('image.reference')})", "the reference in familiar form"),
        Column("reference", "image.reference", "the same in canonical form"),
        Column("hosts", "count(DISTINCT image.log_id)", "how many hosts' logs have it"),
        Column("manifests", "count(DISTINCT image.manifest_digest)", "at how many manifests it points there"),
        Column("size_bytes", "sum(image.size_bytes)::bigint", "of its blobs, on all hosts together"),
        _time("last_used_at", "max(image.last_used_at)", "when it was last used on any of them"),
    ),
    f"{SCHEMA}.image GROUP BY image.reference",
)

_HOLDERS = View(
    f"{SCHEMA}.image_holders",
    "a hold or a boot that lasts",
    (
        *_HOST,
        *_as_on_a_host("v_holders", "holder", "kind"),
        Column(
            "image",
            familiar("held.reference"),
            "the reference by which it came, in familiar form; NULL: not known",
        ),
        *_as_on_a_host("v_holders", "reference", "manifest_digest"),
        _time("since", "held.since", "since when"),
        _time("until", "held.until", "when it ends by itself; NULL: it does not"),
        *_as_on_a_host("v_holders", "status"),
        _FOLDED,
    ),
    (
        "(SELECT h.log_id, h.holder, 'hold' AS kind, h.manifest_digest, h.reference, h.since, h.until, "
        f"h.status FROM {SCHEMA}.hold h WHERE {_lasts('h')} "
        "UNION ALL SELECT u.log_id, u.holder, 'boot', u.manifest_digest, u.reference, u.since, NULL, NULL "
        f"FROM {SCHEMA}.open_use u) AS held JOIN {SCHEMA}.fold_state ON fold_state.log_id = held.log_id "
        f"JOIN {SCHEMA}.head ON head.log_id = held.log_id"
    ),
)

_PRUNES = View(
    f"{SCHEMA}.prunes",
    "a prune or a removal on a host",
    (
        *_HOST,
        Column("operation", "deletion.operation", "its id, which `fleet prunes show` takes"),
        *_as_on_a_host("v_prunes", "kind"),
        _time("started_at", "deletion.started_at", "when it was decided"),
        _time("finished_at", "deletion.finished_at", "when it ended; NULL: it has not"),
        *_as_on_a_host("v_prunes", "outcome", "images_removed", "manifests_removed", "layers_removed"),
        Column(
            "freed_bytes",
            "CASE WHEN deletion.flat_removed <> 0 THEN coalesce(deletion.bytes_reclaimed, 0) "
            "+ deletion.flat_bytes_reclaimed ELSE deletion.bytes_reclaimed END",
            "what all of that freed; NULL: not known",
        ),
        *_as_on_a_host("v_prunes", "kept", "failed", "engine"),
        Column("recovered", "deletion.recovered <> 0", "whether a later process finished it"),
        _FOLDED,
    ),
    _from("deletion"),
)

_PROBLEMS = View(
    f"{SCHEMA}.problems",
    "something that is wrong with a log, or that was refused",
    (
        Column("host", "coalesce(fold_state.host, head.role, found.role)", "the host's name, else the role"),
        Column("log_id", "found.log_id", "the log that it is about"),
        Column("role", "coalesce(found.role, head.role)", "the role that sent it"),
        Column(
            "kind",
            "found.kind",
            "fold: it is folded no further; checkpoint: a signed one disagrees; else what was refused",
        ),
        Column("detail", "found.detail", "what it is, a sentence"),
        _time("first_at", "found.first_at", "when it was first refused; NULL: it was not"),
        _time("last_at", "found.last_at", "when it was last refused; NULL: it was not"),
        Column("times", "found.times", "how often"),
    ),
    (
        f"(SELECT a.log_id, a.role, a.kind, a.detail, a.first_at, a.last_at, a.times FROM {SCHEMA}.alert a "
        "UNION ALL SELECT f.log_id, NULL, 'fold', f.problem, NULL, NULL, 1 "
        f"FROM {SCHEMA}.fold_state f WHERE f.problem IS NOT NULL "
        "UNION ALL SELECT f.log_id, NULL, 'checkpoint', f.checkpoint_problem, NULL, NULL, 1 "
        f"FROM {SCHEMA}.fold_state f WHERE f.checkpoint_problem IS NOT NULL) AS found "
        f"LEFT JOIN {SCHEMA}.fold_state ON fold_state.log_id = found.log_id "
        f"LEFT JOIN {SCHEMA}.head ON head.log_id = found.log_id"
    ),
)

VIEWS = (_HOSTS, _IMAGES, _IDLE_IMAGES, _SPREAD, _HOLDERS, _PRUNES, _PROBLEMS)
"""All views, in the order in which they are made."""
