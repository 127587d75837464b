"""Times and durations as people type them: one grammar, and nothing guessed.

::

    now
    today | yesterday        [TIME]
    WEEKDAY                  [TIME]      the latest one before today, or today's if TIME has passed
    last WEEKDAY             [TIME]      the latest one before today
    DURATION [ago]
    tomorrow                 [TIME]      of a time to come
    [next] WEEKDAY           [TIME]      of a time to come: the first one after today
    [in] DURATION                        of a time to come
    an ISO 8601 date, or date and time   with or without an offset from UTC

DURATION is ``COUNT UNIT``, in seconds, minutes, hours, days, weeks, months or years: ``30 days``; all but the
last two also by the unit's first letter: ``30d``, and ``sec``, ``min`` and ``hr``, with or without an s. It
can have several parts, each of a smaller unit than the one before: ``1h 10m``, ``1h10m``, ``1 day 12 hours``.
TIME is ``HH:MM`` or ``HH:MM:SS``. A day without one is its beginning. Without an offset, times are in the
local zone. Days, weeks, months and years go back on the calendar, to the same time of day, and to the last
day of a month that is too short; hours, minutes and seconds are elapsed time, counted from there. A time of
day that a change of clocks skips is moved on by what was skipped; of one that comes twice, the first is
meant.

Where a time is of a log, ``@POSITION`` means an event of it: see ``queries.as_of``.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo

from dateutil import tz
from dateutil.parser import isoparse
from dateutil.relativedelta import FR, MO, SA, SU, TH, TU, WE, relativedelta

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.digest import shown

Moment = str | datetime | timedelta
"""A time: text in this module's grammar, an aware ``datetime``, or a ``timedelta``: so long ago, or, of a
time to come, in so long."""

Duration = str | timedelta
"""How long: text, a DURATION of this module's grammar, or a ``timedelta``."""

_LONGEST = 100  # characters; what people type is shorter
_LARGEST_COUNT = 10**9
_LATEST_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS = {
    "monday": MO,
    "tuesday": TU,
    "wednesday": WE,
    "thursday": TH,
    "friday": FR,
    "saturday": SA,
    "sunday": SU,
}
_TIME = r"(?:\s+(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?)?"
_DAY = re.compile(rf"(?P<day>today|yesterday|(?:last\s+)?(?:{'|'.join(_WEEKDAYS)})){_TIME}", re.IGNORECASE)
_DAY_TO_COME = re.compile(
    rf"(?P<day>today|tomorrow|(?:next\s+)?(?:{'|'.join(_WEEKDAYS)})){_TIME}", re.IGNORECASE
)
_UNITS = ("year", "month", "week", "day", "hour", "minute", "second")  # a later one is smaller
_ELAPSED = {"hour": 3600, "minute": 60, "second": 1}
_SHORT = {"w": "week", "d": "day", "h": "hour", "hr": "hour", "m": "minute", "min": "minute", "s": "second"}
_SHORT["sec"] = "second"
_PART = r"([0-9]{1,10})\s*((?:second|sec|minute|min|hour|hr|day|week|month|year)s?|[smhdw])"
_DURATION = rf"(?P<duration>{_PART}(?:\s*{_PART}){{0,{len(_UNITS) - 1}}})"
_AGO = re.compile(rf"{_DURATION}(?:\s+ago)?", re.IGNORECASE)
_IN = re.compile(rf"(?:in\s+)?{_DURATION}", re.IGNORECASE)


def parse_time(text: str, now_ns: int, zone: tzinfo | None = None) -> int:
    """Return the time that ``text`` means.

    Args:
        text: in the grammar above.
        now_ns: the present, in ns since the epoch, UTC.
        zone: where times without an offset are meant; None: the local zone.

    Returns:
        Nanoseconds since the epoch, UTC; what 64 bits cannot hold (after 2262) is the last that they can.

    Raises:
        InvalidConfigError: the text is no such time.
    """
    words = text.strip()
    try:
        found = _parse(words, now_ns, zone or _local_zone()) if len(words) <= _LONGEST else None
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise InvalidConfigError(
            f"{shown(text)} is no time; write 2026-11-23, 2026-11-23T14:05:00+01:00, 'yesterday 14:00', "
            "friday, 'last monday' or '2 days ago'"
        )
    return max(-_LATEST_NS, min(found, _LATEST_NS))


