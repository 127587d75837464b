"""Which cache the ambient calls mean: a local home, or the cloud, which has no image cache.

Selection follows microsandbox's SDKs and its ``config.json``: a task-local scope, else what
:func:`set_default_backend` installed, else ``MSB_BACKEND``, ``MSB_PROFILE`` and ``active_profile``,
resolved once. Whatever names the cloud and cannot be completed is an error, never the local cache.
Nothing here opens a cache or talks to a network.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from msb_cache.errors import InvalidConfigError
from msb_cache.msb.config import Config, home_from_environment, read_config

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

DEFAULT_API_URL = "https://api.microsandbox.dev"


class BackendKind(StrEnum):
    """The two kinds of backend; the plain strings work as well."""

    LOCAL = "local"
    CLOUD = "cloud"


class LocalBackend:
    """The image cache under a directory of this machine."""

    __slots__ = ("_home",)

    kind: ClassVar[BackendKind] = BackendKind.LOCAL

    def __init__(self, *, home: str | os.PathLike[str] | None = None) -> None:
        """Take the cache under *home*, or under the environment's home when None.

        Nothing is created or opened. A relative path is taken from the current directory, now.
        """
        self._home = _absolute(home_from_environment() if home is None else home)

    @staticmethod
    def builder() -> LocalBackendBuilder:
        """Return a builder: ``await LocalBackend.builder().home(path).build()``."""
        return LocalBackendBuilder()

    @property
    def home(self) -> Path:
        """The absolute path that holds ``cache/`` and ``db/``."""
        return self._home

    def __repr__(self) -> str:
        return f"LocalBackend(home={str(self._home)!r})"

    def __eq__(self, other: object) -> bool:
        return self._home == other._home if isinstance(other, LocalBackend) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._home)


class LocalBackendBuilder:
    """Collects the settings of a :class:`LocalBackend`; each setter returns the builder."""

    __slots__ = ("_home",)

    def __init__(self) -> None:
        self._home: str | os.PathLike[str] | None = None

    def home(self, path: str | os.PathLike[str]) -> Self:
        """Use the cache under *path* instead of the environment's home."""
        self._home = path
        return self

    async def build(self) -> LocalBackend:
        """Return the backend."""
        return LocalBackend(home=self._home)


class CloudBackend:
    """microsandbox cloud. It has no image cache: the ambient calls answer *unsupported* under it."""

    __slots__ = ("_api_key", "_url")

    kind: ClassVar[BackendKind] = BackendKind.CLOUD

    def __init__(self, *, url: str | None = None, api_key: str) -> None:
        """Take the control plane at *url* (http or https; the public one when None or blank).

        Raises :class:`~msb_cache.errors.InvalidConfigError` for a blank key or a URL that cannot be one.
        """
        if not isinstance(api_key, str) or not api_key.strip():
            raise InvalidConfigError("the cloud backend needs an API key that is not empty: pass api_key=…")
        self._api_key = api_key.strip()
        self._url = _checked_url(url)

    @property
    def url(self) -> str:
        """The control plane's address, without a trailing slash."""
        return self._url

    @property
    def api_key(self) -> str:
        """The secret key; never part of ``repr``."""
        return self._api_key

    def __repr__(self) -> str:
        return f"CloudBackend(url={self._url!r}, api_key=***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudBackend):
            return NotImplemented
        return (self._url, self._api_key) == (other._url, other._api_key)

    def __hash__(self) -> int:
        return hash((self._url, self._api_key))


Backend = LocalBackend | CloudBackend


class BackendInfo(NamedTuple):
    """What the default backend is and what chose it, without secrets.

    ``source`` is ``programmatic`` (a scope or :func:`set_default_backend`), ``profile`` (the same, with a
    profile's name), ``MSB_BACKEND``, ``MSB_PROFILE``, ``active_profile`` or ``default``. ``profile`` is the
    one it was made of, ``api_url`` the cloud's address.
    """

    kind: BackendKind
    source: str
    profile: str | None
    api_url: str | None


class _Selected(NamedTuple):
    """A backend and what chose it."""

    backend: Backend
    source: str = "programmatic"
    profile: str | None = None


