"""Everything that is wrong with a home: each with what it means, and with what mends it.

What is wrong with the log, the index and the files of images ``audit`` finds; here it is put into words, and
what lies about besides is looked for. Reads only, but for what msb did, as every reading does.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from msgspec import Struct

from msb_cache.artifacts.files import is_shared
from msb_cache.artifacts.kinds import FLAT
from msb_cache.artifacts.layout import lock_path
from msb_cache.artifacts.locks import is_free
from msb_cache.audit.files import BROKEN, DiskProblem
from msb_cache.audit.verify import Verification, verify
from msb_cache.engines.mending import archive_of, manifests_of, sources
from msb_cache.errors import LogError
from msb_cache.eventstore.chain import Break
from msb_cache.failpoints import reached
from msb_cache.home import checks, reserve
from msb_cache.msb import schema as msb_schema
from msb_cache.projections import deletions, images, undoings
from msb_cache.queries.resolve import as_typed, familiar
from msb_cache.session import Session
from msb_cache.shapes import Result
from msb_cache.wording import as_text, plural, quoted, short, size

NEARLY_FULL_RESERVES = 4
"""A disk on which less than so many of the home's reserves are free is nearly full. The reserve is made only
where there is room for two (``home.reserve``), and without it a deletion on a full disk cannot be recorded.
This is said while there is twice that, and so before it is too late."""

NEARLY_FULL_FILES = 1000
"""A file system on which fewer files than this can be made is nearly full, however many bytes are free: a
pull of an image with fifty layers makes some two hundred, with their locks and parts."""

FindingKind = Literal[
    "file-missing",
    "file-size",
    "file-damaged",
    "file-other",
    "file-moved",
    "file-altered",
    "orphan",
    "flat-root",
    "unclear",
    "foreign",
    "leftover",
    "unfinished",
    "dead-staging",
    "msb-deletion",
    "stale-download",
    "lone-lock",
    "other-owner",
    "log-broken",
    "log-put-back",
    "log-not-as-signed",
    "checkpoint-damaged",
    "log-schema",
    "index-differs",
    "index-copy",
    "tree-differs",
    "msb-schema",
    "not-recorded",
    "no-watch",
    "disk-nearly-full",
]
"""What can be wrong; docs/doctor.md has a line about each."""

EVIDENCE = frozenset({"log-broken", "log-put-back", "log-not-as-signed"})
"""A log with one of these is not what it was: nothing is written to it, nor mended."""

_LIES_ABOUT = frozenset({"orphan", "flat-root", "leftover", "dead-staging", "stale-download", "lone-lock"})
"""Findings that are nothing but a file or folder."""

FIX, PULL = "msb-cache doctor --fix", "msb-cache doctor --fix --pull"


class Finding(Result, Struct, frozen=True):
    """One thing that is wrong with a home.

    Attributes:
        kind: what it is.
        meaning: a sentence: what is wrong, and what comes of it.
        path: the file or folder; None: it is none.
        artifact: the kind of file, of those that images are made of.
        subject: of what: a digest or canonical reference of an artifact, an operation's id; None: of nothing.
        images: those concerned, as people see them.
        command: what mends it; None: no command does, and ``meaning`` says what to do.
        fixable: whether ``doctor --fix`` mends it.
        needs_pull: whether that takes ``--pull``.
    """

    kind: FindingKind
    meaning: str
    path: Path | None = None
    artifact: str | None = None
    subject: str | None = None
    images: tuple[str, ...] = ()
    command: str | None = None
    fixable: bool = False
    needs_pull: bool = False

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What tells it from others, whatever its words are."""
        kind = "file" if self.kind.startswith("file-") else self.kind
        return kind, None if self.path is None else str(self.path), self.subject


def diagnose(session: Session) -> list[Finding]:
    """Return everything that is wrong with a home, what images need first.

    What lay about when it was looked at, and does no more, another process has taken away meanwhile; and what
    a deletion is about to delete, or its recovery is, is no finding by itself.
    """
    found = [*_Doctor(session).findings()]
    if not any(each.kind in _LIES_ABOUT for each in found):
        return found
    reached("doctor.looked")
    going = _going(session)  # before it is asked what is there still
    return [
        each
        for each in found
        if each.kind not in _LIES_ABOUT or (each.path not in going and _lies_about(each))
    ]


