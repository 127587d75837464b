"""A fleet, asked from Python: the words of one host, for many."""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from msb_cache.activity import Activities
from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from msb_cache.fleet import hosts as of_hosts
from msb_cache.fleet.hosts import KnownLog, OnHost
from msb_cache.fleet.place import TAKES_LIBPQ, Place, Reading
from msb_cache.fleet.place import VARIABLE as VARIABLE
from msb_cache.fleet.spread import Spread, spread, together

if TYPE_CHECKING:
    from datetime import timedelta

    from msb_cache.activity import Tell
    from msb_cache.eventstore.store import StoredEvent
    from msb_cache.fleet.admission import Initialised
    from msb_cache.fleet.archive import Archived, Refolded
    from msb_cache.fleet.connect import Kept
    from msb_cache.fleet.enrolment import Enrolled, Enrolment, Unenrolled
    from msb_cache.fleet.fold import Folded
    from msb_cache.fleet.images import Found, Word
    from msb_cache.fleet.past import Past, Positions, Then
    from msb_cache.fleet.present import Present
    from msb_cache.fleet.reasons import HostChanges
    from msb_cache.fleet.roles import Kind
    from msb_cache.fleet.servers import FurtherServer
    from msb_cache.fleet.standing import Alert, HostStanding
    from msb_cache.fleet.take import Taken
    from msb_cache.fleet.timeline import Timeline
    from msb_cache.fleet.verify import FleetVerified
    from msb_cache.models import ImageHandle
    from msb_cache.projections.history import HistoryEvent
    from msb_cache.projections.images import Damage
    from msb_cache.queries.as_of import AsOf, Hold
    from msb_cache.queries.deletions import DeletionReport, DeletionSummary
    from msb_cache.queries.events import Filters
    from msb_cache.queries.last_used import IdleImage
    from msb_cache.queries.times import Moment
    from msb_cache.queries.why import Reasons

T = TypeVar("T")


