"""Checkpoints that are signed by themselves: each time so many events have come, or so much time has passed.

A look is a small read. What is due is signed, submitted to witnesses, and delivered to a file and a command,
each of which is tried again by itself, after a pause. A log that is quiet is not signed again. What is signed
is kept in the home, so that another process goes on from there: it delivers the last one again, as nothing
but the home says how far the one before it came. So everything is delivered at least once.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from msb_cache import diagnostics
from msb_cache.errors import (
    DeliveryError,
    InvalidConfigError,
    LogError,
    MicrosandboxError,
    WitnessError,
)
from msb_cache.failpoints import reached
from msb_cache.oci.digest import shown
from msb_cache.proof import kept
from msb_cache.queries.times import duration_ns
from msb_cache.shapes import Result
from msb_cache.waiting import beside
from msb_cache.wording import as_sentence, reason_of

if TYPE_CHECKING:  # a process that stays small signs in a child of it
    from msb_cache.audit.checkpoints import Checkpoint, Signing
    from msb_cache.proof.kept import KeptCheckpoint
    from msb_cache.proof.program import Program
    from msb_cache.session import Session

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds after which what failed is tried again: at first, and when it has failed again and again."""

COMMAND_SECONDS = 60.0
"""So long a command that is given a checkpoint may take."""

LOOK = 1.0
"""Seconds between two looks of a process that has nothing else to do."""

_EVENTS = re.compile(r"([0-9]{1,15})(?:\s+events?)?", re.IGNORECASE)
_SHORTEST_NS = 10**9

T = TypeVar("T")

Step = Literal["signed", "cosigned", "delivered"]

Interval = str | int | timedelta
"""``1000`` or ``1000 events``, or a duration: text such as ``15m``, or a ``timedelta``."""


class Every(Struct, frozen=True):
    """When a log is signed again: after so many events, or so many ns, whichever comes first; None: never."""

    events: int | None = None
    ns: int | None = None

    @classmethod
    def of(cls, intervals: Iterable[Interval], now_ns: int) -> Every:
        """Return it as a person says it; of two of a kind the shorter one.

        Args:
            intervals: at least one.
            now_ns: the present, in ns since the epoch, UTC, from which a month is counted back.

        Raises:
            InvalidConfigError: one is neither, or less than an event or a second.
        """
        counts, times = [], []
        for each in intervals:
            found = _EVENTS.fullmatch(each.strip()) if isinstance(each, str) else None
            if isinstance(each, int) or found is not None:
                counts.append(each if isinstance(each, int) else int(found[1]) if found else 0)
                continue
            try:
                times.append(duration_ns(each, now_ns))
            except InvalidConfigError:
                raise InvalidConfigError(
                    f"{shown(str(each))} is no number of events and no duration; write 1000 or 15m"
                ) from None
        if not counts and not times:
            raise InvalidConfigError("say when the log is to be signed again, such as 1000 or 15m")
        if min(counts, default=1) < 1 or min(times, default=_SHORTEST_NS) < _SHORTEST_NS:
            raise InvalidConfigError(
                "a log is signed after an event or a second at least, such as 1000 or 15m"
            )
        return cls(min(counts, default=None), min(times, default=None))

    def is_due(self, new: int, since_ns: int | None) -> bool:
        """Return whether to sign.

        Args:
            new: how many events came since the last signed checkpoint; fewer than 0: the log was put back,
                which what signs it says.
            since_ns: ns since that was signed; None: none was.
        """
        if new <= 0:
            return new < 0
        if self.events is not None and new >= self.events:
            return True
        # A clock that was put back does not make it wait.
        return self.ns is not None and (since_ns is None or not 0 <= since_ns < self.ns)


class Attested(Result, Struct, frozen=True, kw_only=True):
    """What one attempt to sign a log, or to have that cosigned and delivered, has come to.

    Attributes:
        checkpoint: the last signed checkpoint; None: nothing could be done with one.
        steps: what happened to it now.
        problem: what is in the way, as a sentence; it is tried again. None: nothing is.
        again: the attempt before met the same.
    """

    checkpoint: Checkpoint | None
    steps: tuple[Step, ...] = ()
    problem: str | None = None
    again: bool = False


class SigningPlan(Struct, frozen=True):
    """A log that is signed by itself.

    Attributes:
        signing: who signs and who cosigns; or what returns it, which is called in each process that signs.
        every: when: the first of these that comes; see ``Interval``.
        file: the path of a file to which each signed checkpoint is appended.
        command: a program and its arguments, quoted as for a shell, that is run for each, without a shell,
            with the note on standard input.
        told: called with what each attempt has come to, maybe in another thread; None: only what is in the
            way is said, to ``note`` of the cache.
    """

    signing: Signing | Callable[[], Signing]
    every: Interval | tuple[Interval, ...] = "15m"
    file: str | None = None
    command: str | None = None
    told: Callable[[Attested], object] | None = None

    def who(self) -> Signing:
        """Return who signs and who cosigns.

        Raises:
            InvalidConfigError: the key is no log's, or what returns them cannot.
        """
        from msb_cache.audit.checkpoints import check_key

        found = self.signing() if callable(self.signing) else self.signing
        check_key(found.signer.key, None)
        return found


