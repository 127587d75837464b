"""Delete in a home that msb keeps: our plan chooses and is recorded, msb deletes, and what went is recorded.

msb alone knows who starts a sandbox now, so it has the last word: what it refuses is kept, and said so. Only
files that no record names are deleted here, under msb's own locks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace as with_fields

from msb_cache import diagnostics
from msb_cache.artifacts import files, metadata
from msb_cache.artifacts.durable import Changes
from msb_cache.artifacts.kinds import FLAT, needed_by
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.artifacts.locks import Lock, is_free
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.engines import flat_roots, leftovers
from msb_cache.engines.decision import (
    DECIDING,
    MEASURING,
    Confirm,
    DeletionCut,
    Planner,
    Preview,
    Progress,
    Report,
    changes,
    check_confirmed,
    deleted,
    freed_by,
    goes_with,
    names,
    one_at_a_time,
    out_of_index,
    planned,
    reporting,
    started,
)
from msb_cache.engines.engine import Orphans
from msb_cache.engines.leftovers import Leftover, known_as
from msb_cache.engines.named_files import NamedFiles
from msb_cache.errors import CorruptArtifactError, MsbDatabaseError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home import reserve
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.home.operation import Operation
from msb_cache.msb import database
from msb_cache.msb.database import MsbState
from msb_cache.msb.program import Finished, MsbProgram, per_argument, require_program
from msb_cache.msb.sync import OwnAction, sync, sync_and_read
from msb_cache.projections import deletions, images
from msb_cache.projections.state import EMPTY, IndexState, load_observed, load_to_judge
from msb_cache.retention.plan import Plan, Verdict
from msb_cache.retention.rules import used_since
from msb_cache.waiting import end_if_asked
from msb_cache.wording import plural

ORPHAN_SECONDS = 3600
"""A file that no record names is deleted only when it has been as it is for this long."""

_ROOM_OF_MSB = 256 * 1024
"""Bytes that msb has room for when it is run: for the write-ahead log of its database, and its index."""

_STORAGE_OPERATION = "active storage operation"
"""What msb says instead of a holder where another msb works with the image."""
_CHUNK = 5
"""References that msb is asked to remove in one run; what became of them is recorded after each."""
_MANY_FILES = 200


def observed_index(
    ledger: Ledger, connection: sqlite3.Connection, state: IndexState | None = None
) -> IndexState:
    """Return the index (``state`` is what was read of it already), as far as msb's database can be read."""
    state = load_observed(connection, state)
    try:
        theirs = database.read(ledger.layout.msb_database)
    except MsbDatabaseError:
        return state  # what that leaves out has been noted before the read
    return replace(state, unjudged=not can_judge(theirs))


def _observed(
    connection: sqlite3.Connection, theirs: MsbState, planner: Planner, *, facts: bool = False
) -> IndexState:
    """Return the index, and whether it can be told from msb's what that needs."""
    state = load_to_judge(connection, facts=facts or planner.facts, labels=planner.labels)
    return replace(load_observed(connection, state), unjudged=not can_judge(theirs))


def preview(ledger: Ledger, planner: Planner, *, orphans: bool = False) -> Preview:
    """Plan and measure; changes nothing and appends nothing. The caller has recorded what msb did."""
    return _preview(ledger, database.read(ledger.layout.msb_database), planner, orphans=orphans, facts=True)


