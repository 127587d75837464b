"""Restore: bring back what a deletion took, as one operation that says which one it undoes.

What can be had and how, ``queries.restore_plan`` says; the engine that the home has adds it. Not for putting
the log back to a backup, which is ``audit.restore``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from msb_cache.commands.acquire import naming, parse_platform
from msb_cache.engines import undoing
from msb_cache.engines.engine import Engine, LoadRequest, Progress, PullRequest, Within
from msb_cache.errors import InvalidConfigError, InvalidImageError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.operation import Operation
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.projections import images, undoings
from msb_cache.queries.events import deletion_in_log
from msb_cache.queries.resolve import as_typed, seen
from msb_cache.queries.restore_plan import LostFile, Restoration, Way, chosen, restore_plan
from msb_cache.session import Session
from msb_cache.shapes import Result
from msb_cache.waiting import Note
from msb_cache.wording import as_sentence

Outcome = Literal["planned", "restored", "failed", "here", "guess", "none"]


class RestoredImage(Result, Struct, frozen=True):
    """What became of one image that a deletion took.

    Attributes:
        planned: what it was, and how it comes back.
        outcome: ``restored``; ``here``: it is in the cache anyway; ``failed``: ``reason`` says why;
            ``guess``: it was not tried, because the log does not say where it came from, and it was not
            named; ``none``: there is no way; ``planned``: a dry run would try it.
        name: the reference under which it came back, as it was typed; None: it did not.
        reason: why it did not come back.
        notes: sentences on what came and what not.
    """

    planned: Restoration
    outcome: Outcome
    name: str | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str | None:
        """The reference that the deletion took, as it was typed; None: a manifest that had none."""
        return self.planned.reference

    @property
    def manifest_digest(self) -> str:
        """What that pointed at."""
        return self.planned.manifest_digest

    @property
    def back(self) -> bool:
        """Whether it is in the cache now."""
        return self.outcome in ("restored", "here")

    def _shape(self) -> dict[str, Any]:
        return {
            **self.planned._shape(),
            "outcome": self.outcome,
            "restored_as": self.name,
            "reason": self.reason,
            "notes": self.notes,
        }


class RestoreResult(Result, Struct, frozen=True):
    """What a restore did, or would do.

    Attributes:
        operation: the id that groups its events in the log; None: nothing was recorded.
        undoes: the operation of the deletion.
        kind: what that was: ``prune``, ``remove``, or ``external`` for what another program did.
        images: what became of each image that was asked for, in the order in which they went.
        others: references that came with them because msb loads all of an archive.
        lost: files that no image accounts for, which nothing brings back.
    """

    operation: str | None
    undoes: str
    kind: str
    images: tuple[RestoredImage, ...]
    others: tuple[str, ...] = ()
    lost: tuple[LostFile, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in the cache now."""
        return all(image.back for image in self.images)

    def _shape(self) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "undoes": self.undoes,
            "kind": self.kind,
            "complete": self.complete,
            "images": self.images,
            "others": self.others,
            "lost": self.lost,
        }


class Fetching(Struct, frozen=True):
    """How images are fetched: ``options``, ``jobs``, ``max_age_ns`` and so on as for ``ImageCache.pull``."""

    options: RegistryOptions
    jobs: int
    max_age_ns: int
    progress: Progress | None
    note: Note | None


Told = Callable[[RestoredImage], None]


def restore(
    session: Session,
    deletion: str,
    references: Sequence[str],
    fetching: Fetching,
    *,
    dry_run: bool,
    guesses: bool,
    report: Told | None,
) -> RestoreResult:
    """Bring back what a deletion took; parameters, result and errors as for ``ImageCache.restore``."""
    if fetching.jobs < 1:
        raise InvalidConfigError("jobs is at least 1")
    if not dry_run:
        session.begin_writing()
    with session.log() as log:
        found = deletion_in_log(log, deletion)
        assert log is not None  # noqa: S101
        plan = restore_plan(*log, found, kept_by_msb=session.kept_by_msb, home=session.home_named)
    wanted = chosen(plan, references)
    guesses = guesses or bool(references)
    results = {
        index: RestoredImage(image, _untried(image, guesses), notes=image.notes)
        for index, image in enumerate(wanted)
    }
    operation, others = None, tuple[str, ...]()
    if not dry_run:
        todo = {index: each.planned for index, each in results.items() if each.outcome == "planned"}
        if report is not None:
            for index, each in results.items():
                if index not in todo:
                    report(each)
        if todo:
            running = _Restore(session, plan.operation, fetching, report)
            results.update(running.run(todo))
            operation, others = running.operation, running.others
    return RestoreResult(operation, plan.operation, plan.kind, tuple(results.values()), others, plan.lost)


def _untried(image: Restoration, guesses: bool) -> Outcome:
    if image.certainty in ("here", "none"):
        return image.certainty
    return "guess" if image.certainty == "guess" and not guesses else "planned"


