"""Make room for images that are about to come, by the policy of the home: as much as they need, and no more.

What they need is estimated before they are fetched, and looked at again when their files are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.commands.prune import MakingRoom, Prune
from msb_cache.engines.arriving import Arriving
from msb_cache.failpoints import reached
from msb_cache.projections import images
from msb_cache.retention.coming import Seen, at_least, expected, staged
from msb_cache.retention.policy import CachePolicy
from msb_cache.retention.rules import Takes
from msb_cache.session import Session
from msb_cache.wording import plural, size

if TYPE_CHECKING:
    from msb_cache.engines.decision import Preview
    from msb_cache.waiting import Note

_NAMED = 3
"""References that a sentence names; of others it says how many."""


class RoomMaker:
    """Makes room in a home for what its engine is about to add; a ``MakesRoom``.

    Args:
        session: the home.
        policy: by which rules images may go.
        note: gets a sentence when some go.
    """

    def __init__(self, session: Session, policy: CachePolicy, note: Note | None) -> None:
        self._session = session
        self._policy = policy
        self._note = note

    def __call__(self, arriving: Arriving) -> None:
        """Delete what the policy lets go and the room needs.

        Raises:
            BoundNotKeptError: that is too little, or more would go than may; nothing was deleted.
            BusyError: another deletion runs.
        """
        asked = Prune(self._session, self._policy, making_room=self._making_room(arriving))

        def confirm(shown: Preview) -> bool:
            if shown.going and self._note is not None:
                count = plural(len(shown.going), "image")
                self._note(f"makes room: {count}, {size(shown.freed_bytes)}, by the policy")
            return True

        asked.run(confirm=confirm)
        reached("room.made")

    def _making_room(self, arriving: Arriving) -> MakingRoom:
        takes = self._takes(arriving)
        names = arriving.names[:_NAMED]
        more = len(arriving.names) - len(names)
        what = ", ".join(names) + (f" and {more:,} more" if more > 0 else "")

        def refused(shown: Preview) -> str:
            return _refused(what, takes, shown, staged=arriving.stage == "staged")

        return MakingRoom(arriving.names, arriving.coming, takes, refused)

    def _takes(self, arriving: Arriving) -> Takes:
        if arriving.stage == "staged":
            return staged(arriving.sizes)
        with self._session.ledger.read() as connection:
            seen = [
                Seen()
                if connection is None
                else Seen(*images.blob_and_image_bytes(connection, compressed=each))
                for each in (True, False)
            ]
        takes = expected(arriving.sizes, *seen)
        if arriving.stage == "known":
            return takes
        return at_least(takes, MeasuredFiles(self._session.layout).free_bytes)


def _refused(what: str, takes: Takes, shown: Preview, *, staged: bool) -> str:
    plan = shown.plan
    came = f"{what} takes more than was expected" if staged else f"{what} needs about {size(takes.peak)}"
    free = f"{size(shown.files.free_bytes)} are free, and " if plan.short_of is None else ""
    by = "" if plan.short_of is None else f" for its rule {plan.short_of!r}"
    lets = (
        f"{free}what the policy lets go, {size(shown.freed_bytes)}, is {size(plan.shortfall)} too little{by}"
    )
    return f"{came}: {lets}; {'nothing was added' if staged else 'nothing was deleted or added'}"
