"""When an image was last used: by the time that an event occurred, not by its place in the log."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.queries.as_of import uses
from msb_cache.queries.last_used import idle
from tests.logs import PYTHON, digest, manifest_added, new_ledger, pulled

OTHER = "docker.io/library/app:1"


def test_the_latest_use_counts_however_late_it_was_learned_of(tmp_path: Path) -> None:
    def used(at: int, holder: str) -> NewEvent:
        return NewEvent(ev.ImageUsed(manifest_digest=digest(1), holder=holder), PYTHON, at)

    events = [
        NewEvent(manifest_added([]), digest(1)),
        NewEvent(pulled(digest(1)), PYTHON, 100),
        NewEvent(pulled(digest(1)), OTHER, 200),
        used(500, "sandbox:late"),
        used(300, "sandbox:early"),
    ]
    with new_ledger(tmp_path, events).read() as connection:
        assert connection is not None
        store = new_ledger(tmp_path / "unused", []).store(connection)
        found = idle(connection, store, 1000)
        assert [(each.reference, each.idle_ns) for each in found] == [("app:1", 800), ("python:3.12", 500)]
        assert [each.event and each.event.seq for each in found] == [4, 5]
        assert [each.reference for each in idle(connection, store, 1000, 501)] == ["app:1"]
        assert idle(connection, store, 1000, 801) == []


def test_an_image_is_idle_since_the_last_boot_ended(tmp_path: Path) -> None:
    def booted(run: str, at: int, of: str = digest(1)) -> NewEvent:
        used = ev.ImageUsed(manifest_digest=of, holder=f"sandbox:{run}", run=run)
        return NewEvent(used, PYTHON, at)

    def ended(run: str, at: int) -> NewEvent:
        event = ev.ImageUseEnded(manifest_digest=digest(1), holder="sandbox:x", run=run, how="ended")
        return NewEvent(event, PYTHON, at)

    def found(*events: NewEvent, at_least: int = 0) -> list[tuple[str, int, int | None, int | None]]:
        ledger = new_ledger(tmp_path / f"{len(events)}-{at_least}", [*begun, *events])
        with ledger.read() as connection:
            assert connection is not None
            images = idle(connection, ledger.store(connection), 1000, at_least)
            return [
                (each.reference, each.idle_ns, each.in_use_since_ns, each.event and each.event.seq)
                for each in images
            ]

    begun = [
        NewEvent(manifest_added([]), digest(1)),  # event 2
        NewEvent(pulled(digest(1)), PYTHON, 100),
        NewEvent(pulled(digest(2)), OTHER, 200),
    ]
    one = (booted("a", 300), booted("b", 400, digest(2)))
    assert found(*one) == [("app:1", 0, 400, 6), ("python:3.12", 0, 300, 5)]
    assert found(*one, ended("a", 500)) == [("python:3.12", 500, None, 7), ("app:1", 0, 400, 6)]
    assert found(*one, ended("a", 500), at_least=1) == [("python:3.12", 500, None, 7)]
    # What came later counts, and a boot from elsewhere does not.
    again = NewEvent(ev.ImageUsed(manifest_digest=digest(1)), PYTHON, 600)
    assert found(*one, ended("a", 500), again)[0] == ("python:3.12", 400, None, 8)
    late = booted("c", 700, digest(3))
    assert found(*one, ended("a", 500), again, late)[0] == ("python:3.12", 400, None, 8)


def seen(manifest: str, spelling: str, at: int) -> NewEvent:
    """A pull that was observed in msb."""
    source = ev.Source(kind="microsandbox")
    pull = ev.ImagePulled(
        manifest_digest=manifest, changed=True, source=source, spelling=spelling, row=spelling
    )
    return NewEvent(pull, PYTHON, at)


def test_in_a_home_of_msb_each_spelling_has_its_own_last_boot(tmp_path: Path) -> None:
    short, whole = "python:3.12", PYTHON

    booted = ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:a", run="a", spelling=short)
    ended = ev.ImageUseEnded(manifest_digest=digest(1), holder="sandbox:a", run="a", how="ended")
    events = [
        NewEvent(manifest_added([]), digest(1)),  # event 2
        seen(digest(1), short, 100),
        seen(digest(2), whole, 200),
        NewEvent(booted, PYTHON, 300),
        NewEvent(ended, PYTHON, 500),
    ]
    ledger = new_ledger(tmp_path, events)
    with ledger.read() as connection:
        assert connection is not None
        found = idle(connection, ledger.store(connection), 1000)
        assert [(each.reference, each.idle_ns, each.event and each.event.seq) for each in found] == [
            (whole, 800, 4),
            (short, 500, 6),
        ]


def test_uses_of_a_reference_that_is_there_in_several_spellings(tmp_path: Path) -> None:
    """Those of what any of its spellings points at, by whichever reference they were booted."""

    booted = ev.ImageUsed(manifest_digest=digest(1), holder="sandbox:a", run="a")
    events = [
        NewEvent(manifest_added([]), digest(1)),
        seen(digest(1), "python:3.12", 100),
        seen(digest(2), "docker.io/python:3.12", 100),
        NewEvent(pulled(digest(1)), OTHER, 200),
        NewEvent(booted, OTHER, 300),
    ]
    with new_ledger(tmp_path, events).read() as connection:
        assert connection is not None
        assert [use.holder for use in uses(connection, [PYTHON])] == ["sandbox:a"]
