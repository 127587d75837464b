"""Take the digests that the log does not have, a little at a time, beside what else a process does."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress

from msb_cache.artifacts import verity
from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.kinds import KINDS
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.digesting import Measured, Stamp, record, stamp
from msb_cache.errors import BusyError, LogError
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.projections.digests import Artifact, digest, undigested
from msb_cache.projections.images import has_manifest

_CHUNK = 4 << 20
_BATCH = 100
_BATCH_SECONDS = 5.0
_AGAIN_SECONDS = 10.0
"""The index is looked at for new files no sooner than this after the last time."""


class Background:
    """Reads the files of a home of which the log has no digest, and records what their bytes are.

    Args:
        ledger: the home.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seq = -1
        self._looked = float("-inf")
        self._waiting: list[Artifact] = []
        self._reading: _Reading | None = None
        self._measured: list[Measured] = []
        self._recorded = time.monotonic()

    def step(self, seconds: float) -> None:
        """Work for about so long, but read one piece at least, or less if there is nothing to do.

        Raises:
            LogError, BusyError: what was found cannot be recorded; it is looked for again later.
        """
        end = time.monotonic() + seconds
        while True:
            if self._reading is None:
                if not self._waiting:
                    self._record()
                    self._look()
                if not self._waiting:
                    return
                self._reading = _Reading.of(self._ledger, self._waiting.pop())
            elif self._reading.go_on():
                self._measured += self._reading.measured
                self._reading = None
                late = time.monotonic() - self._recorded >= _BATCH_SECONDS
                if late or len(self._measured) >= _BATCH:
                    self._record()
            if time.monotonic() >= end:
                return

    def close(self) -> None:
        """Record what was found; close what is read."""
        if self._reading is not None:
            self._reading.close()
        with suppress(LogError, BusyError):
            self._record()

    def _record(self) -> None:
        measured, self._measured, self._recorded = self._measured, [], time.monotonic()
        if measured:
            with self._ledger.write(uuid7(), owner="any") as transaction:
                record(transaction, {}, measured)

    def _look(self) -> None:
        if time.monotonic() - self._looked < _AGAIN_SECONDS:
            return
        self._looked = time.monotonic()
        with self._ledger.read() as connection:
            head = None if connection is None else self._ledger.store(connection).head()
            if connection is None or head is None or head.seq == self._seq:
                return
            self._seq = head.seq
            self._waiting = sorted(_undigested(connection, self._ledger.layout), reverse=True)


def _undigested(connection: sqlite3.Connection, layout: Layout) -> Iterator[Artifact]:
    # Without reading the index as a whole: as a rule there is nothing to do, and the process stays.
    for kind in KINDS.values():
        if kind.needed_by != "flat_ref" and not kind.optional:
            yield from undigested(connection, kind.name, kind.needed_by)
    for manifest, ref in FlatRefs(layout).by_manifest.items():
        if has_manifest(connection, manifest):
            flat: tuple[Artifact, Artifact] = ("flat_ref", manifest), ("flat", ref.artifact_digest)
            yield from (artifact for artifact in flat if digest(connection, artifact) is None)


class _Reading:
    """A file that is read bit by bit."""

    def __init__(self, artifact: Artifact, measured: Measured, descriptor: int) -> None:
        self._artifact = artifact
        self._begun = measured
        self._at = 0
        self._reader = verity.READERS[KINDS[artifact[0]].algorithm](descriptor)
        self.measured: list[Measured] = []

    @classmethod
    def of(cls, ledger: Ledger, artifact: Artifact) -> _Reading | None:
        """Begin; None: there is no such file."""
        path = ledger.layout.artifact(*artifact)
        looks: Stamp | None = stamp(path)
        if looks is None:
            return None
        try:
            descriptor = verity.open_plain(path)
        except OSError:
            return None
        return cls(artifact, Measured(artifact, path, looks, ""), descriptor)

    def go_on(self) -> bool:
        """Read a bit more; return whether that was all."""
        self._at += _CHUNK
        try:
            if self._at < self._begun.stamp.size:
                self._reader.read_to(self._at)
                return False
            self.measured = [self._begun._replace(digest=self._reader.digest())]
        except OSError:
            pass  # it is damaged: that is for verify to say
        self.close()
        return True

    def close(self) -> None:
        os.close(self._reader.descriptor)