class Fleet:
    """The logs of many hosts, in PostgreSQL or in a file.

    Answers have the fields of one host's, and before them ``host``, ``log_id`` and ``folded_seq``, the last
    event of that host's log that they know. As a context manager it keeps its connections, and what it has
    folded of the past, between calls until the block ends; else nothing stays open.

    Args:
        dsn: the first server's, as libpq takes it; None: what ``MSB_CACHE_FLEET`` says. Further servers that
            it names are asked as well.
        db: a file instead, made by ``take``: no server is asked.
        clock: ns since the epoch.

    Raises:
        InvalidConfigError: neither is given, both are, or the DSN cannot be read.
        UnsupportedError: the extra ``fleet`` is not installed.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        db: str | os.PathLike[str] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        dsn = dsn or None
        if dsn is None and db is None:
            dsn = os.environ.get(VARIABLE) or None
        if (dsn is None) == (db is None):
            raise InvalidConfigError(
                "a fleet is at a DSN or in a file; give one of --dsn and --db, or set "
                f"{VARIABLE}{TAKES_LIBPQ}"
            )
        self._clock = clock
        self._kept: Kept | None = None
        self._pasts: dict[str, Past] | None = None
        self._db = None if db is None else os.fspath(db)
        self._dsn = dsn
        if dsn is not None:
            from msb_cache.fleet.connect import check

            check(dsn)

    def __enter__(self) -> Fleet:
        self._pasts = {}
        if self._dsn is not None:
            from msb_cache.fleet.connect import Kept

            self._kept = Kept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
        pasts, self._pasts = self._pasts or {}, None
        for past in pasts.values():
            past.close()

    @property
    def dsn(self) -> str:
        """The first server's DSN; raises InvalidConfigError for a fleet in a file."""
        if self._dsn is None:
            raise InvalidConfigError("this needs a fleet in PostgreSQL, and --db names a file")
        return self._dsn

    def init(self) -> Initialised:
        """Make the first server's database ready for a fleet, or bring it to this release's tables.

        Run again, it changes nothing. The DSN is of a superuser, or of a role with CREATEROLE, and CREATE on
        the database.

        Raises:
            FleetError: the server cannot be asked, it is no database for this, the role may not do it, or its
                tables are of a newer release.
        """
        from msb_cache.fleet.admission import init

        return init(self.dsn)

    def enrol(
        self,
        name: str,
        max_logs: int | None = None,
        *,
        max_log_size: str | int | None = None,
        kind: Kind = "host",
        password: str | None = None,
        generate: bool = True,
        key: str | None = None,
    ) -> Enrolled:
        """Make a role that may send logs, fold them or ask; or change what one may that is enrolled.

        Args:
            name: the role's; lower-case letters, digits, ``.``, ``_`` and ``-``, at most 63.
            max_logs: how many logs a host may own; None: 1, or as many as it may already.
            max_log_size: how large each of a host's logs may be on the server, such as ``10GiB``, or
                ``unlimited``: each event counts the bytes of its texts and 96 more, those in an archive
                count no more. None: 1 GiB, or as large as it may be already.
            kind: ``host``, ``folder`` or ``reader``.
            password: its new password; None: one is made for a new role.
            generate: whether it is; else a new role has none, for certificates and ``peer``.
            key: the verifier key with which its logs' checkpoints are signed; None: none, or the one it has.

        Raises:
            InvalidConfigError: an argument is none of these, or a role of that name is not the fleet's.
            FleetError: the server cannot be asked, has no fleet, or the DSN's role may not do it.
        """
        from msb_cache.fleet.enrolment import enrol

        return enrol(
            self.dsn,
            name,
            max_logs,
            max_log_size=max_log_size,
            kind=kind,
            password=password,
            generate=generate,
            key=key,
        )

    def enrolments(self) -> builtins.list[Enrolment]:
        """Return who is enrolled: hosts, folders and readers, by name.

        Raises:
            FleetError: as for ``enrol``.
        """
        from msb_cache.fleet.enrolment import enrolments

        return enrolments(self.dsn)

    def unenrol(self, name: str) -> Unenrolled:
        """Take from a role what it was enrolled for, and its right to log in; its logs stay.

        Raises:
            ImageNotFoundError: it is not enrolled.
            FleetError: as for ``enrol``.
        """
        from msb_cache.fleet.enrolment import unenrol

        return unenrol(self.dsn, name)

    def servers(self) -> builtins.list[FurtherServer]:
        """Return the fleet's further servers, by name; whoever may ask the fleet may ask for these.

        Raises:
            FleetError: the first server cannot be asked, or has no fleet.
        """
        from msb_cache.fleet.servers import servers

        return servers(self.dsn)

    def add_server(self, name: str, dsn: str) -> FurtherServer:
        """Have the fleet be asked on one more server, complete in itself; one of that name gets the new DSN.

        Args:
            name: how people know it: lower-case letters, digits, ``.``, ``_`` and ``-``.
            dsn: its DSN, without a password: whoever asks brings their own, from libpq's password file.

        Raises:
            InvalidConfigError: the name or the DSN cannot be taken.
            FleetError: as for ``enrol``.
        """
        from msb_cache.fleet.servers import add_server

        return add_server(self.dsn, name, dsn)

    def remove_server(self, name: str, *, force: bool = False) -> FurtherServer:
        """Ask the fleet on this server no more; nothing changes there.

        Args:
            name: which.
            force: also where the directory has logs there, of which nobody is told any more then.

        Raises:
            ImageNotFoundError: the fleet knows no server of that name.
            FleetError: the directory has logs there, without ``force``; else as for ``enrol``.
        """
        from msb_cache.fleet.servers import remove_server

        return remove_server(self.dsn, name, force=force)

    @property
    def is_file(self) -> bool:
        """Whether it is in a file, and not on a server."""
        return self._db is not None

    def _places(self) -> builtins.list[Place]:
        """Return where the fleet's logs are: its first server and those it names, or the file."""
        first = self._first()
        with first.read() as reading:
            return [first, *self._further(reading)]

    def _first(self) -> Place:
        if self._db is not None:
            from msb_cache.fleet.file import FleetFile

            return FleetFile(self._db)
        from msb_cache.fleet.connect import Postgres

        return Postgres(self.dsn, kept=self._kept)

    def _further(self, reading: Reading) -> builtins.list[Place]:
        if self._db is not None:
            return []
        from msb_cache.fleet.connect import further

        return [*further(reading, self.dsn, kept=self._kept)]

    def take(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[Taken]:
        """Take exports of many hosts into the fleet's file, which is made where there is none.

        Each is taken whole, in a transaction of its own, or refused. Of a log that is there already what is
        new is taken; an older export of it has nothing new.

        Args:
            paths: what ``export`` wrote, databases of msb-cache, and folders: of one, and of those in it,
                what ends in ``.jsonl`` and what is a database of msb-cache. Links in it are not followed.

        Yields:
            What became of each file, when that is done: what was refused is among it.

        Raises:
            InvalidConfigError: the fleet is in PostgreSQL, a path is not there, a folder has no export, or
                what is at the fleet's path is no fleet.
            BusyError, FleetError: the file cannot be written.
        """
        if self._db is None:
            raise InvalidConfigError(
                "exports are taken into a file, which --db names; to a DSN `msb-cache ship` sends a log"
            )
        from msb_cache.fleet.file import FleetFile
        from msb_cache.fleet.take import take

        return take(FleetFile(self._db), paths, clock=self._clock)

    def logs(self, hosts: Iterable[str] = (), *, as_of: AsOf | None = None) -> builtins.list[KnownLog]:
        """Return the fleet's logs, by host; of these hosts, where some are named.

        Args:
            hosts: names of machines or roles, or the beginnings of logs' ids; none: all.
            as_of: how far they were folded at this moment of the past, if all that had come then was:
                ``folded_seq`` is the last event by then. It is 0 of a log that begins later, and less than
                ``archived_seq`` where the archive has it. None: now. See ``list``.

        Raises:
            ImageNotFoundError: a name means no host.
            InvalidConfigError: ``as_of`` is no such moment.
            FleetError: a server cannot be asked.
        """
        found = of_hosts.chosen(self._everywhere(of_hosts.logs), [*hosts])
        return found if as_of is None else self._positions(found, as_of).logs

    def knows(self, as_of: AsOf, hosts: Iterable[str] = ()) -> bool:
        """Return whether any log had begun at a moment of the past, so that what was there then is known.

        Args:
            as_of: the moment; see ``list``.
            hosts: only of these; see ``logs``.

        Raises:
            ImageNotFoundError, InvalidConfigError, FleetError: as for ``logs``.
        """
        return self._positions(self.logs(hosts), as_of).known

    def fold(
        self,
        *,
        rebuild: Iterable[str] | None = None,
        follow: bool = False,
        stopped: Callable[[], bool] = lambda: False,
        said: Callable[[str], object] = lambda sentence: None,
    ) -> Folded:
        """Fold what was shipped and is not folded yet, so that it can be asked.

        Several may fold at once, also on several machines: each log is folded by one of them at a time. A log
        that cannot be folded on stops by itself; what was stopped before is tried again.

        Args:
            rebuild: hosts whose logs are folded anew from their first event; none: all. None: that of no one.
            follow: go on with what comes, until ``stopped`` says so; a server that is away is waited for.
            stopped: ends it, within a second.
            said: gets sentences for a person about what is unusual and no error.

        Raises:
            ImageNotFoundError: a name in ``rebuild`` means no host.
            FleetError: a server cannot be asked, or what is folded there is of another release.
        """
        from msb_cache.fleet import directory
        from msb_cache.fleet import fold as folding

        places = self._places()
        if rebuild is not None:
            names = [*rebuild]
            chosen = {log.log_id for log in self.logs(names)} if names else None
            for place in places:
                folding.rebuild(place, chosen, clock=self._clock)
        run = partial(folding.fold, follow=follow, stopped=stopped, said=said, clock=self._clock)
        if follow:
            with directory.kept(places, said):
                return folding.together(places, run)
        found = folding.together(places, run)
        directory.keep(places, said)
        return found

    def spread(self, *, limit: int = 1000) -> builtins.list[Spread]:
        """Return the references that most hosts have, these first, and where each was used last.

        Args:
            limit: at most so many; those of several servers are counted together, if they are among the
                first on each.
        """
        return together(self._everywhere(lambda reading: spread(reading, limit)), limit)

    def hosts(self, hosts: Iterable[str] = ()) -> builtins.list[HostStanding]:
        """Return how each host stands, by host: when it was seen, how far its log is here, how full it is.

        Args:
            hosts: only these; see ``logs``.

        Raises:
            ImageNotFoundError, FleetError: as for ``logs``.
        """
        from msb_cache.fleet.standing import standings

        logs = self._ids(hosts)
        found = self._everywhere(lambda reading: standings(reading, logs))
        return sorted(found, key=lambda each: (each.host, each.log_id))

    def alerts(self) -> builtins.list[Alert]:
        """Return what servers refused, the latest first; also of logs of which the fleet has nothing.

        Raises:
            FleetError: a server cannot be asked.
        """
        from msb_cache.fleet.standing import alerts

        return sorted(self._everywhere(alerts), key=lambda each: -each.last_at_ns)

    def acknowledge(self, hosts: Iterable[str] = ()) -> builtins.list[Alert]:
        """Have what servers refused shown no more, as somebody has seen to it; return what was shown.

        What is refused again is shown again.

        Args:
            hosts: only what was refused of these: hosts as for ``logs``, also roles and logs of which the
                fleet has nothing; none: all.

        Raises:
            ImageNotFoundError: nothing was refused of what a name means.
            InvalidConfigError: the fleet is in a file.
            FleetError: as for ``enrol``.
        """
        from msb_cache.fleet.acknowledging import acknowledge, chosen
        from msb_cache.fleet.connect import Postgres
        from msb_cache.fleet.standing import alerts

        _ = self.dsn
        names = [*hosts]
        gone: builtins.list[Alert] = []
        wanted = {*chosen(self.alerts(), self.logs(), names)}
        for place in self._places():
            assert isinstance(place, Postgres)  # noqa: S101
            with place.read() as reading:
                there = [alert for alert in alerts(reading) if alert in wanted]
            if there:
                gone += acknowledge(place.dsn, there)
        return sorted(gone, key=lambda each: -each.last_at_ns)

    def list(
        self,
        *patterns: str,
        filter: Sequence[str] = (),
        hosts: Iterable[str] = (),
        as_of: AsOf | None = None,
        progress: Tell | None = None,
    ) -> builtins.list[OnHost[ImageHandle]]:
        """Return the images of all hosts by creation time, newest first; ``origin`` of each is None.

        As of the past, logs are folded anew up to that moment: those that ever had what the patterns mean.
        ``folded_seq`` is the last event of a log by then. Each host's clock says what it was at a time.

        Args:
            patterns: as for ``ImageCache.list``; each means on a host what it means there.
            filter: only what these select, as for ``ImageCache.list``. Labels are not told by a fleet.
            hosts: only these; see ``logs``.
            as_of: the images at this moment of the past; None: now. See ``AsOf``; a position is one of one
                log.
            progress: gets an ``Activity`` as logs are folded.

        Raises:
            ImageNotFoundError: nothing on any host matches a pattern; or a name means no host.
            InvalidReferenceError: one is no reference, or several digests begin with it.
            InvalidConfigError: a filter is none, or asks for labels; or ``as_of`` is no moment, is in the
                future, or is a position of several logs.
            FleetError: a server cannot be asked; or what was there then is in an archive.
        """
        from msb_cache.fleet import images

        words, selects = [images.Word(text) for text in patterns], images.selection(filter)
        with self._at(as_of, hosts, words, progress) as at:
            found = at.ask(lambda reading, logs: images.handles(reading, words, selects, logs, at.now_ns))
            _check_found(words, found, at)
        return _in_order(found)

    def damage(
        self, *, hosts: Iterable[str] = (), as_of: AsOf | None = None, progress: Tell | None = None
    ) -> builtins.list[OnHost[Damage]]:
        """Return which files of hosts' images are gone because another program deleted them.

        Args:
            hosts: only these; see ``logs``.
            as_of: at this moment of the past; None: now. See ``list``.
            progress: gets an ``Activity`` as logs are folded.

        Raises:
            ImageNotFoundError, FleetError: as for ``logs``.
            InvalidConfigError: as for ``list``.
        """
        from msb_cache.fleet.images import damaged

        with self._at(as_of, hosts, (), progress) as at:
            return _in_order(at.ask(damaged))

    def last_used(
        self,
        reference: str | None = None,
        *,
        at_least: str | timedelta | None = None,
        everywhere: bool = False,
        hosts: Iterable[str] = (),
        as_of: AsOf | None = None,
        progress: Tell | None = None,
    ) -> builtins.list[OnHost[IdleImage]]:
        """Return when images were last used on each host, with the events that say so.

        Of one image the host that used it last stands first, after those that run it now. Without
        ``reference`` those come first that lie idle longest. Ages are counted by this machine's clock, or
        from the moment ``as_of``.

        Args:
            reference: the image, as for ``list``; None: all.
            at_least: only those idle on their host for as long or longer: text such as ``30 days``, or a
                ``timedelta``; None: all.
            everywhere: each reference once, with the host that used it last: so ``at_least`` says for how
                long no host has used it.
            hosts: only these; see ``logs``.

        Raises:
            ImageNotFoundError: no host has the image; or a name means no host.
            InvalidReferenceError: it is no reference, or several digests begin with it.
            InvalidConfigError: the text is no duration.
            FleetError: a server cannot be asked.
        """
        from msb_cache.fleet import images
        from msb_cache.queries.last_used import idle_ns

        words = [] if reference is None else [images.Word(reference)]
        with self._at(as_of, hosts, words, progress, uses=True) as at:
            now, at_least_ns = at.now_ns, 0
            if at_least is not None:
                from msb_cache.queries.times import duration_ns  # with dateutil

                at_least_ns = duration_ns(at_least, now)
            standing = at.ask(
                lambda reading, logs: images.last_used(reading, words, logs, now, newest=everywhere)
            )
            _check_found(words, [each for _, each in standing], at)
        if everywhere:
            found = images.nowhere_used(standing, at_least_ns, now)
        else:
            found = [each for image, each in standing if idle_ns(image, now) >= at_least_ns]
        in_order: builtins.list[OnHost[IdleImage]] = _in_order(found)
        return in_order if reference is None else sorted(in_order, key=images.newest_first)

    def holds(
        self,
        reference: str | None = None,
        *,
        hosts: Iterable[str] = (),
        as_of: AsOf | None = None,
        progress: Tell | None = None,
    ) -> builtins.list[OnHost[Hold]]:
        """Return who holds what on which host, since when and by which reference, by host and holder.

        Args:
            reference: only holds of the manifest that this means on each host: a reference to it, or its
                digest, also when no reference points at it any more; None: all holds.
            hosts: only these; see ``logs``.
            as_of: at this moment of the past; None: now. See ``list``.
            progress: gets an ``Activity`` as logs are folded.

        Raises:
            ImageNotFoundError: it means nothing on any host; or a name means no host.
            InvalidReferenceError: it is no reference, it is on a host in several spellings, or several
                digests begin with it.
            InvalidConfigError, FleetError: as for ``list``.
        """
        from msb_cache.fleet import images

        word = None if reference is None else images.Word(reference)
        words = [] if word is None else [word]
        with self._at(as_of, hosts, words, progress, held=True) as at:
            found = at.ask(lambda reading, logs: images.holds(reading, word, logs, at.now_ns))
            _check_found(words, found, at)
        return _in_order(found)

    def prunes(
        self, *, limit: int | None = None, hosts: Iterable[str] = ()
    ) -> builtins.list[OnHost[DeletionSummary]]:
        """Return past removals and prunes of all hosts, those that began last first.

        Those of one host stand in the order of its log. What was archived is not among them.

        Args:
            limit: at most this many; None: all.
            hosts: only these; see ``logs``.

        Raises:
            InvalidConfigError: the limit is no number from 0 to 2^63-1.
            ImageNotFoundError, FleetError: as for ``logs``.
        """
        from msb_cache.fleet.prunes import prunes, together
        from msb_cache.queries.events import checked_number

        most = None if limit is None else checked_number(limit, "limit")
        logs = self._ids(hosts)
        return together(self._everywhere(lambda reading: prunes(reading, logs, most)), most)

    def prune_report(self, operation: str, *, hosts: Iterable[str] = ()) -> OnHost[DeletionReport]:
        """Return what one deletion of a host decided, deleted and kept, and who ran it.

        Args:
            operation: its id, or a prefix of at least four characters that no other of any host shares.
            hosts: only these; see ``logs``.

        Raises:
            OperationNotFoundError: no deletion has that id, several begin with it, or it was archived.
            ImageNotFoundError, FleetError: as for ``logs``.
        """
        from msb_cache.fleet import prunes

        logs = self._ids(hosts)
        found = self._everywhere(lambda reading: prunes.reports(reading, operation, logs))
        if not found:
            raise prunes.missing(operation)
        if len(found) > 1:
            raise prunes.several(operation, self.logs([each.log_id for each in found]))
        [one] = found
        if one.found is None:
            raise prunes.archived(operation, one)
        return OnHost(one.host, one.log_id, one.folded_seq, one.found)

    def _ids(self, hosts: Iterable[str]) -> frozenset[str] | None:
        """Return the ids of the logs that are asked; None: all."""
        names = [*hosts]
        return frozenset(log.log_id for log in self.logs(names)) if names else None

    @contextmanager
    def _at(
        self,
        as_of: AsOf | None,
        hosts: Iterable[str],
        words: Sequence[Word] = (),
        progress: Tell | None = None,
        *,
        uses: bool = False,
        held: bool = False,
    ) -> Iterator[Present | Then]:
        """Give the present, or a moment of the past, to ask about hosts; see ``past.Then``."""
        if as_of is None:
            from msb_cache.fleet.present import Present

            yield Present(self._everywhere, self._ids(hosts), self._clock())
            return
        from msb_cache.fleet.past import Then

        positions = self._positions(self.logs(hosts), as_of)
        kept = {} if self._pasts is None else self._pasts
        try:
            activities = Activities(progress)
            yield Then(positions, kept, activities, words=words, uses=uses, held=held)
        finally:
            if self._pasts is None:
                for past in kept.values():
                    past.close()

    def _positions(self, logs: Sequence[KnownLog], as_of: AsOf) -> Positions:
        from msb_cache.fleet.past import positions_at

        return positions_at(self._places(), logs, as_of, self._clock())

    def verify(
        self,
        hosts: Iterable[str] = (),
        *,
        against: str | os.PathLike[str] | None = None,
        archive: str | os.PathLike[str] | None = None,
        progress: Tell | None = None,
    ) -> builtins.list[FleetVerified]:
        """Check the logs themselves, and all that the fleet answers from against them; by host.

        Events are read as they are stored, hashed and folded here, so it takes as long as reading them all.

        Args:
            hosts: only of these.
            against: an export or a database of one host: its log alone is checked, and compared with that
                event by event.
            archive: the folder to which events were archived: they are read, too. None: a log is checked from
                its anchor on.
            progress: gets an ``Activity`` as it goes on.

        Raises:
            ImageNotFoundError: a name means no host, or the file's log is of none of them.
            FleetError: a server cannot be asked, or this role may not read events.
            LogError: the file or the folder cannot be read.
            UnsupportedError: ``archive`` is given, and the extra ``parquet`` is not installed.
        """
        from msb_cache.fleet.verify import log_of_file, verify

        known = self.logs(hosts)
        path = None if against is None else Path(against)
        if path is not None:
            known = [log_of_file(path, known)]
        return [
            each
            for place, logs in self._places_of(known)
            for each in verify(
                *(place, logs, Activities(progress)),
                against=path,
                archive=None if archive is None else Path(archive),
            )
        ]

    def archive(
        self,
        before: Moment,
        folder: str | os.PathLike[str],
        hosts: Iterable[str] = (),
        *,
        dry_run: bool = False,
        progress: Tell | None = None,
    ) -> builtins.list[Archived]:
        """Move what was recorded before a time, and is folded, from the servers to Parquet files; by host.

        Of each log a whole beginning goes, into one file; an anchor stays, from which on it is checked and
        folded. What the events have led to is still answered; they themselves are told no more.

        Args:
            before: the time.
            folder: where to; made if it is not there.
            hosts: only of these.
            dry_run: only tell what would go.
            progress: gets an ``Activity`` as it goes on.

        Raises:
            ImageNotFoundError: a name means no host.
            InvalidConfigError: it is no time, or the fleet is in a file.
            FleetError: a server cannot be asked, or the role is no member of its owner's.
            LogError: the folder cannot be written to.
            UnsupportedError: the extra ``parquet`` is not installed.
        """
        from msb_cache.fleet.archive import archive, planned
        from msb_cache.fleet.connect import Postgres
        from msb_cache.queries.times import as_ns

        _ = self.dsn
        before_ns = as_ns(before, self._clock())
        found: builtins.list[Archived] = []
        for place, logs in self._places_of(self.logs(hosts)):
            if dry_run:
                with place.read() as reading:
                    found += planned(reading, logs, before_ns)
            elif isinstance(place, Postgres):
                found += archive(place, logs, before_ns, Path(folder), Activities(progress))
        return found

    def refold(
        self,
        folder: str | os.PathLike[str],
        hosts: Iterable[str] = (),
        *,
        progress: Tell | None = None,
    ) -> builtins.list[Refolded]:
        """Fold anew, from the archive, what was folded before the anchors by another release's fold; by host.

        A release that folds in another way makes the read models anew; of logs whose first events are in an
        archive it can do that only after this.

        Args:
            folder: the archive.
            hosts: only of these.
            progress: gets an ``Activity`` as it goes on.

        Raises:
            ImageNotFoundError: a name means no host.
            InvalidConfigError: the fleet is in a file.
            FleetError: a server cannot be asked, or the role is no member of its owner's.
            LogError: the folder cannot be read.
            UnsupportedError: the extra ``parquet`` is not installed.
        """
        from msb_cache.fleet.archive import refold
        from msb_cache.fleet.connect import Postgres

        _ = self.dsn
        return [
            each
            for place, logs in self._places_of(self.logs(hosts))
            if isinstance(place, Postgres)
            for each in refold(place, logs, Path(folder), Activities(progress))
        ]

    def _places_of(self, logs: Iterable[KnownLog]) -> Iterator[tuple[Place, builtins.list[KnownLog]]]:
        """Yield each place, and those of the logs that it has."""
        wanted = {log.log_id for log in logs}
        for place in self._places():
            with place.read() as reading:
                there = [log for log in of_hosts.logs(reading) if log.log_id in wanted]
            if there:
                yield place, there

    def history(
        self, reference: str, *, hosts: Iterable[str] = (), **filters: Unpack[Filters]
    ) -> builtins.list[OnHost[HistoryEvent]]:
        """Return everything that happened to an image on any host, oldest first, also where it is gone.

        Events are in the order in which they were recorded, and those of one host in that of its log. Of
        ``manifest.added``, which only the history of a digest has, ``config`` is None.

        Args:
            reference: a reference; one with wildcards, for the images that match; or a digest, or a
                beginning of one that is unique among all hosts.
            hosts: only these; see ``logs``.
            filters: what the events must fit; see ``Filters``. Positions are of one host's log.

        Raises:
            ImageNotFoundError: no host's log knows the image, or a name means no host.
            InvalidReferenceError: the text is no reference, or several digests begin with it.
            InvalidConfigError: a filter makes no sense, or a position is given for several logs.
            OperationNotFoundError: no operation has that id, or several begin with it.
            FleetError: a server cannot be asked.
        """
        return self._timeline(hosts).history(reference, filters)

    def events(
        self, *, hosts: Iterable[str] = (), **filters: Unpack[Filters]
    ) -> builtins.list[OnHost[StoredEvent]]:
        """Return the events of all hosts that fit every given condition, in the order of ``history``.

        With ``since``, an event that some clock recorded more than a day before it occurred is not found.

        Args:
            hosts: only these; see ``logs``.
            filters: what the events must fit; see ``Filters``. Positions are of one host's log.

        Raises:
            ImageNotFoundError, InvalidReferenceError, InvalidConfigError, OperationNotFoundError, FleetError:
                as for ``history``.
        """
        return [*self.iter_events(hosts=hosts, **filters)]

    def iter_events(
        self, *, hosts: Iterable[str] = (), **filters: Unpack[Filters]
    ) -> Iterator[OnHost[StoredEvent]]:
        """Yield what ``events`` returns, read in pages; more may be shipped meanwhile."""
        return self._timeline(hosts).events(filters)

    def follow(
        self,
        reference: str | None = None,
        *,
        hosts: Iterable[str] = (),
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 0.5,
        said: Callable[[str], object] = lambda sentence: None,
        **filters: Unpack[Filters],
    ) -> Iterator[OnHost[StoredEvent]]:
        """Yield events as ``iter_events`` or, with a reference, ``history``; then stay for what comes.

        Without ``since`` or ``after``, the last ten come first. Each event comes once, when it was folded;
        what several hosts have shipped since the last look comes in the order in which it was recorded. A
        server that goes away meanwhile is waited for.

        Args:
            reference: whose history to follow; None: all events.
            hosts: only these; see ``logs``. Without any, hosts that are new are followed as well.
            stopped: asked after each look whether to end.
            interval: seconds between two looks.
            said: gets sentences for a person about a server that went away, and came back.
            filters: as for ``events``; ``until`` and ``reverse`` make no sense here.

        Raises:
            InvalidConfigError: ``until`` or ``reverse`` was given; else as for ``history``.
            FleetError: a server cannot be asked at first, or in a way that does not pass by itself.
        """
        from msb_cache.queries.follow import looks

        if filters.get("until") is not None or filters.get("reverse"):
            raise InvalidConfigError(
                "what is followed has no end and comes oldest first; leave `until` and `reverse` out"
            )
        turns = looks(lambda: None, stopped=stopped, note=lambda _: None, interval=interval)
        return self._timeline(hosts).follow(reference, filters, turns, said)

    def why(self, target: str, *, hosts: Iterable[str] = ()) -> builtins.list[OnHost[Reasons]]:
        """Explain why an image, manifest or layer is on hosts, or gone from them: as each would itself.

        Only hosts that ever had it answer, by host. What is on the host alone is not known: a policy, and
        where msb keeps the images whether its own database lets a prune judge them.

        Args:
            target: a reference; or a digest of a manifest or layer (diff ID or blob), or its beginning.
            hosts: only these; see ``logs``.

        Raises:
            ImageNotFoundError: no host ever had it; names like it are offered. Or a name means no host.
            InvalidReferenceError: it is neither, or several digests begin so.
            FleetError: a server cannot be asked.
        """
        from msb_cache.fleet import reasons
        from msb_cache.fleet.events import never_seen

        names = [*hosts]
        ids = [log.log_id for log in self.logs(names)] if names else None
        answers = self._everywhere(lambda reading: reasons.why(reading, target, ids, self._clock))
        found = [each for each in answers if isinstance(each, OnHost)]
        if found:
            return sorted(found, key=lambda each: (each.host, each.log_id))
        for each in answers:
            if isinstance(each, ImageNotFoundError):
                raise each
        raise never_seen(target, self._timeline(names).known_references())

    def diff(
        self, before: str, after: str, *, as_of: AsOf | None = None, progress: Tell | None = None
    ) -> HostChanges:
        """Return what one host has in its index that another has not: images, holds, pins, and bytes.

        Args:
            before: a host; see ``logs``.
            after: another: what it has more counts as added.
            as_of: at this moment of the past; None: now. See ``list``.
            progress: gets an ``Activity`` as logs are folded.

        Raises:
            ImageNotFoundError: a name means no host.
            InvalidConfigError: it means several; or as for ``list``.
            FleetError: as for ``list``.
        """
        from msb_cache.fleet.reasons import HostChanges, contents_of
        from msb_cache.queries.as_of import Contents, changes

        known = self.logs()
        one, other = of_hosts.only(known, before), of_hosts.only(known, after)
        with self._at(as_of, [one.log_id, other.log_id], (), progress) as at:
            found = dict(at.ask(lambda reading, _: contents_of(reading, [one, other], lambda: at.now_ns)))
        nothing = Contents(0, {}, {}, {}, {}, 0)
        differ = changes(found.get(one.log_id, nothing), found.get(other.log_id, nothing))
        return HostChanges(one.host, one.log_id, other.host, other.log_id, differ)

    def _timeline(self, hosts: Iterable[str]) -> Timeline:
        from msb_cache.fleet.timeline import Timeline

        names = [*hosts]
        logs = tuple(self.logs(names)) if names else None
        return Timeline(self._everywhere, self._places, self._clock(), logs)

    def _everywhere(self, question: Callable[[Reading], Iterable[T]]) -> builtins.list[T]:
        """Ask each place, all at the same time, and return what they have found, the first place's first."""

        def ask(place: Place) -> builtins.list[T]:
            with place.read() as reading:
                return [*question(reading)]

        with self._first().read() as reading:
            further = self._further(reading)
            if not further:  # one connection will do
                return [*question(reading)]
            with ThreadPoolExecutor(min(len(further), 16)) as pool:
                others = pool.map(ask, further)
                return [*question(reading), *chain.from_iterable(others)]


def _in_order(found: Iterable[Found]) -> builtins.list[Any]:
    there = (each for each in found if each.found is not None)
    return [each.found for each in sorted(there, key=lambda each: each.order)]


def _check_found(words: Sequence[Word], found: Sequence[Found], at: Present | Then) -> None:
    """Refuse a word that means nothing on any host, or several digests."""
    if not words:
        return
    from msb_cache.fleet.images import check_digests

    there = {number for each in found for number in each.words}
    for number, word in enumerate(words):
        if number not in there:
            error = word.missing(at.known_references())
            raise error if at.unknown is None else ImageNotFoundError(f"{error}; {at.unknown}")
    check_digests(words, found)
