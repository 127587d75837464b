"""What single events do to the tables: cases that chance seldom makes (for the rest: test_fold_stateful)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images, known, live, state
from msb_cache.projections.deletions import deletions, leftovers
from msb_cache.projections.rows import DeletionRow, ImageRow
from tests.logs import ACTOR, PYTHON, digest, layer, manifest_added, pulled

M, N = digest("M"), digest("N")
OTHER = "docker.io/library/other:1"
X, Y, Z = layer("x", 10), layer("y", 20), layer("z", 30)
OPERATION = "deletion"


class Log:
    """Appends, and says what the tables then hold; each time they must be what a fold of the log gives."""

    def __init__(self, home: Path) -> None:
        self.ledger = Ledger(Layout(home), actor=ACTOR)

    def append(self, *events: tuple[ev.Event, str], operation: str = "usual") -> None:
        with self.ledger.write(operation) as transaction:
            transaction.append([NewEvent(event, subject) for event, subject in events])
        with self.ledger.read() as connection:
            assert connection is not None
            assert live.compare(connection, live.fold_until(self.ledger.store(connection))) == []

    def append_at(self, occurred_at_ns: int, event: ev.Event, subject: str) -> None:
        with self.ledger.write("late") as transaction:
            transaction.append([NewEvent(event, subject, occurred_at_ns)])

    def start(self, *layers: ev.Layer, engine: ev.Engine = "msb-cache") -> None:
        """Decide to delete these layers."""
        artifacts = tuple(ev.PlannedArtifact(kind="layer", subject=each.diff_id, bytes=1) for each in layers)
        started = ev.DeletionStarted(kind="prune", policy={}, artifacts=artifacts, engine=engine)
        self.append((started, OPERATION), operation=OPERATION)

    def delete(self, *manifests: str, operation: str = OPERATION) -> None:
        self.append(*((ev.ManifestDeleted(), each) for each in manifests), operation=operation)

    def layers(self) -> set[str]:
        """The layers with a record."""
        with self.ledger.read() as connection:
            assert connection is not None
            return set(known.load(connection).layers)

    def layers_of(self, manifest: str) -> list[tuple[int, str]]:
        with self.ledger.read() as connection:
            assert connection is not None
            return [(row.position, row.diff_id) for row in images.layers(connection, manifest)]

    def deletions(self) -> list[DeletionRow]:
        """The deletions, newest first."""
        with self.ledger.read() as connection:
            assert connection is not None
            return deletions(connection)

    def counters(self) -> DeletionRow:
        with self.ledger.read() as connection:
            assert connection is not None
            (found,) = deletions(connection)
        return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    found = Log(tmp_path)
    yield found
    found.ledger.close()


def ids(*layers: ev.Layer) -> set[str]:
    return {each.diff_id for each in layers}


# -- a manifest that is added anew ------------------------------------------------------------------------


@pytest.mark.parametrize("again", [[X], [X, Z], [], [Z, Y, X], [X, Y, Z, X]])
def test_a_manifest_added_anew_has_the_layers_of_the_last_time(log: Log, again: list[ev.Layer]) -> None:
    log.append((manifest_added([X, Y, Z]), M), (pulled(M), PYTHON))
    log.append((manifest_added(again), M))
    assert log.layers_of(M) == [(position, each.diff_id) for position, each in enumerate(again)]
    with log.ledger.read() as connection:
        assert connection is not None
        handle = images.handle(connection, PYTHON)
        assert handle is not None
        assert (handle.layer_count, handle.size_bytes) == (len(again), sum(each.size for each in again))
        for each in (X, Y, Z):
            assert images.has_layer(connection, each.diff_id) == (each in again)


def test_a_layer_that_a_manifest_lost_when_added_anew_is_nobodys(log: Log) -> None:
    log.append((manifest_added([X, Y]), M), (manifest_added([X]), M), (manifest_added([X]), N))
    log.delete(M, operation="somebody else's")
    # Y's record stays, as no event said that it went: a prune finds it.
    assert log.layers() == ids(X, Y)
    with log.ledger.read() as connection:
        assert connection is not None
        found = state.load(connection)
    assert found.manifests == {N: (X.diff_id,)}
    assert found.sharing_counts == {}


@pytest.mark.parametrize(("before", "after"), [(100, 200), (None, 200), (100, None), (100, 100)])
def test_a_layer_is_as_big_as_the_last_manifest_says(log: Log, before: int | None, after: int | None) -> None:
    log.append((manifest_added([replace(X, erofs_size=before)]), M))
    log.append((manifest_added([replace(X, erofs_size=after)]), N))
    with log.ledger.read() as connection:
        assert connection is not None
        assert known.load(connection).layers == {X.diff_id: after}


# -- layers that go with a manifest -----------------------------------------------------------------------


def test_layers_go_with_the_manifest_that_msb_deletes(log: Log) -> None:
    log.append((manifest_added([X, Y]), M), (manifest_added([Y, Z]), N))
    log.start(X, engine="msb")
    assert log.layers() == ids(X, Y, Z)  # msb may refuse
    assert log.counters().layers_removed == 0
    log.delete(M)
    assert log.layers() == ids(Y, Z)
    assert (log.counters().manifests_removed, log.counters().layers_removed) == (1, 1)
    log.delete(N)
    assert log.layers() == set()
    assert (log.counters().manifests_removed, log.counters().layers_removed) == (2, 3)


def test_layers_go_with_the_manifest_that_others_delete(log: Log) -> None:
    log.append((manifest_added([X, Y]), M), (manifest_added([Y]), N))
    log.delete(M, operation="somebody else's")
    assert log.layers() == ids(Y)


def test_layers_go_with_our_decision_and_not_with_the_manifest(log: Log) -> None:
    log.append((manifest_added([X, Y]), M))
    log.start(X)
    assert log.layers() == ids(Y)
    log.delete(M)
    assert log.layers() == ids(Y)
    assert (log.counters().manifests_removed, log.counters().layers_removed) == (1, 1)


def test_only_what_is_planned_as_a_layer_leaves_with_the_decision(log: Log) -> None:
    log.append((manifest_added([X]), M))
    planned = (ev.PlannedArtifact(kind="fsmeta", subject=X.diff_id, bytes=1),)
    started = ev.DeletionStarted(kind="prune", policy={}, artifacts=planned)
    log.append((started, OPERATION), operation=OPERATION)
    assert log.layers() == ids(X)


def test_a_layer_that_is_planned_and_unknown_is_not_counted(log: Log) -> None:
    log.append((manifest_added([X]), M))
    log.start(X, Z)
    assert log.counters().layers_removed == 1


@pytest.mark.parametrize("engine", ["msb", "msb-cache"])
def test_a_manifest_that_is_unknown_is_not_counted(log: Log, engine: ev.Engine) -> None:
    log.append((manifest_added([X]), M))
    log.start(engine=engine)
    log.delete(N)
    assert log.layers() == ids(X)
    assert (log.counters().manifests_removed, log.counters().layers_removed) == (0, 0)


# -- one layer twice in a manifest ------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["msb", "msb-cache"])
def test_a_layer_that_a_manifest_has_twice_goes_once(log: Log, engine: ev.Engine) -> None:
    log.append((manifest_added([X, Y, X]), M), (manifest_added([Y]), N), (pulled(M), PYTHON))
    assert log.layers_of(M) == [(0, X.diff_id), (1, Y.diff_id), (2, X.diff_id)]
    with log.ledger.read() as connection:
        assert connection is not None
        handle = images.handle(connection, PYTHON)
        assert handle is not None
        assert (handle.layer_count, handle.size_bytes) == (3, 40)
        assert state.load(connection).sharing_counts == {Y.diff_id: 2}
        assert images.manifests_with(connection, X.diff_id) == [M]
    log.start(X, engine=engine)
    log.delete(M)
    assert log.layers() == ids(Y)
    assert log.layers_of(M) == []
    assert log.counters().layers_removed == 1
    with log.ledger.read() as connection:
        assert connection is not None
        assert not images.needs(connection, "layer", X.diff_id)
        assert images.needs(connection, "layer", Y.diff_id)


def test_a_layer_that_a_manifest_has_twice_counts_once_among_those_that_share_it(log: Log) -> None:
    log.append((manifest_added([X, Y, X]), M), (manifest_added([X]), N))
    with log.ledger.read() as connection:
        assert connection is not None
        assert state.load(connection).sharing_counts == {X.diff_id: 2}


# -- references -------------------------------------------------------------------------------------------


def test_only_references_that_are_there_count_as_removed(log: Log) -> None:
    log.append((pulled(M), PYTHON))
    log.start()
    gone = ev.ImageRemoved(manifest_digest=M, cause="prune")
    log.append((gone, "docker.io/library/never:1"), (gone, PYTHON), (gone, PYTHON), operation=OPERATION)
    assert log.counters().image_refs_removed == 1
    with log.ledger.read() as connection:
        assert connection is not None
        assert images.by_reference(connection) == []


def test_what_another_program_deleted_is_a_deletion_of_its_own(log: Log) -> None:
    log.append((manifest_added([X, Y]), M), (pulled(M), PYTHON))
    log.start()
    log.append(
        (ev.ImageReleased(holder="sandbox:x"), M),
        (ev.ImageRemoved(manifest_digest=M, cause="external"), PYTHON),
        (ev.ManifestDeleted(), M),
        (ev.VmdkDeleted(bytes=3), M),
        (ev.FsmetaDeleted(bytes=5), M),
        (ev.LayerDeleted(bytes=70), X.diff_id),
        operation="seen",
    )
    external, ours = log.deletions()
    assert (ours.operation, ours.image_refs_removed, ours.bytes_reclaimed) == (OPERATION, 0, None)
    assert (external.operation, external.kind, external.engine) == ("seen", "external", "msb")
    assert (external.outcome, external.finished_at) == ("completed", external.started_at)
    assert (external.image_refs_removed, external.manifests_removed, external.layers_removed) == (1, 1, 2)
    assert (external.fsmeta_removed, external.vmdk_removed, external.bytes_reclaimed) == (1, 1, 78)
    # msb deletes files after their records: this one was seen to be gone later.
    log.append((ev.LayerDeleted(bytes=900), Y.diff_id), operation="seen")
    assert log.deletions()[0].bytes_reclaimed == 978


def test_what_comes_and_goes_again_unseen_is_no_error(log: Log) -> None:
    added = (manifest_added([X]), M)
    log.append(added, (ev.ManifestDeleted(), M), added, (ev.ManifestDeleted(), M), operation="seen")
    assert [row.manifests_removed for row in log.deletions()] == [2]


def test_images_say_what_is_known_of_their_manifest(log: Log) -> None:
    def shown() -> tuple[int | None, int | None, str | None, str | None]:
        with log.ledger.read() as connection:
            assert connection is not None
            handle = images.handle(connection, PYTHON)
        assert handle is not None
        return handle.size_bytes, handle.layer_count, handle.os, handle.architecture

    nothing = (None, None, None, None)
    log.append((pulled(M), PYTHON))
    assert shown() == nothing
    log.append((manifest_added([X, Y]), M))
    assert shown() == (30, 2, "linux", "amd64")
    log.append((manifest_added([Z]), N), (pulled(N, previous=M), PYTHON))
    assert shown() == (30, 1, "linux", "amd64")
    log.delete(M)
    assert shown() == (30, 1, "linux", "amd64")
    log.delete(N)
    assert shown() == nothing


def test_all_that_a_reference_ever_pointed_at_is_kept(log: Log) -> None:
    for manifest in (M, N, M):
        log.append((pulled(manifest), PYTHON))
    log.append((ev.ImageRemoved(manifest_digest=M, cause="external"), PYTHON), (pulled(M), PYTHON))
    with log.ledger.read() as connection:
        assert connection is not None
        found = connection.execute("SELECT reference, manifest_digest, seq FROM pointed_at ORDER BY seq")
        assert found.fetchall() == [(PYTHON, M, 2), (PYTHON, N, 3)]


def test_a_pull_that_names_no_record_of_msb_keeps_the_one_that_is_known(log: Log) -> None:
    def row() -> str | None:
        with log.ledger.read() as connection:
            assert connection is not None
            return known.load(connection).images[PYTHON].row

    for manifest, given, expected in ((M, None, None), (M, "1", "1"), (N, None, "1"), (N, "2", "2")):
        log.append((replace(pulled(manifest), row=given), PYTHON))
        assert row() == expected


# -- counters of a deletion -------------------------------------------------------------------------------


def test_what_a_deletion_counts(log: Log) -> None:
    log.start()
    counters = log.counters()
    assert (counters.bytes_reclaimed, counters.finished_at, counters.outcome) == (None, None, None)
    log.append(
        (ev.FsmetaDeleted(bytes=1), M),
        (ev.FsmetaDeleted(), N),
        (ev.VmdkDeleted(bytes=20), M),
        (ev.MetadataDeleted(bytes=300), PYTHON),
        (ev.LayerDeleted(bytes=4000), X.diff_id),
        (ev.ArtifactKept(kind="layer", reason="busy"), Y.diff_id),
        (ev.ArtifactKept(kind="layer", reason="needed"), Z.diff_id),
        (ev.ArtifactDeleteFailed(kind="vmdk", errno=13, reason="Permission denied"), N),
        operation=OPERATION,
    )
    counters = log.counters()
    assert (counters.fsmeta_removed, counters.vmdk_removed, counters.layers_removed) == (2, 1, 0)
    assert (counters.bytes_reclaimed, counters.kept, counters.failed) == (4321, 2, 1)
    log.append((ev.DeletionFinished(outcome="partial", recovered=True), OPERATION), operation=OPERATION)
    counters = log.counters()
    assert counters.finished_at is not None
    assert (counters.outcome, counters.recovered) == ("partial", 1)


def test_the_outcome_of_each_artifact(log: Log) -> None:
    log.start()
    log.append(
        (ev.ManifestDeleted(), M),
        (ev.LayerDeleted(bytes=1), X.diff_id),
        (ev.ArtifactKept(kind="layer", reason="busy"), Y.diff_id),
        (ev.ArtifactDeleteFailed(kind="vmdk", errno=13, reason="Permission denied"), N),
        operation=OPERATION,
    )
    log.append((ev.LayerDeleted(bytes=1), Z.diff_id), operation="another program's, without a plan")
    with log.ledger.read() as connection:
        assert connection is not None
        found = connection.execute(
            "SELECT operation, kind, subject, outcome FROM deletion_outcome"
        ).fetchall()
    assert sorted(found) == sorted(
        (OPERATION, kind, subject, outcome)
        for kind, subject, outcome in (
            ("manifest", M, "deleted"),
            ("layer", X.diff_id, "deleted"),
            ("layer", Y.diff_id, "kept"),
            ("vmdk", N, "failed"),
        )
    )


def leftover(log: Log) -> list[tuple[str, str, str]]:
    with log.ledger.read() as connection:
        assert connection is not None
        return [(row.kind, row.subject, row.reason) for row in leftovers(connection)]


def test_what_is_left_over_and_until_when(log: Log) -> None:
    log.append((manifest_added([X, Y]), M))
    log.start()
    log.append(
        (ev.ArtifactKept(kind="layer", reason="busy"), X.diff_id),
        (ev.ArtifactKept(kind="layer", reason="needed"), Y.diff_id),
        (ev.ArtifactKept(kind="fsmeta", reason="left"), M),
        (ev.ArtifactDeleteFailed(kind="vmdk", errno=5, reason="Input/output error"), M),
        (ev.ArtifactDeleteFailed(kind="metadata", errno=0, reason="msb refused"), PYTHON),
        (ev.ArtifactKept(kind="metadata", reason="owned"), OTHER),
        (
            ev.ArtifactKept(kind="metadata", reason="held", holders=("sandbox:dev",)),
            "docker.io/library/app:1",
        ),
        operation=OPERATION,
    )
    assert leftover(log) == [
        ("layer", X.diff_id, "busy"),
        ("fsmeta", M, "left"),
        ("vmdk", M, "Input/output error"),
        ("metadata", OTHER, "owned"),
    ]
    log.append((ev.ArtifactKept(kind="layer", reason="busy"), X.diff_id), operation="the next one")
    assert len(leftover(log)) == 4
    # Gone, whoever deleted it; needed again.
    log.append((ev.FsmetaDeleted(bytes=1), M), operation="no deletion of ours")
    log.append((pulled(M), OTHER))
    assert leftover(log) == [("vmdk", M, "Input/output error"), ("layer", X.diff_id, "busy")]
    log.append((manifest_added([X, Y]), M))
    assert leftover(log) == []


def test_a_decision_in_parts_is_one_deletion(log: Log) -> None:
    log.append((manifest_added([X, Y]), M))
    log.start(X)
    log.start(Y)
    assert log.counters().layers_removed == 2
    assert log.layers() == set()


# -- what rules took --------------------------------------------------------------------------------------


def rules(log: Log) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
    """What is counted, and which images are going by which rule."""
    with log.ledger.read() as connection:
        assert connection is not None
        counts = connection.execute("SELECT cause, rule, images FROM rule_count ORDER BY seq, rule")
        return counts.fetchall(), connection.execute("SELECT name, rule FROM going ORDER BY name").fetchall()


def chosen(*going: tuple[str, str | None]) -> tuple[ev.Event, str]:
    judged = [ev.Judged(subject=name, rule="due", policy_rule=rule) for name, rule in going]
    return ev.DeletionStarted(kind="prune", policy={}, going=tuple(judged)), OPERATION


def removed(cause: str, spelling: str | None = None) -> ev.ImageRemoved:
    return ev.ImageRemoved(manifest_digest=M, spelling=spelling, cause=cause)  # type: ignore[arg-type]


def test_images_are_counted_by_the_rule_that_took_them(log: Log) -> None:
    log.append((pulled(M), PYTHON), (pulled(M), OTHER), (pulled(N), "docker.io/library/app:1"))
    decided = chosen((PYTHON, "old"), (OTHER, None), (digest("a manifest without a reference"), "old"))
    log.append(decided, (removed("prune"), PYTHON), (removed("prune"), OTHER), operation=OPERATION)
    assert rules(log) == ([("prune", "old", 1), ("prune", "due", 1)], [])
    log.append((removed("remove"), "docker.io/library/app:1"), operation="a remove")
    log.append((removed("remove"), "docker.io/library/app:1"), operation="of what is not there")
    for operation, cause in (("msb", "external"), ("a prune without rules", "prune"), ("old again", "prune")):
        log.append((pulled(M), PYTHON))
        if operation == "old again":
            log.append(chosen((PYTHON, "old")), operation=operation)
        log.append((removed(cause), PYTHON), operation=operation)
    assert rules(log)[0] == [
        ("prune", "old", 2),
        ("prune", "due", 1),
        ("remove", "remove", 1),
        ("external", "external", 1),
        ("prune", "unused", 1),
    ]


def test_what_msb_takes_later_is_counted_by_the_rule_that_chose_it(log: Log) -> None:
    """What it refuses, or something else takes, is not counted so."""
    log.append((replace(pulled(M), spelling="python:3.12", row="1@1"), PYTHON), (pulled(M), OTHER))
    going = [
        ev.Judged(subject=PYTHON, spelling="python:3.12", rule="due", policy_rule="old"),
        ev.Judged(subject=OTHER, rule="due", policy_rule="old"),
    ]
    started = ev.DeletionStarted(kind="prune", policy={}, going=tuple(going), engine="msb")
    log.append((started, OPERATION), operation=OPERATION)
    log.append((removed("prune", "python:3.12"), PYTHON), operation=OPERATION)
    assert rules(log) == ([("prune", "old", 1)], [(OTHER, "old")])
    log.append((removed("external"), OTHER), operation="msb by itself")
    assert rules(log)[0] == [("prune", "old", 1), ("external", "external", 1)]
    log.append((ev.DeletionFinished(outcome="partial"), OPERATION), operation=OPERATION)
    assert rules(log)[1] == []


# -- uses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "last_used"), [(499, 500), (500, 500), (501, 501)])
def test_a_use_that_is_learned_late(log: Log, at: int, last_used: int) -> None:
    log.append_at(500, pulled(M), PYTHON)
    log.append_at(at, ev.ImageUsed(manifest_digest=M), PYTHON)
    with log.ledger.read() as connection:
        assert connection is not None
        handle = images.handle(connection, PYTHON)
    assert handle is not None
    assert (handle.created_at, handle.last_used_at) == (500, last_used)


# -- holds ------------------------------------------------------------------------------------------------


def test_a_hold_that_is_seen_again_keeps_its_beginning(log: Log) -> None:
    def held(row: str | None) -> tuple[ev.Event, str]:
        return ev.ImageHeld(holder="sandbox:a", reference=PYTHON, row=row), M

    def found() -> tuple[int, str | None]:
        with log.ledger.read() as connection:
            assert connection is not None
            (hold,) = images.holds(connection, M)
            return hold.since, known.load(connection).holds[M, "sandbox:a"].row

    log.append(held(None))
    since, row = found()
    assert row is None
    log.append(held("7"))
    assert found() == (since, "7")
    log.append(held(None))
    assert found() == (since, "7")
    log.append(held("8"))
    assert found() == (since, "8")
    log.append((ev.ImageReleased(holder="sandbox:other"), M), (ev.ImageReleased(holder="sandbox:a"), N))
    assert found() == (since, "8")
    log.append((ev.ImageReleased(holder="sandbox:a"), M))
    with log.ledger.read() as connection:
        assert connection is not None
        assert images.holds(connection, None) == []


# -- boots --------------------------------------------------------------------------------------------------


def booted(run: int, of: str = M, holder: str = "sandbox:dev", status: str | None = None) -> ev.ImageUsed:
    return ev.ImageUsed(manifest_digest=of, holder=holder, run=f"run:{run}@1", status=status)


def ended(run: int, of: str = M, holder: str = "sandbox:dev", status: str | None = None) -> ev.ImageUseEnded:
    return ev.ImageUseEnded(manifest_digest=of, holder=holder, run=f"run:{run}@1", how="ended", status=status)


def use_of(log: Log, reference: str = PYTHON) -> tuple[int, str | None, int | None, int | None]:
    """Return when an image was last used, by what it is in use, since when, and since when it is idle."""
    with log.ledger.read() as connection:
        assert connection is not None
        row = images.handle(connection, reference)
        assert row is not None
        assert live.compare(connection, live.fold_until(log.ledger.store(connection))) == []
        return row.last_used_at, row.in_use_by, row.in_use_since, row.idle_since


def test_an_image_is_in_use_from_a_boot_to_its_end(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(20, pulled(M), OTHER)
    log.append_at(30, booted(1), PYTHON)
    assert use_of(log) == (30, '["sandbox:dev"]', 30, None)
    assert use_of(log, OTHER) == (20, '["sandbox:dev"]', 30, None)  # by another name, not used by it
    log.append_at(40, booted(2, holder="sandbox:ops"), PYTHON)
    assert use_of(log)[1:3] == ('["sandbox:dev","sandbox:ops"]', 30)
    log.append_at(60, ended(1), PYTHON)
    assert use_of(log) == (40, '["sandbox:ops"]', 40, 60)
    log.append_at(50, ended(2, holder="sandbox:ops"), PYTHON)  # learned of late
    assert use_of(log) == (40, None, None, 60)
    log.append_at(70, ended(1), PYTHON)  # it has ended
    log.append_at(70, ended(9), PYTHON)  # nothing is known of it
    assert use_of(log) == (40, None, None, 60)


def test_a_boot_counts_where_the_reference_points(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(20, booted(1), PYTHON)
    log.append_at(30, pulled(N, previous=M), PYTHON)
    assert use_of(log) == (30, None, None, None)
    log.append_at(40, booted(2), PYTHON)
    log.append_at(50, ended(2), PYTHON)
    assert use_of(log) == (30, None, None, None)
    log.append_at(60, pulled(M, previous=N), PYTHON)
    assert use_of(log) == (60, '["sandbox:dev"]', 20, None)
    log.append(ev_removed(), operation="gone")
    log.append_at(80, ended(1), PYTHON)
    log.append_at(90, pulled(M), PYTHON)
    assert use_of(log) == (90, None, None, None)


def ev_removed() -> tuple[ev.Event, str]:
    return ev.ImageRemoved(manifest_digest=M, cause="external"), PYTHON


def test_boots_say_what_became_of_the_sandbox(log: Log) -> None:
    def hold() -> images.HoldDetailRow:
        with log.ledger.read() as connection:
            assert connection is not None
            (found,) = images.holds(connection, None)
            return found

    log.append_at(10, ev.ImageHeld(holder="sandbox:dev", status="Starting", root="flat"), M)
    assert (hold().status, hold().root, hold().labels) == ("Starting", "flat", None)
    log.append_at(20, booted(1, status="Running"), PYTHON)
    log.append_at(30, booted(2), PYTHON)
    log.append_at(30, booted(3, holder="sandbox:other", status="Crashed"), PYTHON)
    assert hold().status == "Running"
    log.append_at(40, ended(1, status="Stopped"), PYTHON)
    log.append_at(50, ev.ImageHeld(holder="sandbox:dev", labels={"team": "infra"}), M)
    found = hold()
    assert (found.status, found.root, found.labels) == ("Stopped", "flat", '{"team":"infra"}')
    assert found.since == 10
    log.append_at(60, ev.ImageHeld(holder="sandbox:dev", labels={}), M)
    assert hold().labels is None


def test_times_of_a_clock_that_was_ahead_are_brought_down(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(500, booted(1), PYTHON)
    log.append_at(400, booted(2), PYTHON)
    log.append_at(600, ended(2), PYTHON)
    jumped = ev.ClockJumped(direction="back", by_ns=300, from_ns=600, to_ns=300, was_ahead=True)
    log.append((jumped, "0" * 32))
    assert use_of(log) == (300, '["sandbox:dev"]', 300, 300)


def names(log: Log) -> list[tuple[str, str | None, str]]:
    """Return each image's name, spelling and manifest, by name."""
    with log.ledger.read() as connection:
        assert connection is not None
        return [(row.name, row.spelling, row.manifest_digest) for row in images.by_reference(connection)]