def _preview(ledger: Ledger, theirs: MsbState, planner: Planner, *, orphans: bool, facts: bool) -> Preview:
    layout = ledger.layout
    with ledger.read() as connection:
        if orphans:
            check_confirmed(connection)
        state = EMPTY if connection is None else _observed(connection, theirs, planner, facts=facts)
        left = [] if connection is None else leftovers.on_disk(layout, connection)
    named = Named.by(layout, state, theirs) if left or orphans else None
    others: list[ev.PlannedArtifact] = []
    if named is None:
        left = []
    else:
        left = [each for each in _unnamed(left, named) if _is_as_it_was_left(each)]
        busy = flat_roots.in_use(layout, [each.planned for each in left])
        left = [each for each in left if (each.kind, each.subject) not in busy]
        others += (each.planned for each in left)
        if orphans:
            paths = {each.path for each in left}
            old = [artifact for path, artifact in _collectable(layout, named) if path not in paths]
            busy = flat_roots.in_use(layout, old)
            others += (artifact for artifact in old if (artifact.kind, artifact.subject) not in busy)
    measured = MeasuredFiles(layout)
    measured.going_anyway_bytes = freed_by(measured, others)
    plan = planner(state, None, measured)
    found = flat_roots.completed(layout, [*_named(layout, plan, state, theirs, measured), *others])
    return Preview(plan, tuple(found), measured, tuple(left), state, planner.policy)


def delete(
    ledger: Ledger,
    planner: Planner,
    *,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    orphans: bool = False,
    confirm: Confirm | None = None,
    report: Report | None = None,
) -> tuple[str | None, Preview]:
    """Decide, and have msb delete; parameters and result as for ``Engine.delete``.

    Raises:
        HomeOwnedByMicrosandboxError: there is no msb to do it.
        MsbProgramError: msb cannot be run.
        BusyError: another deletion runs in this home.
    """
    program = require_program(ledger.layout.home, ledger.note)
    with database.Reader(ledger.layout.msb_database) as reader:
        with ledger.drawing_on_reserve(_MANY_FILES):
            sync(ledger, reader=reader)
        with ledger.doing(MEASURING):
            shown = _preview(ledger, reader.read(), planner, orphans=orphans, facts=confirm is not None)
    if (shown.plan.empty and not shown.artifacts) or (confirm is not None and not confirm(shown)):
        return None, shown
    with (
        ledger.drawing_on_reserve(changes(shown)),
        one_at_a_time(ledger) as operation,
        database.Reader(ledger.layout.msb_database) as reader,
    ):
        theirs = sync_and_read(ledger, reader=reader)
        reached("msb.planned")
        with ledger.doing(DECIDING), ledger.write(operation.id, owner="msb") as transaction:
            assert theirs is not None  # noqa: S101
            state = _observed(transaction.connection, theirs, planner)
            decided = _decide(transaction, operation.id, state, theirs, planner, shown, kind, policy)
        if decided is None:
            return None, shown
        plan, own, others = decided
        reached("msb.decided")
        diagnostics.info("deletion.decided", operation=operation.id, kind=kind, engine="msb")
        force = policy.get("force") is True
        run = _Run(ledger, program, operation, reader, force=force, chooses=planner.chooses)
        try:
            # First: what both have is needed until the record is gone of the one that msb does not know.
            if own:
                _collect(ledger, operation.id, own)
            if kind == "prune" and confirm is None and not plan.empty and run.is_everything(plan):
                run.prune()
            else:
                with reporting(ledger, report, "images", len(plan.references)) as told:
                    run.remove(plan, told)
                if plan.manifests and run.only_these_are_left(plan):
                    run.prune()
            if others:
                run.theirs = None
                _collect(ledger, operation.id, others)
        except KeyboardInterrupt:
            if report is not None:
                report(Progress(0, len(plan.references), stopped=True))
            with suppress(KeyboardInterrupt):  # a second one: then the next command that writes does it
                conclude(ledger, operation.id, run.refused, theirs=run.theirs)
                ledger.note(_stopped(ledger, operation.id))
            raise DeletionCut(operation.id) from None
        except BaseException:
            conclude(ledger, operation.id, run.refused, theirs=run.theirs)
            raise
        conclude(ledger, operation.id, run.refused, theirs=run.theirs)
        return operation.id, shown


def _stopped(ledger: Ledger, operation: str) -> str:
    """Return what a deletion that a person stopped has done by then, and how to go on."""
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        (row,) = deletions.find(connection, operation)
    return (
        f"msb had deleted {plural(row.image_refs_removed, 'reference')} and "
        f"{plural(row.manifests_removed, 'manifest')} when it was stopped; run the command again for the "
        f"rest, `msb-cache prunes show {operation[:13]}` has it in full"
    )


