"""The images of many hosts: what is cached where, when it was last used, and who holds it.

Each question is a few statements for all hosts together. What a word for an image means is decided for each
host by itself, as that host decides it: a reference wins over a digest where that host has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from msb_cache.errors import ImageNotFoundError, InvalidConfigError, InvalidReferenceError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import StoredEvent, decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.fleet.hosts import HELD, OF_LOG, KnownLog, OnHost, on_host, split, with_log
from msb_cache.fleet.place import Reading, Values, within
from msb_cache.oci.digest import shown
from msb_cache.oci.reference import familiar
from msb_cache.projections.images import AFTER_HEX, Damage, HandleRow, HoldDetailRow, UseRow
from msb_cache.queries import resolve
from msb_cache.queries.as_of import hold_of
from msb_cache.queries.images import handle
from msb_cache.queries.last_used import IdleImage, Standing, idle_image, idle_ns, longest_first
from msb_cache.queries.policy import Selection

_NAMED = 1000  # references of a wildcard that stand in a statement; of more all rows are looked at
_PAGE = 2000
_UNKNOWN_TIME = "@-"
_EVENT = ", ".join(f"e.{name}" for name in (*COLUMNS, "hash"))
_OF_EVENT = len(COLUMNS) + 1  # columns
_OF_IMAGE = (
    *("name", "reference", "spelling", "size_bytes", "manifest_digest", "architecture", "os", "layer_count"),
    *("created_at", "last_used_at", "in_use_by", "in_use_since", "idle_since", "idle_seq"),
)
_IMAGE = f"{', '.join(f'i.{name}' for name in _OF_IMAGE)}, i.seq, i.msb_row"
_LASTS = "(d.until IS NULL OR d.until > ?)"


class Found(NamedTuple):
    """Something of one host, and which of the words that were asked for mean it.

    Attributes:
        order: what it is ordered by among those of all hosts.
        found: what callers get; None: nothing, as filters do not select it.
        words: the numbers of the words.
        digest: the manifest that they mean by it.
    """

    order: tuple[Any, ...]
    found: Any
    words: frozenset[int] = frozenset()
    digest: str = ""


class Image(NamedTuple):
    """An image of one host. ``created_at`` orders it, in ns since the epoch, UTC; ``seq`` is its event."""

    log: KnownLog
    row: HandleRow
    created_at: int
    seq: int


class Word:
    """What a person's word for an image means on a host.

    Raises:
        InvalidReferenceError: it is neither a reference, nor one with wildcards, nor a digest.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._fits = resolve.matcher(text) if resolve.is_pattern(text) else None
        self._parsed = None if self._fits else resolve.as_reference(text)
        self.prefix = None if self._fits else resolve.digest_prefix(text)

    def condition(self, reading: Reading) -> tuple[str, list[str]]:
        """Return what finds the images ``i`` that it can mean, in SQL, and the arguments."""
        if self._fits is not None:
            rows = reading.rows("SELECT DISTINCT reference, spelling FROM msb_cache.image")
            names = {
                name for name, spelling in rows if self._fits(name) or (spelling and self._fits(spelling))
            }
            return within("i.reference", None if len(names) > _NAMED else sorted(names))
        ways, arguments = [], []
        if self._parsed is not None:
            ways.append("i.reference = ?")
            arguments.append(self._parsed.canonical)
            if self._parsed.digest is not None:
                ways.append("i.manifest_digest = ?")
                arguments.append(self._parsed.digest)
        if self.prefix is not None:
            ways.append("(i.manifest_digest >= ? AND i.manifest_digest < ?)")
            arguments += [self.prefix, self.prefix + AFTER_HEX]
        return f"({' OR '.join(ways)})", arguments

    def known_to(self, reading: Reading, *, held: bool = False) -> set[str] | None:
        """Return the logs of a place in which it can ever have meant something; None: that is not known.

        Args:
            reading: the place.
            held: whether it may be a manifest, too, that was held and that no reference pointed at.
        """
        if self._fits is not None:  # it may have fitted a spelling, which is in events alone
            return None
        ways: list[tuple[str, list[str]]] = []
        if self._parsed is not None:
            ways.append(("pointed_at WHERE reference = ?", [self._parsed.canonical]))
            if self._parsed.digest is not None:
                ways.append(("pointed_at WHERE manifest_digest = ?", [self._parsed.digest]))
        if self.prefix is not None:
            begins = [self.prefix, self.prefix + AFTER_HEX]
            ways.append(("pointed_at WHERE manifest_digest >= ? AND manifest_digest < ?", begins))
            if held:
                ways.append(("event WHERE subject >= ? AND subject < ?", begins))
                ways.append(("anchor", []))  # of what is in an archive it is not known
        found = reading.rows(
            " UNION ".join(f"SELECT log_id FROM msb_cache.{way}" for way, _ in ways),
            [value for _, values in ways for value in values],
        )
        return {log_id for (log_id,) in found}

    def of_host(self, images: Sequence[Image]) -> list[Image]:
        """Return those of one host's images, newest first, that it means there."""
        if self._fits is not None:
            fits = self._fits
            return [
                image
                for image in images
                if fits(image.row.reference) or (image.row.spelling and fits(image.row.spelling))
            ]
        named = self._named(images)
        if named or self.prefix is None:
            return named
        return [image for image in images if image.row.manifest_digest.startswith(self.prefix)]

    def _named(self, images: Sequence[Image]) -> list[Image]:
        parsed = self._parsed
        if parsed is None:
            return []
        rows = [image for image in images if image.row.reference == parsed.canonical]
        if not rows and parsed.digest is not None:
            prefix = f"{parsed.name}:"
            exact = f"{prefix}{parsed.tag}"
            for image in images:
                name = image.row.reference
                tagged = name == exact or (parsed.tag is None and name.startswith(prefix))
                if image.row.manifest_digest == parsed.digest and tagged:
                    return [image]
        return [image for image in rows if image.row.name == self.text] or rows

    def missing(self, known: Iterable[str]) -> ImageNotFoundError:
        """Return the error that no host has it; ``known`` are the references that hosts have."""
        if self._fits is not None:
            return ImageNotFoundError(f"no image of any host matches {shown(self.text)}{HELD}")
        if self.prefix is not None:
            return ImageNotFoundError(
                f"image not found: no reference {shown(self.text)} and no such digest is on any host{HELD}"
            )
        from msb_cache.queries.near import image_meant  # only an error offers what was probably meant

        name = self.text if self._parsed is None else self._parsed.familiar
        offered = image_meant(self.text, (each for each in map(familiar, known) if each != name))
        return ImageNotFoundError(f"image not found on any host: {name}{offered or HELD}")


