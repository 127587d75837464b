"""Make images known to msb that are in its home and not in its index, as they are: hand them over.

msb loads an OCI layout whose manifest and config are those of the image and whose layers are placeholders: it
reuses the layers that it finds by their diff IDs, and refuses the layout if one is missing. So no byte of a
layer is read or written, and the manifest digest stays. A release that does not take it gets the image as
``save`` writes it, under another digest.
"""

from __future__ import annotations

import io
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from msb_cache import diagnostics
from msb_cache.artifacts import metadata
from msb_cache.artifacts.durable import make_folder_unsynced
from msb_cache.artifacts.kinds import needing
from msb_cache.artifacts.layout import Layout, lease_path, lock_path
from msb_cache.artifacts.locks import Lease, LockSet
from msb_cache.commands.save import choose, save
from msb_cache.engines.choose import NewHome
from msb_cache.engines.msb.add import explained
from msb_cache.errors import ImageNotFoundError, InvalidConfigError, MicrosandboxError, MsbProgramError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import StoredEvent
from msb_cache.failpoints import reached
from msb_cache.home.operation import Operation
from msb_cache.msb.database import MsbImage, MsbState
from msb_cache.msb.program import MsbProgram, find_program
from msb_cache.msb.sync import OwnAction, sync, sync_and_read
from msb_cache.oci.archive.writer import write_without_layers
from msb_cache.oci.layer.compression import CHUNK_BYTES
from msb_cache.oci.reference import Reference
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow
from msb_cache.queries import resolve
from msb_cache.session import Session
from msb_cache.shapes import Result, Time, fields

Outcome = Literal["planned", "handed over", "saved", "known", "failed"]
Check = Callable[[Collection[Path]], str | None]
"""Says what is wrong with files of the index; None: nothing."""

_HOLDING_UP = 1.0  # seconds that another process may keep msb's lease of an image for itself


class Reset(Struct, frozen=True):
    """What msb says of an image after a hand-over instead of what the log has.

    ``what`` is ``platform`` (``linux/arm64``), ``created_at`` or ``last_used_at`` (ns since the epoch, UTC);
    None: nothing is known.
    """

    what: Literal["platform", "created_at", "last_used_at"]
    before: str | int | None
    after: str | int | None


class HandedOver(Result, Struct, frozen=True):
    """What became of one image that was to be handed over to msb.

    Attributes:
        reference: as it was typed.
        manifest_digest: that of the image as it was.
        outcome: ``planned`` in a dry run; ``handed over`` under the same digest; ``saved`` if msb took only
            an archive of it, under ``new_digest``; ``known`` if msb had it already; ``failed``.
        new_digest: the manifest digest that msb has; None where that is the same, or none.
        reset: what msb says of it otherwise than the log did.
        problem: why it is not handed over as it is; a sentence.
        recorded: the ``image.pulled`` that says so.
    """

    reference: str
    manifest_digest: str
    outcome: Outcome
    new_digest: str | None = None
    reset: tuple[Reset, ...] = ()
    problem: str | None = None
    recorded: StoredEvent | None = None

    def _shape(self) -> dict[str, Any]:
        def value(found: str | int | None) -> str | Time | None:
            return Time(found) if isinstance(found, int) else found

        resets = {
            each.what: {"before": value(each.before), "after": value(each.after)} for each in self.reset
        }
        return {**fields(self, without=("recorded",)), "reset": resets}


def hand_over(
    session: Session, references: Sequence[str], check: Check, *, dry_run: bool
) -> list[HandedOver]:
    """Hand images over; parameters, result and errors as for ``ImageCache.hand_over``."""
    ledger, layout = session.ledger, session.layout
    choice = session.choice()
    if choice.asked == "own":
        raise InvalidConfigError("images are handed over to msb; leave `--engine own` out")
    if choice.is_open(ledger):
        raise ImageNotFoundError(f"there is no image cache in {layout.home}, so nothing can be handed over")
    program = find_program(layout.home, session.note)
    if program is None:
        raise MsbProgramError(
            "no msb is found that images could be handed over to; install microsandbox, or name the program "
            "with MSB_PATH"
        )
    if not dry_run:
        session.begin_writing()
        if not session.kept_by_msb:
            with session.index() as connection:
                _wanted(connection, references)  # a home does not change hands for an image that is not there
            NewHome(layout.home, program).make(ledger)
        sync(ledger)
    with session.index() as connection:
        wanted = _wanted(connection, references)
    found = []
    for row, is_known in wanted:
        if is_known and session.kept_by_msb:
            found.append(_result(row, "known"))
        elif dry_run:
            problem = check([layout.metadata(row.reference), *_used(session, row)])
            found.append(_result(row, "failed" if problem else "planned", problem=problem))
        else:
            found.append(_HandOver(session, program, row, check).run())
    return found


