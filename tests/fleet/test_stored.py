"""A log is followed from its beginning or from an anchor, and both come to the same."""

from __future__ import annotations

import pytest
from msgspec.structs import astuple, replace

from msb_cache.audit.admit import admit
from msb_cache.errors import FleetError
from msb_cache.fleet import stored
from msb_cache.fleet.hosts import LONGEST_NAME
from msb_cache.fleet.stored import Anchor, Followed
from msb_cache.projections import FOLD_VERSION
from tests.fleet.sent import log_of
from tests.reporthome import make


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    home = tmp_path_factory.mktemp("homes") / "one"
    make(home, scale=100)
    return [(row[1:-1], row[-1]) for row in log_of(home)]


def follow(followed, rows):
    for row, stored_hash in rows:
        assert followed.checker.check(row, stored_hash) is None
        followed.take(stored_hash, admit((row, stored_hash)))
    return followed


def everything(followed):
    tables = {
        table.row_type.table: {key: astuple(row) for key, row in table.rows.items()}
        for table in followed.fold.tables.all()
    }
    return tables, followed.tree.root(), followed.host, followed.checker.head, followed.packed()


@pytest.mark.parametrize("cut", [1, 2, 100, 255, 256, 400])
def test_it_goes_on_from_an_anchor(rows, cut):
    whole = follow(Followed(), rows)
    before = follow(Followed(), rows[:cut])
    row, head = rows[cut - 1]
    anchor = Anchor("x", cut, head, row[7], FOLD_VERSION, before.packed())
    assert everything(follow(Followed(anchor), rows[cut:])) == everything(whole)


def test_no_image_s_environment_is_kept(rows):
    followed = follow(Followed(), rows)
    assert b"PATH=" not in followed.packed()
    manifests = next(each for each in followed.fold.tables.all() if each.row_type.table == "manifest")
    assert {row.config for row in manifests.rows.values()} == {None}


@pytest.mark.parametrize(
    ("version", "kept", "said"),
    [(FOLD_VERSION + 1, None, "of the fold's version"), (FOLD_VERSION, b"damaged", "is damaged")],
)
def test_an_anchor_that_cannot_be_gone_on_from(rows, version, kept, said):
    before = follow(Followed(), rows[:10])
    anchor = Anchor("x", 10, rows[9][1], rows[9][0][7], version, kept or before.packed())
    with pytest.raises(FleetError, match=said):
        Followed(anchor)
    assert Followed.before(anchor)().seq == 10


class Reading:
    """A place with so many events."""

    def __init__(self, count):
        self.asked = []
        self._count = count

    def rows(self, sql, arguments=()):
        _, after, until, most = arguments
        self.asked.append(after)
        return [(seq, b"") for seq in range(after + 1, min(self._count, until, after + most) + 1)]


@pytest.mark.parametrize(("count", "asked"), [(0, 1), (1, 1), (999, 1), (1000, 2), (2500, 3)])
def test_events_are_asked_for_in_pages(count, asked):
    reading = Reading(count)
    assert [row[0] for row, _ in stored.events(reading, "x")] == [*range(1, count + 1)]
    assert len(reading.asked) == asked
    assert [row[0] for row, _ in stored.events(Reading(2500), "x", 990, 1010)] == [*range(991, 1011)]


def test_a_host_s_name_is_kept_up_to_a_bound(rows):
    event = admit(rows[0])
    followed = Followed()
    followed.take(rows[0][1], replace(event, actor=replace(event.actor, host="h" * 9000)))
    assert followed.host == "h" * LONGEST_NAME