def known_references(reading: Reading) -> list[str]:
    """Return the canonical references that hosts of a place have, in order."""
    return [name for (name,) in reading.rows("SELECT DISTINCT reference FROM msb_cache.image ORDER BY 1")]


def check_digests(words: Sequence[Word], found: Iterable[Found]) -> None:
    """Refuse a word by which different digests were found.

    Raises:
        InvalidReferenceError: it is the beginning of several.
    """
    digests: dict[int, set[str]] = {}
    for each in found:
        for number in each.words:
            prefix = words[number].prefix
            if prefix is not None and each.digest.startswith(prefix):
                digests.setdefault(number, set()).add(each.digest)
    for number, several in digests.items():
        if len(several) > 1:
            listed = ", ".join(sorted(several)[:5])
            raise InvalidReferenceError(
                f"several digests begin with {shown(words[number].text)}: {listed}; give more"
            )


def selection(filters: Sequence[str]) -> Selection | None:
    """Return what filters select; None: everything.

    Raises:
        InvalidConfigError: one is no filter, or asks for labels, which a fleet does not tell.
        InvalidReferenceError: as ``ImageCache.list``.
    """
    if not filters:
        return None
    found = Selection(filters)
    if found.needs_labels:
        raise InvalidConfigError(
            "a fleet does not tell the labels of images, as they are part of their configuration; "
            "filter by reference=PATTERN or digest=DIGEST, or ask the host itself"
        )
    return found