def until_ns(moment: Moment, now_ns: int, zone: tzinfo | None = None) -> int:
    """Return the time to come that is meant, in ns since the epoch, UTC; the last one that 64 bits can hold.

    Args:
        moment: see ``Moment``.
        now_ns: the present, in ns since the epoch, UTC.
        zone: where times without an offset are meant; None: the local zone.

    Raises:
        InvalidConfigError: it is no time, or has passed.
    """
    if isinstance(moment, timedelta):
        found: int | None = now_ns + _length(moment)
    elif isinstance(moment, datetime):
        found = as_ns(moment, now_ns)
    else:
        words, zone, found = moment.strip(), zone or _local_zone(), None
        with suppress(ValueError, OverflowError):
            found = _to_come(words, now_ns, zone) if len(words) <= _LONGEST else None
    if found is None:
        raise InvalidConfigError(
            f"{shown(str(moment))} is no time to come; write 2027-01-31, 2027-01-31T18:00:00+01:00, "
            "'friday', 'tomorrow 18:00' or '2 weeks'"
        )
    if found <= now_ns:
        raise InvalidConfigError(f"{shown(str(moment))} has passed; write a time to come")
    return min(found, _LATEST_NS)


def parse_duration(text: str, now_ns: int, zone: tzinfo | None = None) -> int:
    """Return how long ``text`` is, up to the present, in ns: so a month is as long as the last one was.

    Args:
        text: a DURATION in the grammar above.
        now_ns: the present, in ns since the epoch, UTC.
        zone: whose calendar is meant; None: that of the local zone.

    Raises:
        InvalidConfigError: the text is no such duration.
    """
    words = text.strip()
    if len(words) <= _LONGEST and (found := re.fullmatch(_DURATION, words, re.IGNORECASE)):
        with suppress(ValueError, OverflowError):
            since = _ago(found["duration"], now_ns, zone or _local_zone())
            if since is not None:
                return now_ns - since
    raise InvalidConfigError(
        f"{shown(text)} is no duration; write '30 days', 12h, '1h 30m' or '3 months', the largest unit first"
    )


def duration_ns(duration: Duration, now_ns: int) -> int:
    """Return a duration given as text or as a ``timedelta`` in ns.

    Raises:
        InvalidConfigError: the text is no such duration, or it is less than nothing.
    """
    if isinstance(duration, str):
        return parse_duration(duration, now_ns)
    if duration < timedelta(0):
        raise InvalidConfigError(f"{duration!r} is less than nothing, so it is no duration")
    return _length(duration)


def as_ns(moment: Moment, now_ns: int) -> int:
    """Return a time given as text, as an aware ``datetime`` or as so long ago, in ns since the epoch, UTC.

    Raises:
        InvalidConfigError: the text is no time, or the ``datetime`` has no zone.
    """
    if isinstance(moment, str):
        return parse_time(moment, now_ns)
    if isinstance(moment, timedelta):
        return now_ns - _length(moment)
    if moment.tzinfo is None:
        raise InvalidConfigError(f"{moment!r} has no time zone, so it is no time")
    return _ns(moment)


def _parse(words: str, now_ns: int, zone: tzinfo) -> int | None:
    if words.lower() == "now":
        return now_ns
    if ago := _AGO.fullmatch(words):
        return _ago(ago["duration"], now_ns, zone)
    if day := _DAY.fullmatch(words):
        return _day(day, now_ns, zone, -1)
    return _iso(words, zone) if words[:4].isdigit() and words.isascii() else None


