"""Fields of tar headers and PAX records: read by the rule, or refused."""

import re
import tarfile
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.oci.layer.headers import BLOCK, TarProblem, number, parse_pax, pax_time
from tests.oci.layer.blocks import header, only, pax, record, refused


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"0000644\0", 0o644),
        (b"644 \0   ", 0o644),
        (b"   644 \0", 0o644),
        (b"\0\0\0\0", 0),
        (b"        ", 0),
        (b"7777777", 0o7777777),
        (b"12\0junk", 0o12),
        (b"\x80\0\0\0\0\0\0\x05", 5),
        (b"\xff" * 8, -1),
        (b"\xff" * 7 + b"\xfe", -2),
        (b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, (1 << 63) - 1),
    ],
)
def test_numbers(raw: bytes, value: int) -> None:
    assert number(raw, "x") == value


@pytest.mark.parametrize(
    "raw", [b"9", b"0x10", b"-1", b"1 2", b"abc\0", b"\xbf" + b"\xff" * 11, b"+1", b"1_0"]
)
def test_no_numbers(raw: bytes) -> None:
    with pytest.raises(TarProblem):
        number(raw, "size")


def number_by_the_rule(raw: bytes) -> int | None:
    """Octal digits between spaces and NULs, else what stands before the first NUL."""
    for text in (raw.strip(b" \0"), raw.partition(b"\0")[0].strip(b" ")):
        if re.fullmatch(rb"[0-7]+", text):
            return int(text, 8)
    return None if text else 0


@settings(max_examples=500)
@given(st.text(" \x00\x000011778_+-xo", min_size=8, max_size=12).map(str.encode))
def test_numbers_follow_the_rule(raw: bytes) -> None:
    expected = number_by_the_rule(raw)
    if expected is None:
        with pytest.raises(TarProblem, match="is not a number"):
            number(raw, "size")
    else:
        assert number(raw, "size") == expected


def time_by_the_rule(text: bytes) -> tuple[int, int] | None:
    match = re.fullmatch(rb"([-+]?[0-9]{1,19})(?:\.([0-9]*))?", text)
    if match is None or abs(int(match[1])) >= 1 << 63:
        return None
    digits = (match[2] or b"")[:9].decode()
    return divmod(int(Decimal(f"{match[1].decode()}.{digits}") * 10**9), 10**9)


@settings(max_examples=500)
@given(
    st.text("-..0199_+ ", max_size=24).map(str.encode)
    | st.decimals(-(10**12), 10**12, places=11).map(lambda value: f"{value:f}".encode())
)
def test_times_follow_the_rule(text: bytes) -> None:
    expected = time_by_the_rule(text)
    if expected is None:
        with pytest.raises(TarProblem, match="is not a number"):
            pax_time(text)
    else:
        assert pax_time(text) == expected


@given(st.integers(-(1 << 55), (1 << 55)), st.sampled_from([8, 12]))
def test_numbers_agree_with_tarfile(value: int, digits: int) -> None:
    assert number(bytes(tarfile.itn(value, digits, tarfile.GNU_FORMAT)), "x") == value


def test_owners_are_32_bits() -> None:
    assert only(header(at108=b"\xff" * 7 + b"\xfe")).uid == (1 << 32) - 2
    assert only(pax(uid=b"4294967295") + header()).uid == (1 << 32) - 1
    assert "impossible ID" in refused(pax(uid=b"4294967296") + header())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", (0, 0)),
        (b"1.5", (1, 500_000_000)),
        (b"-1.5", (-2, 500_000_000)),
        (b"-0.000000001", (-1, 999_999_999)),
        (b"1700000000.123456789999", (1_700_000_000, 123_456_789)),
        (b"7.", (7, 0)),
        (b"-3", (-3, 0)),
        (b"+5", (5, 0)),
        (b"+1.5", (1, 500_000_000)),
    ],
)
def test_times(text: bytes, value: tuple[int, int]) -> None:
    assert pax_time(text) == value


@pytest.mark.parametrize(
    "text", [b"", b"x", b"1e5", b"--1", b"+-1", b"+", b"++1", b".5", b"1.2.3", b"9" * 30, b" 1", "١".encode()]
)
def test_no_times(text: bytes) -> None:
    with pytest.raises(TarProblem):
        pax_time(text)


@pytest.mark.parametrize(
    "data",
    [
        b"5 a=\n"[:-1],
        b"x",
        b"0 a=b\n",
        b"99 a=b\n",
        b"6 a=b\nx",
        b"-6 a=b\n",
        b"6 ab\n\n",
        b"5 =b\n",
        b"6 a=bx",
        b"4 a\n",
        b"999999999999999999999999 a=b\n",
        b"+6 a=b\n",
        b"15 path=a\0bcde\n",
        b"2 ",
        b" a=b\n",
    ],
)
def test_damaged_records(data: bytes) -> None:
    with pytest.raises(TarProblem):
        parse_pax(data)


def test_records() -> None:
    data = record(b"a", b"b=\nc\0") + record(b"a", b"last") + record("ключ".encode(), b"\xff")
    assert parse_pax(data) == {b"a": b"last", "ключ".encode(): b"\xff"}
    assert only(pax(path=b"", uid=b"") + header(b"kept")).path == b"kept"
    assert only(pax(hdrcharset=b"BINARY", path=b"\xff\xfe") + header()).path == b"\xff\xfe"


def test_checksums() -> None:
    good = header(b"\xff" * 90)
    assert "checksum is wrong" in refused(bytes([good[0] ^ 1]) + good[1:])
    assert "checksum" in refused(b"\xff" * BLOCK)
    signed = bytearray(good)
    # Sun's tar summed signed bytes.
    signed[0:90] = b"\xff" * 3 + bytes(87)
    signed[148:156] = b" " * 8
    total = sum(byte - 256 if byte > 127 else byte for byte in signed)
    signed[148:156] = b"%06o\0 " % total
    assert only(bytes(signed)).path == b"\xff" * 3
