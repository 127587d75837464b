"""Read what microsandbox's own database says of images and of who holds them. It is never written to.

Its schema changes between releases, so columns are looked up by name, and one that is missing reads as
NULL. Everything in it is data from elsewhere: a row that makes no sense is left out, with a note.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import msgspec

from msb_cache.errors import InvalidReferenceError, MsbDatabaseError
from msb_cache.eventstore.events import ImageConfig
from msb_cache.home import foreign_db
from msb_cache.home.descriptors import beginning
from msb_cache.msb import runs, schema
from msb_cache.msb.runs import Cursor, MsbRuns
from msb_cache.msb.schema import MsbSchema
from msb_cache.oci.digest import digest_problem, shown
from msb_cache.oci.reference import Reference

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

MAX_TEXT = 255
"""Characters of a name; reference, path and JSON text have bounds of their own."""
MAX_PATH = 480
MAX_JSON = 512 * 1024
MAX_DEPTH = 32
MAX_LAYERS = 4096
MAX_ROWS = 2_000_000
MAX_NOTES = 20
MAX_LABELS = 16
"""Labels of a sandbox that are recorded: a log cannot be erased."""
MAX_LABEL = 256
"""Bytes of a label: its key, ``=`` and its value."""

_MAX_WORD = 32
_USUAL_ROOT = "managed"

_MAX_NS = 2**63 - 1
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)? ?(?:Z|z|UTC|([+-])(\d\d):?(\d\d)?)?"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class MsbLayer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One layer of a manifest; the size of its blob in bytes."""

    diff_id: str
    blob_digest: str
    media_type: str | None
    size: int | None


class MsbManifest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A manifest with its configuration and its layers, bottom to top, and the size of its blobs in bytes.

    ``row`` identifies the record: another one with the same digest is another record. Here and below,
    times are ns since the epoch, UTC, and None where the database has none that can be read.
    """

    digest: str
    row: str
    media_type: str | None
    config_digest: str | None
    architecture: str | None
    os: str | None
    variant: str | None
    config: ImageConfig | None
    layers: tuple[MsbLayer, ...]
    total_size: int | None
    created_at_ns: int | None


class MsbImage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An image: a reference as it was ``typed``; several can have one canonical form. ``row``: its record."""

    reference: str
    typed: str
    manifest_digest: str
    row: str
    created_at_ns: int | None
    updated_at_ns: int | None


class MsbHold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A sandbox or snapshot that needs a manifest, and the reference it was made from.

    ``reference`` is canonical, ``typed`` as it stands there. Of a sandbox also its status, the kind of its
    root disk unless that is the usual one, and those of its labels that were asked for.
    """

    holder: str
    manifest_digest: str
    row: str
    reference: str | None
    typed: str | None
    created_at_ns: int | None
    status: str | None = None
    root: str | None = None
    labels: Mapping[str, str] = {}


class MsbState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that msb.db says about images, at one moment.

    Attributes:
        images: by the reference as it was typed.
        manifests: by digest.
        holds: who needs what, by manifest digest and holder.
        holder_kinds: the kinds of holders (``sandbox``, ``snapshot``) that this schema has.
        sandboxes: the holds of sandboxes by msb's id of the sandbox.
        runs: the boots that were asked for; None: none were, or the schema has none.
        notes: sentences about what was left out.
        complete: no reference, manifest or hold is among that; else what nothing here names may still be
            needed.
        schema: which schema this was read from; None: it names none.
    """

    images: Mapping[str, MsbImage]
    manifests: Mapping[str, MsbManifest]
    holds: Mapping[tuple[str, str], MsbHold]
    holder_kinds: frozenset[str]
    sandboxes: Mapping[int, MsbHold] = {}
    runs: MsbRuns | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True
    schema: MsbSchema | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """What a person should know: the notes, and that the schema was not tried."""
        note = None if self.schema is None else self.schema.note
        return self.notes if note is None else (note, *self.notes)