class BackendScope:
    """Makes a backend the default inside a ``with`` or ``async with`` block, for this task only.

    Tasks started inside the block inherit it; other tasks and threads do not see it. Scopes nest,
    and one scope may be entered again.
    """

    __slots__ = ("_selected",)

    def __init__(self, selected: _Selected) -> None:
        self._selected = selected

    def __enter__(self) -> Self:
        # A stack and no token: one scope object may be entered by several tasks at the same time.
        _scoped.set((*_scoped.get(), self._selected))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _scoped.set(_scoped.get()[:-1])

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)


def with_backend(backend: Backend) -> BackendScope:
    """Return a scope in which *backend* is the default: ``with with_backend(b): …``."""
    if not isinstance(backend, LocalBackend | CloudBackend):
        raise TypeError(f"expected a LocalBackend or a CloudBackend, got {type(backend).__name__}")
    return BackendScope(_Selected(backend))


def backend_scope(
    kind: str, *, url: str | None = None, api_key: str | None = None, profile: str | None = None
) -> BackendScope:
    """Return a scope like :func:`with_backend`, with the arguments of :func:`set_default_backend`."""
    return BackendScope(_programmatic(kind, url, api_key, profile))


def set_default_backend(
    backend: Backend | str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    profile: str | None = None,
) -> None:
    """Make *backend* the default of this process, whatever its environment says.

    *backend* is a backend, or ``"local"``, or ``"cloud"`` together with an ``api_key`` (and perhaps a
    ``url``) or the name of a cloud ``profile`` in ``config.json``. With ``"local"`` the other
    arguments mean nothing, as in microsandbox's SDK.

    Raises :class:`~msb_cache.errors.InvalidConfigError`, and leaves the default as it was, when the
    selection is incomplete or ``config.json`` does not allow it.
    """
    global _installed
    if isinstance(backend, str):
        _installed = _programmatic(backend, url, api_key, profile)
        return
    if not isinstance(backend, LocalBackend | CloudBackend):
        raise TypeError(f"expected a backend or 'local' or 'cloud', got {type(backend).__name__}")
    if (url, api_key, profile) != (None, None, None):
        raise TypeError("url, api_key and profile go with a kind, not with a finished backend")
    _installed = _Selected(backend)


def default_backend() -> Backend:
    """Return the backend that an ambient call would use here and now.

    Raises :class:`~msb_cache.errors.InvalidConfigError` when the environment selects one that cannot
    be completed; the environment is read once, so the same error comes again until
    :func:`set_default_backend` is called.
    """
    return _selected().backend


def default_backend_kind() -> BackendKind:
    """Return whether :func:`default_backend` is local or the cloud."""
    return default_backend().kind


def default_backend_info() -> BackendInfo:
    """Return what :func:`default_backend` is and what chose it; errors as there."""
    backend, source, profile = _selected()
    return BackendInfo(
        backend.kind, source, profile, backend.url if isinstance(backend, CloudBackend) else None
    )


# --- resolution ---------------------------------------------------------------------------------

_scoped: ContextVar[tuple[_Selected, ...]] = ContextVar("msb_cache_backend", default=())
_installed: _Selected | None = None
_resolved: _Selected | InvalidConfigError | None = None
_resolving = Lock()


class _IncompleteSelectionError(InvalidConfigError, ValueError):
    """Also a ValueError: that is what microsandbox's SDK raises for these arguments."""


def _selected() -> _Selected:
    scopes = _scoped.get()
    return scopes[-1] if scopes else _installed or _from_environment_once()


def _from_environment_once() -> _Selected:
    global _resolved
    with _resolving:
        if _resolved is None:
            try:
                _resolved = _from_environment()
            except InvalidConfigError as error:
                _resolved = error
        if isinstance(_resolved, InvalidConfigError):
            raise InvalidConfigError(str(_resolved))
        return _resolved


def _from_environment() -> _Selected:
    config = read_config()
    forced = os.environ.get("MSB_BACKEND")
    named = os.environ.get("MSB_PROFILE", "").strip()
    profile = named or config.active_profile
    if forced is not None:
        selected = _forced(forced, profile, config)
    elif profile:
        source = "MSB_PROFILE" if named else "active_profile"
        selected = _Selected(_of_profile(config, profile), source, profile)
    else:
        selected = _Selected(LocalBackend(home=config.local_home), "default")
    _check_allowed(config, selected.backend, selected.source)
    return selected