def _going(session: Session) -> set[Path]:
    """Return the files that deletions have begun to delete, and have not deleted yet."""
    ledger, layout = session.ledger, session.layout
    try:
        with ledger.read() as connection:
            begun = [] if connection is None else deletions.unfinished(connection)
            return {
                layout.artifact(artifact.kind, artifact.subject)
                for operation in begun
                if connection is not None
                for artifact in deletions.pending(connection, ledger.store(connection), operation)
                if artifact.kind != "manifest"
            }
    except LogError:
        return set()  # a finding by itself


def _fixed(kind: FindingKind, meaning: str, path: Path | None = None, **more: str | None) -> Finding:
    return Finding(kind, meaning, path, command=FIX, fixable=True, **more)  # type: ignore[arg-type]


class _Doctor:
    """Looks at one home once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ledger = session.ledger
        self._layout = session.layout
        self._by_msb = session.kept_by_msb
        self._missing: set[Path] = set()

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong."""
        session = self._session
        self._ledger.tells_of_head = False  # what is found says it
        unrecorded = session.recorded()
        if unrecorded is not None:
            yield Finding("not-recorded", f"{unrecorded}; the rest is as the log has it", self._msb_database)
        engine = session.engine()
        try:
            found = verify(self._ledger, engine, None, session.recorded)
        except LogError as error:
            yield self._unreadable(str(error))
        else:
            yield from self._of_log(found)
            yield from self._of_files(found.disk)
        yield from self._of_operations()
        if not self._by_msb:
            yield from self._downloads()
            yield from self._lone_locks()
        else:
            yield from self._of_msb()
        yield from self._owners()
        yield from self._disk()

    @property
    def _database(self) -> Path:
        return Path(self._layout.database)

    @property
    def _msb_database(self) -> Path:
        return Path(self._layout.msb_database)

    # -- the log ---------------------------------------------------------------------------------

    def _unreadable(self, problem: str) -> Finding:
        meaning = f"the log cannot be read: {problem}; no image can be listed"
        return Finding("log-broken", meaning, self._database, command="msb-cache restore-backup BACKUP")

    def _of_log(self, found: Verification) -> Iterator[Finding]:
        if isinstance(found.chain, Break):
            meaning = f"the log is not what was written, and no evidence any more: {found.chain.problem}"
            yield Finding("log-broken", meaning, self._database, command="msb-cache restore-backup BACKUP")
        elif found.unreadable:
            yield self._unreadable(found.unreadable)
        if found.rewound is not None:
            meaning = f"{found.rewound.sentence}, as the note of it outside the home says"
            yield Finding("log-put-back", meaning, self._database, command="msb-cache log acknowledge")
        for signed in found.bad_checkpoints:
            subject = f"{as_text(signed.origin)} {signed.size}"
            if signed.problem == "damaged":
                meaning = f"{signed.detail}; a copy that somebody else has proves the log still"
                yield Finding("checkpoint-damaged", meaning, self._database, subject=subject)
                continue
            meaning, mends = signed.detail, "msb-cache restore-backup BACKUP"
            yield Finding("log-not-as-signed", meaning, self._database, subject=subject, command=mends)
        for problem in found.schema:
            what = {"missing": "is missing", "changed": "is another", "extra": "does not belong to msb-cache"}
            meaning = f"of the database's schema, the {problem.kind} {problem.name} {what[problem.problem]}"
            if problem.remedy == "rebuild":
                yield _fixed("log-schema", meaning, self._database, subject=problem.name)
                continue
            command = None if problem.remedy == "drop" else "msb-cache export LOG"
            more = "take it out if you did not put it there"
            if command is not None:
                more = "the log exported and imported into another home has a good one"
            yield Finding(
                "log-schema",
                f"{meaning}; {more}",
                self._database,
                subject=problem.name,
                command=command,
            )
        if found.differences:
            rows = plural(len(found.differences), "row")
            meaning = f"{rows} of the index are not as the log says, so lists and prunes may be wrong"
            yield _fixed("index-differs", meaning, self._database)
        for copy in found.bad_copies:
            how = "cannot be read" if copy.problem == "unreadable" else "is not what the log says"
            meaning = (
                f"the copy of the index at event {copy.seq:,} {how}: answers about the past may be wrong"
            )
            yield _fixed("index-copy", meaning, copy.path)
        if found.bad_subtrees:
            hashes = plural(len(found.bad_subtrees), "hash", "hashes")
            meaning = (
                f"{hashes} that the home keeps of the log's tree are not of its events: no proof can be made"
            )
            yield _fixed("tree-differs", meaning, self._database)

    # -- the files of images ---------------------------------------------------------------------

    def _of_files(self, disk: list[DiskProblem]) -> Iterator[Finding]:
        broken = [problem for problem in disk if problem.problem in BROKEN]
        self._missing = {problem.path for problem in broken}
        with self._ledger.read() as connection:
            altered = [] if connection is None else self._altered(connection)
            broken += altered
            remedies = _Remedies(self._session, connection, broken)
            for problem in broken:
                yield remedies.finding(problem)
        for problem in disk:
            if problem.problem not in BROKEN:
                yield self._more(problem)

    def _altered(self, connection: sqlite3.Connection) -> list[DiskProblem]:
        """Return the files that had other bytes than they should when they were last read."""
        found = []
        for (kind, subject), check in checks.all_of(connection).items():
            if check.checked_at is not None or kind in FLAT:
                continue
            path = self._layout.artifact(kind, subject)
            needing = manifests_of(connection, (kind, subject))
            if path in self._missing or not needing or not path.exists():
                continue
            names = [row.reference for digest in needing for row in images.handles_of(connection, digest)]
            detail = "when it was last read, its bytes were not those of its digest"
            found.append(
                DiskProblem("altered", kind, path, detail=detail, references=tuple(names), subject=subject)
            )
        return found

    def _more(self, problem: DiskProblem) -> Finding:
        """Return the finding about what the index does not name."""
        path, kind = problem.path, problem.kind
        takes = "" if problem.found_bytes is None else f", and it takes {size(problem.found_bytes)}"
        if problem.leftover is not None:
            meaning = f"{problem.leftover.because}; no image needs it{takes}"
            return _fixed("leftover", meaning, path, artifact=kind, subject=problem.leftover.subject)
        if problem.problem == "unfinished":
            meaning = "msb was stopped while it deleted this; its next deletion goes on with it"
            return Finding("msb-deletion", meaning, path, command="msb image prune")
        if problem.problem == "foreign":
            meaning = "this is no file of a cache, so no command touches it; move it away"
            return Finding("foreign", meaning, path)
        if problem.problem == "unclear":
            meaning = "the log names no image that needs it, and whether msb does cannot be told"
            return Finding("unclear", meaning, path, kind)
        whose = "it may be of an image that the log has lost, so it goes only if you say so"
        if kind in FLAT:
            whose = "msb makes flat roots and deletes none, so it stays until you say so"
        after = "; a file that was changed within the last hour stays" if self._by_msb else ""
        meaning = f"no image needs it{takes}; {whose}{after}"
        command = "msb-cache prune --orphans-only"
        return Finding("flat-root" if kind in FLAT else "orphan", meaning, path, kind, command=command)

    # -- what lies about -------------------------------------------------------------------------

    def _of_operations(self) -> Iterator[Finding]:
        layout = self._layout
        before = self._begun()
        idle = [each for each in (*before, *layout.interrupted_operations()) if self._is_idle(each)]
        if not idle:
            return
        begun = self._begun()  # those that ran and have just ended gave up their locks, too
        left = {*begun, *layout.interrupted_operations()}
        for operation in sorted(left.intersection(idle)):
            lock, staging = layout.operation_lock(operation), layout.staging(operation)
            if begun.get(operation) == "deletion":
                meaning = "a deletion was cut short, and some of its files are there still"
                yield _fixed("unfinished", meaning, lock, subject=operation)
            elif operation in begun:
                meaning = "a restore was cut short, and the log does not say yet how far it came"
                yield _fixed("unfinished", meaning, lock, subject=operation)
            elif os.path.lexists(lock):
                meaning = "a load or pull was cut short; what it prepared takes room"
                yield _fixed("unfinished", meaning, lock, subject=operation)
            else:
                meaning = "an operation that is over left what it prepared, which takes room"
                yield _fixed("dead-staging", meaning, staging, subject=operation)

    def _begun(self) -> dict[str, str]:
        """Return the operations that have begun and not ended by the log: what each is."""
        try:
            with self._ledger.read() as connection:
                if connection is None:
                    return {}
                restores = dict.fromkeys(undoings.unfinished(connection), "restore")
                return restores | dict.fromkeys(deletions.unfinished(connection), "deletion")
        except LogError:
            return {}  # a finding by itself

    def _is_idle(self, operation: str) -> bool:
        return _is_free(self._layout.operation_lock(operation))

    def _downloads(self) -> Iterator[Finding]:
        from msb_cache.engines.own.downloads import STALE_SECONDS, stale

        for path in stale(self._layout):
            days = STALE_SECONDS // 86400
            meaning = f"no pull went on with this part of a layer for {days} days, and it takes room"
            yield _fixed("stale-download", meaning, path)

    def _lone_locks(self) -> Iterator[Finding]:
        needed = {lock_path(path) for path in self._missing}
        for path in self._layout.lone_locks():
            if path not in needed and _is_free(path):
                yield _fixed("lone-lock", "there is no file beside this lock, and no process has it", path)

    def _owners(self) -> Iterator[Finding]:
        """Yield the folders in which entries are another user's than the home is, each user's together."""
        try:
            owner = os.stat(self._layout.home)
        except OSError:
            return
        for folder, found in _owners_below((self._layout.db, self._layout.cache), owner.st_uid):
            for uid, names in found.items():
                path = Path(folder, names[0]) if len(names) == 1 else Path(folder)
                what = "this is" if len(names) == 1 else f"{len(names):,} files and folders in this are"
                whose = f"user {uid}'s, and the home is user {owner.st_uid}'s"
                meaning = f"{what} {whose}, whose commands may fail at it"
                whom, where = f"{owner.st_uid}:{owner.st_gid}", quoted(str(path))
                command = f"sudo chown -h {whom} {where}"
                if len(names) > 1:
                    command = f"sudo find {where} -maxdepth 1 -uid {uid} -exec chown -h {whom} {{}} +"
                yield Finding("other-owner", meaning, path, subject=str(uid), command=command)

    def _disk(self) -> Iterator[Finding]:
        layout = self._layout
        try:
            found = os.statvfs(layout.db)
            with self._ledger.read() as connection:
                if connection is None:
                    return
                (count,) = connection.execute("SELECT count(*) FROM image").fetchone()
        except (OSError, LogError):
            return
        room, least = reserve.free(layout), NEARLY_FULL_RESERVES * reserve.wanted(count)
        prune = "msb-cache prune"
        if room < least:
            meaning = (
                f"only {size(room)} are free where the log is, and {size(least)} should be: "
                "once the disk is full, nothing more is recorded, and so nothing is pulled"
            )
            yield Finding("disk-nearly-full", meaning, layout.db, command=prune)
        elif found.f_files and found.f_favail < NEARLY_FULL_FILES:
            meaning = f"only {plural(found.f_favail, 'more file')} can be made where the log is"
            yield Finding("disk-nearly-full", meaning, layout.db, command=prune)

    # -- msb -------------------------------------------------------------------------------------

    def _of_msb(self) -> Iterator[Finding]:
        theirs = msb_schema.read(self._layout.msb_database)
        if theirs is not None and theirs.note is not None:
            yield Finding("msb-schema", theirs.note, self._msb_database, subject=theirs.version)
        if _is_free(self._layout.watch_lock):
            meaning = (
                "msb keeps this home and no `msb-cache watch` runs, so what msb does is recorded later, "
                "and who did it is not known"
            )
            yield Finding("no-watch", meaning, self._layout.watch_lock, command="msb-cache watch")


