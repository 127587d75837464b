"""Amounts and digests as people read them."""

from __future__ import annotations

import subprocess

import pytest

from msb_cache.wording import plural, quoted, short, short_log_id, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (92_160, "90.0 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3 // 2, "2.5 GiB"),
        (1024**4, "1.0 TiB"),
        (2048 * 1024**4, "2048.0 TiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


def test_digests_have_twelve_digits() -> None:
    assert short("sha256:" + "0123456789ab" + "c" * 52) == "sha256:0123456789ab"
    assert short(None) == "-"


def test_so_have_ids_of_logs() -> None:
    assert short_log_id("0123456789ab" + "c" * 20) == "0123456789ab"


def test_counts_have_their_nouns() -> None:
    assert [plural(count, "layer") for count in (0, 1, 2, 1234)] == [
        "0 layers",
        "1 layer",
        "2 layers",
        "1,234 layers",
    ]
    assert (plural(1, "entry", "entries"), plural(2, "entry", "entries")) == ("1 entry", "2 entries")


@pytest.mark.parametrize("word", ["plain", "two words", "it's", "\x1b[31m\n\u202e", "\\'\u202e", "é\u202eé"])
def test_what_a_shell_reads_is_what_it_was(word: str) -> None:
    assert quoted(word).isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True).stdout
    assert said.decode() == word