def once(plan: SigningPlan) -> SigningPlan:
    """Return a plan by which all that is new is signed."""
    return replace(plan, every=1)


class Wait(Struct, frozen=True):
    """For how many seconds what failed is not tried again, and until when by the notary's clock."""

    seconds: float
    until: float


class Standing(Struct):
    """How far a process has come: what another one that goes on for it has to know.

    Attributes:
        origin: the log's name; empty: it is not known yet.
        size: of which checkpoint the next two tell.
        cosigned: the URLs of the witnesses that have cosigned it for this process.
        done: of each thing that happens to a signed checkpoint, the hash of the note to which it did.
        waits: of each thing that failed, until when.
        problems: what each says that failed.
    """

    origin: str = ""
    size: int = 0
    cosigned: tuple[str, ...] = ()
    done: dict[str, str] = {}
    waits: dict[str, Wait] = {}
    problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """What is in the way, as one sentence; None: nothing is."""
        return "; ".join(dict.fromkeys(self.problems.values())) or None

    def note(self, what: str, problem: str, now: float, *, long: bool) -> None:
        """Note that something failed, at a moment of the notary's clock; ``long``: the longest pause."""
        before = self.waits.get(what)
        seconds = FIRST_PAUSE if before is None else min(before.seconds * 2, LONGEST_PAUSE)
        if long:
            seconds = LONGEST_PAUSE
        self.waits[what] = Wait(seconds, now + seconds)
        self.problems[what] = problem

    def forget(self, what: str) -> None:
        """Note that it did not fail."""
        self.waits.pop(what, None)
        self.problems.pop(what, None)


class Look(NamedTuple):
    """The last signed checkpoint, None if there is none, and whether it is time for the next one."""

    last: KeptCheckpoint | None
    is_due: bool


