"""Whether msb and msb-cache say the same of a home, after each thing that either does to it.

What msb says is read from its own JSON, and from its database and the disk as ``reading`` reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msb_cache import ImageCache, ImagePruneReport, SyncReport
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from msb_cache.oci.reference import Reference
from tests.peers.reading import Reading, read
from tests.peers.realmsb import Msb

OURS = "sandbox:our-"
"""How holders begin that only msb-cache knows."""

UNKNOWN = -1


class Agreement:
    """Compares a home with what it was at the last comparison.

    Attributes:
        seen: the home at the last comparison.
        held: by us, holders and the digests that they hold.
        used: by us, or booted from, msb's records of references, and when in ns since the epoch.
        idle: since when no sandbox runs from each such record's image, or holds it; None: none did.
    """

    def __init__(self, real: Msb, cache: ImageCache) -> None:
        self.real, self.cache = real, cache
        self.seen = read(real.home)
        self.held: dict[str, str] = {}
        self.used: dict[int, int] = {}
        self.idle: dict[int, int | None] = {}
        self._seq = 0

    def compare(self, report: ImagePruneReport | None = None) -> None:
        """Both say the same now, and the log has what happened since the last time.

        Args:
            report: of the one removal or prune of ours since then.
        """
        before, now = self.seen, read(self.real.home)
        self.seen = now
        self._boots(before, now)
        self._images(now)
        self._runs(now)
        self._holds(now)
        self._layers(now)
        self._events(before, now)
        assert self.cache.sync(force=True) == SyncReport()
        if report is not None:
            assert counters(report) == counted(before, now)
            gone = {root: size for root, size in before.flat_roots.items() if root not in now.flat_roots}
            assert (report.flat_removed, report.flat_bytes_reclaimed) == (len(gone), sum(gone.values()))
            # Of what left the index no flat root stays, unless another manifest has the same.
            assert not (now.flat_refs.keys() & before.manifests.keys()) - now.manifests.keys()

    def look_closely(self) -> None:
        """Nothing that is derived from the log differs from it, and the disk has what the index names."""
        assert self.cache.rebuild() == []
        found = self.cache.verify()
        assert replace(found, disk=[]).sound
        # msb leaves the metadata of a reference that it was forced to remove from an image in use, and what
        # it wrote for one spelling when it removes that, though the file is the others' too.
        allowed = {("leftover", "metadata"), ("other", "metadata")}
        problems = [each for each in found.disk if each.problem != "extra"]
        assert not [each for each in problems if (each.problem, each.kind) not in allowed]

    def _boots(self, before: Reading, now: Reading) -> None:
        """A boot is a use of the reference that its sandbox was made from, if that still points there.

        Its end counts for each reference that pointed to its manifest then: of one that came meanwhile, this
        cannot tell.
        """
        new = [run for run in now.runs.values() if run.row not in before.runs]
        for typed, ref in now.refs.items():
            old = before.refs.get(typed)
            stayed = old is not None and (old.row, old.digest) == (ref.row, ref.digest)
            if not stayed:
                self.idle[ref.row] = None
            for run in new:
                if run.digest != ref.digest:
                    continue
                if run.reference == typed:
                    self.used[ref.row] = max(run.started, self.used.get(ref.row, 0))
                known = self.idle[ref.row]
                sure = stayed and known != UNKNOWN and run.ended is not None
                self.idle[ref.row] = max(run.ended or 0, known or 0) if sure else UNKNOWN

    def _images(self, now: Reading) -> None:
        handles = {handle.reference: handle for handle in self.cache.list()}
        listed = {each["reference"]: each for each in self.real.json("image", "ls")}
        assert {*listed} == {*now.refs}
        released: dict[str, set[int]] = {}
        for event in self.cache.events(types=["image.released"]):
            released.setdefault(event.subject, set()).add(event.occurred_at_ns)
        by_age = sorted(now.refs.values(), key=lambda ref: ref.created, reverse=True)
        assert [*handles] == [ref.typed for ref in by_age]
        for typed, ref in now.refs.items():
            handle, manifest = handles[typed], now.manifests[ref.digest]
            assert (handle.manifest_digest, handle.layer_count) == (ref.digest, len(manifest.layers))
            assert (handle.architecture, handle.os) == (manifest.architecture, manifest.os)
            assert handle.size_bytes == manifest.size == listed[typed]["size_bytes"]
            assert handle.created_at_ns == ref.created
            assert handle.last_used_at_ns == max(ref.updated, self.used.get(ref.row, 0))
            assert (handle.in_use_by, handle.in_use_since) == ((), None)
            idle, known = handle.idle_since_ns, self.idle.get(ref.row)
            if known != UNKNOWN and idle in released.get(ref.digest, ()) and idle > (known or 0):
                self.idle[ref.row] = known = idle  # of when a sandbox was deleted, msb keeps nothing
            assert known in (idle, UNKNOWN)

    def _holds(self, now: Reading) -> None:
        assert {each["name"] for each in self.real.json("ls")} == {*now.sandboxes}
        ours = {(holder, digest) for holder, digest in self.held.items() if digest in now.manifests}
        found = {(hold.holder, hold.manifest_digest) for hold in self.cache.holds()}
        assert {hold for hold in found if not hold[0].startswith(OURS)} == {*now.holds}
        assert ours <= found
        for ref in now.refs.values():
            holders = [*now.holders(ref.digest), *(holder for holder, held in ours if held == ref.digest)]
            assert self.cache.holders(ref.typed) == sorted(holders)

    def _runs(self, now: Reading) -> None:
        """The log has each boot once, with its beginning and its end; and no machine runs now."""
        events = self.cache.events(types=["image.used", "image.use_ended"])
        began = [event for event in events if isinstance(event.data, ev.ImageUsed) and event.data.run]
        used = {event.data.run: event for event in began}  # type: ignore[attr-defined]
        ended = {event.data.run: event for event in events if isinstance(event.data, ev.ImageUseEnded)}
        assert len(used) == len(began)
        assert used.keys() == ended.keys()
        assert self.cache.uses() == []
        for run in now.runs.values():
            if run.digest is None or run.reference is None:
                continue
            found, end = used[f"run:{run.row}@{run.started}"], ended[f"run:{run.row}@{run.started}"]
            assert (found.subject, found.occurred_at_ns) == (canonical(run.reference), run.started)
            assert found.data.holder == f"sandbox:{run.sandbox}"  # type: ignore[attr-defined]
            how = end.data.how  # type: ignore[attr-defined]
            assert how == "vanished" or end.occurred_at_ns == run.ended

    def _layers(self, now: Reading) -> None:
        assert self.cache.info().flat_roots == len(now.flat_roots)
        for ref in now.refs.values():
            detail = self.cache.inspect(ref.typed)
            root, layers = now.flat_refs.get(ref.digest), detail.layers
            flat = None if root is None else (root, now.flat_roots[root])
            assert (detail.flat and (detail.flat.artifact_digest, detail.flat.allocated_bytes)) == flat
            assert tuple(each.diff_id for each in layers) == now.manifests[ref.digest].layers
            for each in layers:
                assert each.erofs_size_bytes == now.files[f"layers/{each.diff_id.replace(':', '_')}.erofs"]

    def _events(self, before: Reading, now: Reading) -> None:
        """The log has what came, moved and went, once each, and nothing else of that."""
        events = self.cache.events(after=self._seq)
        self._seq = max((event.seq for event in events), default=self._seq)
        found, wanted = Counter(filter(None, map(what, events))), Counter(expected(before, now))
        # One that was there is added again when msb keeps it in another form, as after a pull of a load.
        again = {("manifest.added", digest) for digest in before.manifests} - wanted.keys()
        found = Counter({each: count for each, count in found.items() if each not in again})
        assert (found - wanted, wanted - found) == (Counter(), Counter())


COUNTERS = (
    *("image_refs_removed", "manifests_removed", "layers_removed", "fsmeta_removed", "vmdk_removed"),
    "bytes_reclaimed",
)
FLAT = ("flat_ref.deleted", "flat.deleted")
FILES = {"layer.deleted": "layers", "fsmeta.deleted": "fsmeta", "vmdk.deleted": "vmdk"}


def what(event: StoredEvent) -> tuple[Any, ...] | None:
    """Return what an event says that can be read off the home; None if it says nothing of that."""
    data, subject = event.data, event.subject
    if isinstance(data, ev.ImagePulled):
        if not data.changed:
            return None
        return event.type, subject, spelled(event), data.manifest_digest, data.previous_digest
    if isinstance(data, ev.ImageRemoved):
        return event.type, subject, spelled(event), data.manifest_digest
    if isinstance(data, ev.ImageHeld | ev.ImageReleased):
        status = isinstance(data, ev.ImageHeld) and data.row is None  # what became of the sandbox
        return None if status or data.holder.startswith(OURS) else (event.type, subject, data.holder)
    if isinstance(data, ev.ManifestAdded | ev.ManifestDeleted):
        return event.type, subject
    if event.type in FLAT:
        return event.type, subject
    if event.type in FILES:
        return event.type, subject, data.bytes  # type: ignore[attr-defined]
    return None


def expected(before: Reading, now: Reading) -> Iterator[tuple[Any, ...]]:
    """Yield what the log must say of the way from one reading to the other."""
    for typed, ref in before.refs.items():
        if typed not in now.refs or now.refs[typed].row != ref.row:
            yield "image.removed", canonical(typed), typed, ref.digest
    for typed, ref in now.refs.items():
        old = before.refs.get(typed)
        if old is None or old.row != ref.row:
            yield "image.pulled", canonical(typed), typed, ref.digest, None
        elif old.digest != ref.digest:
            yield "image.pulled", canonical(typed), typed, ref.digest, old.digest
    for digest, manifest in before.manifests.items():
        if digest not in now.manifests or now.manifests[digest].row != manifest.row:
            yield "manifest.deleted", digest
    for digest, manifest in now.manifests.items():
        if digest not in before.manifests or before.manifests[digest].row != manifest.row:
            yield "manifest.added", digest
    for (holder, digest), row in before.holds.items():
        if now.holds.get((holder, digest)) != row:
            yield "image.released", digest, holder
    for (holder, digest), row in now.holds.items():
        if before.holds.get((holder, digest)) != row:
            yield "image.held", digest, holder
    for kind, old, new in zip(
        FLAT, (before.flat_refs, before.flat_roots), (now.flat_refs, now.flat_roots), strict=True
    ):
        for digest in old.keys() - new.keys():
            yield kind, digest
    for path, size in before.files.items():
        folder, _, name = path.partition("/")
        if path not in now.files and folder in FILES.values():
            (deleted,) = (kind for kind, of in FILES.items() if of == folder)
            yield deleted, name.partition(".")[0].replace("_", ":"), size


def counters(report: ImagePruneReport) -> dict[str, int | None]:
    return {counter: getattr(report, counter) for counter in COUNTERS}


def spelled(event: StoredEvent) -> str:
    """Return how the reference was typed that an event is about."""
    typed: str | None = event.data.spelling  # type: ignore[attr-defined]
    return Reference.parse(event.subject).familiar if typed is None else typed


def canonical(typed: str) -> str:
    return Reference.parse(typed).canonical


def counted(before: Reading, now: Reading) -> dict[str, int | None]:
    """Return the counters of what went from msb's index, and from the disk."""
    gone = {path: size for path, size in before.files.items() if path not in now.files}
    folders = Counter(path.partition("/")[0] for path in gone)
    return {
        "image_refs_removed": len(before.refs) - len(now.refs),
        "manifests_removed": len(before.manifests) - len(now.manifests),
        "layers_removed": len(before.layers) - len(now.layers),
        "fsmeta_removed": folders["fsmeta"],
        "vmdk_removed": folders["vmdk"],
        "bytes_reclaimed": sum(gone.values()) if gone else None,
    }