def handles(
    reading: Reading,
    words: Sequence[Word],
    selects: Selection | None,
    logs: Collection[str] | None,
    now_ns: int,
) -> Iterator[Found]:
    """Yield the images of all hosts as each host lists them, with what orders them: the newest first."""
    condition, arguments = asked_for(reading, words, logs)
    rows = reading.rows(
        "SELECT DISTINCT d.log_id, d.manifest_digest, d.holder FROM msb_cache.image i JOIN msb_cache.hold d "
        "ON d.log_id = i.log_id AND d.manifest_digest = i.manifest_digest "
        f"WHERE {_LASTS} AND {condition}",
        (now_ns, *arguments),
    )
    held: dict[tuple[str, str], list[str]] = {}
    for log_id, digest, holder in rows:
        held.setdefault((log_id, digest), []).append(holder)
    for image, means in _images(reading, words, condition, arguments):
        row = image.row
        names = (resolve.seen(row), row.reference)
        chosen = selects is None or selects(names, row.manifest_digest, {})
        by = held.get((image.log.log_id, row.manifest_digest))
        if by:
            row = msgspec.structs.replace(row, held_by=msgspec.json.encode(by).decode())
        order = (-image.created_at, image.log.host, image.log.log_id, -image.seq)
        found = on_host(image.log, handle(row, None)) if chosen else None
        yield Found(order, found, means, row.manifest_digest)


def damaged(reading: Reading, logs: Collection[str] | None) -> Iterator[Found]:
    """Yield which files of hosts' images another program deleted, as ``ImageCache.damage`` does of one."""
    condition, ids = within("i.log_id", logs)
    of = f"{OF_LOG}, i.name, i.reference, i.spelling, g.kind, g.subject, g.seq"
    log = with_log("i")
    gone = f"g.mended IS NULL AND {condition}"
    rows = reading.rows(
        f"SELECT {of} FROM msb_cache.damage g JOIN msb_cache.image i ON i.log_id = g.log_id "
        f"AND i.reference = g.subject {log} WHERE {gone} UNION ALL "
        f"SELECT {of} FROM msb_cache.damage g JOIN msb_cache.image i ON i.log_id = g.log_id "
        f"AND i.manifest_digest = g.subject {log} WHERE {gone} UNION ALL "
        f"SELECT DISTINCT {of} FROM msb_cache.damage g JOIN msb_cache.manifest_layer m "
        "ON m.log_id = g.log_id AND m.diff_id = g.subject JOIN msb_cache.image i ON i.log_id = g.log_id "
        f"AND i.manifest_digest = m.manifest_digest {log} WHERE g.kind = 'layer' AND {gone}",
        (*ids, *ids, *ids),
    )
    for each in rows:
        log_of, values = split(each)
        name, reference, spelling, kind, subject, seq = values
        found = Damage(name, resolve.as_typed(reference, spelling), spelling, kind, subject, seq)
        yield Found((log_of.host, log_of.log_id, name, seq), on_host(log_of, found))


# -- when images were last used --------------------------------------------------------------------

_ENDED = (
    "FROM msb_cache.hold d WHERE d.log_id = i.log_id AND d.manifest_digest = i.manifest_digest "
    "AND d.until <= ? ORDER BY d.until DESC, d.seq DESC LIMIT 1"
)
_SINCE = (
    "CASE WHEN coalesce(ended_at, 0) > last_used_at AND coalesce(ended_at, 0) > coalesce(idle_since, 0) "
    "THEN ended_at WHEN coalesce(idle_since, 0) > last_used_at THEN idle_since ELSE last_used_at END"
)
_LAST_USE = (
    "(SELECT e.seq FROM msb_cache.event e WHERE e.log_id = o.log_id AND e.subject = o.reference "
    "AND e.seq >= o.seq AND e.seq <= f.seq AND e.occurred_at >= o.last_used_at "
    f"AND e.type IN ('{ev.ImagePulled.type}', '{ev.ImageUsed.type}') ORDER BY e.seq DESC LIMIT 1)"
)
_OF_ONE = (*_OF_IMAGE, "seq", "msb_row", "ended_at", "ended_seq", "use_seq")
_OF_SAID = (*KnownLog.__struct_fields__, *_OF_ONE)
# As queries.last_used does it for one host: the boot that lasts longest, else the hold that ended last, else
# the boot that ended last, else the last use.
_SAID = (
    "CASE WHEN o.use_seq IS NOT NULL THEN o.use_seq "
    "WHEN o.ended_at > o.last_used_at AND o.ended_at > coalesce(o.idle_since, 0) THEN o.ended_seq "
    "WHEN o.idle_seq IS NOT NULL AND o.idle_since >= o.last_used_at THEN o.idle_seq "
    f"ELSE {_LAST_USE} END"
)


