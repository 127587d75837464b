"""The whole index at one position, as the prune plan needs it: references, manifests, layers, holds."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain

from msb_cache.errors import CorruptLogError


@dataclass(frozen=True)
class IndexState:
    """What is in the index.

    Attributes:
        references: canonical reference to the manifest digest it points at, newest first.
        manifests: manifest digest to its layers' diff IDs, bottom to top.
        layers: the diff IDs that have an index record.
        holders: manifest digest to the names of those that hold it; only held ones.
        fixed: references and manifest digests that whoever deletes in this home does not know.
        others: references that whoever deletes here knows under several spellings, to the manifest digests
            that the others point at.
    """

    references: Mapping[str, str]
    manifests: Mapping[str, Sequence[str]]
    layers: Set[str]
    holders: Mapping[str, Sequence[str]]
    fixed: frozenset[str] = frozenset()
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def digests(self, reference: str) -> tuple[str, ...]:
        """Return the manifest digests that a reference points at, its other spellings included."""
        return self.references[reference], *self.others.get(reference, ())

    def holders_of(self, reference: str) -> tuple[str, ...]:
        """Return who holds what a reference points at, under whatever spelling."""
        if reference not in self.others:
            return tuple(self.holders.get(self.references[reference], ()))
        found = (self.holders.get(digest, ()) for digest in self.digests(reference))
        return tuple(dict.fromkeys(chain.from_iterable(found)))


EMPTY = IndexState({}, {}, frozenset(), {})
"""That of a home without a log."""


def load(connection: sqlite3.Connection) -> IndexState:
    """Read the index; the caller's transaction makes it one consistent position.

    Raises:
        CorruptLogError: it has rows that no fold makes, so the database is damaged.
    """
    manifests: dict[str, list[str]] = {
        digest: [] for (digest,) in connection.execute("SELECT digest FROM manifest ORDER BY seq")
    }
    for digest, diff_id in connection.execute(
        "SELECT manifest_digest, diff_id FROM manifest_layer ORDER BY manifest_digest, position"
    ):
        manifests.setdefault(digest, []).append(diff_id)
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for digest, holder in connection.execute("SELECT manifest_digest, holder FROM hold ORDER BY holder"):
        holders[digest].append(holder)
    references = dict(
        connection.execute(
            "SELECT reference, manifest_digest FROM image ORDER BY created_at DESC, seq DESC"
        ).fetchall()
    )
    # In order, so that nobody has to sort them: from 1,000 to 100,000 images that doubled a plan's time.
    layers = dict.fromkeys(
        diff_id for (diff_id,) in connection.execute("SELECT diff_id FROM layer ORDER BY diff_id")
    )
    named = (references, references.values(), layers, manifests, *manifests.values(), *holders.values())
    if not set(map(type, chain.from_iterable(named))) <= {str}:
        raise CorruptLogError("the index is damaged; `msb-cache rebuild` makes it anew from the log")
    return IndexState(references=references, manifests=manifests, layers=layers.keys(), holders=holders)


def load_observed(connection: sqlite3.Connection) -> IndexState:
    """Read the index in a home that msb keeps: what was never seen in msb's own index is ``fixed``."""
    unseen = connection.execute(
        "SELECT reference FROM image WHERE msb_row IS NULL UNION ALL "
        "SELECT digest FROM manifest WHERE msb_row IS NULL"
    )
    return replace(load(connection), fixed=frozenset(name for (name,) in unseen))
