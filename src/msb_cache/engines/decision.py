"""What both engines decide and record of a deletion in the same words: preview, decision, outcomes.

Not what goes (``retention.plan``), and not how it goes (``own.delete``, ``msb.delete``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace as with_fields

from msb_cache.artifacts import files
from msb_cache.artifacts.kinds import FLAT, KINDS, belonging_to, needing
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.engines.leftovers import Leftover
from msb_cache.errors import BusyError, LogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.parts import in_parts
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.oci.reference import as_typed
from msb_cache.projections import restored
from msb_cache.projections.state import EMPTY, ImageFacts, IndexState
from msb_cache.retention.plan import UNUSED, Plan, Verdict, never_goes
from msb_cache.retention.room import Considered, Files, Room
from msb_cache.shapes import Result, Time

if TYPE_CHECKING:
    from msb_cache.activity import Unit


@dataclass(frozen=True)
class Planner:
    """Makes the plan of a deletion.

    Attributes:
        plan: makes it from the index, with what files take; a plan that was shown before restricts it.
        facts: whether it asks how long images were idle, and so on.
        labels: whether it asks for images' labels.
        chooses: whether rules choose what goes, so that nothing may go that came since.
        policy: what was asked for, as ``recorded`` says it.
    """

    plan: Callable[[IndexState, Plan | None, Files], Plan]
    facts: bool = False
    labels: bool = False
    chooses: bool = False
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, state: IndexState, shown: Plan | None, files: Files) -> Plan:
        """Return the plan."""
        return self.plan(state, shown, files)


def _no_image(state: IndexState, shown: Plan | None, files: Files) -> Plan:
    return Plan(naming=state.naming)


NO_IMAGE = Planner(_no_image)
"""Takes no image: the deletion takes up files that no image needs, and those alone."""


class Progress(NamedTuple):
    """How far a deletion is: how many of its artifacts are done with, of how many.

    In a home that msb keeps, images are counted. ``stopped``: a person has stopped it there.
    """

    done: int
    total: int
    stopped: bool = False


DeletionProgress = Progress
"""Its public name: beside what a pull says of its progress."""


class DeletionCut(KeyboardInterrupt):
    """A deletion that a person or a signal ended: what went is recorded.

    Attributes:
        operation: its id. In a home of ours the next command that writes deletes the rest.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


Report = Callable[[Progress], None]
"""Called as a deletion goes on, in its thread."""

MEASURING, DECIDING = "measuring what would go", "recording the decision"
"""What goes on before anything is deleted, as ``Ledger.doing`` tells it."""


@contextmanager
def reporting(ledger: Ledger, report: Report | None, unit: Unit, total: int) -> Iterator[Report]:
    """Return what is told how far a deletion is: ``report``, or else what is told of all that takes long."""
    if report is not None:
        yield report
        return
    with ledger.doing("deleting", unit, total) as count:
        yield lambda progress: count(progress.done, progress.total)


Confirm = Callable[["Preview"], bool]
"""Asked with what was found, before anything is decided; false ends the deletion."""

_PRUNE_WAIT = 10.0  # seconds: a single removal is over long before
_HOLDERS = 20  # names kept of those that hold one image; of the others the number