def last_used(
    reading: Reading,
    words: Sequence[Word],
    logs: Collection[str] | None,
    now_ns: int,
    *,
    newest: bool = False,
) -> Iterator[tuple[Standing, Found]]:
    """Yield the images of all hosts with when each was last used there, and the event that says so.

    Args:
        reading: the place.
        words: which images; none: all.
        logs: of which hosts; None: of all.
        now_ns: the time now, in ns since the epoch.
        newest: of each reference only the image of the host that used it last.
    """
    condition, arguments = asked_for(reading, words, logs)
    chosen = "one o"
    if newest:
        chosen = (
            "(SELECT one.*, row_number() OVER (PARTITION BY reference ORDER BY "
            f"CASE WHEN use_seq IS NULL THEN 1 ELSE 0 END, {_SINCE} DESC, log_id, name) AS place FROM one) o"
        )
    # Of a few images in steps: else all that finds the position is planned with each partition of the events.
    as_ = "AS MATERIALIZED" if words else "AS"
    rows = reading.rows(
        f"WITH one {as_} (SELECT i.log_id, {_IMAGE}, "
        "(SELECT u.seq FROM msb_cache.open_use u WHERE u.log_id = i.log_id "
        "AND u.manifest_digest = i.manifest_digest ORDER BY u.since, u.seq LIMIT 1) AS use_seq, "
        f"(SELECT d.until {_ENDED}) AS ended_at, (SELECT d.seq {_ENDED}) AS ended_seq "
        f"FROM msb_cache.image i WHERE {condition}), "
        f"said({', '.join((*_OF_SAID, 'said_seq'))}) {as_} (SELECT {OF_LOG}, "
        f"{', '.join(f'o.{name}' for name in _OF_ONE)}, {_SAID} "
        f"FROM {chosen} {with_log('o')}{' WHERE o.place = 1' if newest else ''}) "
        f"SELECT {', '.join(f'i.{name}' for name in _OF_SAID)}, {_EVENT} FROM said i "
        "LEFT JOIN msb_cache.event e ON e.log_id = i.log_id AND e.seq = i.said_seq "
        "ORDER BY i.log_id, i.created_at DESC, i.seq DESC",
        (now_ns, now_ns, *arguments),
    )
    uses: dict[tuple[str, str], list[UseRow]] = {}
    if any(each[len(_OF_SAID) - 1] is not None for each in rows):
        uses = _open_uses(reading, condition, arguments)
    said: dict[tuple[str, str], tuple[Standing, StoredEvent | None]] = {}
    images: list[Image] = []
    for each in rows:
        image, (ended_at, ended_seq, _, *stored) = _image(each)
        event = None if stored[0] is None else decode_row(stored, CATALOGUE.decode)
        lasting = uses.get((image.log.log_id, image.row.manifest_digest), [])
        ended = None if ended_at is None else (ended_at, ended_seq)
        since = max(image.row.last_used_at, image.row.idle_since or 0, ended_at or 0)
        standing = Standing(image.row, None if lasting else since, lasting, ended)
        said[image.log.log_id, image.row.name] = standing, event
        images.append(image)
    others = _other_uses(reading, [each for each in images if _is_other(each, *said[_key(each)])])
    for image, means in _meant(words, images):
        standing, event = said[_key(image)]
        event = others.get(_key(image), event)
        idle, *_, reference, name = longest_first(standing)
        order = (idle, standing.since_ns or 0, reference, image.log.host, image.log.log_id, name)
        found = on_host(image.log, idle_image(standing, now_ns, event))
        yield standing, Found(order, found, means, image.row.manifest_digest)


def _open_uses(
    reading: Reading, condition: str, arguments: Sequence[str]
) -> dict[tuple[str, str], list[UseRow]]:
    """Return the boots that last, by log and manifest, of the images ``i`` that fit; the first ones first."""
    found: dict[tuple[str, str], list[UseRow]] = {}
    for log_id, holder, digest, since, reference, seq in reading.rows(
        "SELECT DISTINCT u.log_id, u.holder, u.manifest_digest, u.since, u.reference, u.seq "
        "FROM msb_cache.image i JOIN msb_cache.open_use u ON u.log_id = i.log_id "
        f"AND u.manifest_digest = i.manifest_digest WHERE {condition} ORDER BY u.since, u.seq",
        arguments,
    ):
        found.setdefault((log_id, digest), []).append(UseRow(holder, digest, since, reference, seq))
    return found


def newest_first(found: OnHost[IdleImage]) -> tuple[Any, ...]:
    """Return what images are ordered by where the last use of all comes first; what is in use before it."""
    image = found.found
    in_use = image.in_use_since_ns is not None
    return not in_use, -(image.idle_since_ns or 0), -image.last_used_ns, found.host, found.log_id


