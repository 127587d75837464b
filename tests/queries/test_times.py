"""The grammar of times: tables for calendars and clocks, properties for round trips."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from dateutil import tz
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import InvalidConfigError
from msb_cache.cli import look, output
from msb_cache.queries.times import as_ns, parse_duration, parse_time

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
        "monday",
        "last month",
        "2 days",
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
    printed = output.rfc3339(time_ns)
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


@pytest.mark.parametrize(
    "text",
    ["", "days", "30", "30 days ago", "-1 day", "1.5 hours", "9999 years", "99999999999 days", "٣ days"],
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