def exists(path: str | Path) -> bool:
    """Return whether a database with anything in it lies there; msb makes an empty file first."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        return beginning(path, len(foreign_db.MAGIC)) == foreign_db.MAGIC
    except OSError:
        return False


class Asked(NamedTuple):
    """What a sync reads besides what there is: the boots behind a cursor, and labels with these keys."""

    runs: Cursor
    labels: tuple[str, ...] = ()


def read(
    path: str | Path, asked: Asked | None = None, settled: Callable[[], object] | None = None
) -> MsbState:
    """Read a consistent state of msb's database.

    Args:
        path: the file ``msb.db``.
        asked: which boots and labels to read; None: none.
        settled: called once it is settled of which moment the state is, before it is read.

    Raises:
        MsbDatabaseError: it cannot be read, or is no database of microsandbox's image cache.
    """
    with _translate_errors(path), foreign_db.opened(path) as connection:
        if settled is not None:
            settled()
        return _state(connection, path, asked)


class Reader:
    """Reads msb's database again only if another process has written to it since; a context manager.

    SQLite's ``data_version`` tells, on one connection that stays open in between. Where none can stay open
    without leaving files behind, the files' inodes, sizes and times tell; what was changed so recently that
    its time cannot tell is read again.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._seen: Hashable = None
        """What the database was when it was read; None: that cannot be told."""
        self._last: MsbState | None = None
        self._asked: Asked | None = None

    def read(self, asked: Asked | None = None) -> MsbState:
        """Return a consistent state; arguments and errors as for the function of this name."""
        with _translate_errors(self._path):
            if self._last is not None and self._seen is not None and self._seen == self._now():
                found = self._again(self._last, asked)
                if found is not None:
                    return found
            self.close()  # it may be another file by now
            self._connection = foreign_db.shared(self._path)
            if self._connection is None:
                began, before = time.time_ns(), foreign_db.stamp(self._path)
                self._last, self._asked = read(self._path, asked), asked
                settled = began - max(file.mtime_ns for file in before) > foreign_db.MTIME_TICK
                self._seen = before if settled else None
                return self._last
            try:
                self._last, self._asked = _state(self._connection, self._path, asked), asked
                self._seen = self._now()  # within the read, of what was read
                self._connection.execute("ROLLBACK")
            except BaseException:
                self.close()
                raise
            return self._last

    def _again(self, last: MsbState, asked: Asked | None) -> MsbState | None:
        """Return what was read as the answer to another question; None if it is none."""
        if asked is None:
            return last
        if self._asked is None or asked.labels != self._asked.labels:
            return None
        if last.runs is None:  # the schema has none
            return last
        read, runs_ = asked.runs, last.runs
        if not runs_.is_complete or read[:2] != (runs_.database, runs_.through):
            return None
        still = tuple(run for run in runs_.found if run.key in read.open)
        runs_ = msgspec.structs.replace(runs_, found=still, is_new_database=False, without_row=0)
        return msgspec.structs.replace(last, runs=runs_)

    def _now(self) -> Hashable:
        if self._connection is None:
            return foreign_db.stamp(self._path)
        return os.stat(self._path).st_ino, self._connection.execute("PRAGMA data_version").fetchone()

    def close(self) -> None:
        """Close the connection, and forget what was read."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._last = self._seen = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _state(connection: sqlite3.Connection, path: str | Path, asked: Asked | None) -> MsbState:
    notes: list[str] = []
    found = {table: _rows(connection, table, names, notes) for table, names in _COLUMNS.items()}
    named = schema.of(connection)
    if found["image_ref"] is None or found["manifest"] is None:
        why = "" if named is None or named.note is None else f": {named.note}"
        raise MsbDatabaseError(
            f"{path} has no images of microsandbox in it that this msb-cache can read{why}"
        )
    reader = _Reader({table: rows for table, rows in found.items() if rows is not None}, notes, named)
    if asked is None:
        return reader.state()
    labels = reader.labels(_label_rows(connection, asked.labels))
    return reader.state(runs.read(connection, path, asked.runs, reader.as_ns), labels)


@contextmanager
def _translate_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise MsbDatabaseError(f"cannot read {path}: {error}") from None


# -- tables -------------------------------------------------------------------------------------------

_COLUMNS = {
    "image_ref": ("id", "reference", "manifest_id", "created_at", "updated_at"),
    "manifest": (
        *("id", "digest", "media_type", "config_digest", "architecture", "os", "variant"),
        *("total_size_bytes", "created_at"),
    ),
    "config": (
        *("manifest_id", "digest", "env", "cmd", "entrypoint"),
        *("working_dir", "user", "labels", "stop_signal"),
    ),
    "layer": ("id", "diff_id", "blob_digest", "media_type", "compressed_size_bytes"),
    "manifest_layer": ("manifest_id", "layer_id", "position"),
    "sandbox": ("id", "name", "status", "reference", "root"),
    "sandbox_rootfs": ("id", "sandbox_id", "manifest_id", "created_at"),
    "snapshot_index": (
        *("artifact_path", "name", "group_name", "image_ref"),
        *("image_manifest_digest", "created_at"),
    ),
}
"""What is read of which table; what a schema lacks reads as NULL."""


def _of_config(path: str) -> str:
    """Return the SQL for a text in a sandbox's configuration, of which no more is read: it has secrets."""
    return f"CASE json_type(config, '{path}') WHEN 'text' THEN json_extract(config, '{path}') END"


