"""microsandbox's ``config.json``: where the home is, and the profiles that backends are made of.

Every command that is not told a home reads it, so here is nothing else; what it means is for ``backends``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from msb_cache.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS: tuple[object, ...] = ("local", "cloud")
"""The kinds of backend; ``backends`` enumerates them, which costs a command that only asks for the home."""


class Config:
    """The few parts of ``config.json`` that decide about backends and the home.

    Raises:
        InvalidConfigError: one of them makes no sense.
    """

    __slots__ = ("active_profile", "allowed", "home", "path", "profiles")

    def __init__(self, path: str, document: Mapping[str, Any]) -> None:
        self.path = path
        self.home = self.text(document, "home") or ""
        self.active_profile = (self.text(document, "active_profile") or "").strip()
        allowed = document.get("allowed_backends")
        if allowed is not None and (
            not isinstance(allowed, list) or any(kind not in KINDS for kind in allowed)
        ):
            raise self.bad("allowed_backends must be a list of 'local' and 'cloud'")
        if allowed == []:
            raise self.bad("allowed_backends must not be empty")
        self.allowed: list[str] | None = allowed
        profiles = document.get("profiles")
        if profiles is None:
            profiles = {}
        if not isinstance(profiles, dict):
            raise self.bad("profiles must be an object")
        for name, profile in profiles.items():
            if not isinstance(profile, dict) or profile.get("backend") not in KINDS:
                raise self.bad(f"profile {name!r} needs a backend that is 'local' or 'cloud'")
        self.profiles: dict[str, dict[str, Any]] = profiles

    @property
    def local_home(self) -> str:
        """The home of the local backend; a relative one starts from the file's directory."""
        return os.path.join(os.path.dirname(self.path), self.home)

    def text(self, document: Mapping[str, Any], key: str) -> str | None:
        """Return a text of the document or of a part of it; None if it is not there."""
        value = document.get(key)
        if value is not None and not isinstance(value, str):
            raise self.bad(f"{key} must be a string")
        return value

    def bad(self, what: str) -> InvalidConfigError:
        """Return the error that this file is wrong."""
        return InvalidConfigError(f"{self.path}: {what}")


def home_from_environment() -> str:
    """Return the home that the environment names, as ``msb`` reads it.

    That is ``MSB_HOME``, else ``~/.microsandbox``; a ``home`` in that directory's ``config.json``
    leads elsewhere, a relative one starting from that directory. ``~`` is an ordinary character in both.
    It is text, because every command that is not told a home asks for it, and most need no more.
    """
    return os.path.abspath(read_config().local_home)


def read_config() -> Config:
    """Return what the environment's ``config.json`` says; one that is not there says nothing."""
    path = os.path.join(_directory(), "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Config(path, {})
    except OSError as error:
        raise InvalidConfigError(f"{path} cannot be read: {error.strerror}") from error
    import json

    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("version", 1) != 1:
        raise InvalidConfigError(f"{path} must hold a JSON object of version 1")
    return Config(path, document)


def _directory() -> str:
    home = os.environ.get("MSB_HOME")
    if home:
        return _from_here(home)
    own = os.path.expanduser("~")
    if own.startswith("~"):
        raise InvalidConfigError("this account has no home directory: set MSB_HOME")
    return os.path.join(_from_here(own), ".microsandbox")


def _from_here(path: str) -> str:
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