def seen(digest_: str, spelling: str, row: str) -> ev.ImagePulled:
    """A pull that was observed in msb."""
    return ev.ImagePulled(
        manifest_digest=digest_,
        changed=True,
        source=ev.Source(kind="microsandbox"),
        spelling=spelling,
        row=row,
    )


def test_a_home_of_ours_has_one_image_of_a_reference_as_typed_last(log: Log) -> None:
    typed = replace(pulled(M), spelling="index.docker.io/library/python:3.12")
    log.append((pulled(M), PYTHON))
    assert names(log) == [(PYTHON, None, M)]
    log.append((typed, PYTHON))
    assert names(log) == [(PYTHON, "index.docker.io/library/python:3.12", M)]
    log.append((replace(typed, spelling=None, manifest_digest=N), PYTHON))
    assert names(log) == [(PYTHON, None, N)]


def test_in_a_home_of_msb_each_spelling_is_an_image(log: Log) -> None:
    log.append((seen(M, "python:3.12", "1"), PYTHON), (seen(N, PYTHON, "2"), PYTHON))
    assert names(log) == [(PYTHON, PYTHON, N), ("python:3.12", "python:3.12", M)]
    used = ev.ImageUsed(manifest_digest=M, spelling="python:3.12")
    removed = ev.ImageRemoved(manifest_digest=M, spelling="python:3.12", cause="external")
    log.append((used, PYTHON), (removed, PYTHON))
    assert names(log) == [(PYTHON, PYTHON, N)]


