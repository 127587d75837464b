"""Which program keeps a home's cache: the one that is there already, or the one chosen when the home is made.

Engines are imported when they are asked for: most commands need one, and those that read need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from msgspec import Struct

from msb_cache.errors import HomeOwnedByMicrosandboxError, InvalidConfigError, MsbProgramError
from msb_cache.home.connect import is_there
from msb_cache.home.ledger import Ledger

if TYPE_CHECKING:
    from msb_cache.engines.engine import Engine
    from msb_cache.msb.program import MsbProgram

EngineChoice = Literal["own", "msb"]
"""Who shall keep a home's cache: msb-cache itself, or msb."""


def engine_named(name: str, ledger: Ledger) -> Engine:
    """Return the engine of this name (``events.Engine``) for a home."""
    if name == "msb":
        from msb_cache.engines.msb.engine import MsbEngine

        return MsbEngine(ledger)
    from msb_cache.engines.own.engine import OwnEngine

    return OwnEngine(ledger)


class Choice(Struct, frozen=True):
    """What was said about who keeps a home.

    Attributes:
        asked: what the caller asked for; None: what is usual.
        is_default: it is the home that msb itself would use here, and no caller named it.
    """

    asked: EngineChoice | None = None
    is_default: bool = False

    def check(self, ledger: Ledger) -> None:
        """Refuse another engine than the one that a home has.

        Raises:
            HomeOwnedByMicrosandboxError: msb keeps the home, and ``own`` was asked for.
            InvalidConfigError: msb-cache keeps it, and ``msb`` was asked for; or it is no engine's name.
        """
        if self.asked not in (None, *get_args(EngineChoice)):
            raise InvalidConfigError(f"{self.asked!r} is no engine; use own or msb")
        home, owned = ledger.layout.home, ledger.owned_by_msb
        if self.asked == "own" and owned:
            raise HomeOwnedByMicrosandboxError(
                f"{home} is kept by msb (db/msb.db is there); leave `--engine own` out, or use another home"
            )
        if self.asked == "msb" and not owned and is_there(ledger.layout.database):
            raise InvalidConfigError(
                f"{home} is kept by msb-cache itself; `msb-cache hand-over` gives it to msb with its images"
            )

    @property
    def wants_msb(self) -> bool:
        """Whether a home that is made now shall be msb's, if there is one."""
        return self.asked == "msb" or (self.asked is None and self.is_default)

    def is_open(self, ledger: Ledger) -> bool:
        """Whether it is still to be chosen who keeps the home: neither has a database there."""
        return not ledger.owned_by_msb and not is_there(ledger.layout.database)

    def new_home(self, ledger: Ledger) -> NewHome | None:
        """Return who will keep a home that is not made yet; None: it is there.

        Raises:
            MsbProgramError: msb was asked for, or is to keep the home, and cannot be run.
        """
        self.check(ledger)
        layout = ledger.layout
        if not self.is_open(ledger):
            return None
        if self.asked == "own":
            return NewHome(layout.home, None)
        if not self.wants_msb:
            return NewHome(layout.home, None, "; `--engine msb` would give it to msb")
        from msb_cache.msb.program import find_program

        program = find_program(layout.home, ledger.note)
        if program is not None:
            return NewHome(layout.home, program)
        if self.asked == "msb":
            raise MsbProgramError(
                "no msb is found that could keep this home; install microsandbox, or name the program with "
                "MSB_PATH"
            )
        why = ", for no msb is found here; once there is one, `msb-cache hand-over` gives it the images"
        return NewHome(layout.home, None, why)


class NewHome(Struct, frozen=True):
    """A home that is made now, and who will keep it: msb, or (``program`` None) msb-cache itself."""

    home: str
    program: MsbProgram | None
    why: str = ""

    @property
    def sentence(self) -> str:
        """What a person is told."""
        if self.program is None:
            return f"{self.home} is new and kept by msb-cache itself{self.why}"
        return (
            f"{self.home} is new and kept by msb ({self.program.path}), which runs what is added here; "
            "`--engine own` would keep it without msb"
        )

    def make(self, ledger: Ledger) -> None:
        """Let msb make its database, if it will keep the home.

        Raises:
            MsbProgramError: it does not.
        """
        if self.program is None:
            return
        from msb_cache.msb import database

        finished = self.program.run("image", "ls", "--quiet")
        if finished.code or not database.exists(ledger.layout.msb_database):
            raise MsbProgramError(
                f"msb could not make its database in {self.home}: {finished.problem}; mend that, or use "
                "`--engine own`"
            )
