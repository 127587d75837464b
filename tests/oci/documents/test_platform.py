import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError
from msb_cache.oci.documents.platform import Platform, best_match, listed


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/armv7l", "linux/arm/v7"),
        ("linux/i686", "linux/386"),
        ("windows/amd64", "windows/amd64"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_normalising(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal
    assert Platform.parse(normal) == Platform.parse(text)


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/ärm", "linux/" + "a" * 200]
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidImageError, match="is not a platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("i686", "linux/386"),
    ],
)
def test_guests_of_this_machine_run_linux(
    monkeypatch: pytest.MonkeyPatch, machine: str, expected: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Darwin", "n", "r", "v", machine)))
    assert str(Platform.host()) == expected


@pytest.mark.parametrize(
    ("wanted", "offered", "position"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64/v9", ["linux/arm64", "linux/arm64/v9"], 1),
        ("linux/arm64/v9", ["linux/arm64"], 0),
        ("linux/arm64", ["linux/arm64/v9"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/amd64", ["linux/386"], None),
        ("linux/amd64", ["windows/amd64"], None),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", [], None),
    ],
)
def test_best_match(wanted: str, offered: list[str], position: int | None) -> None:
    assert best_match(Platform.parse(wanted), [Platform.parse(text) for text in offered]) == position


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_any_names_are_tolerated(os_name: str, architecture: str, variant: str) -> None:
    platform = Platform.of(os_name, architecture, variant)
    assert platform.compatible()[0] == platform
    assert len(platform.compatible()) <= 101


def test_lists_for_messages_are_short_and_safe() -> None:
    assert listed([]) == "no platform"
    assert listed([Platform("linux", "a\x1bb"), None]) == "linux/a\\x1bb"
    assert listed([Platform("linux", f"x{n}") for n in range(100)]).count(",") < 13
