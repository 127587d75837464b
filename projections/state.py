"""The whole index at one position, as the prune plan needs it: references, manifests, layers, holds."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter

from msb_cache.errors import CorruptLogError


@dataclass(frozen=True)
class Naming:
    """Of which reference an image's name is, and how people see it.

    Attributes:
        references: the canonical references of those names that are another spelling of it.
        spellings: how those are seen that were not typed in familiar form.
    """

    references: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)

    def reference(self, name: str) -> str:
        """Return the canonical reference of an image."""
        return self.references.get(name, name)

    def spelling(self, name: str) -> str | None:
        """Return how an image's reference was typed; None: in its familiar form."""
        return self.spellings.get(name)


@dataclass(frozen=True)
class IndexState:
    """What is in the index.

    Attributes:
        references: an image's name to the manifest digest it points at, newest first.
        manifests: manifest digest to its layers' diff IDs, bottom to top.
        layers: diff ID of each layer with a record, in order.
        sharing_counts: diff ID to how many manifests have it, of layers that more than one has.
        holders: manifest digest to the names of those that hold it; only held ones.
        naming: what the images' names mean.
        unknown_to_msb: names and manifest digests that msb does not know, in a home that it keeps.
        unjudged: what msb needs cannot be told there, because its index cannot be read as a whole.
    """

    references: Mapping[str, str]
    manifests: Mapping[str, Sequence[str]]
    layers: Sequence[str]
    holders: Mapping[str, Sequence[str]]
    sharing_counts: Mapping[str, int] = field(default_factory=dict)
    unknown_to_msb: frozenset[str] = frozenset()
    unjudged: bool = False
    naming: Naming = field(default_factory=Naming)

    def named_layers(self) -> set[str]:
        """Return the diff IDs of all layers, those that have a record and those of manifests."""
        return set(self.layers).union(*self.manifests.values())

    def canonical(self) -> Collection[str]:
        """Return the canonical references of all images: each has a metadata file."""
        return self._names.keys() if self.naming.references else self.references.keys()

    def digests(self, reference: str) -> set[str]:
        """Return the manifest digests at which images of a canonical reference point."""
        return {self.references[name] for name in self.names(reference)}

    def names(self, reference: str) -> Sequence[str]:
        """Return the names of the images of a canonical reference."""
        return self._names.get(reference, ())

    @cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name in self.references:
            found.setdefault(self.naming.reference(name), []).append(name)
        return found

    def holders_of(self, name: str) -> tuple[str, ...]:
        """Return who holds what an image points at."""
        return tuple(self.holders.get(self.references[name], ()))


# Only for the few that stand there more than once, because to count distinct manifests of all takes longer.
_SHARING_COUNTS = """
SELECT diff_id, count(DISTINCT manifest_digest) FROM manifest_layer
WHERE diff_id IN (SELECT diff_id FROM manifest_layer GROUP BY diff_id HAVING count(*) > 1)
GROUP BY diff_id HAVING count(DISTINCT manifest_digest) > 1
"""

EMPTY = IndexState({}, {}, (), {})
"""That of a home without a log."""


def load(connection: sqlite3.Connection) -> IndexState:
    """Read the index; the caller's transaction makes it one consistent position.

    Raises:
        CorruptLogError: it has rows that no fold makes, so the database is damaged.
    """
    # All in the order in which it is stored: what is written and read out of order misses the processor's
    # caches, which from 1,000 to 100,000 images more than doubled a plan's time.
    manifests: dict[str, tuple[str, ...]] = {
        digest: () for (digest,) in connection.execute("SELECT digest FROM manifest ORDER BY digest")
    }
    of_manifests = connection.execute(
        "SELECT manifest_digest, diff_id FROM manifest_layer ORDER BY manifest_digest, position"
    )
    for digest, own in groupby(of_manifests, itemgetter(0)):
        # Added to what is there, because in a damaged database the rows of one may stand apart.
        manifests[digest] = manifests.get(digest, ()) + tuple([diff_id for _, diff_id in own])
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for digest, holder in connection.execute("SELECT manifest_digest, holder FROM hold ORDER BY holder"):
        holders[digest].append(holder)
    references: dict[str, str] = dict(
        connection.execute("SELECT name, manifest_digest FROM image ORDER BY created_at DESC, seq DESC")
    )
    naming = Naming(
        dict(connection.execute("SELECT name, reference FROM image WHERE name != reference").fetchall()),
        dict(connection.execute("SELECT name, spelling FROM image WHERE spelling IS NOT NULL").fetchall()),
    )
    sharing_counts: dict[str, int] = dict(connection.execute(_SHARING_COUNTS).fetchall())
    layers = [diff_id for (diff_id,) in connection.execute("SELECT diff_id FROM layer ORDER BY diff_id")]
    named = chain(
        references,
        references.values(),
        chain.from_iterable(naming.references.items()),
        chain.from_iterable(naming.spellings.items()),
        layers,
        manifests,
        chain.from_iterable(manifests.values()),
        chain.from_iterable(holders.values()),
    )
    if not set(map(type, named)) <= {str}:
        raise CorruptLogError("the index is damaged; `msb-cache rebuild` makes it anew from the log")
    return IndexState(references, manifests, layers, holders, sharing_counts, naming=naming)


def load_observed(connection: sqlite3.Connection) -> IndexState:
    """Read the index in a home that msb keeps: what was never seen in msb's index is ``unknown_to_msb``."""
    unseen = connection.execute(
        "SELECT name FROM image WHERE msb_row IS NULL UNION ALL "
        "SELECT digest FROM manifest WHERE msb_row IS NULL"
    )
    return replace(load(connection), unknown_to_msb=frozenset(name for (name,) in unseen))