_CONFIG = (
    f"CASE WHEN typeof(config) = 'text' AND length(config) <= {foreign_db.MAX_VALUE} AND json_valid(config) "
    "THEN coalesce({}) END"
)
_COMPUTED = {
    ("sandbox", "reference"): _CONFIG.format(
        ", ".join(
            _of_config(f"$.image{path}") for path in (".Oci.reference", ".Oci", ".oci.reference", ".oci", "")
        )
    ),
    ("sandbox", "root"): _CONFIG.format(
        ", ".join(_of_config(f"$.image.{name}.root_disk.kind") for name in ("Oci", "oci"))
    ),
}
"""Columns that are made of the column ``config``."""


def _rows(connection: sqlite3.Connection, table: str, names: Sequence[str], notes: list[str]) -> Rows | None:
    """Return a table's rows; None when the schema has no such table."""
    if not foreign_db.has_table(connection, table):
        return None
    present = {str(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({table})")}
    columns = ", ".join(_column(table, name, present) for name in names)
    query = f"SELECT {columns} FROM {table}"  # noqa: S608
    try:
        rows = connection.execute(f"{query} LIMIT {MAX_ROWS + 1}").fetchall()
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
            raise
        rows = _row_by_row(connection, table, query, notes)
    if len(rows) > MAX_ROWS:
        raise sqlite3.DataError(f"{table} has more than {MAX_ROWS:,} rows")
    return rows


def _column(table: str, name: str, present: set[str]) -> str:
    computed = _COMPUTED.get((table, name))
    if computed is not None:
        return computed if "config" in present else "NULL"
    if name in present:
        return f'"{name}"'
    return "rowid" if name == "id" else "NULL"


def _row_by_row(connection: sqlite3.Connection, table: str, query: str, notes: list[str]) -> Rows:
    """Read around rows that SQLite cannot hand out: no UTF-8, or larger than we look at."""
    rows: Rows = []
    left_out = 0
    for (rowid,) in connection.execute(f"SELECT rowid FROM {table}").fetchall():  # noqa: S608
        try:
            rows += connection.execute(f"{query} WHERE rowid = ?", (rowid,)).fetchall()
        except (sqlite3.DataError, sqlite3.OperationalError):
            left_out += 1
    notes.append(f"left out of msb.db: {left_out:,} rows of {table} that are no text or too large")
    return rows


def _label_rows(connection: sqlite3.Connection, keys: Sequence[str]) -> Rows:
    """Return labels with these keys: the sandbox by msb's id, and ``key=value``, None if that is too long."""
    if not keys or not foreign_db.has_table(connection, "sandbox_labels"):
        return []
    label = "CAST(key || '=' || value AS BLOB)"
    return connection.execute(
        f"SELECT sandbox_id, CASE WHEN length({label}) <= {MAX_LABEL} THEN {label} END "  # noqa: S608
        f"FROM sandbox_labels WHERE key IN ({', '.join('?' * len(keys))}) LIMIT {MAX_ROWS}",
        tuple(keys),
    ).fetchall()


# -- rows ---------------------------------------------------------------------------------------------


_words = msgspec.json.Decoder(list[str]).decode


def _labels(text: str) -> Any:
    """Return JSON of any form; raises as ``msgspec.json.decode`` if it is none, or nested too deeply."""
    found = msgspec.json.decode(text)
    if _depth(found) > MAX_DEPTH:
        raise RecursionError
    return found


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


class _Reader:
    """Turns rows into a state."""

    def __init__(
        self, tables: Mapping[str, Rows], notes: Sequence[str], schema: MsbSchema | None = None
    ) -> None:
        self._tables = tables
        self._schema = schema
        self._notes = [*notes]
        self._left_out = 0
        self._complete = not notes
        self._digests: dict[Any, str] = {}  # of manifests, by msb's id
        self._days: dict[str, int] = {}
        self._canonical: dict[str, str | None] = {}

    def state(
        self, found: MsbRuns | None = None, labels: Mapping[int, Mapping[str, str]] | None = None
    ) -> MsbState:
        manifests = self._manifests()
        images = self._images()
        sandboxes = dict(self._sandboxes(labels or {}))
        holds: dict[tuple[str, str], MsbHold] = {}
        for hold in (*sandboxes.values(), *self._snapshots()):
            holds.setdefault((hold.manifest_digest, hold.holder), hold)
        kinds = {"sandbox": "sandbox_rootfs", "snapshot": "snapshot_index"}
        if self._left_out > MAX_NOTES:
            self._notes.append(f"{self._left_out - MAX_NOTES:,} more rows of msb.db were left out")
        return MsbState(
            images=images,
            manifests=manifests,
            holds=holds,
            holder_kinds=frozenset(kind for kind, table in kinds.items() if table in self._tables),
            sandboxes=sandboxes,
            runs=found,
            notes=tuple(self._notes),
            complete=self._complete,
            schema=self._schema,
        )

    def labels(self, rows: Rows) -> dict[int, dict[str, str]]:
        """Return labels by msb's id of the sandbox, without those too long or with control characters."""
        found: dict[int, dict[str, str]] = {}
        for sandbox, label in rows:
            key, _, value = (label or b"").decode("utf-8", "replace").partition("=")
            if key and _CONTROL.search(value) is None:
                found.setdefault(sandbox, {})[key] = value
            else:
                self._note(f"a label of more than {MAX_LABEL} bytes, or with control characters")
        return found

    def _note(self, what: str) -> None:
        self._left_out += 1
        if self._left_out <= MAX_NOTES:
            self._notes.append(f"left out of msb.db: {what}")

    def _miss(self, what: str) -> None:
        """Leave out a record that reaches others."""
        self._complete = False
        self._note(what)

    def _manifests(self) -> dict[str, MsbManifest]:
        configs = {row[0]: row[1:] for row in self._tables.get("config", ())}
        layers = self._layers()
        found: dict[str, MsbManifest] = {}
        for row in self._tables["manifest"]:
            row_id, digest, media_type, config_digest, architecture, os_name, variant, size, created = row
            if not _is_digest(digest) or not isinstance(row_id, int):
                self._miss(f"a manifest whose digest is {_shown(digest)}")
                continue
            own = layers.get(row_id, ())
            if own is None or digest in found:
                self._miss(f"the manifest {digest}, whose layers make no sense")
                continue
            config = configs.get(row_id)
            self._digests[row_id] = digest
            found[digest] = MsbManifest(
                digest=digest,
                row=f"manifest:{row_id}",
                media_type=_text(media_type),
                config_digest=(None if config is None else _text(config[0])) or _text(config_digest),
                architecture=_text(architecture),
                os=_text(os_name),
                variant=_text(variant),
                config=None if config is None else self._config(digest, config),
                layers=own,
                total_size=_size(size),
                created_at_ns=self.as_ns(created),
            )
        return found

    def _config(self, digest: str, row: Sequence[Any]) -> ImageConfig:
        _, env, cmd, entrypoint, working_dir, user, labels, stop_signal = row
        if env is cmd is entrypoint is working_dir is user is labels is stop_signal is None:
            return _NO_CONFIG

        def decoded(name: str, value: Any, decode: Any) -> Any:
            if value is None or value == "":
                return None
            try:
                if len(value) > MAX_JSON:
                    raise ValueError
                return decode(value)
            except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
                self._note(f"{name} of the configuration of {digest}: {_shown(value)}")
                return None

        commands = [
            decoded(name, value, _words) for name, value in (("cmd", cmd), ("entrypoint", entrypoint))
        ]
        return ImageConfig(
            env=tuple(decoded("env", env, _words) or ()),
            cmd=None if commands[0] is None else tuple(commands[0]),
            entrypoint=None if commands[1] is None else tuple(commands[1]),
            working_dir=_text(working_dir, 4096),
            user=_text(user),
            labels=decoded("labels", labels, _labels),
            stop_signal=_text(stop_signal),
        )

    def _layers(self) -> dict[Any, tuple[MsbLayer, ...] | None]:
        """Return each manifest's layers by its row id; None where they make no sense."""
        by_id: dict[Any, MsbLayer] = {}
        for row_id, diff_id, blob, media_type, size in self._tables.get("layer", ()):
            if _is_digest(diff_id):
                by_id[row_id] = MsbLayer(
                    diff_id=diff_id,
                    blob_digest=blob if _is_digest(blob) else diff_id,
                    media_type=_text(media_type),
                    size=_size(size),
                )
        placed: dict[Any, list[tuple[int, MsbLayer]] | None] = {}
        for manifest_id, layer_id, position in self._tables.get("manifest_layer", ()):
            own = placed.setdefault(manifest_id, [])
            layer = by_id.get(layer_id)
            if own is None:
                continue
            if layer is None or not isinstance(position, int) or len(own) >= MAX_LAYERS:
                placed[manifest_id] = None
            else:
                own.append((position, layer))
        found: dict[Any, tuple[MsbLayer, ...] | None] = {}
        for manifest_id, own in placed.items():
            if own is None:
                found[manifest_id] = None
                continue
            own.sort(key=_position)
            found[manifest_id] = tuple([layer for _, layer in own])
        return found

    def _images(self) -> dict[str, MsbImage]:
        found: dict[str, MsbImage] = {}
        for row_id, typed, manifest_id, created, updated in self._tables["image_ref"]:
            canonical = self._reference(typed)
            digest = self._digests.get(manifest_id)
            if canonical is None or digest is None or not isinstance(row_id, int):
                self._miss(f"the reference {_shown(typed)}")
                continue
            created_at = self.as_ns(created)
            found[typed] = MsbImage(
                reference=canonical,
                typed=typed,
                manifest_digest=digest,
                row=f"image_ref:{row_id}@{'-' if created_at is None else created_at}",
                created_at_ns=created_at,
                updated_at_ns=self.as_ns(updated),
            )
        return found

    def _sandboxes(self, labels: Mapping[int, Mapping[str, str]]) -> Iterator[tuple[int, MsbHold]]:
        sandboxes = {row_id: rest for row_id, *rest in self._tables.get("sandbox", ())}
        for row_id, sandbox_id, manifest_id, created in self._tables.get("sandbox_rootfs", ()):
            if manifest_id is None:
                continue  # its root is no image
            name, status, reference, root = sandboxes.get(sandbox_id, (None,) * 4)
            digest = self._digests.get(manifest_id)
            if digest is None or not _is_name(name):
                self._miss(f"a hold by the sandbox {_shown(name)}")
                continue
            created_at = self.as_ns(created)
            yield (
                sandbox_id,
                MsbHold(
                    holder=f"sandbox:{name}",
                    manifest_digest=digest,
                    row=f"sandbox_rootfs:{row_id}@{'-' if created_at is None else created_at}",
                    reference=self._reference(reference),
                    typed=reference,
                    created_at_ns=created_at,
                    status=_word(status),
                    root=None if root == _USUAL_ROOT else _word(root),
                    labels=labels.get(sandbox_id, {}),
                ),
            )

    def _snapshots(self) -> Iterator[MsbHold]:
        for path, name, group, reference, digest, created in self._tables.get("snapshot_index", ()):
            if not _is_digest(digest) or not _is_name(path):
                self._miss(f"a hold by the snapshot {_shown(name or path)}")
                continue
            # msb's own way to name a snapshot of a group.
            named = f"{group}:{name}" if group else name
            created_at = self.as_ns(created)
            yield MsbHold(
                holder=f"snapshot:{named if _is_name(named) else path}",
                manifest_digest=digest,
                row=f"snapshot_index:{path}@{'-' if created_at is None else created_at}",
                reference=self._reference(reference),
                typed=reference if isinstance(reference, str) else None,
                created_at_ns=created_at,
            )

    def _reference(self, typed: Any) -> str | None:
        if not isinstance(typed, str) or len(typed) > 1024:
            return None
        if typed not in self._canonical:
            try:
                self._canonical[typed] = Reference.parse(typed).canonical
            except InvalidReferenceError:
                self._canonical[typed] = None
        return self._canonical[typed]

    def as_ns(self, value: Any) -> int | None:
        """Return ns since the epoch for msb's text, or for a number of s, ms, us or ns."""
        if isinstance(value, str):
            if not (value.isdigit() and value.isascii() and len(value) < 20):
                return self._parsed(value)
            value = int(value)  # a number in a column for text
        if isinstance(value, int | float) and 0 <= value <= _MAX_NS:
            for limit, factor in ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3)):
                if value < limit:
                    return int(value * factor)
            return int(value)
        return None

    def _parsed(self, text: str) -> int | None:
        found = _TIME.fullmatch(text) if len(text) < 64 else None
        if found is None:
            return None
        day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = found.groups()
        seconds = self._days.get(day)
        if seconds is None:
            try:
                seconds = (datetime.fromisoformat(day) - datetime(1970, 1, 1)).days * 86400
            except ValueError:
                return None
            self._days[day] = seconds
        seconds += int(hour) * 3600 + int(minute) * 60 + int(second or 0)
        if sign:
            offset = int(zone_hours) * 3600 + int(zone_minutes or 0) * 60
            seconds -= offset if sign == "+" else -offset
        ns = seconds * 10**9 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
        return ns if 0 <= ns <= _MAX_NS else None


_NO_CONFIG = ImageConfig()


def _position(placed: tuple[int, MsbLayer]) -> int:
    return placed[0]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and digest_problem(value) is None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_PATH and _CONTROL.search(value) is None


def _word(value: Any) -> str | None:
    return value if _is_name(value) and len(value) <= _MAX_WORD else None


def _text(value: Any, most: int = MAX_TEXT) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= most else None


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _MAX_NS else None


def _shown(value: Any) -> str:
    return shown(value) if isinstance(value, str) else shown(repr(value)[:120])