def _forced(value: str, profile: str, config: Config) -> _Selected:
    kind = value.strip().lower()
    if kind == BackendKind.LOCAL:
        return _Selected(LocalBackend(home=config.local_home), "MSB_BACKEND")
    if kind != BackendKind.CLOUD:
        raise InvalidConfigError(f"MSB_BACKEND must be 'local' or 'cloud', not {value!r}")
    key = os.environ.get("MSB_API_KEY", "")
    if key.strip():
        return _Selected(CloudBackend(url=os.environ.get("MSB_API_URL"), api_key=key), "MSB_BACKEND")
    if not profile:
        raise InvalidConfigError("MSB_BACKEND=cloud needs MSB_API_KEY or a cloud profile in MSB_PROFILE")
    backend = _of_profile(config, profile)
    if backend.kind != BackendKind.CLOUD:
        raise InvalidConfigError(f"MSB_BACKEND=cloud cannot use the local profile {profile!r}")
    return _Selected(backend, "MSB_BACKEND", profile)


def _programmatic(kind: str, url: str | None, api_key: str | None, profile: str | None) -> _Selected:
    config = read_config()
    backend: Backend
    named = None
    if kind == BackendKind.LOCAL:
        backend = LocalBackend(home=config.local_home)
    elif kind != BackendKind.CLOUD:
        raise _IncompleteSelectionError(f"a backend is 'local' or 'cloud', not {kind!r}")
    elif profile is not None:
        backend, named = _of_profile(config, profile), profile
        if backend.kind != BackendKind.CLOUD:
            raise InvalidConfigError(f"profile {profile!r} in {config.path} is not a cloud profile")
    elif api_key is not None:
        backend = CloudBackend(url=url, api_key=api_key)
    else:
        raise _IncompleteSelectionError("the cloud backend needs an api_key or a profile")
    _check_allowed(config, backend, "the program")
    return _Selected(backend, "profile" if named else "programmatic", named)


def _of_profile(config: Config, name: str) -> Backend:
    profile = config.profiles.get(name)
    if profile is None:
        raise InvalidConfigError(
            f"backend profile {name!r} is not in {config.path}: add it or choose another"
        )
    if profile["backend"] == BackendKind.LOCAL:
        return LocalBackend(home=config.local_home)
    url = config.text(profile, "url")
    return CloudBackend(url=url, api_key=_api_key(config, name, config.text(profile, "api_key_ref")))


def _api_key(config: Config, name: str, reference: str | None) -> str:
    scheme, separator, value = (reference or "").partition(":")
    if not separator or scheme not in {"env", "inline", "keyring"}:
        # The text after an unknown scheme may be a key that someone pasted: it is not shown.
        raise config.bad(f"profile {name!r} needs an api_key_ref of the form env:VARIABLE or inline:KEY")
    if scheme == "keyring":
        raise config.bad(f"profile {name!r}: keyring keys cannot be read here, use env:VARIABLE")
    key = os.environ.get(value, "") if scheme == "env" else value
    if not key.strip():
        empty = f"the environment variable {value!r} is not set" if scheme == "env" else "inline: has no key"
        raise config.bad(f"profile {name!r}: {empty}")
    return key


def _check_allowed(config: Config, backend: Backend, source: str) -> None:
    if config.allowed is not None and backend.kind not in config.allowed:
        raise InvalidConfigError(
            f"the {backend.kind} backend selected by {source} is not among the allowed_backends "
            f"({', '.join(config.allowed)}) of {config.path}"
        )


def _absolute(path: str | os.PathLike[str]) -> Path:
    from pathlib import Path

    text = os.fspath(path)
    if not text:
        raise InvalidConfigError("the home must not be an empty path")
    return Path(text).absolute()


def _checked_url(url: str | None) -> str:
    text = (url or "").strip().rstrip("/")
    if not text:
        return DEFAULT_API_URL
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    # The address itself stays out of the message: a URL with a password in it is one of the mistakes.
    if not good or not text.isprintable() or " " in text:
        raise InvalidConfigError(
            "the cloud URL must be an http or https address such as https://host:port/path"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidConfigError("the cloud URL must hold no user name, password, query or fragment")
    return text