def nowhere_used(found: Iterable[tuple[Standing, Found]], at_least_ns: int, now_ns: int) -> list[Found]:
    """Return, of what several places have found with ``newest``, what no host has used for so long."""
    newest: dict[str, tuple[Standing, Found]] = {}
    for standing, each in found:
        reference = standing.row.reference
        before = newest.get(reference)
        if before is None or longest_first(before[0])[:2] < longest_first(standing)[:2]:
            newest[reference] = standing, each
    return [each for standing, each in newest.values() if idle_ns(standing, now_ns) >= at_least_ns]


def _key(image: Image) -> tuple[str, str]:
    return image.log.log_id, image.row.name


def _is_other(image: Image, standing: Standing, event: StoredEvent | None) -> bool:
    """Return whether the last use that was found is that of another image of the same reference."""
    if event is None or not isinstance(event.data, ev.ImagePulled | ev.ImageUsed) or standing.lasting:
        return False
    return not _is_use_of(image.row, event)


def _is_use_of(row: HandleRow, event: StoredEvent) -> bool:
    data = event.data
    if not isinstance(data, ev.ImagePulled | ev.ImageUsed):
        return False
    # In a home of msb each spelling is an image of its own; a boot from where it pointed before counts not.
    its_own = row.name == row.reference or data.spelling == row.name
    run = data.run if isinstance(data, ev.ImageUsed) else None
    return its_own and (run is None or data.manifest_digest == row.manifest_digest)


def _other_uses(reading: Reading, images: Sequence[Image]) -> Mapping[tuple[str, str], StoredEvent | None]:
    """Return the last use of images whose reference was used later as another image."""
    found: dict[tuple[str, str], StoredEvent | None] = {_key(image): None for image in images}
    for start in range(0, len(images), _PAGE):
        page = images[start : start + _PAGE]
        asked = ", ".join(["(?, ?, ?, ?, ?)"] * len(page))
        by_log: dict[tuple[str, str], list[Image]] = {}
        arguments: list[Any] = []
        for image in page:
            row, log = image.row, image.log
            by_log.setdefault((log.log_id, row.reference), []).append(image)
            arguments += [log.log_id, row.reference, image.seq, row.last_used_at, log.folded_seq]
        rows = reading.rows(
            f"WITH asked(log_id, subject, since, used, folded) AS (VALUES {asked}) "
            f"SELECT DISTINCT e.log_id, {_EVENT} FROM asked a JOIN msb_cache.event e "
            "ON e.log_id = a.log_id AND e.subject = a.subject AND e.seq >= a.since AND e.seq <= a.folded "
            "AND e.occurred_at >= a.used "
            f"AND e.type IN ('{ev.ImagePulled.type}', '{ev.ImageUsed.type}') ORDER BY 1, e.seq DESC",
            arguments,
        )
        for log_id, *stored in rows:
            event = decode_row(stored, CATALOGUE.decode)
            for image in by_log[log_id, event.subject]:
                fits = event.seq >= image.seq and event.occurred_at_ns >= image.row.last_used_at
                if found[_key(image)] is None and fits and _is_use_of(image.row, event):
                    found[_key(image)] = event
    return found


# -- who holds what --------------------------------------------------------------------------------

_HOLD = ", ".join(f"d.{name}" for name in HoldDetailRow.__struct_fields__)


def holds(reading: Reading, word: Word | None, logs: Collection[str] | None, now_ns: int) -> Iterator[Found]:
    """Yield who holds what on all hosts: by host, and there as the host itself tells it.

    Of each manifest that the word means there is one with nothing found, also if nobody holds it.

    Args:
        reading: the place.
        word: only holds of the manifest that it means on each host; None: all.
        logs: of which hosts; None: of all.
        now_ns: the time now, in ns since the epoch.

    Raises:
        InvalidReferenceError: the word is there in several spellings on a host.
    """
    condition, arguments = within("d.log_id", logs)
    of: dict[str, str] = {}
    if word is not None:
        of = dict(_manifests(reading, word, logs))
        digests = sorted({*of.values()})
        yield from (Found((), None, frozenset({0}), digest) for digest in digests)
        if not of:
            return
        # There are a few, unless very many hosts have another one each.
        among, more = within("d.manifest_digest", digests if len(digests) <= _NAMED else None)
        condition, arguments = f"{condition} AND {among}", [*arguments, *more]
        if len(of) <= _NAMED:
            among, more = within("d.log_id", [*of])
            condition, arguments = f"{condition} AND {among}", [*arguments, *more]
    rows = reading.rows(
        f"SELECT {OF_LOG}, d.seq, {_HOLD} FROM msb_cache.hold d {with_log('d')} "
        f"WHERE {_LASTS} AND {condition}",
        (now_ns, *arguments),
    )
    for each in rows:
        log, (seq, *values) = split(each)
        row = HoldDetailRow(*values)
        if word is None or of.get(log.log_id) == row.manifest_digest:
            order = (log.host, log.log_id, row.holder, row.since, seq)
            yield Found(order, on_host(log, hold_of(row)))


