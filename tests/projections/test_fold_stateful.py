"""The tables written live always equal a fold of the log, and both equal a naive model of the rules."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import chain
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images, known, live, past, state
from msb_cache.projections.deletions import deletions
from tests.logs import ACTOR, digest, layer, manifest_added, pulled

REFERENCES = [f"docker.io/library/{name}" for name in ("a:1", "b:1", "b:2")]
MANIFESTS = {digest(n): [layer(x) for x in layers] for n, layers in enumerate(["x", "xy", "yz", "xyzx"])}
HOLDERS = ["sandbox:one", "snapshot:two"]
references = st.sampled_from(REFERENCES)
manifests = st.sampled_from(list(MANIFESTS))
holders = st.sampled_from(HOLDERS)
occurred = st.none() | st.integers(1, 3_000_000_000_000_000_000)
PAST, FUTURE = 10**18, 4 * 10**18
untils = st.sampled_from([None, None, PAST, FUTURE])
rules_of = st.dictionaries(references, st.sampled_from(["due", "old"]), max_size=3)
layer_sizes = st.integers(0, 2)
artifact_events = st.sampled_from(
    [
        (ev.FsmetaDeleted, "fsmeta"),
        (ev.VmdkDeleted, "vmdk"),
        (ev.LayerDeleted, "layer"),
        (ev.MetadataDeleted, "metadata"),
    ]
)


class Folding(RuleBasedStateMachine):
    """Appends every event type, sensible or not, and compares."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="msb-cache-test-"))
        self.now = 1_800_000_000_000_000_000
        self.ledger = Ledger(Layout(self.home), actor=ACTOR, clock=self.tick)
        self.operations = 0
        self.last_operation = "none"
        self.images: dict[str, tuple[str, int, int]] = {}  # reference: digest, created, last used
        self.indexed: set[str] = set()
        self.described: dict[str, tuple[int, str, str, int]] = {}  # what the last event about a manifest said
        self.layers: set[str] = set()
        self.rows: dict[str, str | None] = {}  # msb's row of each reference
        self.since: dict[str, tuple[int, int, int | None]] = {}  # reference: pointed, pulled, idle since
        self.unnamed: dict[str, int | None] = {}  # manifest: since when no reference points at it
        self.holds: dict[tuple[str, str], tuple[int, int | None]] = {}  # since and until when
        self.pins: dict[str, tuple[int, int | None]] = {}
        self.settled: set[tuple[str, str, str]] = set()
        self.deleted: dict[str, int | None] = {}  # operation: bytes reclaimed; another program's too
        self.decided: set[str] = set()
        self.going: dict[tuple[str, str], str] = {}  # operation and reference: the rule that chose it
        self.counts: Counter[tuple[str, str]] = Counter()  # images gone, by cause and rule
        self.was: dict[int, bytes] = {}  # position: the index as it was there

    def tick(self) -> int:
        self.now += 7
        return self.now

    def append(self, *events: NewEvent, operation: str | None = None) -> int:
        if operation is None:
            self.operations += 1
            operation = f"operation-{self.operations}"
        with self.ledger.write(operation) as transaction:
            stored = transaction.append(events)
            self.was[stored[-1].seq] = past.encode_rows(transaction.connection)
        if any(
            isinstance(new.event, ev.ArtifactDeleted) or getattr(new.event, "cause", "") == "external"
            for new in events
        ):
            self.deleted.setdefault(operation, None)
        return stored[-1].recorded_at_ns

    def added(self, manifest: str, size: int) -> NewEvent:
        """The same digest can come with other sizes and another platform: a log may come from elsewhere."""
        layers = [replace(found, size=size) for found in MANIFESTS[manifest]]
        architecture = "arm64" if size else "amd64"
        self.described[manifest] = (size * len(layers), architecture, "linux", len(layers))
        return NewEvent(replace(manifest_added(layers), architecture=architecture), manifest)

    def points(self, manifest: str) -> bool:
        return any(digest == manifest for digest, *_ in self.images.values())

    def comes(self, manifest: str, at: int) -> None:
        if manifest not in self.indexed:
            self.indexed.add(manifest)
            self.unnamed[manifest] = None if self.points(manifest) else at

    def goes(self, manifest: str) -> None:
        self.indexed.discard(manifest)
        self.unnamed.pop(manifest, None)

    def loses_a_name(self, manifest: str, at: int) -> None:
        if manifest in self.indexed and not self.points(manifest):
            self.unnamed[manifest] = at

    def remove(self, reference: str, at: int) -> None:
        removed = self.images.pop(reference, None)
        if removed is not None:
            del self.since[reference]
            self.loses_a_name(removed[0], at)

    @rule(manifest=manifests, size=layer_sizes)
    def add_manifest(self, manifest: str, size: int) -> None:
        self.comes(manifest, self.append(self.added(manifest, size)))
        self.layers |= {found.diff_id for found in MANIFESTS[manifest]}

    @rule(manifest=manifests)
    def lose_manifest(self, manifest: str) -> None:
        """Somebody else deletes it: its layers go unless another manifest has them."""
        self.append(NewEvent(ev.ManifestDeleted(), manifest))
        if manifest in self.indexed:
            self.goes(manifest)
            needed = {found.diff_id for other in self.indexed for found in MANIFESTS[other]}
            self.layers -= {found.diff_id for found in MANIFESTS[manifest]} - needed

    @rule(changes=st.lists(st.tuples(manifests, st.none() | layer_sizes), min_size=2, max_size=5))
    def lose_and_add_at_once(self, changes: list[tuple[str, int | None]]) -> None:
        events = []
        for manifest, size in changes:
            deleted = NewEvent(ev.ManifestDeleted(), manifest)
            events.append(deleted if size is None else self.added(manifest, size))
        at = self.append(*events)
        for manifest, size in changes:
            own = {found.diff_id for found in MANIFESTS[manifest]}
            if size is not None:
                self.comes(manifest, at)
                self.layers |= own
            elif manifest in self.indexed:
                self.goes(manifest)
                self.layers -= own - {f.diff_id for other in self.indexed for f in MANIFESTS[other]}

    @rule(reference=references, manifest=manifests, at=occurred, row=st.none() | st.sampled_from(["1", "2"]))
    def pull(self, reference: str, manifest: str, at: int | None, row: str | None) -> None:
        recorded = self.append(NewEvent(replace(pulled(manifest), row=row), reference, at))
        self.rows[reference] = row or (self.rows.get(reference) if reference in self.images else None)
        at = recorded if at is None else at
        before, created, used = self.images.get(reference, ("", at, at))
        self.images[reference] = (manifest, created, max(used, at))
        pointed, last, idle = self.since.get(reference, (at, at, None))
        if before != manifest:
            pointed, idle = at, None
            if manifest in self.indexed:
                self.unnamed[manifest] = None
            self.loses_a_name(before, at)
        self.since[reference] = pointed, max(last, at), idle

    @rule(reference=references, at=occurred)
    def use(self, reference: str, at: int | None) -> None:
        used_event = ev.ImageUsed(manifest_digest=digest("any"), holder="sandbox:one")
        recorded = self.append(NewEvent(used_event, reference, at))
        if reference in self.images:
            manifest, created, used = self.images[reference]
            self.images[reference] = (manifest, created, max(used, recorded if at is None else at))

    @rule(reference=references)
    def fail_to_pull(self, reference: str) -> None:
        self.append(NewEvent(ev.ImagePullFailed(reason="no route"), reference))

    @rule(manifest=manifests, holder=holders, until=untils)
    def hold(self, manifest: str, holder: str, until: int | None) -> None:
        at = self.append(NewEvent(ev.ImageHeld(holder=holder, until_ns=until), manifest))
        since, ends = self.holds.get((manifest, holder), (at, None))
        self.holds[manifest, holder] = (at if ends == PAST else since), until

    @rule(manifest=manifests, holder=holders)
    def release(self, manifest: str, holder: str) -> None:
        at = self.append(NewEvent(ev.ImageReleased(holder=holder), manifest))
        if self.holds.pop((manifest, holder), None) is None:
            return
        for name, (pointed_at, *_) in self.images.items():
            if pointed_at == manifest:
                self.since[name] = *self.since[name][:2], at
        unnamed = self.unnamed.get(manifest)
        if unnamed is not None:
            self.unnamed[manifest] = max(unnamed, at)

    @rule(subject=references | manifests, until=untils)
    def pin(self, subject: str, until: int | None) -> None:
        self.pins[subject] = self.append(NewEvent(ev.ImagePinned(until_ns=until), subject)), until

    @rule(subject=references | manifests)
    def unpin(self, subject: str) -> None:
        self.append(NewEvent(ev.ImageUnpinned(), subject))
        self.pins.pop(subject, None)

    @rule(reference=references)
    def remove_externally(self, reference: str) -> None:
        removed = ev.ImageRemoved(manifest_digest=digest("any"), cause="external")
        self.counts["external", "external"] += reference in self.images
        self.remove(reference, self.append(NewEvent(removed, reference)))

    @rule(gone=st.sets(references), dropped=st.sets(manifests), parts=st.integers(1, 3), rules=rules_of)
    def start_deletion(self, gone: set[str], dropped: set[str], parts: int, rules: dict[str, str]) -> None:
        self.operations += 1
        operation = f"operation-{self.operations}"
        artifacts = [
            ev.PlannedArtifact(kind="layer", subject=found.diff_id, bytes=found.size)
            for manifest in sorted(dropped)
            for found in MANIFESTS[manifest]
        ]
        going = [
            ev.Judged(subject=name, rule="due", policy_rule=None if rule == "due" else rule)
            for name, rule in rules.items()
        ]
        started = [
            ev.DeletionStarted(
                kind="prune",
                policy={},
                artifacts=tuple(artifacts[part::parts]),
                going=tuple(going[part::parts]),
                part=part + 1,
                parts=parts,
            )
            for part in range(parts)
        ]
        self.going |= {(operation, name): rule for name, rule in rules.items() if name in self.images}
        events = [NewEvent(event, operation) for event in started]
        events += [
            NewEvent(ev.ImageRemoved(manifest_digest=digest("any"), cause="prune"), name)
            for name in sorted(gone)
        ]
        events += [NewEvent(ev.ManifestDeleted(), manifest) for manifest in sorted(dropped)]
        at = self.append(*events, operation=operation)
        self.last_operation = operation
        self.deleted[operation] = None
        self.decided.add(operation)
        for name in gone:
            self.count_as_decided(name)
            self.remove(name, at)
        for manifest in dropped:
            self.goes(manifest)
        self.layers -= {found.diff_id for manifest in dropped for found in MANIFESTS[manifest]}
        self.settled |= {(operation, "manifest", manifest) for manifest in dropped}

    def count_as_decided(self, reference: str) -> None:
        if reference in self.images:
            self.counts["prune", self.going.pop((self.last_operation, reference), "unused")] += 1

    @rule(reference=references)
    def remove_as_decided(self, reference: str) -> None:
        """As msb does, some time after it was asked to; or something else has taken the image by then."""
        removed = ev.ImageRemoved(manifest_digest=digest("any"), cause="prune")
        self.count_as_decided(reference)
        at = self.append(NewEvent(removed, reference), operation=self.last_operation)
        self.remove(reference, at)

    @rule(kind=artifact_events, subject=manifests, size=st.none() | st.integers(0, 2**40), late=st.booleans())
    def delete_artifact(
        self, kind: tuple[type[ev.ArtifactDeleted], str], subject: str, size: int | None, late: bool
    ) -> None:
        operation = self.last_operation if late else "unknown-operation"
        if (operation, kind[1], subject) in self.settled:
            return  # the log refuses a second outcome: see test_deletions
        self.append(NewEvent(kind[0](bytes=size), subject), operation=operation)
        if operation in self.decided:
            self.settled.add((operation, kind[1], subject))
        if size is not None:
            self.deleted[operation] = (self.deleted[operation] or 0) + size

    @rule(subject=manifests, failed=st.booleans())
    def keep_artifact(self, subject: str, failed: bool) -> None:
        operation = self.last_operation
        if (operation, "fsmeta", subject) in self.settled:
            return
        event: ev.Event = ev.ArtifactKept(kind="fsmeta", reason="busy")
        if failed:
            event = ev.ArtifactDeleteFailed(kind="fsmeta", errno=13, reason="Permission denied")
        self.append(NewEvent(event, subject), operation=operation)
        if operation in self.decided:
            self.settled.add((operation, "fsmeta", subject))

    @rule(recovered=st.booleans())
    def finish_deletion(self, recovered: bool) -> None:
        finished = ev.DeletionFinished(outcome="completed", recovered=recovered)
        self.append(NewEvent(finished, self.last_operation), operation=self.last_operation)
        self.going = {key: rule for key, rule in self.going.items() if key[0] != self.last_operation}

    @rule()
    def rebuild(self) -> None:
        with self.ledger.write("rebuild") as transaction:
            store = self.ledger.store(transaction.connection)
            assert live.rebuild(transaction.connection, store) == []

    @rule()
    def reopen(self) -> None:
        self.ledger.close()

    @rule(places=st.tuples(st.integers(0, 100), st.integers(0, 100)))
    def look_back(self, places: tuple[int, int]) -> None:
        """The index at any position is what it was then, folded from the beginning or from a snapshot."""
        positions = sorted(self.was)
        if not positions:
            return
        first, last = sorted(positions[place % len(positions)] for place in places)
        with self.ledger.read() as connection:
            assert connection is not None
            store = self.ledger.store(connection)
            for start in (
                past.Past(),
                past.Past(first, past.decode_rows(self.was[first])),
            ):
                start.advance(connection, store, last)
                assert past.encode_rows(start.connection) == self.was[last]
                start.close()

    @invariant()
    def live_tables_are_the_fold(self) -> None:
        with self.ledger.read() as connection:
            if connection is None:
                return
            assert live.compare(connection, live.fold_until(self.ledger.store(connection))) == []
            assert isinstance(chain.verify(connection), chain.Verified)

    @invariant()
    def tables_are_what_the_rules_say(self) -> None:
        with self.ledger.read() as connection:
            if connection is None:
                return
            rows = [*images.handles(connection)]
            assert {
                row.reference: (row.manifest_digest, row.created_at, row.last_used_at) for row in rows
            } == self.images
            for row in rows:
                shown = (row.size_bytes, row.architecture, row.os, row.layer_count)
                known_manifest = row.manifest_digest in self.indexed
                assert shown == (self.described[row.manifest_digest] if known_manifest else (None,) * 4)
            assert [row.created_at for row in rows] == sorted((row.created_at for row in rows), reverse=True)
            known_now = known.load(connection)
            assert {name: image.row for name, image in known_now.images.items()} == {
                name: self.rows[name] for name in self.images
            }
            assert set(known_now.layers) == self.layers
            for manifest in MANIFESTS:
                assert images.has_manifest(connection, manifest) == (manifest in self.indexed)
                assert {(manifest, holder) for holder in images.holders(connection, manifest)} == {
                    pair for pair in self.held() if pair[0] == manifest
                }
                expected = MANIFESTS[manifest] if manifest in self.indexed else []
                assert [row.diff_id for row in images.layers(connection, manifest)] == [
                    found.diff_id for found in expected
                ]
            assert {row.operation: row.bytes_reclaimed for row in deletions(connection)} == self.deleted

    @invariant()
    def the_state_for_a_plan_is_what_the_rules_say(self) -> None:
        with self.ledger.read() as connection:
            if connection is None:
                return
            found = state.load_to_judge(connection, facts=True)
        manifests = {
            manifest: tuple(each.diff_id for each in MANIFESTS[manifest]) for manifest in self.indexed
        }
        assert found.references == {name: manifest for name, (manifest, *_) in self.images.items()}
        assert [*found.manifests.items()] == sorted(manifests.items())
        assert found.layers == sorted(self.layers)
        had = Counter(diff_id for own in manifests.values() for diff_id in set(own))
        assert found.sharing_counts == {diff_id: count for diff_id, count in had.items() if count > 1}
        assert {(held, holder) for held, by in found.holders.items() for holder in by} == self.held()
        assert {subject: pin.until_ns for subject, pin in found.pins.items()} == {
            subject: until for subject, (_, until) in self.pins.items() if until != PAST
        }
        ended = {held for (held, _), (_, until) in self.holds.items() if until == PAST}
        facts = {}
        for name, (manifest, _, used) in self.images.items():
            pointed, last, idle = self.since[name]
            facts[name] = max(used, idle or 0, PAST if manifest in ended else 0), pointed, last
        for manifest, since in self.unnamed.items():
            if since is not None:
                facts[manifest] = (max(since, PAST if manifest in ended else 0),) * 3
        assert found.facts == facts

    @invariant()
    def rules_are_counted(self) -> None:
        with self.ledger.read() as connection:
            if connection is None:
                return
            rows = connection.execute("SELECT cause, rule, images FROM rule_count")
            found = {(cause, name): count for cause, name, count in rows}
            assert found == {key: count for key, count in self.counts.items() if count}
            rows = connection.execute("SELECT operation, name, rule FROM going")
            assert {(operation, name): rule for operation, name, rule in rows} == self.going

    @invariant()
    def holds_and_pins_are_what_the_rules_say(self) -> None:
        with self.ledger.read() as connection:
            if connection is None:
                return
            rows = connection.execute("SELECT manifest_digest, holder, since, until FROM hold")
            assert {(held, holder): times for held, holder, *times in rows} == {
                key: [*times] for key, times in self.holds.items()
            }
            rows = connection.execute("SELECT subject, since, until FROM pin")
            assert {subject: times for subject, *times in rows} == {
                key: [*times] for key, times in self.pins.items()
            }

    def held(self) -> set[tuple[str, str]]:
        """Who holds what now."""
        return {key for key, (_, until) in self.holds.items() if until != PAST}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.home)


Folding.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestFolding = Folding.TestCase
