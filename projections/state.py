"""The whole index at one position, as a plan needs it: references, manifests, layers, holds, idle times."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter
from typing import NamedTuple

import msgspec

from msb_cache.errors import CorruptLogError
from msb_cache.projections.images import ended_holds
from msb_cache.projections.moment import LASTS, moment


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


class Pin(NamedTuple):
    """A pin that lasts: who pinned it, and until when (ns since the epoch, UTC; None: it has no end)."""

    by: str
    until_ns: int | None = None


class ImageFacts(NamedTuple):
    """What rules ask of an image, or of a manifest that no reference points at. In ns since the epoch, UTC.

    ``idle_since``: the latest of its last pull, use, end of a boot and release; None: it is in use now.
    ``since``: since when its reference points where it points. ``pulled_at``: when it was pulled last.
    Of a manifest without a reference all three are when it lost the last one, or was released after that.
    """

    idle_since: int | None
    since: int
    pulled_at: int


class Coming(NamedTuple):
    """What is about to be added: canonical references, digests of manifests, and diff IDs of their layers."""

    references: frozenset[str] = frozenset()
    manifests: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()


NOTHING_COMES = Coming()


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
        now_ns: when it was read, in ns since the epoch, UTC: holds and pins that had ended are not in it.
        pins: the canonical references and manifest digests that are pinned.
        running: manifest digest to who runs from it: boots that last.
        facts: what rules ask of each image, by name, and of each manifest without a reference, by digest;
        empty
            if that was not read.
        labels: manifest digest to its image's labels; empty if that was not read.
        unknown_to_msb: names and manifest digests that msb does not know, in a home that it keeps.
        kept_by_msb: whether it is of such a home.
        held_in_msb: the manifests that have a holder in msb's own index there.
        unjudged: what msb needs cannot be told there, because its index cannot be read as a whole.
        coming: what is about to be added, so that it is needed although the index does not have it.
    """

    references: Mapping[str, str]
    manifests: Mapping[str, Sequence[str]]
    layers: Sequence[str]
    holders: Mapping[str, Sequence[str]]
    sharing_counts: Mapping[str, int] = field(default_factory=dict)
    unknown_to_msb: frozenset[str] = frozenset()
    kept_by_msb: bool = False
    unjudged: bool = False
    naming: Naming = field(default_factory=Naming)
    now_ns: int = 0
    pins: Mapping[str, Pin] = field(default_factory=dict)
    running: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, ImageFacts] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    held_in_msb: frozenset[str] = frozenset()
    coming: Coming = NOTHING_COMES

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
    def unreferenced(self) -> Collection[str]:
        """The digests of the manifests at which no reference points."""
        pointed_at = set(self.references.values())
        return {digest: None for digest in self.manifests if digest not in pointed_at}.keys()

    @cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name in self.references:
            found.setdefault(self.naming.reference(name), []).append(name)
        return found

    def holders_of(self, name: str) -> tuple[str, ...]:
        """Return who holds what an image points at."""
        return tuple(self.holders.get(self.references[name], ()))

    def pin_of(self, subject: str, digest: str) -> Pin | None:
        """Return the pin of an image or manifest, by reference or digest, whichever lasts longer."""
        found = [self.pins[each] for each in {self.naming.reference(subject), digest} if each in self.pins]
        return max(found, key=lambda pin: (pin.until_ns is None, pin.until_ns or 0), default=None)

    def kept(self, digest: str) -> bool:
        """Return whether a manifest stays without its references: it is held, in use or pinned."""
        return digest in self.holders or digest in self.running or digest in self.pins


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
    for digest, holder in connection.execute(
        f"SELECT manifest_digest, holder FROM hold WHERE {LASTS} ORDER BY holder"  # noqa: S608
    ):
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


def load_observed(connection: sqlite3.Connection, state: IndexState | None = None) -> IndexState:
    """Read the index in a home that msb keeps: what was never seen in msb's index is ``unknown_to_msb``.

    Args:
        connection: the index.
        state: what was read of it already; None: nothing.
    """
    unseen = connection.execute(
        "SELECT name FROM image WHERE msb_row IS NULL UNION ALL "
        "SELECT digest FROM manifest WHERE msb_row IS NULL"
    )
    held = connection.execute("SELECT DISTINCT manifest_digest FROM hold WHERE msb_row IS NOT NULL")
    return replace(
        load(connection) if state is None else state,
        unknown_to_msb=frozenset(name for (name,) in unseen),
        kept_by_msb=True,
        held_in_msb=frozenset(digest for (digest,) in held),
    )


def load_to_judge(connection: sqlite3.Connection, *, facts: bool = False, labels: bool = False) -> IndexState:
    """Read the index with what a deletion asks beside that: pins, boots, and at wish what rules look at.

    Args:
        connection: the live index, with the events beside it.
        facts: read ``facts`` as well.
        labels: read ``labels`` as well.

    Raises:
        CorruptLogError: as for ``load``.
    """
    now_ns = moment(connection)
    state = load(connection)
    pins = {
        subject: Pin(by or "unknown", until)
        for subject, until, by in connection.execute(
            "SELECT p.subject, until, "
            "coalesce(json_extract(actor, '$.login'), json_extract(actor, '$.user')) FROM pin p "
            "LEFT JOIN events e ON e.seq = p.seq WHERE until IS NULL OR until > ?",
            (now_ns,),
        )
    }
    running: dict[str, list[str]] = {}
    for digest, holder in connection.execute(
        "SELECT manifest_digest, holder FROM open_use ORDER BY since, seq"
    ):
        running.setdefault(digest, []).append(holder or "a sandbox")
    return replace(
        state,
        now_ns=now_ns,
        pins=pins,
        running=running,
        facts=_facts(connection) if facts else {},
        labels=labels_of_manifests(connection) if labels else {},
    )


def _facts(connection: sqlite3.Connection) -> dict[str, ImageFacts]:
    ended = {digest: until for digest, (until, _) in ended_holds(connection).items()}
    found = {
        name: ImageFacts(
            None if in_use is not None else max(used, idle or 0, ended.get(digest, 0)), since, pulled
        )
        for name, digest, used, idle, in_use, since, pulled in connection.execute(
            "SELECT name, manifest_digest, last_used_at, idle_since, in_use_since, pointed_since, pulled_at "
            "FROM image"
        )
    }
    for digest, since in connection.execute(
        "SELECT digest, unnamed_since FROM manifest WHERE unnamed_since IS NOT NULL"
    ):
        idle = max(since, ended.get(digest, 0))
        found[digest] = ImageFacts(idle, idle, idle)
    return found


def labels_of_manifests(connection: sqlite3.Connection) -> dict[str, Mapping[str, str]]:
    """Return the labels of each manifest that has any, by its digest."""
    found: dict[str, Mapping[str, str]] = {}
    for digest, config in connection.execute("SELECT digest, config FROM manifest WHERE config IS NOT NULL"):
        labels = msgspec.json.decode(config, type=_Labelled).labels
        if isinstance(labels, dict):
            found[digest] = {str(key): str(value) for key, value in labels.items()}
    return found


class _Labelled(msgspec.Struct):
    labels: object = None
