"""What an addition reuses is compared with its digest, if that was last done too long ago.

Of a file whose digest the log does not have yet, the digest is taken now: as first seen, not as made.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from msb_cache import diagnostics
from msb_cache.artifacts.digests import digest_of
from msb_cache.engines.digesting import Measured, record, rewritten_by_msb, stamp
from msb_cache.eventstore import events as ev
from msb_cache.home import checks
from msb_cache.home.checks import Check
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.projections import digests
from msb_cache.projections.digests import Artifact
from msb_cache.wording import short

if TYPE_CHECKING:
    from msb_cache.waiting import Note


class Reused:
    """The files that one addition reuses.

    Args:
        ledger: the home.
        max_age_ns: nanoseconds for which a comparison is good.
        note: gets a sentence for each file that is not what it was.
        remedy: what that sentence says is done about it.
    """

    def __init__(
        self, ledger: Ledger, max_age_ns: int, note: Note | None, remedy: str = "it is made anew"
    ) -> None:
        self._ledger = ledger
        self._max_age_ns = max_age_ns
        self._note = note
        self._remedy = remedy
        self._found: dict[Artifact, bool] = {}
        self._good: dict[Artifact, int | None] = {}
        self._seen: list[Measured] = []

    def is_as_known(self, kind: ev.ArtifactKind, subject: str, path: Path) -> bool:
        """Return whether the file at ``path`` has the bytes that the log says; raises OSError."""
        artifact = (kind, subject)
        if artifact not in self._found:
            self._found[artifact] = self._look(artifact, path)
        return self._found[artifact]

    def _look(self, artifact: Artifact, path: Path) -> bool:
        kind, subject = artifact
        now, looks = time.time_ns(), stamp(path)
        with self._ledger.read() as connection:
            known = None if connection is None else digests.digest(connection, artifact)
            last = None if connection is None else checks.last(connection, artifact)
        good_at = None if last is None else last.checked_at
        # One from the future says nothing: it was made by a clock that was ahead.
        if known is not None and good_at is not None and 0 <= now - good_at <= self._max_age_ns:
            return True
        if looks is None:
            return False
        try:
            with self._ledger.doing(f"reading the {kind} {short(subject)}"):
                digest = digest_of(kind, path)
        except OSError as error:
            self._say(f"the {kind} {short(subject)} cannot be read ({error.strerror}); {self._remedy}")
            return False
        if known is not None and digest == known.digest:
            self._good[artifact] = looks.inode
            return True
        measured = Measured(artifact, path, looks, digest, None if known is None else known.digest)
        if known is not None:
            seq = self._rewritten(measured, last)
            if seq is None:
                diagnostics.warning(f"{kind}.altered", subject=subject, digest=digest, known=known.digest)
                self._say(
                    f"the {kind} {short(subject)} is not as it was {known.how}: its digest is "
                    f"{short(digest)}, not {short(known.digest)}; {self._remedy}"
                )
                return False
            self._say(f"the {kind} {short(subject)} was written anew by msb, as of event {seq}")
        self._seen.append(measured)
        return True

    def _rewritten(self, measured: Measured, last: Check | None) -> int | None:
        if not self._ledger.owned_by_msb:
            return None
        with self._ledger.read() as connection:
            return None if connection is None else rewritten_by_msb(connection, measured, last)

    def _say(self, sentence: str) -> None:
        if self._note is not None:
            self._note(sentence)

    @property
    def is_new(self) -> bool:
        """Whether there is something to record."""
        return bool(self._good or self._seen)

    def record(self, transaction: Transaction) -> None:
        """Take down what was found, within the caller's transaction."""
        record(transaction, self._good, self._seen)
