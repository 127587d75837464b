"""What is recorded of a restore as a whole, in the same words by the command and by recovery.

Each addition of a restore records itself; see ``engine.Within``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.parts import in_parts
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.oci.reference import Reference
from msb_cache.projections import undoings

_LISTED = 500  # images that an end names; of the others the number
_LONGEST_REASON = 300  # characters


def started(undoes: str, images: Sequence[ev.Restoring]) -> list[ev.RestoreStarted]:
    """Return the beginning of a restore as one event, or as parts that each fit into one."""
    parts = in_parts({"images": images})
    return [
        ev.RestoreStarted(undoes=undoes, images=part["images"], part=number, parts=len(parts))
        for number, part in enumerate(parts, start=1)
    ]


def finished(
    undoes: str, images: Sequence[ev.Restored], *, interrupted: bool = False, recovered: bool = False
) -> ev.RestoreFinished:
    """Return the end of a restore; of a long list of images, those that are not back are named first."""
    back = [image for image in images if image.outcome == "restored"]
    rest = [image for image in images if image.outcome != "restored"]
    if interrupted and rest:
        outcome = "interrupted"
    else:
        outcome = "completed" if not rest else "partial" if back else "failed"
    return ev.RestoreFinished(
        outcome=outcome,  # type: ignore[arg-type]
        undoes=undoes,
        wanted=len(images),
        restored=len(back),
        images=tuple([*rest, *back][:_LISTED]),
        more=max(0, len(images) - _LISTED),
        recovered=recovered,
    )


def result(
    image: ev.Restoring, *, name: str | None = None, reason: str | None = None, tried: bool = True
) -> ev.Restored:
    """Return what became of an image: ``name`` points at it again, or there is a reason why none does."""
    outcome = "restored" if name is not None else "failed" if tried else "untried"
    return ev.Restored(
        reference=image.reference,
        manifest_digest=image.manifest_digest,
        outcome=outcome,  # type: ignore[arg-type]
        name=name,
        reason=None if reason is None else reason[:_LONGEST_REASON],
    )


def recover(ledger: Ledger, operation: str) -> None:
    """Record the end of a restore whose process is gone; the caller holds its lock, and has undone the rest.

    What it brought is what the log says that it brought.
    """
    with ledger.read() as connection:
        # Asked again under the lock: its owner may have finished meanwhile.
        if connection is None or operation not in undoings.unfinished(connection):
            return
        store = ledger.store(connection)
        undoes = undoings.undone_by(connection, operation)
        images, brought = undoings.wanted(store, operation), undoings.brought(store, operation)
    results = [result(image, name=came_as(image, brought), tried=False) for image in images]
    with ledger.write(operation, owner="any") as transaction:
        end = finished(undoes, results, interrupted=True, recovered=True)
        transaction.append([NewEvent(end, operation)])


def came_as(image: ev.Restoring, brought: Collection[tuple[str, str]]) -> str | None:
    """Return the reference under which an image came, of those that it was to have."""
    for name in (image.reference, image.name):
        if name is not None and (Reference.parse(name).canonical, image.manifest_digest) in brought:
            return name
    return None
