"""Failures of registries: what they say, without secrets, and how long is waited."""

from __future__ import annotations

import email.utils
import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.registry.errors import Backoff, TransientError, error_detail, is_html, retry_after
from msb_cache.oci.registry.options import RegistryOptions


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"errors": [{"code": "DENIED", "message": "not for you"}, {"code": "X"}]}, "DENIED: not for you"),
        ({"errors": [{"code": "DENIED"}], "message": "m"}, "DENIED"),
        ({"errors": [], "message": "m"}, "m"),
        ({"details": "a\n  b\tc"}, "a b c"),
        ({"error_description": "expired"}, "expired"),
        (
            {"message": "at https://user:pw@store.example/blob?sig=secret, it says"},
            "at https://store.example it says",
        ),
        ({"message": 5}, ""),
        ([], ""),
    ],
)
def test_one_line_without_signatures(body: object, says: str) -> None:
    assert error_detail(json.dumps(body).encode()) == says


@given(st.binary(max_size=60) | st.just(b"[" * 100_000))
def test_no_body_is_more_than_said_or_not(body: bytes) -> None:
    assert "\n" not in error_detail(body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("x", None),
        ("-1", None),
        ("9" * 70, None),
        ("٧", None),
    ],
)
def test_seconds_to_wait(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_a_date_to_wait_for() -> None:
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    later = retry_after(email.utils.formatdate(time.time() + 10_000, usegmt=True))
    assert later is not None
    assert later > 9_000


def test_a_page_is_known_by_its_type() -> None:
    assert is_html("Text/HTML; charset=utf-8")
    assert not is_html("application/json")


class TestBackoff:
    OPTIONS = RegistryOptions(retries=3, backoff=1.0, longest_wait=3.0)

    def test_waits_double_up_to_a_limit_and_end(self) -> None:
        backoff = Backoff(self.OPTIONS, threading.Event())
        delays = [backoff.delay(TransientError("busy")) for _ in range(3)]
        for delay, longest in zip(delays, (1.0, 2.0, 3.0), strict=True):
            assert longest / 2 <= delay <= longest
        with pytest.raises(ImagePullFailedError, match=r"^busy$"):
            backoff.delay(TransientError("busy"))
        backoff.reset()
        assert backoff.delay(TransientError("busy")) <= 1.0

    def test_a_registry_may_ask_for_patience_within_bounds(self) -> None:
        backoff = Backoff(self.OPTIONS, threading.Event())
        assert backoff.delay(TransientError("busy", 2.5)) == 2.5
        with pytest.raises(ImagePullFailedError, match="busy, in 4 seconds"):
            backoff.delay(TransientError("busy", 4.0))

    def test_a_wait_ends_when_the_registry_is_closed(self) -> None:
        stop = threading.Event()
        stop.set()
        with pytest.raises(ImagePullFailedError, match="stopped"):
            Backoff(self.OPTIONS, stop).sleep(3600)