class _Restore:
    """One restore that runs."""

    def __init__(self, session: Session, undoes: str, fetching: Fetching, report: Told | None) -> None:
        self._session = session
        self._layout = session.layout
        self._undoes = undoes
        self._fetching = fetching
        self._report = report
        self._results: dict[int, RestoredImage] = {}
        self.operation = ""
        self.others: tuple[str, ...] = ()

    def run(self, todo: dict[int, Restoration]) -> dict[int, RestoredImage]:
        """Bring images back, each by its number; return what became of them, by the same."""
        with Operation(self._layout) as operation:
            self.operation = operation.id
            wanted = {index: _restoring(image) for index, image in todo.items()}
            operation.tell([Reference.parse(_way(image).name) for image in todo.values()])
            with self._session.ledger.write(operation.id, owner="any") as transaction:
                begun = undoing.started(self._undoes, [*wanted.values()])
                transaction.append([NewEvent(each, operation.id) for each in begun])
            reached("restore.started")
            try:
                adding = _Adding(self._session, Within(operation, self._undoes), self._fetching)
                for index, result in adding.each(todo):
                    self._results[index] = result
                    if self._report is not None:
                        self._report(result)
                    reached("restore.image")
                self.others = adding.others(todo)
            except BaseException:
                with suppress(MicrosandboxError, OSError):  # else the next command that writes says it
                    self._finish(wanted, interrupted=True)
                raise
            self._finish(wanted)
        return self._results

    def _finish(self, wanted: dict[int, ev.Restoring], *, interrupted: bool = False) -> None:
        ended = []
        with self._session.ledger.write(self.operation, owner="any") as transaction:
            store = self._session.ledger.store(transaction.connection)
            brought = undoings.brought(store, self.operation) if interrupted else ()
            for index, image in wanted.items():
                if (found := self._results.get(index)) is not None:
                    ended.append(undoing.result(image, name=found.name, reason=found.reason))
                else:  # not told of yet, and perhaps back all the same
                    name = undoing.came_as(image, brought)
                    ended.append(undoing.result(image, name=name, tried=False))
            end = undoing.finished(self._undoes, ended, interrupted=interrupted)
            transaction.append([NewEvent(end, self.operation)])


def _restoring(image: Restoration) -> ev.Restoring:
    way = _way(image)
    return ev.Restoring(
        reference=image.reference,
        manifest_digest=image.manifest_digest,
        how=way.how,
        place=way.place,
        name=None if way.name == image.reference else way.name,
    )


def _way(image: Restoration) -> Way:
    assert image.way is not None  # noqa: S101
    return image.way


