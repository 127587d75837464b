"""Where a user's own files lie, whatever the environment says."""

from __future__ import annotations

import pytest

from msb_cache.queries.user_folder import user_folder


@pytest.mark.parametrize(
    ("config", "home", "expected"),
    [
        (None, "/home/ada", "/home/ada/.config/msb-cache"),
        ("", "/home/ada", "/home/ada/.config/msb-cache"),
        ("/etc/xdg", "/home/ada", "/etc/xdg/msb-cache"),
        ("relative", "/home/ada", "/home/ada/.config/msb-cache"),
        ("~/there", "/home/ada", "/home/ada/.config/msb-cache"),
    ],
)
def test_the_folder(config: str | None, home: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if config is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", config)
    assert user_folder() == expected