class ImageVerdict(Result, Struct, frozen=True, kw_only=True):
    """An image, or a manifest without a reference, that a deletion considers: whether it goes, and why.

    Attributes:
        reference: canonical; None: it is a manifest without one.
        spelling: how that was typed; None: in its familiar form.
        manifest_digest: where it points, or which manifest it is.
        goes: whether it would go.
        rule: the rule that decides; see docs/retention.md.
        by: who holds it, runs from it or pinned it, or what refers to it or shares with it.
        idle_ns: for how long it was idle, in ns; None: it is in use.
        age_ns: for how long it has been what it is, in ns.
        rank: its place among the manifests of its repository, where that was asked, the most recent being 1.
        until_ns: when its pin ends, in ns since the epoch, UTC.
        size_bytes: what all its files take of the disk.
        freed_bytes: what of that comes free; 0 for what stays.
        policy_rule: the name of the policy file's rule that decides.
        policy: the rules that it was asked of, as ``recorded`` says them.
    """

    reference: str | None
    spelling: str | None
    manifest_digest: str
    goes: bool
    rule: str
    by: tuple[str, ...]
    idle_ns: int | None
    age_ns: int
    rank: int | None
    until_ns: int | None
    size_bytes: int
    freed_bytes: int
    policy_rule: str | None = None
    policy: Mapping[str, Any] = {}

    @property
    def because(self) -> str:
        """Why it goes or stays, in words; times in RFC 3339, UTC."""
        from msb_cache.retention.because import because_of, shown_repository

        more = max(0, len(self.by) - _HOLDERS)
        repository = shown_repository(self.reference)
        by = self.by[:_HOLDERS]
        return because_of(self, self.policy, goes=self.goes, by=by, more=more, repository=repository)

    def _shape(self) -> dict[str, Any]:
        return {
            "reference": None if self.reference is None else as_typed(self.reference, self.spelling),
            "digest": self.manifest_digest,
            "deletes": self.goes,
            "rule": self.rule,
            "policy_rule": self.policy_rule,
            "because": self.because,
            "by": self.by,
            "idle_ns": self.idle_ns,
            "age_ns": self.age_ns,
            "rank": self.rank,
            "until": Time.or_none(self.until_ns),
            "size_bytes": self.size_bytes,
            "freed_bytes": self.freed_bytes,
        }


@dataclass(frozen=True)
class Preview(Result):
    """What a deletion would do now: the plan, and each artifact with its measured size in bytes.

    ``leftovers`` are those of the artifacts that earlier deletions had to leave. ``state`` is the index that
    the plan was made of, and ``files`` what files took then. ``policy`` is what was asked for, as
    ``recorded`` says it; empty for a removal.
    """

    plan: Plan
    artifacts: tuple[ev.PlannedArtifact, ...]
    files: MeasuredFiles
    leftovers: tuple[Leftover, ...] = ()
    state: IndexState = EMPTY
    policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        """The sum of the known sizes, None when none is known; without flat roots, as msb counts."""
        known = [
            artifact.bytes
            for artifact in self.artifacts
            if artifact.bytes is not None and artifact.kind not in FLAT
        ]
        return sum(known) if known else None

    @property
    def flat_bytes(self) -> int:
        """What the flat roots that would go take of the disk."""
        return sum(artifact.bytes or 0 for artifact in self.artifacts if artifact.kind == "flat")

    @property
    def freed_bytes(self) -> int:
        """What of the disk comes free: blocks, and none of a file that has another name."""
        return freed_by(self.files, self.artifacts)

    @property
    def going(self) -> list[str]:
        """The images that would go, by name, and by digest the manifests that no reference points at."""
        without = (digest for digest in self.plan.manifests if digest in self.state.unreferenced)
        return [*self.plan.references, *without]

    @property
    def orphans(self) -> int:
        """How many files would go that no image names."""
        return len(self.orphaned())

    def orphaned(self) -> set[tuple[str, str]]:
        """Return the kind and subject of each file that would go and no image names."""
        named = names(self.plan)
        found: set[tuple[str, str]] = {(artifact.kind, artifact.subject) for artifact in self.artifacts}
        roots = [artifact for artifact in self.artifacts if artifact.kind == "flat"]
        return found - named - {("flat", root.subject) for root in roots if goes_with(root) in named}

    def images(self) -> list[ImageVerdict]:
        """Return every image that was considered: what stays, then what goes, the longest idle last.

        What comes free by an image that goes is counted after those before it: a layer that several have,
        with the last of them. So the sum of all is what comes free by images.
        """
        plan, state, room = self.plan, self.state, Room(self.state, self.files)
        going = plan.going or [Verdict(subject, UNUSED) for subject in self.going]
        found = []
        for goes, verdicts in ((False, plan.kept), (True, going)):
            some = []
            for verdict in verdicts:
                digest = state.references.get(verdict.subject, verdict.subject)
                facts = verdict.facts or state.facts.get(verdict.subject) or ImageFacts(None, state.now_ns, 0)
                some.append((verdict, Considered(verdict.subject, digest, facts)))
            some.sort(key=lambda each: (-(each[1].facts.idle_since or state.now_ns), each[1].subject))
            for verdict, each in some:
                freed = room.take(each) if goes else 0
                shown = _image_verdict(state, verdict, each, goes, room.size(each), freed)
                found.append(with_fields(shown, policy=self.policy))
        return found

    def count(self, kind: str) -> int:
        """Return how many artifacts of a kind would go."""
        return sum(artifact.kind == kind for artifact in self.artifacts)

    def _shape(self) -> dict[str, Any]:
        plan, name = self.plan, self.plan.naming
        return {
            "dry_run": True,
            "policy": self.policy,
            "considered": self.images(),
            "images": [
                {"reference": as_typed(each, name.spelling(each)), "digest": digest}
                for each, digest in plan.references.items()
            ],
            "manifests": plan.manifests,
            "layers": plan.layers,
            "artifacts": [
                {
                    "kind": artifact.kind,
                    "subject": artifact.subject,
                    "bytes": artifact.bytes,
                    "manifest_digest": artifact.manifest_digest,
                }
                for artifact in self.artifacts
            ],
            "leftovers": self.leftovers,
            "kept": [
                {
                    "subject": name.reference(kept.subject),
                    "spelling": name.spelling(kept.subject),
                    "rule": kept.rule,
                    "by": kept.by,
                }
                for kept in plan.kept
            ],
            "bytes_reclaimable": self.bytes,
            "flat_bytes_reclaimable": self.flat_bytes,
            "bytes_freed": self.freed_bytes,
            "bytes_missing": plan.shortfall,
        }