class _Adding:
    """Brings images back one by one, by the engine that the home has."""

    def __init__(self, session: Session, within: Within, fetching: Fetching) -> None:
        self._session = session
        self._within = within
        self._fetching = fetching
        self._engine: Engine = session.engine()
        self._by_msb = self._engine.name == "msb"

    def each(self, todo: dict[int, Restoration]) -> Iterator[tuple[int, RestoredImage]]:
        """Yield what became of each image as it is known; an archive is opened once for all of its images."""
        groups: dict[object, dict[int, Restoration]] = {}
        for index, image in todo.items():
            way = _way(image)
            together = index if way.how == "pull" else (way.place, way.platform)
            groups.setdefault(together, {})[index] = image
        for group in groups.values():
            way = _way(next(iter(group.values())))
            try:
                found = self._loaded(way, group) if way.how == "load" else self._pulled(group)
            except InvalidImageError as error:
                changed = f"{way.place} has changed: " if way.how == "load" else ""
                found = {index: _failed(image, f"{changed}{error}") for index, image in group.items()}
            except (MicrosandboxError, OSError) as error:
                found = {index: _failed(image, as_sentence(error)) for index, image in group.items()}
            yield from found.items()

    def others(self, todo: dict[int, Restoration]) -> tuple[str, ...]:
        """Return what came beside what was asked for, as the log has it."""
        wanted = {Reference.parse(name).canonical for image in todo.values() for name in _names(image)}
        with self._session.ledger.read() as connection:
            if connection is None:
                return ()
            pulls = self._session.ledger.store(connection).read(
                operation=self._within.operation.id, types=[ev.ImagePulled.type]
            )
            return tuple(
                as_typed(event.subject, event.data.spelling)
                for event in pulls
                if isinstance(event.data, ev.ImagePulled)
                and event.data.changed
                and event.subject not in wanted
            )

    # -- from registries -----------------------------------------------------------------------------

    def _pulled(self, group: dict[int, Restoration]) -> dict[int, RestoredImage]:
        return {index: self._pulled_one(image) for index, image in group.items()}

    def _pulled_one(self, image: Restoration) -> RestoredImage:
        way, notes = _way(image), image.notes
        reference = image.reference
        if self._by_msb and reference is not None and Reference.parse(reference).digest is None:
            told = self._by_tag(reference, image.manifest_digest)
            if told is None:
                return RestoredImage(image, "restored", reference)
            notes = (told,)
        found = self._pull(way.name, image.manifest_digest if way.of_manifest else None)
        if found != image.manifest_digest:
            return _failed(image, f"{way.name} is {found} there")
        return RestoredImage(image, "restored", way.name, notes=notes)

    def _by_tag(self, reference: str, digest: str) -> str | None:
        """Have msb pull the tag itself, if that means the same still; else return what there is to say.

        msb gives a manifest no other name than the one by which it pulls it.
        """
        parsed = Reference.parse(reference)
        if self._points_at(parsed) is not None:
            return f"{reference} points at another image now"
        try:
            means = self._means(parsed)
        except (MicrosandboxError, OSError) as error:
            return (
                f"what {reference} means by now cannot be found out, so it stays away: {as_sentence(error)}"
            )
        if means != digest:
            return f"{reference} means {means} by now, so it stays away"
        found = self._pull(reference, None)
        if found != digest:
            return f"{reference} was moved meanwhile: it came as {found}"
        return None

    def _means(self, reference: Reference) -> str:
        from msb_cache.oci.registry.credentials import find_credential
        from msb_cache.oci.registry.images import Registry

        fetching = self._fetching
        credential = find_credential(reference.registry, explicit=None, note=fetching.note)
        with Registry(reference, fetching.options, credential, fetching.note) as registry:
            return registry.resolve(reference).manifest_digest

    def _pull(self, name: str, digest: str | None) -> str:
        fetching = self._fetching
        request = PullRequest(
            reference=Reference.parse(name),
            digest=digest,
            began_ns=time.monotonic_ns(),
            options=fetching.options,
            jobs=fetching.jobs,
            max_age_ns=fetching.max_age_ns,
            progress=fetching.progress,
            within=self._within,
            note=fetching.note,
        )
        with naming(None, self._session.layout.cache):
            return self._engine.pull(request).row.manifest_digest

    # -- from archives -------------------------------------------------------------------------------

    def _loaded(self, way: Way, group: dict[int, Restoration]) -> dict[int, RestoredImage]:
        wanted: dict[str, tuple[Reference, ...]] = {}
        for image in group.values():
            names = wanted.get(image.manifest_digest, ())
            wanted[image.manifest_digest] = (*names, Reference.parse(_way(image).name))
        path, fetching = Path(way.place), self._fetching
        request = LoadRequest(
            source=path,
            origin=ev.Source(kind="archive", name=way.place),
            began_ns=time.monotonic_ns(),
            tags=tuple(self._tags(path, wanted)) if self._by_msb else (),
            only=None if self._by_msb else wanted,
            within=self._within,
            platform=None if way.platform is None else parse_platform(way.platform),
            max_age_ns=fetching.max_age_ns,
            note=fetching.note,
        )
        with naming(path, self._session.layout.cache):
            self._engine.add(request)
        return {index: self._checked(image) for index, image in group.items()}

    def _checked(self, image: Restoration) -> RestoredImage:
        way = _way(image)
        found = self._points_at(Reference.parse(way.name))
        if found == image.manifest_digest:
            return RestoredImage(image, "restored", way.name, notes=image.notes)
        has = "it has no such manifest" if found is None else f"{way.name} is {found} there"
        return _failed(image, f"{way.place} has changed: {has}")

    def _tags(self, path: Path, wanted: dict[str, tuple[Reference, ...]]) -> Iterator[Reference]:
        """Yield the names that msb has to give beside those in an archive, all of which it loads.

        Raises:
            InvalidImageError: not all that is wanted is in it.
            InvalidConfigError: msb would name it otherwise, or take names from other images.
        """
        with (
            self._within.operation.part() as part,
            open_archive(path, part.staging()) as archive,
        ):
            held = {image.manifest_digest: image.references for image in archive.images}
        for digest in wanted:
            if digest not in held:
                raise InvalidImageError(f"it has no manifest {digest}, and msb would load all that it has")
        for digest, names in held.items():
            for name in names:
                if self._points_at(name) not in (None, digest):
                    raise InvalidConfigError(
                        f"msb loads all of {path}, and so would take {name} from the image that it points at "
                        "now; nothing was loaded"
                    )
        first = next(iter(held))
        for digest, names in wanted.items():
            for name in names:
                if name in held[digest]:
                    continue
                if digest != first:
                    raise InvalidConfigError(
                        f"msb names only the first image of an archive, and {name} is another one of {path}; "
                        "nothing was loaded"
                    )
                yield name

    def _points_at(self, reference: Reference) -> str | None:
        """Return the manifest at which a reference points now; in a home of msb, this spelling of it."""
        with self._session.ledger.read() as connection:
            rows = [] if connection is None else images.spellings(connection, reference.canonical)
        if self._by_msb:
            rows = [row for row in rows if seen(row) == (reference.typed or reference.familiar)]
        return rows[0].manifest_digest if rows else None


def _names(image: Restoration) -> Iterator[str]:
    if image.reference is not None:
        yield image.reference
    yield _way(image).name


def _failed(image: Restoration, reason: str) -> RestoredImage:
    return RestoredImage(image, "failed", reason=reason)