def _manifests(reading: Reading, word: Word, logs: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """Yield, by log, which manifest a word means there, whether or not a reference points at it."""
    condition, arguments = asked_for(reading, [word], logs)
    named: set[str] = set()
    for log_id, images in _by_log([image for image, _ in _images(reading, [word], condition, arguments)]):
        rows = [image.row for image in word.of_host(images)]
        references = {row.reference for row in rows}
        if word.prefix is None or not all(row.manifest_digest.startswith(word.prefix) for row in rows):
            if len(references) == 1:
                resolve.check_one_spelling(rows, word.text)
            named.add(log_id)
            yield log_id, rows[0].manifest_digest
    if word.prefix is None:
        return
    of_log, ids = within("log_id", logs)
    parts, asked = [], []
    for column, table in (("digest", "manifest"), ("manifest_digest", "image"), ("manifest_digest", "hold")):
        parts.append(
            f"SELECT log_id, {column} FROM msb_cache.{table} "
            f"WHERE {column} >= ? AND {column} < ? AND {of_log}"
        )
        asked += [word.prefix, word.prefix + AFTER_HEX, *ids]
    found = reading.rows(f"{' UNION '.join(parts)} ORDER BY 1, 2", asked)
    for log_id, of_host in groupby(found, key=lambda row: row[0]):
        if log_id not in named:
            yield log_id, resolve.only([digest for _, digest in of_host], word.text, "there")


# -- rows ------------------------------------------------------------------------------------------


def asked_for(reading: Reading, words: Sequence[Word], logs: Collection[str] | None) -> tuple[str, list[str]]:
    """Return what finds the images ``i`` that words can mean, of these logs, in SQL, and the arguments."""
    condition, arguments = within("i.log_id", logs)
    ways = [word.condition(reading) for word in words]
    if not ways:
        return condition, arguments
    means = " OR ".join(way for way, _ in ways)
    return f"({means}) AND {condition}", [each for _, more in ways for each in more] + arguments


def _images(
    reading: Reading, words: Sequence[Word], condition: str, arguments: Sequence[str]
) -> Iterator[tuple[Image, frozenset[int]]]:
    rows = reading.stream(
        f"SELECT {OF_LOG}, {_IMAGE} FROM msb_cache.image i {with_log('i')} WHERE {condition} "
        "ORDER BY 1, i.created_at DESC, i.seq DESC",
        arguments,
    )
    return _meant(words, (_image(row)[0] for row in rows))


def _image(values: Values) -> tuple[Image, Values]:
    log, rest = split(values)
    end = len(_OF_IMAGE)
    row = HandleRow(*rest[:end])
    created_at, seq, msb_row = row.created_at, rest[end], rest[end + 1]
    assert created_at is not None  # noqa: S101
    if msb_row is not None and msb_row.endswith(_UNKNOWN_TIME):
        row = msgspec.structs.replace(row, created_at=None)
    return Image(log, row, created_at, seq), rest[end + 2 :]


def _meant(words: Sequence[Word], images: Iterable[Image]) -> Iterator[tuple[Image, frozenset[int]]]:
    """Yield the images that words mean, with the numbers of these; ``images`` come by log, newest first."""
    if not words:
        for image in images:
            yield image, frozenset()
        return
    for _, of_host in _by_log(images):
        means: dict[str, set[int]] = {}
        for number, word in enumerate(words):
            for image in word.of_host(of_host):
                means.setdefault(image.row.name, set()).add(number)
        for image in of_host:
            if image.row.name in means:
                yield image, frozenset(means[image.row.name])


def _by_log(images: Iterable[Image]) -> Iterator[tuple[str, list[Image]]]:
    for log_id, group in groupby(images, key=lambda image: image.log.log_id):
        yield log_id, [*group]