def _to_come(words: str, now_ns: int, zone: tzinfo) -> int | None:
    if duration := _IN.fullmatch(words):
        return _ago(duration["duration"], now_ns, zone, back=-1)
    if day := _DAY_TO_COME.fullmatch(words):
        return _day(day, now_ns, zone, 1)
    return _iso(words, zone) if words[:4].isdigit() and words.isascii() else None


def _parts(duration: str) -> dict[str, int] | None:
    """Return how many there are of each unit; None if a unit is not smaller than the one before it."""
    found: dict[str, int] = {}
    for count, written in re.findall(_PART, duration, re.IGNORECASE):
        word = written.lower()
        unit = _SHORT.get(word) or word.removesuffix("s")
        unit = _SHORT.get(unit, unit)
        if found and _UNITS.index(unit) <= _UNITS.index([*found][-1]):
            return None
        found[unit] = int(count)
    return found


def _ago(duration: str, now_ns: int, zone: tzinfo, back: int = 1) -> int | None:
    """Return the time so long ago; with ``back`` -1, the time in so long."""
    parts = _parts(duration)
    if parts is None or max(parts.values()) > _LARGEST_COUNT:
        return None
    elapsed = sum(_ELAPSED.get(unit, 0) * count for unit, count in parts.items())
    calendar = {f"{unit}s": back * count for unit, count in parts.items() if unit not in _ELAPSED}
    if calendar:
        distance = relativedelta(**calendar)  # type: ignore[arg-type]
        seconds, fraction = divmod(now_ns, 10**9)
        local = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
        now_ns = _ns(_in_zone(local.replace(tzinfo=None, fold=0) - distance, zone)) + fraction
    return now_ns - back * elapsed * 10**9


def _day(found: re.Match[str], now_ns: int, zone: tzinfo, direction: int) -> int:
    """Return a day's time; ``direction``: -1 for a weekday that was, 1 for one to come."""
    today = (_EPOCH + timedelta(seconds=now_ns // 10**9)).astimezone(zone)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))

    def at_its_time(day: datetime) -> int:
        return _ns(_in_zone(day.replace(hour=hour, minute=minute, second=second), zone))

    *before, name = found["day"].lower().split()
    if name in _WEEKDAYS:
        if direction < 0 and not before and found["hour"] and today.weekday() == _WEEKDAYS[name].weekday:
            passed = at_its_time(midnight)
            if passed <= now_ns:
                return passed
        midnight += relativedelta(days=direction, weekday=_WEEKDAYS[name](direction))
    elif name != "today":
        midnight += timedelta(days=1 if name == "tomorrow" else -1)
    return at_its_time(midnight)


def _iso(words: str, zone: tzinfo) -> int:
    # isoparse takes one separator of any kind and cuts a fraction after six digits; people write spaces, and
    # the output of this program has nine digits, and a space before the offset.
    separated = re.sub(r"\s+(?=[+-]\d)", "", re.sub(r"(?<=\d)\s+(?=\d)", "T", words, count=1))
    nanoseconds = 0
    if fraction := re.search(r"[.,](\d+)", separated):
        if len(fraction[1]) > 9:
            raise ValueError("no more than nine digits")
        nanoseconds = int(fraction[1].ljust(9, "0")) % 1000
    if not re.fullmatch(r"[\d:.,WT+Z-]+", separated):
        raise ValueError("another separator than T or a space")
    found = isoparse(separated)
    return _ns(found if found.tzinfo is not None else _in_zone(found, zone)) + nanoseconds


def _in_zone(naive: datetime, zone: tzinfo) -> datetime:
    return tz.resolve_imaginary(naive.replace(tzinfo=zone))


def _local_zone() -> tzinfo:
    return tz.gettz() or tz.tzlocal()


def _ns(moment: datetime) -> int:
    return _length(moment.astimezone(UTC) - _EPOCH)


def _length(span: timedelta) -> int:
    # Integers: a float of seconds cannot hold today's microseconds exactly.
    return (span.days * 86400 + span.seconds) * 10**9 + span.microseconds * 1000