_PROBLEMS = {"missing": "is missing", "damaged": "is damaged", "altered": "is not as it was"}
_NAMES = {
    "metadata": "the metadata file",
    "layer": "the layer",
    "fsmeta": "the merged tree",
    "vmdk": "the VMDK",
    "flat_ref": "the flat ref",
    "flat": "the flat root",
}
_CONSEQUENCES = {
    "metadata": "its image cannot be saved, and msb cannot use it",
    "layer": "no image that has it starts",
    "fsmeta": "its image does not start",
    "vmdk": "its image does not start",
    "flat_ref": "its image does not start from a flat root",
    "flat": "its image does not start from a flat root",
}


class _Remedies:
    """What mends each of the files that images need and that are wrong."""

    def __init__(
        self, session: Session, connection: sqlite3.Connection | None, broken: list[DiskProblem]
    ) -> None:
        self._session = session
        self._connection = connection
        self._by_msb = session.kept_by_msb
        self._wrong = {(problem.kind, problem.subject) for problem in broken}
        self._came: dict[str, tuple[bool, str | None]] = {}

    @cached_property
    def _had(self) -> dict[str, list[str]]:
        assert self._connection is not None  # noqa: S101
        return images.references_ever(self._connection)

    def finding(self, problem: DiskProblem) -> Finding:
        """Return the finding about a file."""
        command, fixable, pulls = self._remedy(problem)
        return Finding(
            f"file-{problem.problem}",  # type: ignore[arg-type]
            _meaning(problem),
            problem.path,
            problem.kind,
            problem.subject,
            tuple(map(self._shown, problem.references)),
            command,
            fixable,
            pulls,
        )

    def _shown(self, reference: str) -> str:
        rows = [] if self._connection is None else images.spellings(self._connection, reference)
        return as_typed(reference, rows[0].spelling) if rows else familiar(reference)

    def _remedy(self, problem: DiskProblem) -> tuple[str | None, bool, bool]:
        """Return the command, whether ``--fix`` does it, and whether that takes ``--pull``."""
        path = quoted(str(problem.path))
        if _is_folder(problem.path):
            return f"mv {path} {path}.aside", False, False
        image = self._shown(problem.references[0]) if problem.references else None
        rid = "" if problem.problem == "missing" else f"rm {path}; "
        if problem.kind in FLAT:
            return None if image is None else f"{rid}msb pull --materialize flat {image}", False, False
        if not self._by_msb and self._is_made_here(problem):
            return FIX, True, False
        registry, archive = self._came_from(problem)
        if registry and (image or not self._by_msb):
            return PULL, True, True
        if archive is not None:
            load = f"{rid}msb load -i" if self._by_msb else "msb-cache load -i"
            return f"{load} {'ARCHIVE' if archive == 'stdin' else quoted(archive)}", False, False
        again = "msb pull --force" if self._by_msb else "msb-cache pull --force"
        return None if image is None else f"{again} {image}", False, False

    def _is_made_here(self, problem: DiskProblem) -> bool:
        connection, subject = self._connection, problem.subject
        if connection is None or subject is None or problem.kind == "layer":
            return False
        if problem.kind == "metadata":
            return any(
                ("metadata", row.reference) not in self._wrong
                for digest in manifests_of(connection, ("metadata", subject))
                for row in images.handles_of(connection, digest)
            )
        layers = images.layers(connection, subject)
        made = problem.problem != "other" or problem.kind == "vmdk"
        return all(
            ("layer", layer.diff_id) not in self._wrong and (made or layer.erofs_digest_how == "made")
            for layer in layers
        )

    def _came_from(self, problem: DiskProblem) -> tuple[bool, str | None]:
        """Return whether a file can be pulled, and else the archive that it came from, if that is known."""
        connection, subject = self._connection, problem.subject
        if connection is None or subject is None:
            return False, None
        archives = None
        for digest in manifests_of(connection, (problem.kind, subject)):
            if digest not in self._came:
                store = self._session.ledger.store(connection)
                came = sources(connection, store, digest, self._had.get(digest, ()))
                found = [source for _, source in came if source is not None]
                # Of what msb did by itself the log does not know where from; its registry is asked.
                kinds = {"registry", "microsandbox"} if self._by_msb else {"registry"}
                self._came[digest] = any(each.kind in kinds for each in found), archive_of(found)
            registry, archive = self._came[digest]
            if registry:
                return True, None
            archives = archives or archive
        return False, archives