def test_an_image_of_ours_that_msb_takes_over_keeps_its_age(log: Log) -> None:
    log.append((pulled(M), PYTHON))
    with log.ledger.read() as connection:
        assert connection is not None
        before = images.handle(connection, PYTHON)
    log.append((seen(M, "python:3.12", "1"), PYTHON))
    assert names(log) == [("python:3.12", "python:3.12", M)]
    with log.ledger.read() as connection:
        assert connection is not None
        after = images.handle(connection, "python:3.12")
    assert before is not None
    assert after is not None
    assert before.created_at == after.created_at


def test_what_was_seen_before_spellings_were_recorded_gets_its_own(log: Log) -> None:
    old = replace(seen(M, "", "1"), spelling=None)
    log.append((old, PYTHON), (seen(N, PYTHON + "x", "2"), PYTHON))
    assert [name for name, *_ in names(log)] == [PYTHON, PYTHON + "x"]
    log.append((seen(M, "python:3.12", "1"), PYTHON))
    assert [name for name, *_ in names(log)] == [PYTHON + "x", "python:3.12"]


# -- since when ---------------------------------------------------------------------------------------------


def image(log: Log, name: str = PYTHON) -> ImageRow:
    with log.ledger.read() as connection:
        assert connection is not None
        assert live.compare(connection, live.fold_until(log.ledger.store(connection))) == []
        columns = ", ".join(ImageRow.__struct_fields__)
        row = connection.execute(f"SELECT {columns} FROM image WHERE name = ?", (name,)).fetchone()
    return ImageRow(*row)


