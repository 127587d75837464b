"""What msb's record of boots means as events: which reference, which manifest, how it ended, and by when."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.msb.boots import Fate, FateOf, as_msb_says, boots
from msb_cache.msb.database import MsbHold
from msb_cache.msb.runs import MsbRun, MsbRuns
from msb_cache.projections.known import KnownUse
from tests.logs import digest

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
M, N = digest("m"), digest("n")
T = 1_790_000_000_000_000_000
DEV = MsbHold(holder="sandbox:dev", manifest_digest=M, row="7", reference=A, typed=A, created_at_ns=T)


def run(number: int, ended: int | None = None, *, began: int | None = 0, sandbox: int = 1) -> MsbRun:
    started = None if began is None else T + number * 100 + began
    return MsbRun(
        key=f"run:{number}@{'-' if started is None else started}",
        sandbox=sandbox,
        pid=None,
        is_open=ended is None,
        started_at_ns=started,
        terminated_at_ns=None if ended is None else T + ended,
    )


def happened(
    *found: MsbRun,
    sandboxes: Mapping[int, MsbHold] | None = None,
    uses: Mapping[str, KnownUse] | None = None,
    recorded: frozenset[str] = frozenset(),
    names: Mapping[str, tuple[str, str]] | None = None,
    fate: FateOf = as_msb_says,
    through: int = 9,
) -> list[NewEvent]:
    runs = MsbRuns(
        database="1@2", through=through, found=found, is_new_database=False, is_complete=True, without_row=0
    )
    given = {1: DEV} if sandboxes is None else sandboxes
    found_ = boots(runs, given, uses or {}, recorded=recorded, names=names or {}, fate=fate)
    return [event for _, event in sorted(found_, key=lambda each: each.at)]


def used(of: MsbRun, digest: str = M) -> ev.ImageUsed:
    return ev.ImageUsed(manifest_digest=digest, spelling=A, holder="sandbox:dev", run=of.key)


def ended(of: MsbRun, how: str = "ended", digest: str = M) -> ev.ImageUseEnded:
    return ev.ImageUseEnded(manifest_digest=digest, holder="sandbox:dev", run=of.key, how=how)  # type: ignore[arg-type]


def open_use(of: MsbRun, digest: str = M, reference: str = A) -> dict[str, KnownUse]:
    return {of.key: KnownUse(reference, digest, "sandbox:dev")}


def test_a_boot_is_a_use_from_its_start_to_its_end() -> None:
    one, two = run(1, ended=150), run(2)
    assert happened(two, one) == [
        NewEvent(used(one), A, T + 100),
        NewEvent(ended(one), A, T + 150),
        NewEvent(used(two), A, T + 200),
    ]


def test_the_end_of_one_that_was_open_is_what_is_new() -> None:
    one = run(1, ended=150)
    assert happened(one, uses=open_use(one)) == [NewEvent(ended(one), A, T + 150)]
    assert happened(run(1), uses=open_use(run(1))) == []


def test_the_end_is_of_what_was_used_whatever_the_sandbox_is_now() -> None:
    one = run(1, ended=150)
    other = {
        1: MsbHold(holder="sandbox:new", manifest_digest=N, row="8", reference=B, typed=B, created_at_ns=T)
    }
    assert happened(one, uses=open_use(one), sandboxes=other) == [NewEvent(ended(one), A, T + 150)]
    assert happened(one, uses=open_use(one), sandboxes={}) == [NewEvent(ended(one), A, T + 150)]


def test_a_sandbox_whose_root_is_no_image_uses_none() -> None:
    assert happened(run(1), run(2, ended=3, sandbox=2), sandboxes={}) == []


def test_what_the_log_has_already_is_no_news() -> None:
    one, two = run(1, ended=150), run(2, ended=250)
    assert happened(one, two, recorded=frozenset((one.key,))) == [
        NewEvent(used(two), A, T + 200),
        NewEvent(ended(two), A, T + 250),
    ]


def test_a_row_that_is_gone_ended_nobody_knows_when() -> None:
    one, two = run(1), run(12)
    assert happened(uses=open_use(one) | open_use(two)) == [NewEvent(ended(one, "vanished"), A)]


def test_what_became_of_an_open_one_is_asked() -> None:
    asked: list[tuple[str, str, str | None]] = []

    def fate(of: MsbRun, holder: str, later: MsbRun | None) -> tuple[Fate, int | None]:
        asked.append((of.key, holder, later and later.key))
        return {1: ("vanished", T + 200), 2: ("restarted", T + 250), 3: ("vanished", None)}[int(of.key[4])]  # type: ignore[return-value]

    one, two, three = run(1), run(2), run(3)
    assert happened(one, two, three, fate=fate) == [
        NewEvent(used(one), A, T + 100),
        NewEvent(ended(one, "vanished"), A, T + 200),
        NewEvent(used(two), A, T + 200),
        NewEvent(ended(two, "restarted"), A, T + 250),
        NewEvent(used(three), A, T + 300),
        NewEvent(ended(three, "vanished"), A),
    ]
    assert asked == [
        (one.key, "sandbox:dev", two.key),
        (two.key, "sandbox:dev", three.key),
        (three.key, "sandbox:dev", None),
    ]


def test_no_end_comes_before_its_beginning() -> None:
    for one in (run(1, ended=50), run(1, ended=50, began=None), run(1, ended=None, began=None)):
        events = happened(one, fate=lambda *_: ("vanished", 1))
        assert [type(event.event) for event in events] == [ev.ImageUsed, ev.ImageUseEnded]


def test_a_sandbox_without_a_name_for_its_image_uses_one_that_points_there() -> None:
    nameless = {
        1: MsbHold(
            holder="sandbox:dev", manifest_digest=M, row="7", reference=None, typed=None, created_at_ns=T
        )
    }
    assert happened(run(1), sandboxes=nameless, names={M: (B, B)}) == [
        NewEvent(replace(used(run(1)), spelling=B), B, T + 100)
    ]
    assert happened(run(1), sandboxes=nameless) == []