def _image_verdict(
    state: IndexState, verdict: Verdict, each: Considered, goes: bool, size: int, freed: int
) -> ImageVerdict:
    idle, named = each.facts.idle_since, each.subject in state.references
    return ImageVerdict(
        reference=state.naming.reference(each.subject) if named else None,
        spelling=state.naming.spelling(each.subject),
        manifest_digest=each.digest,
        goes=goes,
        rule=verdict.rule,
        by=verdict.by,
        idle_ns=None if idle is None or each.digest in state.running else max(0, state.now_ns - idle),
        age_ns=max(0, state.now_ns - each.facts.since),
        rank=verdict.rank,
        until_ns=verdict.until_ns,
        size_bytes=size,
        freed_bytes=freed,
        policy_rule=verdict.policy_rule,
    )


def changes(shown: Preview) -> int:
    """Return how many events a deletion of what was shown appends in one transaction, at most."""
    return len(shown.artifacts) + 2 * len(shown.plan.references)


def freed_by(files: MeasuredFiles, artifacts: Sequence[ev.PlannedArtifact]) -> int:
    """Return what of the disk comes free when these artifacts go, in bytes."""
    return sum(files.freed(each.kind, each.subject) for each in artifacts if each.kind in KINDS)


def names(plan: Plan) -> set[tuple[str, str]]:
    """Return the kind and subject of everything that a plan deletes."""
    reference = plan.naming.reference
    found: set[tuple[str, str]] = {("metadata", reference(name)) for name in plan.references}
    of_manifest = ("manifest", *belonging_to("manifest"))
    found |= {(kind, digest) for digest in plan.manifests for kind in of_manifest}
    return found | {("layer", diff_id) for diff_id in plan.layers}


def goes_with(artifact: ev.PlannedArtifact) -> tuple[str, str]:
    """Return the kind and subject of what a plan names an artifact by: of a flat root, its ref."""
    if artifact.kind == "flat" and artifact.manifest_digest is not None:
        return "flat_ref", artifact.manifest_digest
    return artifact.kind, artifact.subject


def judged(plan: Plan, verdicts: Sequence[Verdict]) -> list[ev.Judged]:
    """Return what the log says of the images that a plan keeps, or takes."""
    return [
        ev.Judged(
            subject=plan.naming.reference(each.subject),
            spelling=plan.naming.spelling(each.subject),
            rule=each.rule,
            holders=each.by[:_HOLDERS],
            more=max(0, len(each.by) - _HOLDERS),
            idle_ns=each.idle_ns,
            age_ns=each.age_ns,
            rank=each.rank,
            until_ns=each.until_ns,
            policy_rule=each.policy_rule,
        )
        for each in verdicts
    ]


def started(
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    artifacts: Sequence[ev.PlannedArtifact],
    plan: Plan,
    engine: ev.Engine = "msb-cache",
) -> list[ev.DeletionStarted]:
    """Return the decision as one event, or as parts that each fit into one."""
    lists: dict[str, Sequence[ev.PlannedArtifact | ev.Judged]] = {
        "artifacts": artifacts,
        "kept": judged(plan, plan.kept),
        "going": judged(plan, plan.going),
    }
    parts = in_parts(lists)
    return [
        ev.DeletionStarted(
            kind=kind,
            policy=policy,
            **part,  # type: ignore[arg-type]
            part=number,
            parts=len(parts),
            engine=engine,
        )
        for number, part in enumerate(parts, start=1)
    ]


