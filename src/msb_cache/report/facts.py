"""What a report shows, as values: of one home, at one position of its log.

Sizes in bytes, times in ns since the epoch, UTC. What draws it (``page``, ``text``, the server) asks nothing
else, so that every picture of one report tells of the same moment. Names and words in it come from outside
and may hold anything: who draws them writes them as text.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from msb_cache.shapes import Result


class SizePoint(Result, Struct, frozen=True, gc=False):
    """How large the cache was from a moment on, as the log says, until the next point.

    Attributes:
        at_ns: since when.
        seq: the position of the event that made it so.
        bytes: layers, merged trees and disk descriptors together, each counted once, as large as they came.
            Flat roots are not in it: the log does not say when one is made.
        images: how many references there were.
    """

    at_ns: int
    seq: int
    bytes: int
    images: int


class DeletionMark(Result, Struct, frozen=True, gc=False):
    """A removal or a prune, as a mark on the line of sizes.

    Attributes:
        operation: its id, for ``prune_report``.
        kind: ``remove``, ``prune``, or ``external`` for what msb deleted by itself.
        seq: the position of its decision.
        started_at_ns: when it was decided.
        who: by whom, in words.
        images: how many references went.
        bytes: what came free; None: none of it could be measured.
        names: some of the references that went, as people see them; at most 20.
        rules: by which rules, and how many images each took, most first.
        outcome: ``completed`` or ``partial``; None: it has not ended.
        restored: whether a restore brought some of it back.
    """

    operation: str
    kind: str
    seq: int
    started_at_ns: int
    who: str
    images: int
    bytes: int | None
    names: tuple[str, ...] = ()
    rules: tuple[tuple[str, int], ...] = ()
    outcome: str | None = None
    restored: bool = False


SpanKind = Literal["here", "run", "hold", "pin"]


class Span(Result, Struct, frozen=True, gc=False):
    """Something that lasted.

    Attributes:
        kind: ``here``: the reference was in the cache; ``run``: a sandbox ran from it; ``hold``, ``pin``.
        since_ns: from when.
        until_ns: to when; None: it lasts. Later than the moment shown: it lasts, and ends then by itself.
        by: who pulled or pinned it, or which sandbox or snapshot; empty: that is not known.
        ended_by: who removed it, for ``here``; empty: nobody did, or that is not known.
        ended_how: ``remove``, ``prune`` or ``external``, for ``here``; else empty.
    """

    kind: SpanKind
    since_ns: int
    until_ns: int | None
    by: str = ""
    ended_by: str = ""
    ended_how: str = ""


class ImageLife(Result, Struct, frozen=True, gc=False):
    """What happened to a reference: a line from its first pull to now.

    Attributes:
        reference: as people see it.
        manifest_digest: what it points at, or pointed at last.
        is_here: whether it is in the cache.
        spans: what lasted, by beginning; those that were over before the time shown are left out.
        pulls: when it was pulled within the time shown.
        uses: when it was used without a boot within the time shown.
        moves: when it was pointed at another manifest within the time shown.
        left_out: how many spans and times were left out because there were too many.
    """

    reference: str
    manifest_digest: str
    is_here: bool
    spans: tuple[Span, ...] = ()
    pulls: tuple[int, ...] = ()
    uses: tuple[int, ...] = ()
    moves: tuple[int, ...] = ()
    left_out: int = 0


BlockKind = Literal["image", "shared", "leaked", "other"]


class Block(Result, Struct, frozen=True, gc=False):
    """A part of what the cache takes: the blocks of a report add up to ``CacheReport.bytes``.

    Attributes:
        kind: ``image``: what nothing but one image, or one manifest without a name, needs; ``shared``: a
            layer or a set of layers that several images need; ``leaked``: files that no image needs;
            ``other``: lock files, downloads, folders.
        name: the image as people see it, or what it is, in words.
        unique_bytes: of an image its own files; else all of it.
        flat_bytes: of an image its flat root; else 0.
        images: of a shared part, how many images need it.
        names: of a shared part, some of those; at most 5.
        reclaimable_bytes: of an image what would come free if it alone were removed now.
        state: of an image ``in use``, ``held``, ``pinned`` or ``idle``; else empty.
        idle_ns: of an image for how long it is idle; None: it is not, or is no image.
    """

    kind: BlockKind
    name: str
    unique_bytes: int
    flat_bytes: int = 0
    images: int = 0
    names: tuple[str, ...] = ()
    reclaimable_bytes: int = 0
    state: str = ""
    idle_ns: int | None = None


class IdleLine(Result, Struct, frozen=True, gc=False):
    """An image that nothing uses.

    Attributes:
        reference: as people see it.
        idle_since_ns: since when.
        last_by: who used or pulled it last, in words; empty: that is not known.
        reclaimable_bytes: what would come free if it alone were removed now; 0 of one that is pinned.
        pinned: whether it is pinned.
    """

    reference: str
    idle_since_ns: int
    last_by: str
    reclaimable_bytes: int
    pinned: bool = False


class PersonLine(Result, Struct, frozen=True, gc=False):
    """Who pulled and deleted how much within the time shown.

    Attributes:
        who: a user and a machine, or a program; one line for each.
        pulls: how many pulls and loads, those included that changed nothing.
        pulled_bytes: what they fetched, as far as that is known.
        uses: how many uses and boots.
        deletions: how many removals and prunes.
        deleted_images: how many references these took.
        deleted_bytes: what came free by them, as far as that is known.
        forced: how many of these images were held or pinned.
    """

    who: str
    pulls: int = 0
    pulled_bytes: int = 0
    uses: int = 0
    deletions: int = 0
    deleted_images: int = 0
    deleted_bytes: int = 0
    forced: int = 0


class EventLine(Result, Struct, frozen=True, gc=False):
    """An event in words.

    Attributes:
        seq: its position.
        at_ns: when it occurred.
        type: such as ``image.pulled``.
        subject: the reference as people see it, the digest or the operation.
        who: by whom, in words.
        words: what happened, with details; digests are shortened.
    """

    seq: int
    at_ns: int
    type: str
    subject: str
    who: str
    words: str


class CacheReport(Result, Struct, frozen=True, kw_only=True):
    """What a home looks like at a position of its log, and how it came to that.

    Attributes:
        home: its path.
        host: the machine on which this was made; empty where people are not told of.
        log_id: the log's id; None: there is none yet.
        seq: the position that it tells of; 0: there is no event.
        at_ns: the moment that it tells of.
        made_at_ns: when it was made.
        is_past: whether that is a moment of the past. Sizes are then the log's, and nothing on the disk was
            looked at; else they are the disk's.
        since_ns: where the time shown begins: as asked for, or where what the log tells begins if that is
            later; in a home of msb that can be before ``first_ns``.
        first_ns: when the log began; None: there is none.
        events: how many events the log has at that position.
        image_count: how many references there are.
        bytes: what the cache takes, all blocks together.
        prune_bytes: what a prune would free now; None of the past.
        free_bytes: what is free on the disk; None of the past.
        sizes: how large the cache was, oldest first; the first point is at ``since_ns`` or later, the last
            one is at most at ``at_ns``. At most 1,000: of more, those that differ most are kept.
        deletions: those of the time shown, oldest first; at most 500, the newest.
        lives: every image that was there within the time shown; what takes most comes first.
        blocks: what takes the disk, largest first.
        idle: images that nothing uses, longest idle first.
        people: who did how much, those who deleted most first.
        lines: the newest events of the time shown, newest first.
        lines_left_out: how many older ones there are.
        notes: sentences about what could not be read or told.
    """

    home: str
    host: str = ""
    log_id: str | None
    seq: int
    at_ns: int
    made_at_ns: int
    is_past: bool = False
    since_ns: int
    first_ns: int | None
    events: int
    image_count: int
    bytes: int
    prune_bytes: int | None = None
    free_bytes: int | None = None
    sizes: tuple[SizePoint, ...] = ()
    deletions: tuple[DeletionMark, ...] = ()
    lives: tuple[ImageLife, ...] = ()
    blocks: tuple[Block, ...] = ()
    idle: tuple[IdleLine, ...] = ()
    people: tuple[PersonLine, ...] = ()
    lines: tuple[EventLine, ...] = ()
    lines_left_out: int = 0
    notes: tuple[str, ...] = ()