def _decide(
    transaction: Transaction,
    operation: str,
    state: IndexState,
    theirs: MsbState,
    planner: Planner,
    shown: Preview,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
) -> tuple[Plan, list[ev.PlannedArtifact], list[ev.PlannedArtifact]] | None:
    """Append the intent; return what msb is asked for, what is ours to delete before, and what after that.

    None when nothing of what was shown is left to delete.
    """
    plan = planner(state, shown.plan, shown.files)
    if plan.empty and kind == "remove":
        return None  # its reference points elsewhere by now, and another plan is made
    orphaned = shown.orphaned()
    going = [*_marked(_in(shown, plan), state, theirs)]
    wanted = going + [each for each in shown.artifacts if (each.kind, each.subject) in orphaned]
    if plan.empty and not wanted:
        return None
    events = [NewEvent(event, operation) for event in started(kind, policy, wanted, plan, engine="msb")]
    # What msb does not know leaves the index now, as in a home of ours; the rest when msb has deleted it.
    transaction.append([*events, *out_of_index(plan, state, kind, state.unknown_to_msb)])
    own = [artifact for artifact in going if artifact.own]
    flat = [artifact for artifact in going if artifact.kind in FLAT]
    return _of_msb(plan, state), own, [*flat, *wanted[len(going) :]]


def _of_msb(plan: Plan, state: IndexState) -> Plan:
    """Return what of a plan msb is asked for: all that it knows."""
    unknown = state.unknown_to_msb
    return replace(
        plan,
        references={name: digest for name, digest in plan.references.items() if name not in unknown},
        manifests=[digest for digest in plan.manifests if digest not in unknown],
        layers=(),
    )


def _named(
    layout: Layout, plan: Plan, state: IndexState, theirs: MsbState, measured: MeasuredFiles
) -> Iterator[ev.PlannedArtifact]:
    """Yield what a plan deletes. Every image is named, by its metadata, even if that has no file or stays."""
    spellings: dict[str, list[str]] = {}
    for name in plan.references:
        known = spellings.setdefault(plan.naming.reference(name), [])
        if name not in state.unknown_to_msb:
            known.append(name)
    found = [*planned(layout, plan, measured)]
    sizes = {artifact.subject: artifact.bytes for artifact in found if artifact.kind == "metadata"}
    named = [
        ev.PlannedArtifact(
            kind="metadata", subject=reference, bytes=sizes.get(reference), spellings=tuple(known)
        )
        for reference, known in spellings.items()
    ]
    rest = [artifact for artifact in found if artifact.kind != "metadata"]
    return _marked([*named, *rest], state, theirs)


def _marked(
    artifacts: Sequence[ev.PlannedArtifact], state: IndexState, theirs: MsbState
) -> Iterator[ev.PlannedArtifact]:
    """Mark as our own to delete what an image has that msb does not know, and none has that it knows."""
    if not state.unknown_to_msb:
        yield from artifacts
        return
    known = {layer.diff_id for manifest in theirs.manifests.values() for layer in manifest.layers}
    for artifact in artifacts:
        is_layer, subject = artifact.kind == "layer", artifact.subject
        own = subject not in known if is_layer else subject in state.unknown_to_msb
        own = own and artifact.kind not in FLAT  # which msb never deletes
        yield artifact if own == artifact.own else with_fields(artifact, own=own)


def _in(shown: Preview, plan: Plan) -> list[ev.PlannedArtifact]:
    """Return the shown artifacts that a plan deletes."""
    chosen = names(plan)
    return [artifact for artifact in shown.artifacts if goes_with(artifact) in chosen]