def planned(layout: Layout, plan: Plan, measured: MeasuredFiles) -> Iterator[ev.PlannedArtifact]:
    """Yield what a plan deletes, in the order in which it goes: what refers before what is referred to."""
    for reference in plan.metadata:
        yield from _file("metadata", reference, measured)
    of_manifest = needing("manifest")[::-1]
    flat = layout.sizes("flat_ref")  # of the few that there are
    for digest in plan.manifests:
        yield ev.PlannedArtifact(kind="manifest", subject=digest)
        if digest in flat:
            yield ev.PlannedArtifact(kind="flat_ref", subject=digest, bytes=flat[digest])
        for kind in of_manifest:
            yield from _file(kind, digest, measured)
    for diff_id in plan.layers:
        # Named even when its file is missing: naming it takes its record out of the index.
        size = measured.length("layer", diff_id)
        manifests = plan.sharing_counts.get(diff_id, 1)
        yield ev.PlannedArtifact(kind="layer", subject=diff_id, bytes=size, manifests=manifests)


def _file(kind: ev.ArtifactKind, subject: str, measured: MeasuredFiles) -> Iterator[ev.PlannedArtifact]:
    size = measured.length(kind, subject)
    if size is not None:
        yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=size)


def out_of_index(
    plan: Plan, state: IndexState, kind: ev.DeletionKind, only: Collection[str] | None = None
) -> list[NewEvent]:
    """Return the events that take what a plan deletes out of the index: images, then manifests.

    Args:
        plan: what goes.
        state: the index that it was made of.
        kind: why it goes.
        only: of these names and digests; None: of all.
    """
    events = []
    for name, digest in plan.references.items():
        if only is None or name in only:
            removed = ev.ImageRemoved(
                manifest_digest=digest,
                spelling=plan.naming.spelling(name),
                cause=kind,
                forced=kind == "remove" and never_goes(state, name, digest) is not None,
            )
            events.append(NewEvent(removed, plan.naming.reference(name)))
    events += [
        NewEvent(ev.ManifestDeleted(), digest) for digest in plan.manifests if only is None or digest in only
    ]
    return events


def deleted(artifact: ev.PlannedArtifact, size: int | None, *, recovered: bool = False) -> ev.ArtifactDeleted:
    """Return the event that says that a planned artifact is gone."""
    if artifact.kind == "layer":
        return ev.LayerDeleted(bytes=size, recovered=recovered, manifests=artifact.manifests)
    if artifact.kind == "flat":
        return ev.FlatDeleted(bytes=size, recovered=recovered, manifest_digest=artifact.manifest_digest)
    return ev.OUTCOMES[artifact.kind](bytes=size, recovered=recovered)


def check_confirmed(connection: sqlite3.Connection | None) -> None:
    """Refuse to collect files that an index does not name because its log was put back to a backup.

    Raises:
        LogError: no person has confirmed the restore yet.
    """
    if connection is not None and restored.unconfirmed(connection) is not None:
        raise LogError(
            "the log was put back to a backup, so images that came after it look like orphans: look at them "
            "with `msb-cache verify`, load or pull again what you need, then run "
            "`msb-cache restore-backup --confirm`"
        )


@contextmanager
def one_at_a_time(ledger: Ledger) -> Iterator[Operation]:
    """Begin a deletion's operation while no other deletion runs in this home; raises BusyError."""
    layout = ledger.layout

    def waiting() -> None:
        ledger.note(f"waiting for another deletion to end (operation {_running(layout)})")

    with Operation(layout) as operation, Lock(layout.prune_lock) as lock:
        if not lock.acquire(wait=_PRUNE_WAIT, say=waiting):
            raise BusyError(
                f"another deletion runs in {layout.home} (operation {_running(layout)}); try again later"
            )
        with files.ignoring_full_disk():  # it is for people who wait
            lock.write(operation.id)
        yield operation
        lock.write("")


def _running(layout: Layout) -> str:
    return layout.prune_lock.read_text(errors="replace")[:36] or "unknown"