def unnamed_since(log: Log, manifest: str = M) -> int | None:
    with log.ledger.read() as connection:
        assert connection is not None
        assert live.compare(connection, live.fold_until(log.ledger.store(connection))) == []
        found = connection.execute("SELECT unnamed_since FROM manifest WHERE digest = ?", (manifest,))
        (since,) = found.fetchone()
    assert since is None or isinstance(since, int)
    return since


def pins(log: Log) -> list[tuple[str, str | None, int, int | None]]:
    with log.ledger.read() as connection:
        assert connection is not None
        found = connection.execute("SELECT subject, spelling, since, until FROM pin ORDER BY subject")
        return found.fetchall()


def holds(log: Log) -> list[tuple[str, int, int | None]]:
    """Every hold, those that have ended too: who holds, since and until when."""
    with log.ledger.read() as connection:
        assert connection is not None
        return connection.execute("SELECT holder, since, until FROM hold ORDER BY holder").fetchall()


def test_a_reference_points_where_it_points_since_it_moved_there(log: Log) -> None:
    def since() -> tuple[int, int, int]:
        row = image(log)
        return row.created_at, row.pointed_since, row.pulled_at

    log.append_at(10, pulled(M), PYTHON)
    assert since() == (10, 10, 10)
    log.append_at(20, pulled(M), PYTHON)
    assert since() == (10, 10, 20)
    log.append_at(15, pulled(M), PYTHON)  # learned of late
    assert since() == (10, 10, 20)
    log.append_at(30, ev.ImageUsed(manifest_digest=M), PYTHON)
    assert since() == (10, 10, 20)
    log.append_at(40, pulled(N, previous=M), PYTHON)
    assert since() == (10, 40, 40)
    log.append_at(50, pulled(M, previous=N), PYTHON)
    assert since() == (10, 50, 50)
    log.append(ev_removed())
    log.append_at(60, pulled(M), PYTHON)
    assert since() == (60, 60, 60)