def _meaning(problem: DiskProblem) -> str:
    name = f"{_NAMES[problem.kind]} {short(problem.subject) if problem.kind == 'layer' else ''}".rstrip()
    what = _PROBLEMS.get(problem.problem, f"is {problem.problem}")
    if problem.problem == "size":
        what = f"has {problem.found_bytes or 0:,} bytes, not {problem.expected_bytes or 0:,}"
    elif problem.problem == "other":
        what = "is not its image's"
    elif problem.problem == "moved":
        what = "is of another home"
    if _is_folder(problem.path):
        what = "is missing, and a folder lies in its place"
    if problem.detail:
        what = f"{what} ({problem.detail})"
    return f"{name} {what}, and {_CONSEQUENCES[problem.kind]}"


def _lies_about(finding: Finding) -> bool:
    path = finding.path
    if path is None or not os.path.lexists(path):
        return False
    return finding.kind != "lone-lock" or (_is_free(path) and not os.path.lexists(path.with_suffix("")))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_free(path: Path) -> bool:
    """Return whether no process holds a lock; one that this user may not look at is not said to be free."""
    try:
        return is_free(path)
    except OSError:
        return False


def _owners_below(roots: tuple[Path, ...], owner: int) -> Iterator[tuple[str, dict[int, list[str]]]]:
    """Yield the folders with entries that are not the owner's: their names by user.

    In a folder that a group shares, each file is the user's who made it.
    """
    waiting = [os.fspath(root) for root in roots]
    while waiting:
        folder = waiting.pop()
        shared, found = is_shared(folder), dict[int, list[str]]()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid != owner and not shared:
                        found.setdefault(status.st_uid, []).append(entry.name)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
        except OSError:
            continue  # it went meanwhile, or is not to be seen
        if found:
            yield folder, found