class _Run:
    """What msb is asked to do for one operation, what it refused, and what its database said after that.

    ``theirs`` is None before and while msb does anything.
    """

    def __init__(
        self,
        ledger: Ledger,
        program: MsbProgram,
        operation: Operation,
        reader: database.Reader,
        *,
        force: bool,
        chooses: bool,
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._program = program
        self._acting = OwnAction(operation.id)
        # msb goes on when this process is killed: until it ends, no other process may say how that went.
        self._inherits = (operation.descriptor,)
        self._force = force
        self._chooses = chooses
        self.theirs: MsbState | None = None
        self.refused: dict[str, str] = {}

    def is_everything(self, plan: Plan) -> bool:
        """Whether the plan is what msb's own prune deletes: one run of that does, and costs far less.

        It takes what came since, too, so where rules, pins or holds of ours keep anything it is never run.
        """
        if self._keeps_some():
            return False
        state = self._state()
        references, manifests = _prunable(state)
        return (
            state.complete
            and references == plan.references.keys()
            and manifests <= {*plan.manifests, *plan.references.values()}
        )

    def only_these_are_left(self, plan: Plan) -> bool:
        """Whether msb's own prune would delete planned manifests now, and nothing else.

        It has no other way to delete a manifest that no reference points at.
        """
        if self._keeps_some():
            return False
        state = self._state()
        references, manifests = _prunable(state)
        return state.complete and not references and bool(manifests) and manifests <= set(plan.manifests)

    def prune(self) -> None:
        """Have msb delete all that has no holder."""
        with self._ledger.doing("msb prunes its cache"):
            finished = self._run("prune", "--yes", "--quiet")
        if finished.code:
            diagnostics.warning("msb.failed", problem=finished.problem)
            self.refused[""] = finished.problem

    def _keeps_some(self) -> bool:
        if self._chooses:
            return True
        with self._ledger.statement() as connection:
            return connection is not None and bool(
                images.pins(connection) or images.holds_beside_msb(connection)
            )

    def remove(self, plan: Plan, report: Report) -> None:
        """Have msb delete a plan's images, those that nothing has come to need."""
        names = [*plan.references]
        shown = {each.subject: each for each in plan.going}
        flags = ["--force"] if self._force else []
        for start in range(0, len(names), _CHUNK):
            end_if_asked()
            # msb's records are looked at anew for each few: what is between that and what msb does is short.
            if sync(self._ledger).events:
                self.theirs = None
            chunk = [
                name
                for name in names[start : start + _CHUNK]
                if self._still_goes(name, plan.references[name], shown.get(name))
            ]
            reached("msb.asking")
            if chunk:
                finished = self._run("remove", *flags, "--", *chunk)
                for name, said in zip(chunk, per_argument(finished, chunk, "Removed"), strict=True):
                    if said is not None:
                        self.refused[name] = said
            report(Progress(min(start + _CHUNK, len(names)), len(names)))

    def _still_goes(self, name: str, digest: str, shown: Verdict | None) -> bool:
        """Whether an image points where it pointed when it was decided on, and nothing needs it by now."""
        with self._ledger.read() as connection:
            row = None if connection is None else images.handle(connection, name)
            if connection is None or row is None or row.manifest_digest != digest:
                return False
            if self._force:
                # msb keeps what it knows to be held without its references, and nothing else.
                return not images.kept_beside_msb(connection, digest)
            in_use = row.in_use_since is not None or bool(images.holders(connection, digest))
            if in_use or images.is_pinned(connection, row.reference, digest):
                return False
        idle_since = max(row.last_used_at, row.idle_since or 0)
        return not (self._chooses and shown is not None and used_since(shown, idle_since))

    def _run(self, *arguments: str) -> Finished:
        """Have msb do it, and record what it did."""
        self.theirs = None
        self._reader.close()  # nothing of ours is open in msb's database while it writes
        while True:
            more = reserve.make_room(self._ledger.layout, _ROOM_OF_MSB)
            finished = self._program.run("image", *arguments, inherits=self._inherits)
            # Another process may have taken what came free; without more to give, that is how it ended.
            if not finished.code or not more:
                break
        reached("msb.ran")
        self.theirs = sync_and_read(self._ledger, acting=self._acting)
        return finished

    def _state(self) -> MsbState:
        # Not that of the decision: msb's own prune would take what came since.
        return self.theirs or self._reader.read()


def _prunable(state: MsbState) -> tuple[set[str], set[str]]:
    """Return the images and the manifests that msb's own prune would delete."""
    held = {digest for digest, _ in state.holds}
    references = {name for name, image in state.images.items() if image.manifest_digest not in held}
    return references, state.manifests.keys() - held


def recover(ledger: Ledger, operation: str) -> None:
    """Conclude a deletion whose process is gone; the caller holds its lock."""
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        pending = deletions.pending(connection, ledger.store(connection), operation)
    own = [artifact for artifact in pending if artifact.own]
    with ledger.drawing_on_reserve(len(pending)):
        if ledger.owned_by_msb:
            _collect(ledger, operation, own, recovering=True)
            _collect_flat(ledger, operation, pending, recovering=True)
        conclude(ledger, operation, recovering=True)


def conclude(
    ledger: Ledger,
    operation: str,
    refused: Mapping[str, str] | None = None,
    *,
    theirs: MsbState | None = None,
    recovering: bool = False,
) -> None:
    """Say what became of everything that a deletion has asked msb for, and finish it. Deletes nothing.

    Args:
        ledger: the home.
        operation: the operation, whose lock the caller holds.
        refused: what msb said, by image; under an empty name of the run as a whole.
        theirs: what msb's database said when msb had ended, if that is recorded; None: that is done first.
        recovering: the process that asked is gone.
    """
    if theirs is None:
        theirs = sync_and_read(ledger, acting=None if recovering else OwnAction(operation))
    reached("msb.concluding")
    with ledger.write(operation, owner="any") as transaction:
        connection = transaction.connection
        pending = deletions.pending(connection, ledger.store(connection), operation)
        (row,) = deletions.find(connection, operation)
        outcomes = []
        for artifact in pending:
            event = _outcome(ledger.layout, transaction, artifact, theirs, refused or {}, recovering)
            outcomes.append(NewEvent(event, artifact.subject))
        whole = not (row.kept or row.failed) and all(_is_done(outcome.event) for outcome in outcomes)
        finished = ev.DeletionFinished(outcome="completed" if whole else "partial", recovered=recovering)
        transaction.append([*outcomes, NewEvent(finished, operation)])
    reached("msb.finished")
    diagnostics.info("deletion.finished", operation=operation, outcome=finished.outcome)


def _is_done(outcome: ev.Event) -> bool:
    """Whether an outcome is what was planned."""
    return isinstance(outcome, ev.ArtifactDeleted) or (
        isinstance(outcome, ev.ArtifactKept) and outcome.reason == "spelled"
    )


def _outcome(
    layout: Layout,
    transaction: Transaction,
    artifact: ev.PlannedArtifact,
    theirs: MsbState | None,
    refused: Mapping[str, str],
    recovering: bool,
) -> ev.Event:
    kind, subject, connection = artifact.kind, artifact.subject, transaction.connection
    if kind == "metadata":
        # What an earlier release planned names no spellings: all of them were meant.
        left = images.spellings(connection, subject)
        for row in left:
            if not artifact.spellings or row.name in artifact.spellings:
                return _refusal(row, theirs, refused.get(row.name, refused.get("")))
        if left:
            return ev.ArtifactKept(kind=kind, reason="spelled")
    elif kind != "flat" and images.needs(connection, needed_by(kind), subject):
        return ev.ArtifactKept(kind=kind, reason="needed")
    if kind == "manifest":
        return ev.ManifestDeleted(recovered=True)  # gone before this deletion could say so
    if files.exists(layout.artifact(kind, subject)):
        return ev.ArtifactKept(kind=kind, reason="left")
    return deleted(artifact, artifact.bytes, recovered=recovering)


def _refusal(row: images.HandleRow, theirs: MsbState | None, said: str | None) -> ev.Event:
    """Say why an image is still there: msb knows a holder, or what it said."""
    image = None if theirs is None else theirs.images.get(row.name)
    digest = row.manifest_digest if image is None else image.manifest_digest
    holders = sorted({holder for held, holder in (theirs.holds if theirs else ()) if held == digest})
    if not holders and said is not None and _STORAGE_OPERATION in said:
        return ev.ArtifactKept(kind="metadata", reason="busy")
    if holders or said is None:
        return ev.ArtifactKept(
            kind="metadata", reason="held" if holders else "needed", holders=tuple(holders)
        )
    return ev.ArtifactDeleteFailed(kind="metadata", errno=0, reason=said)


# -- files that no record names ---------------------------------------------------------------------------


def can_judge(theirs: MsbState) -> bool:
    """Return whether what msb needs can be told; else any layer could be that of a manifest that is held."""
    return theirs.complete and all(digest in theirs.manifests for digest, _ in theirs.holds)


class Named:
    """Says of files whether they are needed: what neither index names is not, but for metadata in use.

    Of an image whose reference was dropped while a sandbox has it, msb keeps the metadata without a record.
    """

    def __init__(self, named: NamedFiles, theirs: MsbState) -> None:
        self._files = named
        self._held = {digest for digest, _ in theirs.holds}

    @classmethod
    def by(cls, layout: Layout, state: IndexState, theirs: MsbState) -> Named | None:
        """Return what our index and msb's name; None: a sandbox may need what has no record here."""
        if not can_judge(theirs):
            return None
        layers = state.named_layers()
        layers.update(layer.diff_id for manifest in theirs.manifests.values() for layer in manifest.layers)
        references = {*state.canonical(), *(image.reference for image in theirs.images.values())}
        found = NamedFiles(layout, references, {*state.manifests, *theirs.manifests}, layers)
        return cls(found, theirs)

    def __call__(self, kind: str, subject: str, path: Path) -> bool:
        """Return whether an artifact, and the file of it that lies there, is needed."""
        if self._files.has(kind, known_as(path, kind, subject)):
            return True
        if kind != "metadata" or not self._held:
            return False
        try:
            return metadata.decode(path).manifest_digest in self._held
        except CorruptArtifactError:
            return False


def orphans(layout: Layout, state: IndexState) -> Orphans:
    """Return the files that neither index names; unjudged, those that ours does not, if msb's cannot tell."""
    named = None
    with suppress(MsbDatabaseError):
        named = Named.by(layout, state, database.read(layout.msb_database))
    if named is not None:
        return Orphans([found for found in layout.files() if not named(*found)])
    own = NamedFiles.of(layout, state)
    return Orphans([found for found in layout.files() if not own.has(found[0], found[1])], judged=False)


def left_over(layout: Layout, connection: sqlite3.Connection) -> list[Leftover]:
    """Return what earlier deletions had to leave and neither index names; none where that cannot be told."""
    found = leftovers.on_disk(layout, connection)
    named = None
    if found:
        with suppress(MsbDatabaseError):
            named = Named.by(layout, load_observed(connection), database.read(layout.msb_database))
    return [] if named is None else _unnamed(found, named)


def _unnamed(found: Sequence[Leftover], named: Named) -> list[Leftover]:
    return [each for each in found if not named(each.kind, each.subject, each.path)]


def _is_as_it_was_left(leftover: Leftover) -> bool:
    """Whether no process has the file, and none has put it there anew since it was left."""
    try:
        status = leftover.path.lstat()
    except FileNotFoundError:
        return False
    if not all(map(is_free, _locks(leftover.path))):
        return False
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return changed < leftover.since or status.st_mtime < time.time() - ORPHAN_SECONDS


def _collectable(layout: Layout, named: Named) -> Iterator[tuple[Path, ev.PlannedArtifact]]:
    """Yield files that are not needed, that no process has locked, and that are an hour old."""
    limit = time.time() - ORPHAN_SECONDS
    for kind, subject, path in layout.files():
        if named(kind, subject, path) or not all(map(is_free, _locks(path))):
            continue
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if status.st_mtime < limit:
            size = files.measure_artifact(kind, path)
            yield path, ev.PlannedArtifact(kind=kind, subject=subject, bytes=size)


def _locks(path: Path) -> tuple[Path, Path]:
    """Return the locks that msb takes for an artifact: a sandbox's lease, and its writer's lock."""
    return lease_path(path), lock_path(path)


def _collect(
    ledger: Ledger, operation: str, decided: Sequence[ev.PlannedArtifact], *, recovering: bool = False
) -> None:
    """Delete files that still no record names, while no sandbox can come to use them.

    With ``recovering`` another process has decided, and one that is absent was deleted by it.
    """
    others = [artifact for artifact in decided if artifact.kind not in (*FLAT, "manifest")]
    for start in range(0, len(others), _MANY_FILES):
        end_if_asked()
        _collect_some(ledger, operation, others[start : start + _MANY_FILES], recovering)
        reached("msb.collected")
    _collect_flat(ledger, operation, decided, recovering=recovering)


def _collect_flat(
    ledger: Ledger, operation: str, wanted: Sequence[ev.PlannedArtifact], *, recovering: bool = False
) -> None:
    """Delete the flat roots among artifacts whose images are gone."""
    for outcomes in flat_roots.delete(ledger, wanted, lambda: _judge(ledger), recovering=recovering):
        with ledger.write(operation, owner="msb") as transaction:
            transaction.append(outcomes)


def _judge(ledger: Ledger) -> flat_roots.Judge:
    theirs = sync_and_read(ledger)
    with ledger.read() as connection:
        state = EMPTY if connection is None else load_observed(connection)
    judged = theirs is not None and Named.by(ledger.layout, state, theirs) is not None

    def judge(digest: str | None) -> Literal["needed", "left"] | None:
        if digest in state.manifests or (theirs is not None and digest in theirs.manifests):
            return "needed"
        return None if judged else "left"

    return judge


def _collect_some(
    ledger: Ledger, operation: str, wanted: Sequence[ev.PlannedArtifact], recovering: bool
) -> None:
    layout = ledger.layout
    outcomes: list[NewEvent] = []
    changes = Changes()
    with ExitStack() as held:
        locked = []
        for artifact in wanted:
            if _lock(layout.artifact(artifact.kind, artifact.subject), held):
                locked.append(artifact)
            else:
                outcomes.append(
                    NewEvent(ev.ArtifactKept(kind=artifact.kind, reason="busy"), artifact.subject)
                )
        theirs = sync_and_read(ledger)
        with ledger.read() as connection:
            state = EMPTY if connection is None else load_observed(connection)
        named = None if theirs is None else Named.by(layout, state, theirs)
        for artifact in locked:
            event: ev.Event
            path = layout.artifact(artifact.kind, artifact.subject)
            if named is None or named(artifact.kind, artifact.subject, path):
                event = ev.ArtifactKept(kind=artifact.kind, reason="needed")
            else:
                event = _unlink(layout, artifact, changes, recovering)
            outcomes.append(NewEvent(event, artifact.subject))
    changes.sync()
    with ledger.write(operation, owner="msb") as transaction:
        transaction.append(outcomes)


def _lock(path: Path, held: ExitStack) -> bool:
    """Take an artifact's locks, as msb does before it deletes; they are given up when ``held`` ends."""
    for lock_file in _locks(path):
        if lock_file.parent.is_dir():
            lock = held.enter_context(Lock(lock_file))
            if not lock.acquire():
                return False
    return True


def _unlink(layout: Layout, artifact: ev.PlannedArtifact, changes: Changes, recovering: bool) -> ev.Event:
    try:
        size = changes.delete(layout.artifact(artifact.kind, artifact.subject))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return ev.ArtifactDeleteFailed(kind=artifact.kind, errno=error.errno or 0, reason=reason)
    if recovering and size is None:
        return deleted(artifact, artifact.bytes, recovered=True)
    return deleted(artifact, size)
