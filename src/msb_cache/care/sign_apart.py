"""Checkpoints signed by a process that stays small: what signs, and speaks to witnesses, does it in a child.

The keys, the policy and what they need of memory are the child's. Between two turns this process has nothing
of them, but what the last child has come to.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from msb_cache.audit.notary import Notary, SigningPlan, Standing
from msb_cache.care.apart import DiedError, Stopped, in_child
from msb_cache.errors import InvalidConfigError, MicrosandboxError
from msb_cache.session import Session
from msb_cache.waiting import ended_by
from msb_cache.wording import as_sentence


class _Checked(Struct):
    """As whom the log will be signed, or why it cannot be."""

    origin: str = ""
    problem: str | None = None


class StayingNotary:
    """Signs a log in a process that stays.

    Args:
        session: the home; nothing of it is open between two turns.
        plan: what is done.
        stopped: asked ten times a second whether a turn is to end.
        apart: take each turn in a child.

    Raises:
        InvalidConfigError: the plan makes no sense, or its key, policy or a URL cannot be used.
    """

    def __init__(self, session: Session, plan: SigningPlan, stopped: Stopped, *, apart: bool) -> None:
        self._session, self._stopped, self._apart = session, stopped, apart
        self._notary = Notary(session, plan)
        if not apart:
            self._notary.check()
            return
        try:
            found = in_child(partial(_check, self._notary), _Checked, stopped)
        except DiedError as error:
            found = _Checked(problem=str(error))
        if found.problem is not None:
            raise InvalidConfigError(found.problem)
        self._notary.standing.origin = found.origin

    def turn(self) -> None:
        """Do what there is to do now; what is in the way of it is told of, and tried again later."""
        work = partial(_turn, self._session, self._notary)
        try:
            with ended_by(self._stopped):
                if not self._notary.has_work():
                    return
            self._session.close()
            self._notary.standing = (
                in_child(work, Standing, self._stopped) if self._apart else work(self._stopped)
            )
        except KeyboardInterrupt:
            if not self._stopped():
                raise
        except DiedError as error:
            self._notary.fail(str(error))
        finally:
            self._session.close()


def _check(notary: Notary, stopped: Stopped) -> _Checked:
    try:
        return _Checked(notary.check())
    except MicrosandboxError as error:
        return _Checked(problem=as_sentence(error))


def _turn(session: Session, notary: Notary, stopped: Stopped) -> Standing:
    try:
        with ended_by(stopped):
            notary.turn()
    except KeyboardInterrupt:
        if not stopped():
            raise
    finally:
        session.close()
    return notary.standing