def _wanted(connection: sqlite3.Connection | None, references: Sequence[str]) -> list[tuple[HandleRow, bool]]:
    """Return the images that are meant, oldest first, and whether msb knows each; all that it does not."""
    if references:
        rows = [resolve.image(connection, reference) for reference in dict.fromkeys(references)]
    else:
        rows = [] if connection is None else [*images.handles(connection)][::-1]
    if connection is None:
        return []
    unknown = set(images.unknown_to_msb(connection))
    return [(row, row.name not in unknown) for row in rows if references or row.name in unknown]


def _used(session: Session, row: HandleRow) -> list[Path]:
    """Return the files that a sandbox would use of an image, its layers first."""
    layout = session.layout
    with session.ledger.read() as connection:
        layers = [] if connection is None else images.layers(connection, row.manifest_digest)
    found = [layout.layer(diff_id) for diff_id in dict.fromkeys(layer.diff_id for layer in layers)]
    return found + [layout.artifact(kind, row.manifest_digest) for kind in needing("manifest")]


def _result(
    row: HandleRow,
    outcome: Outcome,
    *,
    new_digest: str | None = None,
    reset: tuple[Reset, ...] = (),
    problem: str | None = None,
    recorded: StoredEvent | None = None,
) -> HandedOver:
    name, digest = resolve.seen(row), row.manifest_digest
    return HandedOver(name, digest, outcome, new_digest, reset, problem, recorded)


