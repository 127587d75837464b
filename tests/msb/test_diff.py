"""The comparison of msb's index with ours: tables of cases, and that it always ends with both alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlite_utils import Database

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.migrations.schema import migrations
from msb_cache.msb.database import MsbHold, MsbImage, MsbLayer, MsbManifest, MsbState
from msb_cache.msb.diff import Differences, differences
from msb_cache.msb.stored import Stored
from msb_cache.projections import images, known, live, schema
from msb_cache.projections.moment import set_moment
from tests.logs import ACTOR, digest, layer, manifest_added, pulled

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
M, N = digest("m"), digest("n")
T = 1_790_000_000_000_000_000
NOW = T + 10**15


def no_files(kind: str, subject: str) -> int | None:
    return None


def all_files(kind: str, subject: str) -> int | None:
    return {"layer": 8192, "fsmeta": 4096, "vmdk": 633}[kind]


def no_metadata(reference: str) -> Stored | None:
    return None


def manifest(name: str = M, layers: str = "x", *, row: int = 1) -> MsbManifest:
    return MsbManifest(
        digest=name,
        row=f"manifest:{row}",
        media_type=None,
        config_digest=digest("config"),
        architecture="amd64",
        os="linux",
        variant=None,
        config=ev.ImageConfig(),
        layers=tuple(
            MsbLayer(diff_id=digest(f"diff{x}"), blob_digest=digest(f"blob{x}"), media_type="tar", size=10)
            for x in layers
        ),
        total_size=10 * len(layers),
        created_at_ns=T + row - 1,
    )


def image(
    reference: str = A,
    to: str = M,
    *,
    row: int = 1,
    created: int | None = T + 1,
    updated: int | None = T + 1,
    typed: str | None = None,
) -> MsbImage:
    return MsbImage(
        reference=reference,
        typed=typed or reference,
        manifest_digest=to,
        row=f"image_ref:{row}",
        created_at_ns=created,
        updated_at_ns=updated,
    )


def hold(
    holder: str = "sandbox:dev", of: str = M, *, row: int = 1, reference: str | None = A, at: int = T + 9
) -> MsbHold:
    return MsbHold(
        holder=holder,
        manifest_digest=of,
        row=f"rootfs:{row}",
        reference=reference,
        typed=reference,
        created_at_ns=at,
    )


def state(*found: MsbImage | MsbManifest | MsbHold, kinds: str = "sandbox snapshot") -> MsbState:
    return MsbState(
        images={each.typed: each for each in found if isinstance(each, MsbImage)},
        manifests={each.digest: each for each in found if isinstance(each, MsbManifest)},
        holds={(each.manifest_digest, each.holder): each for each in found if isinstance(each, MsbHold)},
        holder_kinds=frozenset(kinds.split()),
    )


class Index:
    """Our index in memory: apply events, and look at the tables."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        set_moment(self.connection, lambda: self.now)
        migrations.apply(Database(self.connection))
        schema.create(self.connection)
        self.now = NOW
        self.store = EventStore(self.connection, clock=self.tick)

    def tick(self) -> int:
        self.now += 1
        return self.now

    def append(self, events: list[NewEvent]) -> None:
        self.connection.execute("BEGIN")
        live.apply(self.connection, self.store.append(events, operation="o", actor=ACTOR))
        self.connection.execute("COMMIT")

    def sync(self, theirs: MsbState, measure: Any = all_files, look: Any = no_metadata) -> Differences:
        """Apply what is different; afterwards nothing may be."""
        found = differences(known.load(self.connection), theirs, measure, look, NOW)
        self.append(found.events)
        assert differences(known.load(self.connection), theirs, measure, look, NOW).events == []
        assert live.compare(self.connection, live.fold_until(self.store)) == []
        return found

    def handles(self) -> dict[str, tuple[str, int, int]]:
        return {
            row.name: (row.manifest_digest, row.created_at, row.last_used_at)
            for row in images.handles(self.connection)
        }

    def holds(self) -> set[tuple[str, str]]:
        return set(known.load(self.connection).holds)


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index()
    yield found
    found.connection.close()


