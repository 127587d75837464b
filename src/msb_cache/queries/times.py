"""Times and durations as people type them: one grammar, and nothing guessed.

::

    now
    today | yesterday        [TIME]
    last WEEKDAY             [TIME]      the latest one before today
    DURATION ago
    tomorrow                 [TIME]      of a time to come
    [next] WEEKDAY           [TIME]      of a time to come: the first one after today
    [in] DURATION                        of a time to come
    an ISO 8601 date, or date and time   with or without an offset from UTC

DURATION is ``COUNT UNIT``, in seconds, minutes, hours, days, weeks, months or years: ``30 days``; or, in all
but the last two, by the unit's first letter: ``30d``. TIME is
``HH:MM`` or ``HH:MM:SS``. A day without one is its beginning. Without an offset, times are in the local zone.
Days, weeks, months and years go back on the calendar, to the same time of day, and to the last day of a month
that is too short; hours, minutes and seconds are elapsed time. A time of day that a change of clocks skips is
moved on by what was skipped; of one that comes twice, the first is meant.
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

Moment = str | datetime
"""A time: text in this module's grammar, or an aware ``datetime``."""

_LONGEST = 60  # characters; what people type is shorter
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
_DAY = re.compile(rf"(?P<day>today|yesterday|last\s+(?:{'|'.join(_WEEKDAYS)})){_TIME}", re.IGNORECASE)
_DAY_TO_COME = re.compile(
    rf"(?P<day>today|tomorrow|(?:next\s+)?(?:{'|'.join(_WEEKDAYS)})){_TIME}", re.IGNORECASE
)
_UNITS = {unit[0]: unit for unit in ("second", "minute", "hour", "day", "week")}
_DURATION = r"([0-9]{1,10})\s*((?:second|minute|hour|day|week|month|year)s?|[smhdw])"
_AGO = re.compile(rf"{_DURATION}\s+ago", re.IGNORECASE)
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
            "'last monday' or '2 days ago'"
        )
    return max(-_LATEST_NS, min(found, _LATEST_NS))


def until_ns(moment: Moment, now_ns: int, zone: tzinfo | None = None) -> int:
    """Return the time to come that is meant, in ns since the epoch, UTC; the last one that 64 bits can hold.

    Args:
        moment: an aware ``datetime``, or text in the grammar above.
        now_ns: the present, in ns since the epoch, UTC.
        zone: where times without an offset are meant; None: the local zone.

    Raises:
        InvalidConfigError: it is no time, or has passed.
    """
    if isinstance(moment, datetime):
        found: int | None = as_ns(moment, now_ns)
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
            since = _ago(int(found[1]), found[2].lower(), now_ns, zone or _local_zone())
            if since is not None:
                return now_ns - since
    raise InvalidConfigError(f"{shown(text)} is no duration; write '30 days', 12h or '3 months'")


def duration_ns(duration: str | timedelta, now_ns: int) -> int:
    """Return a duration given as text or as a ``timedelta`` in ns.

    Raises:
        InvalidConfigError: the text is no such duration, or it is less than nothing.
    """
    if isinstance(duration, str):
        return parse_duration(duration, now_ns)
    if duration < timedelta(0):
        raise InvalidConfigError(f"{duration!r} is less than nothing, so it is no duration")
    return (duration.days * 86400 + duration.seconds) * 10**9 + duration.microseconds * 1000


def as_ns(moment: Moment, now_ns: int) -> int:
    """Return a time given as text or as an aware ``datetime`` in ns since the epoch, UTC.

    Raises:
        InvalidConfigError: the text is no time, or the ``datetime`` has no zone.
    """
    if isinstance(moment, str):
        return parse_time(moment, now_ns)
    if moment.tzinfo is None:
        raise InvalidConfigError(f"{moment!r} has no time zone, so it is no time")
    return _ns(moment)


def _parse(words: str, now_ns: int, zone: tzinfo) -> int | None:
    if words.lower() == "now":
        return now_ns
    if ago := _AGO.fullmatch(words):
        return _ago(int(ago[1]), ago[2].lower(), now_ns, zone)
    if day := _DAY.fullmatch(words):
        return _day(day, now_ns, zone)
    return _iso(words, zone) if words[:4].isdigit() and words.isascii() else None


def _to_come(words: str, now_ns: int, zone: tzinfo) -> int | None:
    if duration := _IN.fullmatch(words):
        return _ago(int(duration[1]), duration[2].lower(), now_ns, zone, back=-1)
    if day := _DAY_TO_COME.fullmatch(words):
        return _day(day, now_ns, zone)
    return _iso(words, zone) if words[:4].isdigit() and words.isascii() else None


def _ago(count: int, unit: str, now_ns: int, zone: tzinfo, back: int = 1) -> int | None:
    """Return the time so long ago; with ``back`` -1, the time in so long."""
    if count > _LARGEST_COUNT:
        return None
    unit = _UNITS.get(unit, unit.removesuffix("s"))
    elapsed = {"second": 1, "minute": 60, "hour": 3600}.get(unit)
    if elapsed is not None:
        return now_ns - back * count * elapsed * 10**9
    distance = relativedelta(**{f"{unit}s": back * count})  # type: ignore[arg-type]
    seconds, fraction = divmod(now_ns, 10**9)
    local = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
    return _ns(_in_zone(local.replace(tzinfo=None, fold=0) - distance, zone)) + fraction


def _day(found: re.Match[str], now_ns: int, zone: tzinfo) -> int:
    today = (_EPOCH + timedelta(seconds=now_ns // 10**9)).astimezone(zone)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    *before, name = found["day"].lower().split()
    if name in _WEEKDAYS and before != ["last"]:
        midnight += relativedelta(days=1, weekday=_WEEKDAYS[name](1))
    elif name in _WEEKDAYS:
        midnight += relativedelta(days=-1, weekday=_WEEKDAYS[name](-1))
    elif name == "yesterday":
        midnight -= timedelta(days=1)
    elif name == "tomorrow":
        midnight += timedelta(days=1)
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    return _ns(_in_zone(midnight.replace(hour=hour, minute=minute, second=second), zone))


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
    since = moment.astimezone(UTC) - _EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