class _HandOver:
    """One image that is handed over, in an operation of its own."""

    def __init__(self, session: Session, program: MsbProgram, row: HandleRow, check: Check) -> None:
        self._session = session
        self._layout = session.layout
        self._program = program
        self._row = row
        self._name = resolve.seen(row)
        """What msb is to call it."""
        self._check = check
        self._began_ns = time.monotonic_ns()

    def run(self) -> HandedOver:
        layout, row = self._layout, self._row
        used = _used(self._session, row)
        layers = [path for path in used if path.parent == layout.folders["layer"]]
        with Operation(layout) as operation:
            operation.tell([Reference.parse(row.reference)])
            # Before anything is looked at: no process deletes what is leased, nor writes a locked layer. The
            # locks of the others are for msb, which makes anew what it finds wrong.
            with LockSet(map(lock_path, layers), self._waiting), ExitStack() as leases:
                inherited = [operation.descriptor]
                for path in used:
                    lease = _lease(path, leases)
                    if lease is None:
                        problem = f"another process is deleting {path.name}; try again"
                        return _result(row, "failed", problem=problem)
                    inherited.append(lease)
                if (wrong := self._problem([layout.metadata(row.reference), *used])) is not None:
                    return _result(row, "failed", problem=wrong)
                before = _stamps(used)
                reached("hand_over.locked")
                refused = self._load(_layout_of(layout, row), inherited)
                reached("hand_over.loaded")
                theirs, recorded = self._record(operation.id)
                image = theirs.images.get(self._name)
                if image is not None and refused is None:
                    changed = _changed(before, _stamps(used))
                    same = image.manifest_digest == row.manifest_digest
                    return _result(
                        row,
                        "failed" if changed else "handed over" if same else "saved",
                        new_digest=None if same else image.manifest_digest,
                        reset=_reset(row, image, theirs),
                        problem=changed,
                        recorded=recorded,
                    )
            # Without the locks: msb makes files of its own now.
            return self._save(operation, refused or "it said that it was loaded, and it is not there")

    def _waiting(self, path: Path) -> None:
        self._session.note(f"waiting for another process that works with {path.name.removesuffix('.lock')}")

    def _problem(self, paths: Sequence[Path]) -> str | None:
        """Return why the image cannot be handed over as it is: it moved meanwhile, or a file is damaged."""
        with self._session.ledger.read() as connection:
            now = None if connection is None else images.handle(connection, self._row.name)
        if now is None or now.manifest_digest != self._row.manifest_digest:
            return "it changed meanwhile; try again"
        return self._check(paths)

    def _load(self, archive: Iterator[bytes], inherited: Sequence[int]) -> str | None:
        """Have msb load an archive under the image's name; return why it does not."""
        finished = self._program.run("load", "--tag", self._name, source=archive, inherits=inherited)
        return finished.problem if finished.code else None

    def _record(self, operation: str) -> tuple[MsbState, StoredEvent | None]:
        """Record what msb did, as done by us, and return what it says now."""
        explain = explained([self._name], ev.Source(kind="cache"), self._began_ns)
        ledger = self._session.ledger
        report = sync(ledger, force=True, acting=OwnAction(operation, explain))
        theirs = sync_and_read(ledger)
        if theirs is None:
            raise MsbProgramError(f"{self._layout.home} is not msb's any more; nothing was handed over")
        for event in report.events:
            if isinstance(event.data, ev.ImagePulled) and event.data.spelling == self._name:
                return theirs, event
        return theirs, None

    def _save(self, operation: Operation, refused: str) -> HandedOver:
        """Give msb the image as an archive."""
        row = self._row
        diagnostics.warning("hand_over.refused", reference=row.reference, problem=refused)
        problem = f"msb did not take it as it is ({refused})"
        archive = operation.staging() / "image.tar"
        try:
            with self._session.ledger.read() as connection:
                chosen = [] if connection is None else choose(connection, [row])
            save(self._layout, chosen, archive, format="oci")
            again = self._load(_pieces(archive), [operation.descriptor])
        except MicrosandboxError as error:
            return _result(row, "failed", problem=f"{problem}, and no archive can be made: {error}")
        theirs, recorded = self._record(operation.id)
        image = theirs.images.get(self._name)
        if again is not None or image is None:
            return _result(row, "failed", problem=f"{problem}, nor as an archive ({again})")
        return _result(
            row,
            "saved",
            new_digest=image.manifest_digest,
            reset=_reset(row, image, theirs),
            problem=problem,
            recorded=recorded,
        )


def _lease(path: Path, leases: ExitStack) -> int | None:
    """Lease an artifact, so that msb does not delete it; return the lease's descriptor, None if it does."""
    lease = Lease(lease_path(path))
    make_folder_unsynced(Path(lease.path).parent)
    if not leases.enter_context(lease).acquire(wait=_HOLDING_UP):
        return None
    return lease.descriptor


def _layout_of(layout: Layout, row: HandleRow) -> Iterator[bytes]:
    found = metadata.read(layout.metadata(row.reference))
    out = io.BytesIO()
    layers = [(layer.digest, layer.size_bytes or 0) for layer in found.layers]
    write_without_layers(out, found.raw_manifest_json.encode(), found.raw_config_json.encode(), layers)
    yield out.getvalue()


def _pieces(archive: Path) -> Iterator[bytes]:
    with archive.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data


def _stamps(paths: Sequence[Path]) -> dict[str, tuple[int, int, int, int]]:
    """Return what changes of files when anything is written to them."""
    found = {}
    for path in paths:
        there = os.lstat(path)
        found[path.name] = there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns
    return found


def _changed(
    before: dict[str, tuple[int, int, int, int]], after: dict[str, tuple[int, int, int, int]]
) -> str | None:
    names = [name for name, stamp in before.items() if after[name] != stamp]
    return f"msb has it now, but has written to {', '.join(names)}" if names else None


def _reset(row: HandleRow, image: MsbImage, theirs: MsbState) -> tuple[Reset, ...]:
    """Return what msb says of an image otherwise than the log did."""
    manifest = theirs.manifests[image.manifest_digest]
    compared = (
        Reset("platform", f"{row.os}/{row.architecture}", f"{manifest.os}/{manifest.architecture}"),
        Reset("created_at", row.created_at, image.created_at_ns),
        Reset("last_used_at", row.last_used_at, image.updated_at_ns),
    )
    return tuple(each for each in compared if each.before != each.after)
