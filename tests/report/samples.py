"""Reports made by hand: a large one, one of hostile names, and an empty one."""

from __future__ import annotations

from msb_cache.report.facts import (
    Block,
    CacheReport,
    DeletionMark,
    EventLine,
    IdleLine,
    ImageLife,
    PersonLine,
    SizePoint,
    Span,
)

DAY = 86400 * 10**9
END = 1_795_900_000 * 10**9
BEGIN = END - 30 * DAY
HOSTILE = "</script><img src=x onerror=pwned()>\"'&\u202e\x07\u200b"


def empty() -> CacheReport:
    """What a home without a log has."""
    return CacheReport(
        home="/home/alice/.microsandbox",
        log_id=None,
        seq=0,
        at_ns=END,
        made_at_ns=END,
        since_ns=BEGIN,
        first_ns=None,
        events=0,
        image_count=0,
        bytes=0,
    )


def of(count: int, *, name: str = "ghcr.io/acme/service-{}:v{}") -> CacheReport:
    """A report of so many images, a tenth of which are gone, with 100 deletions and 400 events."""
    references = [name.format(number, number % 7) for number in range(count)]
    lives, blocks, idle = [], [], []
    for number, reference in enumerate(references):
        since = BEGIN + number * 25 * DAY // max(1, count)
        gone = number % 10 == 9
        until = since + 3 * DAY if gone else None
        spans = [Span("here", since, until, "alice@build-1", "root@build-1" if gone else "", "prune" * gone)]
        spans += [
            Span("run", since + at * DAY // 3, since + at * DAY // 3 + DAY // 8, f"sandbox:agent-{at}")
            for at in range(6 * (number % 3 == 0))
        ]
        spans += [Span("hold", since + DAY, None, "sandbox:dev")] * (number % 5 == 0)
        digest = f"sha256:{number:064x}"
        life = ImageLife(reference, digest, not gone, tuple(spans), pulls=(since,), uses=(since + DAY,))
        lives.append(life)
        if not gone:
            state = "held" if number % 5 == 0 else "idle"
            unique, flat = 10_000_000 // (number + 1), number % 3 * 1_000_000
            blocks.append(Block("image", reference, unique, flat, images=1, state=state))
            if state == "idle":
                idle.append(IdleLine(reference, since + 2 * DAY, "alice@build-1", 5000))
    blocks += [
        Block("shared", f"{count} images share", 4_000_000, images=count, names=tuple(references[:5])),
        Block("leaked", "files that no image needs", 700_000),
        Block("other", "the log", 300_000),
    ]
    sizes = [
        SizePoint(BEGIN + at * DAY // 10, at * 50 + 1, 9_000_000 + at % 17 * 400_000, at % 40 + 1)
        for at in range(300)
    ]
    deletions = [
        DeletionMark(
            f"01a2216d-cb67-789f-9bce-{at:012x}",
            ("prune", "remove", "external")[at % 3],
            at * 150 + 2,
            BEGIN + at * 3 * DAY // 10,
            "root@build-1: nightly",
            at,
            at * 100_000 if at % 4 else None,
            tuple(references[:20]),
            (("unused_for", 3), ("keep_last", 1)),
            "completed" if at else None,
            at == 7,
        )
        for at in range(100)
    ]
    lines = [
        EventLine(
            9000 - at, END - at * DAY // 20, "image.used", references[at % count], "alice@build-1", "used"
        )
        for at in range(400)
    ]
    people = [PersonLine(f"user-{at}@host", at, at * 1000, at, at, at, at * 5000, at % 2) for at in range(40)]
    return CacheReport(
        home="/home/alice/.microsandbox",
        host="build-1",
        log_id="0" * 32,
        seq=9000,
        at_ns=END,
        made_at_ns=END,
        since_ns=BEGIN,
        first_ns=BEGIN - DAY,
        events=9000,
        image_count=len(blocks) - 3,
        bytes=sum(block.unique_bytes + block.flat_bytes for block in blocks),
        prune_bytes=123_456,
        free_bytes=10**12,
        sizes=tuple(sizes),
        deletions=tuple(deletions),
        lives=tuple(lives),
        blocks=tuple(sorted(blocks, key=lambda block: -block.unique_bytes - block.flat_bytes)),
        idle=tuple(idle),
        people=tuple(people),
        lines=tuple(lines),
        lines_left_out=8600,
        notes=("cache/layers/x cannot be read",),
    )


def hostile() -> CacheReport:
    """A report in which every text from outside is an attack."""
    text = HOSTILE
    span = Span("here", BEGIN, BEGIN + DAY, text, text, text)
    return CacheReport(
        home=text,
        host=text,
        log_id=text,
        seq=3,
        at_ns=END,
        made_at_ns=END,
        since_ns=BEGIN,
        first_ns=BEGIN,
        events=3,
        image_count=1,
        bytes=10,
        sizes=(SizePoint(BEGIN, 1, 10, 1),),
        deletions=(DeletionMark("0" * 36, "prune", 2, BEGIN + DAY, text, 1, 5, (text,), ((text, 1),), text),),
        lives=(ImageLife(text, text, False, (span, Span("run", BEGIN, END, text))),),
        blocks=(
            Block("image", text, 500, 40, images=1, state="in use"),
            Block("shared", text, 500, images=2, names=(text, text)),
        ),
        idle=(IdleLine(text, BEGIN, text, 0),),
        people=(PersonLine(text, 1, 1, 1, 1, 1, 1, 1),),
        lines=(EventLine(1, BEGIN, text, text, text, text),),
        notes=(text,),
    )