def said(events: list[NewEvent]) -> list[str]:
    """Return events in a line each: type, what it is about, and when, relative to T."""
    lines = []
    names = {A: "a", B: "b", M: "m", N: "n"} | {digest(f"diff{x}"): f"layer {x}" for x in "xyz"}
    for new in events:
        event, subject, at = new.event, new.subject, new.occurred_at_ns
        fields = [event.type, names[subject]]
        for name in ("manifest_digest", "previous_digest"):
            value = getattr(event, name, None)
            fields += [] if value is None else [f"{'was ' if name[0] == 'p' else ''}{names[value]}"]
        fields += [
            str(value) for value in (getattr(event, "holder", None), getattr(event, "bytes", None)) if value
        ]
        lines.append(" ".join(fields + ([] if at is None else [f"+{at - T}"])))
    return lines


BEFORE = (manifest(), image(), hold())

CASES: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...], list[str]]] = {
    "nothing": ((), (), []),
    "the same": (BEFORE, BEFORE, []),
    "first contact": (
        (),
        (manifest(), manifest(N, "xy", row=2), image(updated=T + 8), image(B, N, created=T + 5), hold()),
        [
            "manifest.added m +0",
            "manifest.added n +1",
            "image.pulled a m +1",
            "image.pulled b n +5",
            "image.used a m sandbox:dev +8",
            "image.held m sandbox:dev +9",
        ],
    ),
    "used": ((manifest(), image()), (manifest(), image(updated=T + 7)), ["image.used a m +7"]),
    "an older time of use": ((manifest(), image(updated=T + 7)), (manifest(), image(updated=T + 2)), []),
    "a sandbox is made": (
        (manifest(), image()),
        (manifest(), image(updated=T + 8), hold()),
        ["image.used a m sandbox:dev +8", "image.held m sandbox:dev +9"],
    ),
    "two sandboxes are made": (
        (manifest(), image()),
        (manifest(), image(updated=T + 20), hold(), hold("sandbox:ops", row=2, at=T + 21)),
        [
            "image.held m sandbox:dev +9",
            "image.used a m sandbox:dev +9",
            "image.used a m sandbox:ops +20",
            "image.held m sandbox:ops +21",
        ],
    ),
    "a sandbox is made, and the image used once more": (
        (manifest(), image()),
        (manifest(), image(updated=T + 20), hold()),
        ["image.held m sandbox:dev +9", "image.used a m sandbox:dev +9", "image.used a m +20"],
    ),
    "a sandbox of an unknown reference": (
        (manifest(), image()),
        (manifest(), image(), hold(reference=None)),
        ["image.held m sandbox:dev +9"],
    ),
    "a snapshot holds and is no use": (
        (manifest(), image()),
        (manifest(), image(), hold("snapshot:s")),
        ["image.held m snapshot:s +9"],
    ),
    "a sandbox goes": (BEFORE, (manifest(), image()), ["image.released m sandbox:dev"]),
    "a sandbox with an old name": (
        BEFORE,
        (manifest(), image(), hold(row=2, at=T + 30)),
        ["image.released m sandbox:dev", "image.used a m sandbox:dev +1", "image.held m sandbox:dev +30"],
    ),
    "a sandbox with an old name and another image": (
        (*BEFORE, manifest(N, "y", row=2), image(B, N, row=2)),
        (
            *(manifest(), manifest(N, "y", row=2), image(), image(B, N, row=2, updated=T + 29)),
            hold(of=N, reference=B, row=2, at=T + 30),
        ),
        ["image.released m sandbox:dev", "image.used b n sandbox:dev +29", "image.held n sandbox:dev +30"],
    ),
    "moved": (
        (manifest(), image()),
        (manifest(), manifest(N, "y", row=2), image(to=N, updated=T + 6)),
        ["manifest.added n +1", "image.pulled a n was m +6"],
    ),
    "removed and pulled again": (
        (manifest(), image()),
        (manifest(), image(row=2, created=T + 6, updated=T + 6)),
        ["image.removed a m", "image.pulled a m +6"],
    ),
    "removed and pulled again, with its manifest": (
        (manifest(), image()),
        (manifest(row=2), image(row=2, created=T + 6, updated=T + 6)),
        ["image.removed a m", "manifest.deleted m", "manifest.added m +1", "image.pulled a m +6"],
    ),
    "removed, the manifest stays": ((manifest(), image()), (manifest(),), ["image.removed a m"]),
    "another spelling comes": (
        (manifest(), manifest(N, "y", row=2), image()),
        (
            manifest(),
            manifest(N, "y", row=2),
            image(),
            image(to=N, row=2, typed="a", created=T + 6, updated=T + 6),
        ),
        ["image.pulled a n +6"],
    ),
    "one of two spellings goes": (
        (manifest(), image(), image(row=2, typed="a")),
        (manifest(), image(row=2, typed="a")),
        ["image.removed a m"],
    ),
    "one spelling moves": (
        (manifest(), manifest(N, "y", row=2), image(), image(row=2, typed="a")),
        (manifest(), manifest(N, "y", row=2), image(), image(to=N, row=2, typed="a", updated=T + 6)),
        ["image.pulled a n was m +6"],
    ),
    "without any times": (
        (),
        (manifest(), image(created=None, updated=None)),
        ["manifest.added m +0", "image.pulled a m"],
    ),
    "without a time of creation": (
        (),
        (manifest(), image(created=None)),
        ["manifest.added m +0", "image.pulled a m +1"],
    ),
    "a schema without snapshots releases none": (
        (manifest(), image(), hold("snapshot:s")),
        (manifest(), image(), "sandbox"),
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(index: Index, case: str) -> None:
    before, after, expected = CASES[case]
    index.sync(state(*before))
    kinds = [each for each in after if isinstance(each, str)]
    theirs = state(
        *(each for each in after if not isinstance(each, str)), kinds=" ".join(kinds or ["sandbox snapshot"])
    )
    assert said(index.sync(theirs).events) == expected


def test_files_go_with_their_records(index: Index) -> None:
    both = (image(), image(B, N, row=2))
    index.sync(state(manifest(M, "xy"), manifest(N, "xz", row=2), *both))
    found = index.sync(state(manifest(M, "xy"), image()), no_files)
    assert said(found.events) == [
        *("image.removed b n", "manifest.deleted n"),
        *("vmdk.deleted n 633", "fsmeta.deleted n 4096", "layer.deleted layer z 8192"),
    ]
    assert found.leftovers == []
    found = index.sync(state(), no_files)
    assert sorted(said(found.events)[-2:]) == ["layer.deleted layer x 8192", "layer.deleted layer y 8192"]
    assert known.load(index.connection) == known.Known({}, {}, {}, {}, {})


def test_files_that_come_later_are_known_when_they_go(index: Index) -> None:
    """Of an image that was pulled flat, and then in layers."""
    there = state(manifest(), image())
    index.sync(there, no_files)
    assert said(index.sync(there, all_files).events) == ["manifest.added m +0"]
    assert index.sync(there, all_files).events == []
    gone = said(index.sync(state(), no_files).events)
    assert {"vmdk.deleted m 633", "fsmeta.deleted m 4096"} <= {*gone}


def test_a_layer_of_several_manifests_that_went_together(index: Index) -> None:
    index.sync(state(manifest(M, "xy"), manifest(N, "xz", row=2)))
    events = [event.event for event in index.sync(state(), no_files).events]
    assert {e.manifests for e in events if isinstance(e, ev.LayerDeleted)} == {1, 2}


def test_files_that_are_still_there_are_returned_apart(index: Index) -> None:
    index.sync(state(manifest(), image()))
    found = index.sync(state(), all_files)
    assert said(found.events) == ["image.removed a m", "manifest.deleted m"]
    assert said(found.leftovers) == [
        "vmdk.deleted m 633",
        "fsmeta.deleted m 4096",
        "layer.deleted layer x 8192",
    ]


def test_files_that_never_were_are_not_deleted(index: Index) -> None:
    index.sync(state(manifest(), image()), no_files)
    found = index.sync(state(), no_files)
    assert said(found.events) == ["image.removed a m", "manifest.deleted m"]


def ours(index: Index, reference: str = A, name: str = M, layers: str = "x") -> None:
    index.append(
        [
            NewEvent(manifest_added([layer(x) for x in layers]), name),
            NewEvent(pulled(name), reference),
            NewEvent(ev.ImageHeld(holder="sandbox:dev"), name),
        ]
    )


def test_what_msb_does_not_know_stays(index: Index) -> None:
    ours(index)
    before = index.handles(), index.holds()
    assert index.sync(state()).events == []
    index.sync(state(manifest(N, "xy", row=2), image(B, N)))

    def only_ours(kind: str, subject: str) -> int | None:
        return None if subject in (N, digest("diffy")) else 8192

    found = index.sync(state(), only_ours)
    assert said(found.events) == [
        *("image.removed b n", "manifest.deleted n", "vmdk.deleted n 633"),
        *("fsmeta.deleted n 4096", "layer.deleted layer y 8192"),
    ]
    assert (index.handles(), index.holds()) == before
    assert set(known.load(index.connection).layers) == {digest("diffx")}


def test_an_image_of_ours_that_msb_pulls_is_msbs_from_then_on(index: Index) -> None:
    ours(index)
    ((reference, (_, created, _)),) = index.handles().items()
    found = index.sync(state(manifest(), image(), hold()))
    assert said(found.events) == [
        *("manifest.added m +0", "image.pulled a m +1"),
        *("image.used a m sandbox:dev +1", "image.held m sandbox:dev +9"),
    ]
    (event,) = [event.event for event in found.events if isinstance(event.event, ev.ImagePulled)]
    assert not event.changed
    assert index.handles()[reference][1] == created  # it was never absent
    assert said(index.sync(state(), no_files).events)[:2] == [
        "image.released m sandbox:dev",
        "image.removed a m",
    ]
    assert index.handles() == {}


def test_an_image_of_ours_that_msb_has_with_another_manifest(index: Index) -> None:
    ours(index)
    found = index.sync(state(manifest(N, "y", row=2), image(to=N)))
    assert said(found.events) == ["manifest.added n +1", "image.pulled a n was m +1"]
    assert M in known.load(index.connection).manifests  # its files are ours; a prune takes them


def test_a_manifest_of_msb_that_only_an_image_of_ours_needs_stays(index: Index) -> None:
    index.sync(state(manifest(), image()))
    index.append([NewEvent(pulled(M), B)])
    assert said(index.sync(state()).events) == ["image.removed a m"]
    assert said(index.sync(state(), no_files).events) == [
        *("vmdk.deleted m 633", "fsmeta.deleted m 4096", "layer.deleted layer x 8192")
    ]
    assert M in known.load(index.connection).manifests


def test_a_layer_that_our_index_lost_comes_back(index: Index) -> None:
    index.sync(state(manifest(), image()))
    planned = ev.PlannedArtifact(kind="layer", subject=digest("diffx"))
    index.append([NewEvent(ev.DeletionStarted(kind="prune", policy={}, artifacts=(planned,)), "o")])
    assert said(index.sync(state(manifest(), image())).events) == ["manifest.added m +0"]
    assert set(known.load(index.connection).layers) == {digest("diffx")}


def test_a_manifest_that_came_back_lost_no_files(index: Index) -> None:
    index.sync(state(manifest(), image()))
    found = index.sync(state(manifest(row=2), image(row=2)), no_files)
    assert said(found.events) == [
        *("image.removed a m", "manifest.deleted m", "manifest.added m +1", "image.pulled a m +1")
    ]
    assert found.leftovers == []


def test_what_msb_does_not_say_of_a_manifest(index: Index) -> None:
    bare = replace(
        manifest(),
        config_digest=None,
        config=None,
        total_size=None,
        layers=(MsbLayer(diff_id=digest("diffx"), blob_digest="", media_type=None, size=None),),
    )
    (new,) = index.sync(state(bare)).events
    added = new.event
    assert isinstance(added, ev.ManifestAdded)
    assert (added.media_type, added.config_digest, added.config, added.total_size) == (None,) * 4
    assert added.layers == (ev.Layer(diff_id=digest("diffx"), blob_digest="", erofs_size=8192),)


def test_what_msb_says_of_a_manifest(index: Index) -> None:
    (new,) = index.sync(state(replace(manifest(), media_type="index"))).events
    added = new.event
    assert isinstance(added, ev.ManifestAdded)
    assert (added.media_type, added.config_digest) == ("index", digest("config"))
    assert [(each.media_type, each.size) for each in added.layers] == [("tar", 10)]


def test_an_image_of_ours_takes_no_manifest_along_that_msb_points_elsewhere(index: Index) -> None:
    """The reference is msb's as well now, and what it pointed at is msb's to delete."""
    index.sync(state(manifest(), image()))
    index.append([NewEvent(pulled(M), B)])
    found = index.sync(state(manifest(N, row=2), image(B, N)))
    assert [line for line in said(found.events) if "deleted" in line] == ["manifest.deleted m"]
    assert M not in known.load(index.connection).manifests


def test_a_pull_says_whether_the_reference_is_new_or_moved(index: Index) -> None:
    def pulls(*found: MsbImage | MsbManifest) -> list[tuple[bool, int | None]]:
        return [
            (new.event.changed, None if new.occurred_at_ns is None else new.occurred_at_ns - T)
            for new in index.sync(state(*found)).events
            if isinstance(new.event, ev.ImagePulled)
        ]

    both = manifest(), manifest(N, "y", row=2)
    assert pulls(*both, image(created=T + 3, updated=T + 5)) == [(True, 3)]
    assert pulls(*both, image(to=N, created=T + 3, updated=T + 7)) == [(True, 7)]  # when it was moved
    assert pulls(*both, image(to=M, created=T + 3, updated=None)) == [(True, 3)]  # for want of a better one


HOUR = 3600 * 10**9
AGES = NOW - T


@pytest.mark.parametrize(
    ("arrived", "created", "updated", "pulled_at", "named", "since"),
    [
        pytest.param(0, 1, 1, 1, None, None, id="pulled once"),
        pytest.param(0, 1, HOUR, 1, None, HOUR, id="used, or pulled again"),
        pytest.param(0, 1, None, 1, None, AGES, id="no time of use"),
        pytest.param(0, 1, AGES + 2 * HOUR, 1, None, AGES, id="used in the future"),
        pytest.param(HOUR, 1, HOUR + 5, HOUR + 5, 1, None, id="moved as the manifest came"),
        pytest.param(HOUR, 1, 2 * HOUR, HOUR, 1, 2 * HOUR, id="moved, then used"),
        pytest.param(HOUR, 1, None, HOUR, 1, AGES, id="moved, no time of use"),
        pytest.param(None, 1, HOUR, 1, None, HOUR, id="a manifest of no known time"),
        pytest.param(HOUR, 1, 5, 1, None, None, id="a clock that was set back"),
        pytest.param(0, None, HOUR, HOUR, None, None, id="a name of no known time"),
    ],
)
def test_a_first_pull_is_dated_as_far_as_it_is_known(
    index: Index,
    arrived: int | None,
    created: int | None,
    updated: int | None,
    pulled_at: int,
    named: int | None,
    since: int | None,
) -> None:
    """Since when the name is there does not say since when it points where it does. All relative to T."""

    def at(time: int | None) -> int | None:
        return None if time is None else T + time

    found = index.sync(
        state(replace(manifest(), created_at_ns=at(arrived)), image(created=at(created), updated=at(updated)))
    )
    (new,) = (each for each in found.events if isinstance(each.event, ev.ImagePulled))
    assert isinstance(new.event, ev.ImagePulled)
    assert (new.occurred_at_ns, new.event.named_at_ns, new.event.observed_since_ns) == (
        *(T + pulled_at, at(named), at(since)),
    )
    assert index.handles()[A][1] == T + (pulled_at if created is None else created)  # as msb says it


def test_where_a_name_pointed_is_known_when_it_moves(index: Index) -> None:
    index.sync(state(manifest(), image()))
    found = index.sync(
        state(
            manifest(),
            replace(manifest(N, "y", row=2), created_at_ns=T + HOUR),
            image(to=N, updated=T + 2 * HOUR),
        )
    )
    assert said(found.events) == ["manifest.added n +3600000000000", "image.pulled a n was m +7200000000000"]
    (pulled,) = (each.event for each in found.events if isinstance(each.event, ev.ImagePulled))
    assert (pulled.named_at_ns, pulled.observed_since_ns) == (None, None)


def test_the_beginning_counts_for_an_image_of_ours_that_msb_pulled_elsewhere(index: Index) -> None:
    ours(index)
    found = index.sync(state(manifest(N, "y", row=2), image(to=N, created=T + 3, updated=T + 7)))
    # Our own use of it came later than msb's, which therefore says nothing new.
    assert said(found.events) == ["manifest.added n +1", "image.pulled a n was m +3"]


def test_holds_of_the_same_time_are_in_order_of_their_holders(index: Index) -> None:
    both = [hold(f"sandbox:{name}", row=row) for row, name in enumerate("ba", start=1)]
    found = index.sync(state(manifest(), image(updated=T + 9), *both))
    holders = [new.event.holder for new in found.events if isinstance(new.event, ev.ImageHeld)]
    assert holders == ["sandbox:a", "sandbox:b"]


# -- any state after any other ----------------------------------------------------------------------------

numbers = st.integers(1, 3)
times = st.none() | st.integers(T, T + 50)
LAYERS = {digest(f"manifest {n}"): layers for n, layers in enumerate(["x", "xy", "yz", ""])}


@st.composite
def states(draw: st.DrawFn) -> MsbState:
    manifests = [
        manifest(name, LAYERS[name], row=draw(numbers) * 10 + number)
        for number, name in enumerate(LAYERS)
        if draw(st.booleans())
    ]
    names = [each.digest for each in manifests]
    found: list[Any] = [*manifests]
    if names:
        for number, reference in enumerate((A, B, "quay.io/c/c:1")):
            if draw(st.booleans()):
                to, row = draw(st.sampled_from(names)), draw(numbers) + 10 * number
                created, updated = draw(times), draw(times)
                found.append(image(reference, to, row=row, created=created, updated=updated))
                if draw(st.booleans()):
                    to, updated = draw(st.sampled_from(names)), draw(times)
                    other = image(
                        reference, to, row=row + 100, created=created, updated=updated, typed=f"{number}"
                    )
                    found.append(other)
        for holder in ("sandbox:dev", "sandbox:ops", "snapshot:s"):
            for of in draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
                reference = draw(st.sampled_from([A, B, "quay.io/gone:1", None]))
                found.append(
                    replace(
                        hold(holder, of, row=draw(numbers), reference=reference), created_at_ns=draw(times)
                    )
                )
    return state(*found)


@settings(max_examples=150, deadline=None)
@given(st.lists(states(), min_size=1, max_size=4), st.booleans())
def test_both_are_alike_in_the_end(theirs: list[MsbState], files: bool) -> None:
    index = Index()
    renewed: dict[str, tuple[str, str, int | None, int, bool]] = {}  # digest, row, created, last used, sure
    for now in theirs:
        index.sync(now, all_files if files else no_files)
        for gone in set(renewed) - set(now.images):
            del renewed[gone]
        for reference, each in now.images.items():
            to, row, created, used, sure = renewed.get(reference, ("", "", None, 0, True))
            updated = each.updated_at_ns  # without it, holds say when it was used
            if row != each.row:
                created = updated if each.created_at_ns is None else each.created_at_ns
                used, sure = created or 0, True
            if row != each.row or to != each.manifest_digest:
                row = each.row
            used, sure = max(used, updated or 0), sure and updated is not None
            renewed[reference] = (each.manifest_digest, row, created, used, sure)
        handles = index.handles()
        assert {name: found[0] for name, found in handles.items()} == {
            name: each.manifest_digest for name, each in now.images.items()
        }
        for reference, (_, _, created, used, sure) in renewed.items():
            if created is not None:
                assert handles[reference][1] == created
                assert handles[reference][2] == used or not sure
        assert index.holds() == set(now.holds)
        found = known.load(index.connection)
        assert {name: each.row for name, each in found.manifests.items()} == {
            name: each.row for name, each in now.manifests.items()
        }
        assert set(found.layers) == {x.diff_id for each in now.manifests.values() for x in each.layers}
    index.connection.close()


@settings(max_examples=50, deadline=None)
@given(states(), states())
def test_the_order_follows_from_the_content(one: MsbState, two: MsbState) -> None:
    def shuffled(found: MsbState) -> MsbState:
        return replace(
            found,
            images=dict(reversed(found.images.items())),
            manifests=dict(reversed(found.manifests.items())),
            holds=dict(reversed(found.holds.items())),
        )

    index = Index()
    index.sync(one)
    now = known.load(index.connection)
    found, again = (differences(now, each, all_files, no_metadata, NOW) for each in (two, shuffled(two)))
    assert found == again
    index.connection.close()


# -- what metadata files tell ---------------------------------------------------------------------------

ANEW, LATER = digest("as msb writes it anew"), digest("as a later msb writes it")
MINUTE = 60 * 10**9


def files_tell(*seen: Stored, **by_reference: Stored) -> Any:
    """Return what looks into metadata files: each of A's, or of ``a`` and ``b``."""
    told = {A: seen[0]} if seen else {{"a": A, "b": B}[name]: each for name, each in by_reference.items()}
    return told.get


def stored(as_it_is: str = ANEW, of: str = M, *, layers: str = "x", written: int = T) -> Stored:
    return Stored(
        of, as_it_is, digest("config"), tuple(digest(f"diff{x}") for x in layers), "SIGQUIT", written
    )


def added(found: Differences) -> list[ev.ManifestAdded]:
    return [each.event for each in found.events if isinstance(each.event, ev.ManifestAdded)]


def test_how_msb_keeps_a_manifest_is_recorded_with_it(index: Index) -> None:
    (event,) = added(index.sync(state(manifest(), image()), look=files_tell(stored())))
    assert event.stored_digest == ANEW
    assert event.config == ev.ImageConfig(stop_signal="SIGQUIT")


def test_a_stop_signal_that_msbs_database_has_counts(index: Index) -> None:
    said = replace(manifest(), config=ev.ImageConfig(stop_signal="SIGINT"))
    (event,) = added(index.sync(state(said, image()), look=files_tell(stored())))
    assert event.config == ev.ImageConfig(stop_signal="SIGINT")
    index.sync(state(replace(manifest(row=2), config=None), image(row=2)), look=files_tell(stored()))
    assert index.connection.execute("SELECT config, stored_digest FROM manifest").fetchall() == [(None, ANEW)]


@pytest.mark.parametrize(
    "told", [stored(of=N), stored(layers="xy"), stored()._replace(config_digest="other")]
)
def test_a_file_of_another_manifest_tells_nothing_of_this_one(index: Index, told: Stored) -> None:
    """Spellings of a name share one file: it is of the manifest of the last that was pulled."""
    (event,) = added(index.sync(state(manifest(), image()), look=files_tell(told)))
    assert event.stored_digest is None


def test_a_file_that_comes_later_is_recorded_once(index: Index) -> None:
    index.sync(state(manifest(), image()))
    (event,) = added(index.sync(state(manifest(), image()), look=files_tell(stored())))
    assert (event.stored_digest, event.total_size, event.row) == (ANEW, 10, "manifest:1")
    assert added(index.sync(state(manifest(), image()))) == []  # and gone again


def test_what_an_older_release_recorded_is_completed_once(index: Index) -> None:
    """It had the sum of the layers for the size, and no look at metadata files."""
    old = ev.ManifestAdded(
        config=ev.ImageConfig(), layers=(ev.Layer(diff_id=digest("diffx"), blob_digest="b", size=3),)
    )
    old = replace(old, total_size=3, row="manifest:1")
    index.append([NewEvent(old, M)])
    theirs = state(replace(manifest(), config=None), image())
    (event,) = added(index.sync(theirs, look=files_tell(stored())))
    assert (event.total_size, event.config, event.stored_digest) == (10, None, ANEW)


@pytest.mark.parametrize("sizes", [(3, None), (None, 3)])
def test_a_size_that_msb_corrects_is_recorded(index: Index, sizes: tuple[int | None, int | None]) -> None:
    before, after = (replace(manifest(), total_size=size) for size in sizes)
    index.sync(state(before, image()), look=files_tell(stored()))
    (event,) = added(index.sync(state(after, image()), look=files_tell(stored())))
    assert (event.total_size, event.stored_digest) == (sizes[1], ANEW)
    assert event.config == ev.ImageConfig(stop_signal="SIGQUIT")


def test_a_changed_file_is_not_what_came(index: Index) -> None:
    """Neither quietly, nor when the image is used, nor when more is recorded of it."""
    index.sync(state(manifest(), image()), look=files_tell(stored()))
    changed = files_tell(stored(LATER, written=T + 2))
    assert index.sync(state(manifest(), image()), look=changed).events == []
    used = image(updated=T + 60 * MINUTE)
    assert added(index.sync(state(manifest(), used), look=changed)) == []
    (event,) = added(index.sync(state(replace(manifest(), total_size=11), used), look=changed))
    assert event.stored_digest == ANEW


def test_a_file_that_msb_wrote_with_another_pull_is_what_came(index: Index) -> None:
    index.sync(state(manifest(), image()), look=files_tell(stored()))
    pulled_again = image(updated=T + 60 * MINUTE)
    told = files_tell(stored(LATER, written=T + 59 * MINUTE))
    (event,) = added(index.sync(state(manifest(), pulled_again), look=told))
    assert event.stored_digest == LATER


def test_of_a_manifest_that_was_loaded_and_pulled_the_rewritten_one_is_recorded(index: Index) -> None:
    loaded, pulled_one = stored(M), stored()
    index.sync(state(manifest(), image()), look=files_tell(a=loaded))
    assert index.connection.execute("SELECT stored_digest FROM manifest").fetchall() == [(M,)]
    both = state(manifest(), image(), image(B, row=2))
    (event,) = added(index.sync(both, look=files_tell(a=loaded, b=pulled_one)))
    assert event.stored_digest == ANEW
    again = state(manifest(), image(), image(B, row=2, updated=T + 5))
    assert added(index.sync(again, look=files_tell(a=loaded, b=loaded))) == []  # that proves itself


def test_a_file_that_msb_takes_from_an_image_it_does_not_know(index: Index) -> None:
    added = manifest_added([replace(layer("x", 10), erofs_size=8192)])
    diff_id = added.layers[0].diff_id
    index.append([NewEvent(added, M), NewEvent(pulled(M), A)])
    there = {("fsmeta", M): 4096}

    def measure(kind: str, subject: str) -> int | None:
        return there.get((kind, subject))

    assert index.sync(state()).events == []
    found = index.sync(state(), measure)  # and once only
    assert [(each.event, each.subject) for each in found.events] == [
        (ev.VmdkDeleted(bytes=500, needed=True), M),
        (ev.LayerDeleted(bytes=added.layers[0].erofs_size, needed=True), diff_id),
    ]
    damage = images.damage(index.connection)
    assert [(each.reference, each.kind, each.subject) for each in damage] == [
        (A, "vmdk", M),
        (A, "layer", diff_id),
    ]
    index.append([NewEvent(added, M)])  # it came anew
    assert images.damage(index.connection) == []
