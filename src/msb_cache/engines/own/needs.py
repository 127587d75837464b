"""Whether the index, as it is now, needs an artifact: asked by the process that holds its lock."""

from __future__ import annotations

from msb_cache.artifacts.kinds import needed_by
from msb_cache.artifacts.layout import is_metadata_name
from msb_cache.engines.named_files import NamedFiles
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images
from msb_cache.projections.state import load


class Needs:
    """Asks the index of a home about single artifacts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._named: NamedFiles | None = None
        self._position = -1

    def __call__(self, kind: str, subject: str) -> bool:
        """Return whether an artifact of this kind is needed."""
        if kind != "metadata" or not is_metadata_name(subject):
            with self._ledger.statement() as connection:
                return connection is not None and images.needs(connection, needed_by(kind), subject)
        with self._ledger.read() as connection:
            if connection is None:
                return False
            # An orphan is known by its file's name only, so the whole index is asked; once at each position.
            head = self._ledger.store(connection).head()
            position = head.seq if head else 0
            if self._named is None or position != self._position:
                self._named = NamedFiles.of(self._ledger.layout, load(connection))
                self._position = position
            return self._named.has(kind, subject)