class Notary:
    """Signs a log by itself, in one process or in children of it.

    Args:
        session: the home.
        plan: what is done.
        clock: seconds, by which pauses are measured.

    Raises:
        InvalidConfigError: an interval or the command makes no sense.
    """

    def __init__(
        self, session: Session, plan: SigningPlan, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        self._plan = plan
        self.clock = clock
        every = plan.every if isinstance(plan.every, tuple) else (plan.every,)
        self._every = Every.of(every, session.ledger.clock())
        self._things = ("witnesses", *(what for what, _ in deliveries(plan)))
        self.standing = Standing()

    def check(self) -> str:
        """Return the name as which the log will be signed.

        Raises:
            InvalidConfigError: the key, the policy or a URL cannot be used.
            UnsupportedError: the extra ``proof`` is not installed.
        """
        self.standing.origin = self._plan.who().signer.key.name
        return self.standing.origin

    def has_work(self) -> bool:
        """Look, and return whether there is something to do now, also if the look itself fails."""
        if not self.may("process"):
            return False
        if not self.standing.origin:
            return self.may("key")
        try:
            look = self.look()
        except (MicrosandboxError, OSError, sqlite3.Error, MemoryError):
            return self.may("look")
        if look is None:
            return False
        if look.is_due and self.may("log"):
            return self.may("key")
        lacking = [] if look.last is None else self.lacking(str(look.last.note))
        return self.may("key") and any(map(self.may, lacking))

    def turn(self) -> Attested | None:
        """Do what there is to do now, tell of it, and return that; None: nothing.

        Raises:
            KeyboardInterrupt: what ends this thread's waits does so.
        """
        if not self.has_work():
            return None
        before = self.standing.problem
        self.standing.forget("process")
        found = _Turn(self, self._plan, self._session).run()
        return self._tell(found, before) if found.steps or self.standing.problem is not None else None

    def fail(self, problem: str) -> None:
        """Note and tell that the process which was to take a turn did not end it, and why."""
        before = self.standing.problem
        self.standing.note("process", problem, self.clock(), long=False)
        self._tell(Attested(checkpoint=None), before)

    def _tell(self, found: Attested, before: str | None) -> Attested:
        problem = self.standing.problem
        found = replace(found, problem=problem, again=problem is not None and problem == before)
        if self._plan.told is not None:
            self._plan.told(found)
        elif problem is not None and not found.again:
            self._session.note(f"checkpoints of the log: {problem}")
        return found

    def iterated(self, items: Iterator[T]) -> Iterator[T]:
        """Yield items, and take turns in another thread meanwhile."""
        with beside(self.turn, "msb-cache-notary", LOOK):
            yield from items

    def look(self) -> Look | None:
        """Return what the home keeps of it, by a small read; None: it has no log yet."""
        ledger = self._session.ledger
        with ledger.read() as connection:
            head = None if connection is None else ledger.store(connection).head()
            if connection is None or head is None:
                return None
            last = kept.last(connection, self.standing.origin)
        size, since = (0, None) if last is None else (last.head.size, ledger.clock() - last.signed_at_ns)
        return Look(last, self._every.is_due(head.seq - size, since))

    def lacking(self, note: str) -> list[str]:
        """Return what has not happened yet to a signed checkpoint."""
        hashed = _hash(note)
        return [each for each in self._things if self.standing.done.get(each) != hashed]

    def may(self, what: str) -> bool:
        """Return whether something is not waiting to be tried again."""
        wait = self.standing.waits.get(what)
        return wait is None or self.clock() >= wait.until


class _Turn:
    """One turn: what fails in it is noted, and in the way of nothing else."""

    def __init__(self, notary: Notary, plan: SigningPlan, session: Session) -> None:
        self._notary, self._plan, self._session = notary, plan, session
        self._standing = notary.standing
        self._taken: Checkpoint | None = None
        self._steps: list[Step] = []

    def run(self) -> Attested:
        """Do all that there is to do, and return what it has come to."""
        signing = self._try("key", self._plan.who)
        if signing is not None:
            self._standing.origin = signing.signer.key.name
            self._taken = self._try("look", partial(self._last, signing))
        if signing is not None and self._taken is not None:
            self._spread(signing, self._taken)
        return Attested(checkpoint=self._taken, steps=tuple(self._steps))

    def _try(self, what: str, work: Callable[[], T]) -> T | None:
        """Return what ``work`` returns; None: it failed, which is noted, or did a moment ago."""
        if not self._notary.may(what):
            return None
        long = False
        try:
            found = work()
        except (MicrosandboxError, OSError, sqlite3.Error, MemoryError) as error:
            problem, long = as_sentence(error), isinstance(error, LogError)  # a log does not mend itself
        else:
            self._standing.forget(what)
            return found
        self._standing.note(what, problem, self._notary.clock(), long=long)
        return None

    def _last(self, signing: Signing) -> Checkpoint | None:
        """Sign the log if that is due, else take the last checkpoint if something has to happen to it."""
        from msb_cache.audit.checkpoints import sign, signed_one

        look = self._notary.look()
        if look is None:
            return None
        if not look.is_due:
            self._standing.forget("log")  # it was put back, and has been put right
        elif (taken := self._try("log", partial(sign, self._session, signing.signer))) is not None:
            self._steps.append("signed")
            return taken
        if look.last is None or not self._notary.lacking(str(look.last.note)):
            return None
        return signed_one(self._session, look.last.head.size, self._standing.origin)

    def _spread(self, signing: Signing, taken: Checkpoint) -> None:
        standing = self._standing
        if taken.size != standing.size:
            standing.size, standing.cosigned = taken.size, ()
        if "witnesses" in self._notary.lacking(taken.note):
            self._try("witnesses", partial(self._submit, signing, taken))
        note = (self._taken or taken).note
        for what, deliver in deliveries(self._plan):
            if what in self._notary.lacking(note) and self._try(what, partial(deliver, note)) is not None:
                standing.done[what] = _hash(note)
                self._steps.append("delivered")

    def _submit(self, signing: Signing, taken: Checkpoint) -> bool:
        """Have it cosigned by those who have not yet, as far as that is needed.

        Raises:
            WitnessError: not all that are needed have cosigned it.
        """
        from msb_cache.audit.checkpoints import cosign, problem_of
        from msb_cache.audit.witnesses import Submitted

        if signing.policy is None or problem_of(signing, taken.note, ()) is not None:
            left = tuple(each for each in signing.witnesses if each.url not in self._standing.cosigned)
            found = cosign(self._session, replace(signing, witnesses=left), taken)
            self._taken = found
            self._standing.cosigned += tuple(
                each.witness for each in found.asked if isinstance(each, Submitted)
            )
            if found.note != taken.note:
                self._steps.append("cosigned")
            if found.problem is not None:
                raise WitnessError(found.problem)
            taken = found
        self._standing.done["witnesses"] = _hash(taken.note)
        return True


def deliveries(plan: SigningPlan) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """Yield what a note is delivered to, and what does that, or raises ``DeliveryError``.

    Raises:
        InvalidConfigError: the command has no program, or a quote has no end.
    """
    if plan.file is not None:
        yield "file", partial(_append, plan.file)
    if plan.command is not None:
        from msb_cache.proof.program import Program

        yield "command", partial(_give, Program(plan.command, "to keep checkpoints", DeliveryError))


def _append(path: str, note: str) -> bool:
    from msb_cache.proof.note_file import append

    reached("checkpoint.delivering")
    try:
        append(path, note)
    except OSError as error:
        raise DeliveryError(f"no checkpoint can be appended to {path}: {reason_of(error)}") from None
    reached("checkpoint.delivered")
    return True


def _give(program: Program, note: str) -> bool:
    reached("checkpoint.delivering")
    ended = program.run(note.encode(), seconds=COMMAND_SECONDS, most=None)
    said = (ended.output + ended.errors).decode("utf-8", "replace").strip()
    diagnostics.debug("checkpoint.command", program=program.name, status=ended.status, said=said)
    if ended.status != 0:
        raise DeliveryError(f"{program.name}, which is to keep checkpoints, {ended.how}")
    reached("checkpoint.delivered")
    return True


def _hash(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()
