"""Delete flat roots: what goes with which manifest, and how it goes while no process makes or uses it.

msb makes flat roots and never deletes one, so both engines do it here. A ref goes before the blob that it
names, and a blob only when no ref names it any more. Nothing is waited for: what another process has locked
is kept.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from msb_cache.artifacts import files
from msb_cache.artifacts.durable import Changes
from msb_cache.artifacts.flat import FlatRefs, locks
from msb_cache.artifacts.kinds import FLAT
from msb_cache.artifacts.layout import Layout, lease_path
from msb_cache.artifacts.locks import HeldLocks, is_free
from msb_cache.engines.decision import deleted
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.ledger import Ledger
from msb_cache.waiting import end_if_asked

Reason = Literal["needed", "owned", "busy", "left"]
Judge = Callable[[str | None], Reason | None]
"""Says why the flat ref of a manifest must stay, or (None) a blob that no ref names; asked under locks."""

AT_ONCE = 200
"""So many are locked together, and recorded together."""


def completed(layout: Layout, artifacts: Sequence[ev.PlannedArtifact]) -> list[ev.PlannedArtifact]:
    """Return what a deletion is about to delete with the blobs that only its refs name, at the end.

    A blob that a staying ref names stays, and one that no ref names while there are refs that cannot be read.
    """
    found = [artifact for artifact in artifacts if artifact.kind != "flat"]
    going = {artifact.subject for artifact in artifacts if artifact.kind == "flat_ref"}
    blobs = {artifact.subject for artifact in artifacts if artifact.kind == "flat"}
    if not going and not blobs:
        return found
    refs = FlatRefs(layout)
    blobs |= {refs.by_manifest[digest].artifact_digest for digest in going if digest in refs.by_manifest}
    for blob in sorted(blobs):
        named = refs.naming(blob)
        size = files.measure_artifact("flat", layout.artifact("flat", blob))
        if size is not None and named <= going and (named or refs.unreadable <= going):
            of = min(named, default=None)
            found.append(ev.PlannedArtifact(kind="flat", subject=blob, bytes=size, manifest_digest=of))
    return found


def in_use(layout: Layout, artifacts: Iterable[ev.PlannedArtifact]) -> set[tuple[str, str]]:
    """Return the kind and subject of each flat artifact whose locks another process has now."""
    wanted = [artifact for artifact in artifacts if artifact.kind in FLAT]
    if not wanted:
        return set()
    refs = FlatRefs(layout)
    return {
        (artifact.kind, artifact.subject)
        for artifact in wanted
        if not all(map(is_free, locks(layout, refs, _manifests(artifact, refs), ())))
    }


def _manifests(artifact: ev.PlannedArtifact, refs: FlatRefs) -> set[str]:
    if artifact.kind == "flat_ref":
        return {artifact.subject}
    of = artifact.manifest_digest
    return refs.naming(artifact.subject) | (set() if of is None else {of})


def delete(
    ledger: Ledger,
    artifacts: Sequence[ev.PlannedArtifact],
    judge: Callable[[], Judge],
    *,
    recovering: bool = False,
) -> Iterator[list[NewEvent]]:
    """Delete the flat refs and flat roots among a deletion's artifacts; yield what became of some at a time.

    Args:
        ledger: the home.
        artifacts: what was decided; other kinds are passed over.
        judge: called with the locks held: asks what must stay.
        recovering: another process decided; what is absent was deleted by it.
    """
    flat = [artifact for artifact in artifacts if artifact.kind in FLAT]
    of_manifest: defaultdict[str, list[ev.PlannedArtifact]] = defaultdict(list)
    for artifact in flat:
        of_manifest[artifact.manifest_digest or artifact.subject].append(artifact)
    batches: list[list[ev.PlannedArtifact]] = []
    for together in of_manifest.values():
        if not batches or len(batches[-1]) + len(together) > AT_ONCE:
            batches.append([])
        batches[-1] += together
    for batch in batches:
        end_if_asked()
        yield _delete(ledger, batch, judge, recovering)


def _delete(
    ledger: Ledger, batch: Sequence[ev.PlannedArtifact], judge: Callable[[], Judge], recovering: bool
) -> list[NewEvent]:
    layout, outcomes, changes = ledger.layout, [], Changes()
    before = FlatRefs(layout)
    manifests = {digest for artifact in batch for digest in _manifests(artifact, before)}
    layers = _layers(ledger, manifests)
    left: set[str] = set()
    """The manifests whose refs stay although no image needs them."""

    def settle(artifact: ev.PlannedArtifact, event: ev.Event) -> None:
        outcomes.append(NewEvent(event, artifact.subject))
        needed = isinstance(event, ev.ArtifactKept) and event.reason == "needed"
        if artifact.kind == "flat_ref" and not needed and not isinstance(event, ev.ArtifactDeleted):
            left.add(artifact.subject)

    with HeldLocks(_never if ledger.owned_by_msb else _of_nothing) as held:
        locked = []
        for artifact in batch:
            of = _manifests(artifact, before)
            diff_ids = [diff_id for digest in of for diff_id in layers[digest]]
            try:
                if held.take(locks(layout, before, of, diff_ids)):
                    locked.append(artifact)
                else:
                    settle(artifact, ev.ArtifactKept(kind=artifact.kind, reason="busy"))
            except OSError as error:
                settle(artifact, _failed(artifact, error))
        asked = judge()
        refs = FlatRefs(layout, before)
        for artifact in (each for each in locked if each.kind == "flat_ref"):
            digest = artifact.subject
            if refs.by_manifest.get(digest) != before.by_manifest.get(digest):
                # Another process has made it anew before its locks were held, under other ones.
                settle(artifact, ev.ArtifactKept(kind="flat_ref", reason="busy"))
            elif (reason := asked(digest)) is not None:
                settle(artifact, ev.ArtifactKept(kind="flat_ref", reason=reason))
            else:
                settle(artifact, _unlink(layout, artifact, changes, recovering))
        refs = FlatRefs(layout, refs)
        for artifact in (each for each in locked if each.kind == "flat"):
            named = refs.naming(artifact.subject)
            reason = asked(None)
            if named:
                reason = (reason or "busy") if named <= left else "needed"
            elif artifact.manifest_digest is None and refs.unreadable:
                reason = "needed"
            if reason is not None:
                settle(artifact, ev.ArtifactKept(kind="flat", reason=reason))
            else:
                settle(artifact, _unlink(layout, artifact, changes, recovering))
        changes.sync()
    return outcomes


def _of_nothing(lock: Path) -> bool:
    """Whether a lock file in a home of ours is beside no artifact, and goes with its lock."""
    return not os.path.lexists(lock.with_suffix("")) and lock.parent.name != lease_path(lock).parent.name


def _never(lock: Path) -> bool:
    return False


def _unlink(layout: Layout, artifact: ev.PlannedArtifact, changes: Changes, recovering: bool) -> ev.Event:
    path = layout.artifact(artifact.kind, artifact.subject)
    try:
        size = files.measure_artifact(artifact.kind, path)
        gone = changes.delete(path) is not None
    except OSError as error:
        return _failed(artifact, error)
    reached("delete.unlinked")
    if gone or not recovering:
        return deleted(artifact, size)
    return deleted(artifact, artifact.bytes, recovered=True)


def _failed(artifact: ev.PlannedArtifact, error: OSError) -> ev.Event:
    reason = error.strerror or type(error).__name__
    return ev.ArtifactDeleteFailed(kind=artifact.kind, errno=error.errno or 0, reason=reason)


def _layers(ledger: Ledger, manifests: Collection[str]) -> defaultdict[str, set[str]]:
    """Return the layers that manifests had; the index may no longer know, the log does."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        added = ledger.store(connection).read(subjects=manifests, types=[ev.ManifestAdded.type])
        for event in added if manifests else ():
            if isinstance(event.data, ev.ManifestAdded):
                found[event.subject].update(layer.diff_id for layer in event.data.layers)
    return found