@pytest.mark.parametrize(("observed", "pointed"), [(None, 10), (5, 10), (10, 10), (70, 70)])
def test_a_pull_that_was_observed_points_there_since_it_is_known_to(
    log: Log, observed: int | None, pointed: int
) -> None:
    pull = replace(pulled(M), observed_since_ns=observed, named_at_ns=7)
    log.append_at(10, pull, PYTHON)
    assert (image(log).created_at, image(log).pointed_since, image(log).pulled_at) == (7, pointed, 10)
    log.append_at(5, pulled(N), PYTHON)
    log.append_at(10, pull, PYTHON)
    assert (image(log).created_at, image(log).pointed_since, image(log).pulled_at) == (7, pointed, 10)


def test_another_name_of_an_image_that_msb_takes_over_keeps_since_when(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(20, pulled(M), PYTHON)
    log.append_at(30, seen(M, "python:3.12", "1"), PYTHON)
    row = image(log, "python:3.12")
    assert (row.created_at, row.pointed_since, row.pulled_at) == (10, 10, 30)


def test_a_manifest_is_without_a_name_since_the_last_one_left_it(log: Log) -> None:
    log.append_at(10, manifest_added([X]), M)
    log.append_at(10, manifest_added([Y]), N)
    assert unnamed_since(log) == 10
    log.append_at(20, pulled(M), PYTHON)
    assert unnamed_since(log) is None
    log.append_at(30, pulled(M), OTHER)
    log.append_at(40, pulled(N, previous=M), PYTHON)
    assert unnamed_since(log) is None
    log.append_at(50, ev.ImageRemoved(manifest_digest=M, cause="external"), OTHER)
    assert unnamed_since(log) == 50
    log.append_at(60, ev.ImageRemoved(manifest_digest=M, cause="external"), OTHER)
    log.append_at(70, manifest_added([X, Y]), M)  # more is known of it
    assert unnamed_since(log) == 50
    log.append_at(80, pulled(M, previous=N), PYTHON)
    assert unnamed_since(log) is None
    assert unnamed_since(log, N) == 80
    log.delete(M)
    log.append_at(90, manifest_added([X]), M)
    assert unnamed_since(log) is None


def test_a_manifest_that_comes_after_its_name_has_one(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(20, manifest_added([X]), M)
    assert unnamed_since(log) is None


def test_a_name_that_msb_takes_over_does_not_leave_its_manifest(log: Log) -> None:
    log.append_at(10, manifest_added([X]), M)
    log.append_at(20, pulled(M), PYTHON)
    log.append_at(30, seen(M, "python:3.12", "1"), PYTHON)
    assert unnamed_since(log) is None


def test_a_manifest_without_a_name_is_idle_since_what_needed_it_last(log: Log) -> None:
    log.append_at(10, manifest_added([X]), M)
    log.append_at(20, ev.ImageHeld(holder="sandbox:dev"), M)
    log.append_at(20, booted(1), PYTHON)
    assert unnamed_since(log) == 10
    log.append_at(30, ended(1), PYTHON)
    assert unnamed_since(log) == 30
    log.append_at(40, ev.ImageReleased(holder="sandbox:dev"), M)
    assert unnamed_since(log) == 40
    log.append_at(50, ev.ImageReleased(holder="sandbox:dev"), M)  # nobody's
    assert unnamed_since(log) == 40
    log.append_at(35, booted(2), PYTHON)
    log.append_at(38, ended(2), PYTHON)  # learned of late
    assert unnamed_since(log) == 40


def test_an_image_is_idle_since_it_was_released(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(10, pulled(M), OTHER)
    log.append_at(20, ev.ImageHeld(holder="sandbox:dev"), M)
    assert image(log).idle_since is None
    log.append_at(30, ev.ImageReleased(holder="sandbox:dev"), M)
    assert (image(log).idle_since, image(log).idle_seq) == (30, 5)
    assert image(log, OTHER).idle_since == 30
    log.append_at(40, ev.ImageReleased(holder="sandbox:dev"), M)  # it was released
    log.append_at(40, ev.ImageReleased(holder="sandbox:dev"), N)
    assert image(log).idle_since == 30
    log.append_at(25, ev.ImageHeld(holder="sandbox:dev"), M)
    log.append_at(28, ev.ImageReleased(holder="sandbox:dev"), M)  # learned of late
    assert (image(log).idle_since, image(log).idle_seq) == (30, 5)
    log.append_at(50, pulled(N, previous=M), PYTHON)
    assert (image(log).idle_since, image(log).idle_seq) == (None, None)


# -- pins, and holds that end -------------------------------------------------------------------------------


def test_a_pin_lasts_until_it_is_taken_out_and_the_last_one_counts(log: Log) -> None:
    log.append_at(10, ev.ImagePinned(until_ns=500, spelling="python:3.12"), PYTHON)
    log.append_at(20, ev.ImagePinned(), M)
    assert pins(log) == [(PYTHON, "python:3.12", 10, 500), (M, None, 20, None)]
    log.append_at(30, ev.ImagePinned(), PYTHON)
    log.append_at(30, ev.ImageUnpinned(), N)
    assert pins(log) == [(PYTHON, None, 30, None), (M, None, 20, None)]
    log.append((pulled(M), PYTHON), ev_removed(), (ev.ManifestDeleted(), M))
    assert len(pins(log)) == 2  # it survives the image
    log.append((ev.ImageUnpinned(), PYTHON), (ev.ImageUnpinned(), M))
    assert pins(log) == []


def test_a_hold_that_is_taken_again_before_its_end_goes_on(log: Log) -> None:
    log.append_at(10, ev.ImageHeld(holder="sandbox:dev", until_ns=50, root="flat"), M)
    log.append_at(49, ev.ImageHeld(holder="sandbox:dev", until_ns=90), M)
    assert holds(log) == [("sandbox:dev", 10, 90)]
    log.append_at(60, ev.ImageHeld(holder="sandbox:dev"), M)
    assert holds(log) == [("sandbox:dev", 10, None)]
    log.append_at(70, ev.ImageHeld(holder="sandbox:dev", until_ns=80), M)
    assert holds(log) == [("sandbox:dev", 10, 80)]


def test_a_hold_that_is_taken_again_after_its_end_begins_anew(log: Log) -> None:
    log.append_at(10, ev.ImageHeld(holder="sandbox:dev", until_ns=50, labels={"a": "b"}, reference=OTHER), M)
    log.append_at(50, ev.ImageHeld(holder="sandbox:dev", until_ns=None, reference=PYTHON), M)
    assert holds(log) == [("sandbox:dev", 50, None)]
    with log.ledger.read() as connection:
        assert connection is not None
        (hold,) = images.holds(connection, M)
    assert (hold.reference, hold.labels) == (PYTHON, None)


def test_a_hold_of_msb_has_no_end(log: Log) -> None:
    log.append_at(10, ev.ImageHeld(holder="sandbox:dev", until_ns=50), M)
    log.append_at(20, ev.ImageHeld(holder="sandbox:dev", row="1"), M)
    assert holds(log) == [("sandbox:dev", 10, None)]
    log.append_at(30, ev.ImageHeld(holder="sandbox:dev", until_ns=60), M)
    assert holds(log) == [("sandbox:dev", 10, None)]


def test_a_hold_that_has_ended_can_be_released(log: Log) -> None:
    log.append_at(10, pulled(M), PYTHON)
    log.append_at(10, ev.ImageHeld(holder="sandbox:dev", until_ns=50), M)
    log.append_at(60, ev.ImageReleased(holder="sandbox:dev"), M)
    assert holds(log) == []


def test_no_time_is_later_than_that_to_which_a_clock_that_was_ahead_came_back(log: Log) -> None:
    log.append_at(10, manifest_added([X]), M)
    log.append_at(500, manifest_added([Y]), N)
    log.append_at(500, pulled(M), PYTHON)
    log.append_at(200, pulled(M), OTHER)
    log.append_at(510, ev.ImageHeld(holder="sandbox:a", until_ns=900), M)
    log.append_at(510, ev.ImageHeld(holder="sandbox:b"), M)
    log.append_at(520, ev.ImageReleased(holder="sandbox:b"), M)
    log.append_at(530, ev.ImagePinned(until_ns=900), PYTHON)
    log.append_at(100, ev.ImagePinned(), OTHER)
    kept = ev.ClockJumped(direction="back", by_ns=300, from_ns=600, to_ns=300)
    log.append((kept, "0" * 32))
    assert image(log).pointed_since == 500  # it is behind now, and was right before
    log.append((replace(kept, was_ahead=True), "0" * 32))
    row, other = image(log), image(log, OTHER)
    assert (row.pointed_since, row.pulled_at, row.idle_since) == (300, 300, 300)
    assert (row.created_at, row.last_used_at) == (300, 300)
    assert (other.pointed_since, other.pulled_at, other.idle_since) == (200, 200, 300)
    assert (unnamed_since(log, M), unnamed_since(log, N)) == (None, 300)
    assert holds(log) == [("sandbox:a", 300, 900)]
    assert pins(log) == [(OTHER, None, 100, None), (PYTHON, None, 300, 900)]
