"""Why an image, a manifest or a layer is here, or gone: answered from the log and the index.

Everything is read from one position; nothing is folded, and nothing is said that no event says.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msb_cache.errors import ImageNotFoundError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.eventstore.where import Where
from msb_cache.oci.digest import shown
from msb_cache.oci.reference import Reference
from msb_cache.projections import deletions, images
from msb_cache.projections.images import HandleRow
from msb_cache.projections.moment import LASTS
from msb_cache.projections.state import IndexState
from msb_cache.queries import resolve
from msb_cache.queries.deletions import DeletionSummary, summary
from msb_cache.queries.last_used import idle_event, last_use
from msb_cache.queries.near import image_meant
from msb_cache.retention.because import judged_because, verdict_because
from msb_cache.retention.plan import Plan, Verdict, plan_prune
from msb_cache.retention.room import Files
from msb_cache.retention.rules import Rules, goes_at, plan_by_rules
from msb_cache.shapes import Result, Time
from msb_cache.wording import short


@dataclass(frozen=True)
class Fate(Result):
    """What a prune would do now, and why.

    ``rule`` is ``unused`` for what goes; ``needed`` for a layer, by manifests; else what ``plan`` says, such
    as ``held`` or ``referenced``. ``by`` names the holders, references or manifests that keep it.
    """

    goes: bool
    rule: str
    by: tuple[str, ...] = ()

    def _shape(self) -> dict[str, Any]:
        return {"deletes": self.goes, "rule": self.rule, "by": self.by}


@dataclass(frozen=True)
class UnderPolicy(Result):
    """What a policy would do to an image now, and when if nothing uses it until then.

    Attributes:
        goes: whether the image would go.
        verdict: the rule that decides, and what it looked at; None: it is outside of the selection.
        at_ns: when it will go unless it is used, in ns since the epoch, UTC: it stays because of its age
        only;
            None: that is not known.
        rules: what was asked for, as ``recorded`` says it.
    """

    goes: bool
    verdict: Verdict | None
    at_ns: int | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def because(self) -> str | None:
        """Why it goes or stays, in words; None: no rule selects it."""
        return verdict_because(self.verdict, self.rules, goes=self.goes)

    def _shape(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "rules": self.rules,
            "deletes": self.goes,
            "rule": None if verdict is None else verdict.rule,
            "because": self.because,
            "goes_at": Time.or_none(self.at_ns),
        }


@dataclass(frozen=True)
class Loss(Result):
    """How something went: the event that says so, and the deletion it belongs to (None: none has it).

    ``bytes`` were freed with it then, None when nothing was measured; ``layers_kept`` of its layers stayed.
    ``judged`` is the rule that took it, where the deletion went by a policy.
    """

    event: StoredEvent
    deletion: DeletionSummary | None
    bytes: int | None
    layers_kept: int = 0
    judged: ev.Judged | None = None

    @property
    def because(self) -> str | None:
        """Which rule of a policy took it and why, in words; None: none did."""
        if self.judged is None or self.deletion is None:
            return None
        return judged_because(self.judged, self.deletion.policy, goes=True)

    def _shape(self) -> dict[str, Any]:
        deletion = self.deletion
        return {
            "event": self.event,
            "operation": None if deletion is None else deletion.operation,
            "kind": None if deletion is None else deletion.counters.kind,
            "policy": None if deletion is None else deletion.policy,
            "actor": None if deletion is None else deletion.actor,
            "because": self.because,
            "bytes_freed": self.bytes,
            "layers_kept": self.layers_kept,
        }


@dataclass(frozen=True)
class Sharing(Result):
    """Another reference in the cache, and how many layers it has in common."""

    reference: str
    layers: int


@dataclass(frozen=True)
class ImageReasons(Result):
    """Why a reference is here, gone, or never came. References are as they were typed.

    Attributes:
        reference: the reference.
        here: whether it is in the cache now.
        manifest_digest: where it points, or last pointed.
        layer_count: the layers of that manifest, where the index has it.
        arrived: the pull or load that brought it, since it was last absent.
        pointed: the last one that moved it to where it points, if that is another event.
        used: the event that says when it was last used.
        uses: the boots of sandboxes that run from it now.
        idle: the event that says since when none does, where that is not ``used``.
        holds: the events of those that hold its manifest now.
        statuses: of sandboxes of msb's among those, what they were when that was last recorded.
        shares: what else has some of its layers, most in common first.
        fate: what a prune would do to it; None when it is not here.
        loss: how it went; None when it is here.
        failure: the last pull that failed, where none ever succeeded.

    What is said to be there only in some case is None otherwise.
    """

    reference: str
    here: bool
    manifest_digest: str | None = None
    layer_count: int | None = None
    arrived: StoredEvent | None = None
    pointed: StoredEvent | None = None
    used: StoredEvent | None = None
    uses: tuple[StoredEvent, ...] = ()
    idle: StoredEvent | None = None
    holds: tuple[StoredEvent, ...] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[Sharing, ...] = ()
    fate: Fate | None = None
    loss: Loss | None = None
    failure: StoredEvent | None = None
    damage: tuple[StoredEvent, ...] = ()
    """What another program deleted of it although it is here; a pull or load mends it."""
    pin: StoredEvent | None = None
    """The event that pinned it, or its manifest, where that lasts; None: it is not pinned."""
    policy: UnderPolicy | None = None
    """What the policy that was asked about would do to it; None: none was, or it is not here."""

    def _shape(self) -> dict[str, Any]:
        return {
            "kind": "image",
            "reference": self.reference,
            "here": self.here,
            "digest": self.manifest_digest,
            "layer_count": self.layer_count,
            "arrived": self.arrived,
            "pointed": self.pointed,
            "used": self.used,
            "uses": self.uses,
            "idle": self.idle,
            "holds": self.holds,
            "statuses": self.statuses,
            "shares": self.shares,
            "pull_failed": self.failure,
            "pin": self.pin,
            "damage": self.damage,
            **_end(self),
        }


@dataclass(frozen=True)
class ManifestReasons(Result):
    """Why a manifest is here or gone: its first event, the references on it now and before, its holds.

    ``fate``, ``loss``, ``pin``, ``policy``, ``statuses`` and ``uses`` are as for an image, also when None.
    """

    digest: str
    here: bool
    added: StoredEvent
    references: tuple[str, ...]
    earlier: tuple[str, ...]
    holds: tuple[StoredEvent, ...]
    fate: Fate | None
    loss: Loss | None
    statuses: Mapping[str, str] = field(default_factory=dict)
    uses: tuple[StoredEvent, ...] = ()
    pin: StoredEvent | None = None
    policy: UnderPolicy | None = None

    def _shape(self) -> dict[str, Any]:
        return {
            "kind": "manifest",
            "digest": self.digest,
            "here": self.here,
            "arrived": self.added,
            "references": self.references,
            "earlier_references": self.earlier,
            "uses": self.uses,
            "holds": self.holds,
            "statuses": self.statuses,
            "pin": self.pin,
            **_end(self),
        }


@dataclass(frozen=True)
class LayerOf(Result):
    """A manifest that has or had a layer, whether it is here, and its references now or before."""

    digest: str
    here: bool
    references: tuple[str, ...]


@dataclass(frozen=True)
class LayerReasons(Result):
    """Why a layer is here or gone: every manifest that has or had it, oldest first.

    ``fate`` is None when it is not here, ``loss`` when it is, or no event says how it went.
    """

    diff_id: str
    here: bool
    manifests: tuple[LayerOf, ...]
    fate: Fate | None
    loss: Loss | None

    def _shape(self) -> dict[str, Any]:
        return {
            "kind": "layer",
            "diff_id": self.diff_id,
            "here": self.here,
            "manifests": self.manifests,
            **_end(self),
        }


Reasons = ImageReasons | ManifestReasons | LayerReasons


def _end(found: Reasons) -> dict[str, Any]:
    """Return what would become of it, or became, and what a policy makes of it where one was asked about."""
    under = None if isinstance(found, LayerReasons) else found.policy
    end = {"prune": found.fate, "gone": found.loss}
    return end if under is None else {**end, "policy": under}


def why(
    connection: sqlite3.Connection,
    store: EventStore,
    target: str,
    index: Callable[[sqlite3.Connection], IndexState],
    rules: Sequence[Rules] | None = None,
    files: Files | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Reasons:
    """Explain a reference; or a digest of a manifest or layer (diff ID or blob), or its beginning.

    Args:
        connection: the index.
        store: the log, on the same connection.
        target: what is asked about.
        index: reads the index as a prune in this home sees it, with facts and labels if there are rules.
        rules: those of a policy that is asked about; None: none is.
        files: what files take of the disk, for those.
        recorded: the policy, as it is recorded.

    Raises:
        ImageNotFoundError: the log has never seen it; names like it are offered.
        InvalidReferenceError: it is neither, or several digests begin with it.
    """
    asking = _Asking(connection, store, index, rules, files, recorded or {})
    parsed = resolve.as_reference(target)
    found = None if parsed is None else asking.reference(parsed)
    if found is None and resolve.digest_prefix(target) is not None:
        found = asking.digest(target)
    if found is None:
        names = (target,) if parsed is None else (parsed.canonical, parsed.digest, target)
        pinned = next((row for row in images.pins(connection) if row.subject in names), None)
        if pinned is not None:
            is_digest = pinned.subject.startswith("sha256:")
            name = short(pinned.subject) if is_digest else resolve.familiar(pinned.subject)
            raise ImageNotFoundError(f"{name} is pinned, and was never here; `msb-cache pins` says by whom")
        raise never_seen(target, images.known_references(connection))
    return found


def never_seen(target: str, known: Iterable[str] = ()) -> ImageNotFoundError:
    """Return the error about something that no event is about, with the known names most like it.

    Raises:
        InvalidReferenceError: it is neither a reference nor the beginning of a digest.
    """
    parsed = resolve.as_reference(target)
    if parsed is None or target.startswith("sha256:"):
        return ImageNotFoundError(f"the log has never seen a manifest or layer {shown(target)}")
    offered = image_meant(target, map(resolve.familiar, known))
    return ImageNotFoundError(f"the log has never seen {parsed.familiar}{offered}")


class _Asking:
    """One question, at one position."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        store: EventStore,
        index: Callable[[sqlite3.Connection], IndexState],
        rules: Sequence[Rules] | None,
        files: Files | None,
        recorded: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._store = store
        self._index = index
        self._rules, self._recorded = rules, recorded
        self._files = files
        self._state_now: IndexState | None = None
        self._plan_now: Plan | None = None

    # -- references --------------------------------------------------------------------------------

    def reference(self, asked: Reference) -> Reasons | None:
        text = asked.typed or asked.familiar
        rows = resolve.by_reference(self._connection, text)
        if rows:
            resolve.check_one_spelling(rows, text)
            return self._present(rows[0])
        removed = self._last(asked.canonical, ev.ImageRemoved)
        if removed is not None and isinstance(removed.data, ev.ImageRemoved):
            return self._gone(removed, removed.data)
        failed = self._last(asked.canonical, ev.ImagePullFailed)
        if failed is not None:
            return ImageReasons(text, False, failure=failed)
        if asked.digest is not None and self._last(asked.digest, ev.ManifestAdded) is not None:
            return self._manifest(asked.digest)
        return None

    def _present(self, row: HandleRow) -> ImageReasons:
        (seq,) = self._connection.execute("SELECT seq FROM image WHERE name = ?", (row.name,)).fetchone()
        arrived = self._store.at(seq)
        pointed = self._pointed(row.reference, row.manifest_digest)
        used = last_use(self._connection, self._store, row)
        ended = idle_event(self._store, row)
        return ImageReasons(
            resolve.seen(row),
            True,
            row.manifest_digest,
            row.layer_count,
            arrived,
            pointed if pointed is not None and arrived is not None and pointed.seq != arrived.seq else None,
            used,
            self._uses(row.manifest_digest),
            None if row.in_use_since is not None else ended,
            self._holds(row.manifest_digest),
            self._statuses(row.manifest_digest),
            self._shares(row),
            self._fate_of_reference(row.name, row.manifest_digest),
            damage=self._damage(row.name),
            pin=self._pin(row.name, row.manifest_digest),
            policy=self._under_policy(row.name, row.manifest_digest),
        )

    def _damage(self, name: str) -> tuple[StoredEvent, ...]:
        found = [each.seq for each in images.damage(self._connection) if each.name == name]
        return tuple(event for seq in sorted(set(found)) if (event := self._store.at(seq)) is not None)

    def _gone(self, removed: StoredEvent, data: ev.ImageRemoved) -> ImageReasons:
        reference, digest = removed.subject, data.manifest_digest
        arrived = None
        before = self._store.read(
            subjects=[reference],
            types=[ev.ImagePulled.type, ev.ImageRemoved.type],
            until=removed.seq - 1,
            reverse=True,
        )
        for event in before:
            if isinstance(event.data, ev.ImageRemoved):
                break
            arrived = event
        diff_ids = self._diff_ids(digest)
        return ImageReasons(
            resolve.as_typed(reference, data.spelling),
            False,
            digest,
            len(diff_ids) or None,
            arrived,
            loss=self._loss(removed, [reference, digest, *diff_ids], diff_ids),
        )

    def _pointed(self, reference: str, digest: str) -> StoredEvent | None:
        pulls = self._store.read(subjects=[reference], types=[ev.ImagePulled.type], reverse=True)
        for event in pulls:
            if isinstance(event.data, ev.ImagePulled) and event.data.changed:
                return event if event.data.manifest_digest == digest else None
        return None

    def _shares(self, row: HandleRow) -> tuple[Sharing, ...]:
        rows = self._connection.execute(
            "SELECT i.reference, i.spelling, count(DISTINCT mine.diff_id) FROM manifest_layer mine "
            "JOIN manifest_layer other ON other.diff_id = mine.diff_id "
            "JOIN image i ON i.manifest_digest = other.manifest_digest "
            "WHERE mine.manifest_digest = ? AND i.name <> ? GROUP BY i.name ORDER BY 3 DESC, i.name",
            (row.manifest_digest, row.name),
        )
        return tuple(
            Sharing(resolve.as_typed(reference, spelling), layers) for reference, spelling, layers in rows
        )

    # -- digests -------------------------------------------------------------------------------------

    def digest(self, text: str) -> Reasons | None:
        try:
            digest = resolve.digest_in_log(self._connection, text)
        except ImageNotFoundError:
            return self._blob(text)
        if self._last(digest, ev.ManifestAdded) is not None:
            return self._manifest(digest)
        owners = [manifest for manifest, layer in self._layers(digest) if layer.diff_id == digest]
        if owners or self._last(digest, ev.LayerDeleted) is not None:
            return self._layer(digest, list(dict.fromkeys(owners)))
        return self._blob(text)

    def _blob(self, text: str) -> Reasons | None:
        """Explain the layer that came as a blob; nothing in the log is about a blob by itself."""
        prefix = resolve.digest_prefix(text)
        if prefix is None:
            return None
        found: dict[str, str] = {}
        owners: list[str] = []
        for manifest, layer in self._layers(prefix):
            if prefix in (layer.blob_digest[: len(prefix)], layer.diff_id[: len(prefix)]):
                found[layer.blob_digest] = layer.diff_id
                owners.append(manifest)
        if not found:
            return None
        if len(set(found.values())) > 1:
            resolve.only(sorted(found), text, "in the log")
        return self._layer(next(iter(found.values())), list(dict.fromkeys(owners)))

    def _layers(self, digest: str) -> Iterator[tuple[str, ev.Layer]]:
        """Yield the layers of manifests that name the digest, or one that begins so, with the manifests'.

        Layers stand within the events of their manifests; the index may no longer know them.
        """
        added = self._store.read(types=[ev.ManifestAdded.type], where=Where(digest=digest))
        for event in added:
            if isinstance(event.data, ev.ManifestAdded):
                yield from ((event.subject, layer) for layer in event.data.layers)

    def _manifest(self, digest: str) -> ManifestReasons:
        here = images.has_manifest(self._connection, digest)
        added = next(self._store.read(subjects=[digest], types=[ev.ManifestAdded.type], limit=1))
        now, earlier = self._references(digest)
        loss = None
        if not here and (deleted := self._last(digest, ev.ManifestDeleted)) is not None:
            diff_ids = self._diff_ids(digest)
            loss = self._loss(deleted, [digest, *diff_ids], diff_ids)
        fate = self._fate_of_manifest(digest) if here else None
        holds, statuses, uses = self._holds(digest), self._statuses(digest), self._uses(digest)
        return ManifestReasons(
            *(digest, here, added, now, earlier, holds, fate, loss, statuses, uses),
            pin=self._pin(digest, digest) if here else None,
            policy=self._under_policy(digest, digest) if here and not now else None,
        )

    def _layer(self, diff_id: str, owners: Sequence[str]) -> LayerReasons:
        found = []
        for digest in owners:
            now, earlier = self._references(digest)
            found.append(LayerOf(digest, images.has_manifest(self._connection, digest), now or earlier))
        here = images.has_layer(self._connection, diff_id)
        loss = None
        if not here and (deleted := self._last(diff_id, ev.LayerDeleted)) is not None:
            loss = self._loss(deleted, [diff_id], [])
        fate = None
        if here:
            plan, by = self._plan(), images.manifests_with(self._connection, diff_id)
            staying = tuple(digest for digest in by if digest not in plan.manifests)
            fate = Fate(not staying, "needed" if staying else "unused", staying)
        return LayerReasons(diff_id, here, tuple(found), fate, loss)

    def _references(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        rows = sorted(images.handles_of(self._connection, digest), key=lambda row: (row.reference, row.name))
        here = {row.reference for row in rows}
        ever = images.references_of(self._connection, digest)
        earlier = tuple(resolve.familiar(name) for name in ever if name not in here)
        return tuple(map(resolve.seen, rows)), earlier

    # -- what all of them share ------------------------------------------------------------------------

    def _last(self, subject: str, type_: type[ev.Event]) -> StoredEvent | None:
        return next(self._store.read(subjects=[subject], types=[type_.type], reverse=True, limit=1), None)

    def _holds(self, digest: str) -> tuple[StoredEvent, ...]:
        rows = self._connection.execute(
            f"SELECT seq FROM hold WHERE manifest_digest = ? AND {LASTS} ORDER BY seq",  # noqa: S608
            (digest,),
        ).fetchall()
        return tuple(event for (seq,) in rows if (event := self._store.at(seq)) is not None)

    def _statuses(self, digest: str) -> dict[str, str]:
        holds = images.holds(self._connection, digest)
        return {hold.holder: hold.status for hold in holds if hold.status is not None}

    def _uses(self, digest: str) -> tuple[StoredEvent, ...]:
        found = [use.seq for use in images.uses(self._connection) if use.manifest_digest == digest]
        return tuple(event for seq in found if (event := self._store.at(seq)) is not None)

    def _diff_ids(self, digest: str) -> list[str]:
        added = self._last(digest, ev.ManifestAdded)
        if added is None or not isinstance(added.data, ev.ManifestAdded):
            return []
        return list(dict.fromkeys(layer.diff_id for layer in added.data.layers))

    def _loss(self, event: StoredEvent, subjects: Sequence[str], diff_ids: Sequence[str]) -> Loss:
        rows = deletions.find(self._connection, event.operation)
        found = summary(self._store, rows[0]) if rows else None
        freed = None
        deleted = set()
        for outcome in self._store.read(operation=event.operation, subjects=subjects):
            if isinstance(outcome.data, ev.ArtifactDeleted):
                deleted.add(outcome.subject)
                if outcome.data.bytes is not None:
                    freed = (freed or 0) + outcome.data.bytes
        kept = sum(diff_id not in deleted for diff_id in diff_ids)
        return Loss(event, found, freed, kept, self._judged(event))

    def _judged(self, gone: StoredEvent) -> ev.Judged | None:
        """Return which rule took an image, as its deletion has recorded."""
        spelling = getattr(gone.data, "spelling", None)
        for event in self._store.read(operation=gone.operation, types=[ev.DeletionStarted.type]):
            for each in getattr(event.data, "going", ()):
                if (each.subject, each.spelling) == (gone.subject, spelling):
                    return each  # type: ignore[no-any-return]
        return None

    def _pin(self, subject: str, digest: str) -> StoredEvent | None:
        reference = self._state().naming.reference(subject)
        found = (images.pin(self._connection, each) for each in {reference, digest})
        rows = [row for row in found if row is not None]
        last = max(rows, key=lambda row: (row.until is None, row.until or 0), default=None)
        return None if last is None else self._store.at(last.seq)

    def _state(self) -> IndexState:
        if self._state_now is None:
            self._state_now = self._index(self._connection)
        return self._state_now

    def _plan(self) -> Plan:
        if self._plan_now is None:
            self._plan_now = plan_prune(self._state())
        return self._plan_now

    def _under_policy(self, subject: str, digest: str) -> UnderPolicy | None:
        if self._rules is None or self._files is None:
            return None
        state = self._state()
        plan = plan_by_rules(self._rules, state, None, self._files)
        going = next((each for each in plan.going if each.subject == subject), None)
        if going is not None:
            return UnderPolicy(True, going, rules=self._recorded)
        kept = next((each for each in plan.kept if each.subject == subject), None)
        if kept is None:
            return UnderPolicy(False, None, rules=self._recorded)
        at_ns = goes_at(self._rules, state, subject, digest)
        return UnderPolicy(False, kept, at_ns, self._recorded)

    def _fate_of_reference(self, name: str, digest: str) -> Fate | None:
        if self._plan().references.get(name) == digest:
            return Fate(True, "unused")
        return self._kept_back(name)

    def _fate_of_manifest(self, digest: str) -> Fate:
        if digest in self._plan().manifests:
            return Fate(True, "unused")
        holders = tuple(images.holders(self._connection, digest))
        if holders:
            return Fate(False, "held", holders)
        now, _ = self._references(digest)
        return self._kept_back(digest) or Fate(False, "referenced", now)

    def _kept_back(self, subject: str) -> Fate | None:
        kept = next((kept for kept in self._plan().kept if kept.subject == subject), None)
        if kept is None:
            return None
        naming = self._plan().naming
        return Fate(False, kept.rule, tuple(resolve.seen_name(naming, name) for name in kept.by))
