"""config.json: the home, the profiles, and what is refused."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest

from msb_cache.backends import (
    BackendKind,
    LocalBackend,
    default_backend,
)
from msb_cache.errors import InvalidConfigError
from msb_cache.msb.config import KINDS, home_from_environment


@pytest.mark.parametrize(
    "document",
    [
        "{nope",
        "",
        "[]",
        {"version": 2},
        {"home": 3},
        {"active_profile": ["x"]},
        {"profiles": []},
        {"profiles": {"a": {"backend": "mars"}}},
        {"profiles": {"a": {"backend": ["local"]}}},
        {"profiles": {"a": {}}},
        {"profiles": {"a": {"backend": "Local"}}},
        {"allowed_backends": []},
        {"allowed_backends": "local"},
        {"allowed_backends": [{}]},
        {"allowed_backends": ["cloud"]},
    ],
)
def test_a_config_that_cannot_be_followed_is_an_error(document: Any, config: Any) -> None:
    config(document)
    with pytest.raises(InvalidConfigError, match=r"config\.json"):
        default_backend()


def test_an_unreadable_config_is_an_error(own_home: Path) -> None:
    (own_home / "config.json").mkdir(parents=True)
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        default_backend()


def test_the_configuration_knows_each_kind() -> None:
    assert [*KINDS] == [*BackendKind]


def test_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Any, own_home: Path) -> None:
    assert Path(home_from_environment()) == own_home
    config({"home": "data"})
    assert Path(home_from_environment()) == own_home / "data"
    config({"home": str(tmp_path / "far")})
    assert Path(home_from_environment()) == tmp_path / "far" == LocalBackend().home
    monkeypatch.delenv("MSB_HOME")
    assert Path(home_from_environment()) == tmp_path / "home" / ".microsandbox"
    monkeypatch.setenv("MSB_HOME", "")
    assert Path(home_from_environment()) == tmp_path / "home" / ".microsandbox"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSB_HOME", "~/here")
    assert Path(home_from_environment()) == tmp_path / "~" / "here"


def test_no_home_directory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSB_HOME")

    monkeypatch.delenv("HOME", raising=False)

    def nobody(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(InvalidConfigError, match="set MSB_HOME"):
        default_backend()
