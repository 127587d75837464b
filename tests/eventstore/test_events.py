"""The catalogue of events: derived from the structs, and a field at its default is not stored."""

from __future__ import annotations

import re

import msgspec
import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.events import EVENT_TYPES, Event
from tests.samples import sample

STRUCTS = {
    each
    for each in vars(ev).values()
    if isinstance(each, type) and issubclass(each, Event) and "type" in vars(each)
}


def test_the_catalogue_has_each_struct_once() -> None:
    assert set(EVENT_TYPES) == STRUCTS
    assert len({each.type for each in EVENT_TYPES}) == len(EVENT_TYPES)
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", each.type) for each in EVENT_TYPES)


@pytest.mark.parametrize("event", EVENT_TYPES, ids=lambda event: event.type)
def test_a_field_added_with_a_default_needs_no_upcaster(event: type[Event]) -> None:
    """What an older release stored lacks it, and what this one stores at the default does too."""
    required = {field.encode_name for field in msgspec.structs.fields(event) if field.required}
    stored = msgspec.to_builtins(sample(event))
    least = msgspec.convert({name: stored[name] for name in required}, event)
    assert set(msgspec.to_builtins(least)) == required


@pytest.mark.parametrize(
    ("event", "what", "details"),
    [
        (ev.LayerDeleted(bytes=2048), "layer deleted", ("2.0 KiB freed",)),
        (ev.VmdkDeleted(recovered=True), "vmdk deleted", ("found gone while recovering",)),
        (
            ev.ArtifactKept(kind="layer", reason="held", holders=("sandbox:a", "sandbox:b")),
            "layer kept",
            ("in use by sandbox:a, sandbox:b",),
        ),
        (ev.DeletionFinished(outcome="partial", recovered=True), "finished", ("partial", "by recovery")),
        (ev.DeletionStarted(kind="prune", policy={}), "decided", ("prune: 0 artifacts", "0 kept back")),
        (
            ev.DeletionStarted(kind="remove", policy={}, part=2, parts=3),
            "decided",
            ("remove: 0 artifacts", "0 kept back", "part 2 of 3"),
        ),
    ],
    ids=lambda value: value.type if isinstance(value, Event) else "",
)
def test_what_is_told(event: Event, what: str, details: tuple[str, ...]) -> None:
    assert (event.told().what, event.told().details) == (what, details)
