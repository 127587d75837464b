"""The grammar of times: tables for calendars and clocks, properties for round trips."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from datetime import time as dt_time

import pytest
from dateutil import tz
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import InvalidConfigError
from msb_cache.cli import look
from msb_cache.queries.times import as_ns, duration_ns, parse_duration, parse_time, until_ns
from msb_cache.shapes import rfc3339

BERLIN = tz.gettz("Europe/Berlin")
NEW_YORK = tz.gettz("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ns(text: str) -> int:
    since = datetime.fromisoformat(text) - EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


NOW = ns("2026-03-31T12:30:15+02:00")  # a Tuesday, two days after the clocks went forward


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-03-31T12:30:15+02:00"),
        ("today", "2026-03-31T00:00:00+02:00"),
        ("Today 9:05", "2026-03-31T09:05:00+02:00"),
        ("yesterday", "2026-03-30T00:00:00+02:00"),
        ("yesterday 23:59:59", "2026-03-30T23:59:59+02:00"),
        ("last monday", "2026-03-30T00:00:00+02:00"),
        ("last tuesday", "2026-03-24T00:00:00+01:00"),  # never today
        # A weekday is the latest one that has begun; today only with a time that has passed.
        ("tuesday", "2026-03-24T00:00:00+01:00"),
        ("tuesday 12:30:15", "2026-03-31T12:30:15+02:00"),
        ("tuesday 12:30:16", "2026-03-24T12:30:16+01:00"),
        ("Monday 23:00", "2026-03-30T23:00:00+02:00"),
        ("friday 20:00", "2026-03-27T20:00:00+01:00"),
        ("last friday 20:00", "2026-03-27T20:00:00+01:00"),
        ("last tuesday 09:00", "2026-03-24T09:00:00+01:00"),
        ("  last   Sunday  14:00 ", "2026-03-29T14:00:00+02:00"),
        ("last wednesday", "2026-03-25T00:00:00+01:00"),
        ("30 seconds ago", "2026-03-31T12:29:45+02:00"),
        ("90 minutes ago", "2026-03-31T11:00:15+02:00"),
        ("0 days ago", "2026-03-31T12:30:15+02:00"),
        ("1 day ago", "2026-03-30T12:30:15+02:00"),
        # Two days of the calendar are 47 hours here, 48 hours are 48 hours.
        ("3 days ago", "2026-03-28T12:30:15+01:00"),
        ("72 hours ago", "2026-03-28T11:30:15+01:00"),
        ("2 weeks ago", "2026-03-17T12:30:15+01:00"),
        ("30d", "2026-03-01T12:30:15+01:00"),
        ("720h", "2026-03-01T11:30:15+01:00"),
        ("2w ago", "2026-03-17T12:30:15+01:00"),
        ("2 weeks", "2026-03-17T12:30:15+01:00"),
        ("1h 10m", "2026-03-31T11:20:15+02:00"),
        ("1h10m ago", "2026-03-31T11:20:15+02:00"),
        ("2 Hrs 5 min 1sec", "2026-03-31T10:25:14+02:00"),
        # First the days on the calendar, then the hours that elapsed.
        ("2d 12h ago", "2026-03-28T23:30:15+01:00"),
        ("1 month 1 day ago", "2026-02-27T12:30:15+01:00"),
        # Months that are too short.
        ("1 month ago", "2026-02-28T12:30:15+01:00"),
        ("4 months ago", "2025-11-30T12:30:15+01:00"),
        ("25 months ago", "2024-02-29T12:30:15+01:00"),
        ("1 year ago", "2025-03-31T12:30:15+02:00"),
        # ISO 8601.
        ("2026", "2026-01-01T00:00:00+01:00"),
        ("2026-03", "2026-03-01T00:00:00+01:00"),
        ("2026-03-29", "2026-03-29T00:00:00+01:00"),
        ("20260329", "2026-03-29T00:00:00+01:00"),
        ("2026-W13-7", "2026-03-29T00:00:00+01:00"),
        ("2026-03-29T14", "2026-03-29T14:00:00+02:00"),
        ("2026-03-29 14:05", "2026-03-29T14:05:00+02:00"),
        ("2026-03-29T14:05:06", "2026-03-29T14:05:06+02:00"),
        ("2026-03-29T14:05:06Z", "2026-03-29T14:05:06+00:00"),
        ("2026-03-29 14:05:06 -0700", "2026-03-29T14:05:06-07:00"),
        ("2026-03-29T14:05:06,25+05:30", "2026-03-29T14:05:06.250000+05:30"),
        # A time that was skipped, and one that came twice.
        ("2026-03-29 02:30", "2026-03-29T03:30:00+02:00"),
        ("2025-10-26 02:30", "2025-10-26T02:30:00+02:00"),
        ("2025-10-26T02:30+01:00", "2025-10-26T02:30:00+01:00"),
    ],
)
def test_what_a_time_means(text: str, meant: str) -> None:
    assert parse_time(text, NOW, BERLIN) == ns(meant)


@pytest.mark.parametrize(
    ("now", "text", "meant"),
    [
        # In the hour that comes twice, a day ago is clear and elapsed time goes through it.
        ("2026-11-01T01:30:00-05:00", "1 hour ago", "2026-11-01T01:30:00-04:00"),
        ("2026-11-02T01:30:00-05:00", "1 day ago", "2026-11-01T01:30:00-04:00"),
        ("2026-03-09T02:30:00-04:00", "1 day ago", "2026-03-08T03:30:00-04:00"),
        ("2026-03-01T00:10:00-05:00", "1 month ago", "2026-02-01T00:10:00-05:00"),
        ("2024-02-29T08:00:00-05:00", "1 year ago", "2023-02-28T08:00:00-05:00"),
        ("2026-01-01T00:00:00-05:00", "yesterday", "2025-12-31T00:00:00-05:00"),
        ("2026-03-02T00:00:00-05:00", "last monday", "2026-02-23T00:00:00-05:00"),
    ],
)
def test_clock_changes_and_month_ends_elsewhere(now: str, text: str, meant: str) -> None:
    assert parse_time(text, ns(now), NEW_YORK) == ns(meant)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "tomorrow",
        "next monday",
        "last month",
        "last",
        "monday ago",
        "in 2 days",
        "10m 1h",
        "1h 2h",
        "1h 2 hours ago",
        "1h and 10m",
        "1h, 10m",
        "1hm",
        "2 mon",
        "1hrss",
        "two days ago",
        "-2 days ago",
        "1.5 hours ago",
        "99999999999 seconds ago",
        "9999 years ago",
        "yesterday 24:00",
        "yesterday 12",
        "yesterday 12:60",
        "12:00",
        "23.11.2026",
        "11/23/2026",
        "2026-02-30",
        "2026-13-01",
        "2026-11-23x14:00",
        "2026-11-23T25:00",
        "2026-11-23T14:00+25:00",
        "2026-11-23T14:00:00.1234567890Z",
        "202",
        "٢٠٢٦-11-23",
        "@12",
        "2026-11-23\x00",
        "2026-11-23T" + "0" * 100,
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="is no time; write"):
        parse_time(text, NOW, BERLIN)


@given(st.text(max_size=70))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(InvalidConfigError):
        parse_time(text, NOW, BERLIN)


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_what_json_prints_means_the_same_to_the_nanosecond(time_ns: int) -> None:
    printed = rfc3339(time_ns)
    assert printed is not None
    assert parse_time(printed, NOW) == time_ns


@given(st.integers(0, 4_000_000_000))
def test_what_tables_print_means_the_same_second(seconds: int) -> None:
    assert parse_time(look.absolute(seconds * 10**9), NOW) == seconds * 10**9


@given(st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1), timezones=st.just(BERLIN)))
def test_an_aware_datetime_is_taken_as_it_is(moment: datetime) -> None:
    assert as_ns(moment, NOW) == ns(moment.astimezone(UTC).isoformat())
    with pytest.raises(InvalidConfigError, match="no time zone"):
        as_ns(moment.replace(tzinfo=None), NOW)


@given(count=st.integers(0, 10**6), unit=st.sampled_from(["second", "minute", "hour"]))
def test_elapsed_time_is_exact(count: int, unit: str) -> None:
    step = timedelta(**{f"{unit}s": count}) // timedelta(seconds=1)
    assert parse_time(f"{count} {unit}s ago", NOW + 7, BERLIN) == NOW + 7 - step * 10**9


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("0 seconds", "2026-03-31T12:30:15+02:00"),
        ("12 hours", "2026-03-31T00:30:15+02:00"),
        (" 36HOURS ", "2026-03-30T00:30:15+02:00"),
        ("3 days", "2026-03-28T12:30:15+01:00"),
        ("1d12h", "2026-03-30T00:30:15+02:00"),
        ("90 mins", "2026-03-31T11:00:15+02:00"),
        ("1 month", "2026-02-28T12:30:15+01:00"),
        ("1 year", "2025-03-31T12:30:15+02:00"),
    ],
)
def test_what_a_duration_means(text: str, since: str) -> None:
    assert parse_duration(text, NOW, BERLIN) == NOW - ns(since)


@given(
    count=st.integers(0, 200),
    unit=st.sampled_from(["second", "minute", "hour", "day", "week", "month", "year"]),
    now_ns=st.integers(0, 4_000_000_000 * 10**9),
)
def test_a_duration_is_what_ago_goes_back(count: int, unit: str, now_ns: int) -> None:
    assert parse_time(f"{count} {unit}s ago", now_ns, BERLIN) == now_ns - parse_duration(
        f"{count} {unit}", now_ns, BERLIN
    )


_UNITS = ("year", "month", "week", "day", "hour", "minute", "second")
_SPELLINGS = {"hour": ("h", "hr", "hrs"), "minute": ("m", "min", "mins"), "second": ("s", "sec", "secs")}
_SPELLINGS |= {"week": ("w",), "day": ("d",), "month": (), "year": ()}


@given(
    counts=st.dictionaries(st.sampled_from(_UNITS), st.integers(0, 40), min_size=1),
    now_ns=st.integers(10**18, 4 * 10**18),
    data=st.data(),
)
def test_parts_and_spellings_mean_the_calendar_first_and_then_what_elapsed(
    counts: dict[str, int], now_ns: int, data: st.DataObject
) -> None:
    units = [unit for unit in _UNITS if unit in counts]
    written = [
        f"{counts[unit]}{data.draw(st.sampled_from(['', ' ', '  ']))}"
        f"{data.draw(st.sampled_from([unit, f'{unit}s', *_SPELLINGS[unit]]))}"
        for unit in units
    ]
    text = data.draw(st.sampled_from(["", " "])).join(written)
    calendar = relativedelta(**{f"{unit}s": counts[unit] for unit in units if unit in _UNITS[:4]})  # type: ignore[arg-type]
    elapsed = timedelta(**{f"{unit}s": counts[unit] for unit in units if unit in _UNITS[4:]})
    seconds, fraction = divmod(now_ns, 10**9)
    then = EPOCH + timedelta(seconds=seconds) - calendar - elapsed  # in UTC no clock changes
    assert parse_time(text, now_ns, UTC) == ns(then.isoformat()) + fraction
    assert parse_duration(text.upper(), now_ns, UTC) == now_ns - parse_time(f"{text} ago", now_ns, UTC)
    if len(units) > 1 and len({counts[unit] for unit in units}) > 1:
        with pytest.raises(InvalidConfigError):
            parse_duration(" ".join(reversed(written)), now_ns, UTC)


@given(
    weekday=st.integers(0, 6),
    clock=st.none() | st.times(),
    now=st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)),
)
def test_a_weekday_is_the_latest_that_has_begun_and_the_first_after_today(
    weekday: int, clock: dt_time | None, now: datetime
) -> None:
    name = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")[weekday]
    text = name if clock is None else f"{name} {clock:%H:%M:%S}"
    now_ns = ns(f"{now.isoformat()}+00:00")
    past, to_come = parse_time(text, now_ns, UTC), until_ns(text, now_ns, UTC)
    assert parse_time(f"last {text}", now_ns, UTC) <= past <= now_ns < to_come
    week = 7 * 86400 * 10**9
    assert now_ns - past < week + 86400 * 10**9
    assert to_come - now_ns < week + 86400 * 10**9
    for found in (past, to_come):
        day = EPOCH + timedelta(seconds=found // 10**9)
        assert day.weekday() == weekday
        assert day.time() == (clock or dt_time()).replace(microsecond=0)
    if clock is not None:
        assert now_ns - past < week  # today counts with a time that has passed


def test_a_timedelta_is_a_duration_so_long_ago_and_in_so_long() -> None:
    for length in ("90 min", "1h 30m", timedelta(minutes=90)):
        assert duration_ns(length, NOW) == 5400 * 10**9
    assert as_ns(timedelta(minutes=90), NOW) == NOW - 5400 * 10**9
    assert until_ns(timedelta(minutes=90), NOW) == NOW + 5400 * 10**9
    assert until_ns(timedelta.max, NOW) == 2**63 - 1
    with pytest.raises(InvalidConfigError, match="less than nothing"):
        duration_ns(timedelta(seconds=-1), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "days",
        "30",
        "12h 1d",
        "1d 1d",
        "1d 30",
        "friday",
        "30 days ago",
        "-1 day",
        "1.5 hours",
        "9999 years",
        "99999999999 days",
        "٣ days",
    ],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="is no duration; write"):
        parse_duration(text, NOW, BERLIN)


def test_the_local_zone_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for zone, offset in (("Asia/Tokyo", "+09:00"), ("America/New_York", "-05:00")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert parse_time("2026-11-23 14:00", NOW) == ns(f"2026-11-23T14:00:00{offset}")
            assert look.absolute(NOW)[-5:] != "+0000"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_64_bits_cannot_hold_is_the_last_that_they_can() -> None:
    assert parse_time("2999-01-01", NOW) == parse_time("9999-12-31T23:59", NOW) == 2**63 - 1
    assert parse_time("1500-01-01", NOW) == 1 - 2**63
