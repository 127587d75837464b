"""Which backend the ambient calls mean; the expected results were read off microsandbox 0.7.11."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache.backends import (
    DEFAULT_API_URL,
    BackendKind,
    CloudBackend,
    LocalBackend,
    backend_scope,
    default_backend,
    default_backend_info,
    default_backend_kind,
    set_default_backend,
    with_backend,
)
from msb_cache.errors import InvalidConfigError

PROFILES: dict[str, Any] = {
    "by-env": {"backend": "cloud", "api_key_ref": "env:MY_KEY"},
    "inline": {"backend": "cloud", "api_key_ref": "inline:abc", "url": "https://y.example"},
    "local-one": {"backend": "local"},
    "no-key": {"backend": "cloud"},
    "keyring": {"backend": "cloud", "api_key_ref": "keyring:service:name"},
    "pasted": {"backend": "cloud", "api_key_ref": "msb_secret"},
    "empty": {"backend": "cloud", "api_key_ref": "inline:"},
}


def describe(backend: LocalBackend | CloudBackend, home: Path) -> str:
    if isinstance(backend, LocalBackend):
        assert backend.home == home
        return "local"
    return f"cloud {backend.url}"


@pytest.fixture
def select(
    config: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str], str | None], None]:
    """Return a function that sets the environment, and the active profile of ``config.json``."""

    def set_both(environment: dict[str, str], active: str | None) -> None:
        config({"active_profile": active, "profiles": PROFILES})
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_both


@pytest.mark.parametrize(
    ("environment", "active", "expected"),
    [
        ({}, None, "local"),
        ({"MSB_BACKEND": "local"}, None, "local"),
        ({"MSB_BACKEND": "LOCAL"}, None, "local"),
        ({"MSB_BACKEND": " local "}, None, "local"),
        ({"MSB_API_URL": "https://x.example"}, None, "local"),
        ({"MSB_API_URL": "foo"}, None, "local"),
        ({"MSB_API_KEY": "k"}, None, "local"),
        ({"MSB_API_URL": "https://x.example", "MSB_API_KEY": "k"}, None, "local"),
        ({"MSB_BACKEND": "cloud", "MSB_API_KEY": "k"}, None, f"cloud {DEFAULT_API_URL}"),
        ({"MSB_BACKEND": "Cloud", "MSB_API_KEY": "k", "MSB_API_URL": " "}, None, f"cloud {DEFAULT_API_URL}"),
        (
            {"MSB_BACKEND": "cloud", "MSB_API_KEY": "k", "MSB_API_URL": " https://x.example/ "},
            None,
            "cloud https://x.example",
        ),
        ({"MSB_PROFILE": ""}, None, "local"),
        ({"MSB_PROFILE": "  "}, None, "local"),
        ({"MSB_PROFILE": " local-one "}, "inline", "local"),
        ({"MSB_PROFILE": "inline"}, None, "cloud https://y.example"),
        # Only MSB_BACKEND=cloud looks at MSB_API_URL and MSB_API_KEY; a profile has its own.
        (
            {"MSB_PROFILE": "inline", "MSB_API_URL": "https://x", "MSB_API_KEY": "k"},
            None,
            "cloud https://y.example",
        ),
        ({"MSB_PROFILE": "by-env", "MY_KEY": "k"}, None, f"cloud {DEFAULT_API_URL}"),
        ({}, "inline", "cloud https://y.example"),
        ({}, "", "local"),
        ({"MSB_PROFILE": ""}, "inline", "cloud https://y.example"),
        ({"MSB_BACKEND": "local"}, "inline", "local"),
        ({"MSB_BACKEND": "local", "MSB_PROFILE": "nowhere"}, None, "local"),
        ({"MSB_BACKEND": "cloud"}, "inline", "cloud https://y.example"),
        ({"MSB_BACKEND": "cloud", "MSB_PROFILE": "inline"}, "local-one", "cloud https://y.example"),
        ({"MSB_BACKEND": "cloud", "MSB_API_KEY": "k"}, "local-one", f"cloud {DEFAULT_API_URL}"),
        (
            {"MSB_BACKEND": "cloud", "MSB_API_KEY": "k", "MSB_PROFILE": "nowhere"},
            None,
            f"cloud {DEFAULT_API_URL}",
        ),
    ],
)
def test_environment_selects(
    environment: dict[str, str],
    active: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    config: Any,
    own_home: Path,
) -> None:
    config({"active_profile": active, "profiles": PROFILES, "something": "else"})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert describe(default_backend(), own_home) == expected
    assert default_backend_kind() == expected.split()[0]


@pytest.mark.parametrize(
    ("environment", "active", "message"),
    [
        ({"MSB_BACKEND": "cloud"}, None, "MSB_BACKEND=cloud needs MSB_API_KEY"),
        ({"MSB_BACKEND": "cloud", "MSB_API_KEY": " "}, None, "MSB_BACKEND=cloud needs MSB_API_KEY"),
        ({"MSB_BACKEND": "cloud", "MSB_API_URL": "https://x"}, None, "MSB_BACKEND=cloud needs MSB_API_KEY"),
        ({"MSB_BACKEND": "mars"}, None, "must be 'local' or 'cloud', not 'mars'"),
        ({"MSB_BACKEND": ""}, None, "must be 'local' or 'cloud', not ''"),
        ({"MSB_BACKEND": "cloud"}, "local-one", "cannot use the local profile 'local-one'"),
        ({"MSB_BACKEND": "cloud", "MSB_PROFILE": "nowhere"}, None, "'nowhere' is not in"),
        ({"MSB_PROFILE": "nowhere"}, None, "'nowhere' is not in"),
        ({"MSB_PROFILE": "local"}, None, "'local' is not in"),
        ({}, "nowhere", "'nowhere' is not in"),
        ({"MSB_PROFILE": "by-env"}, None, "environment variable 'MY_KEY' is not set"),
        ({"MSB_PROFILE": "by-env", "MSB_API_KEY": "k"}, None, "environment variable 'MY_KEY' is not set"),
        ({"MSB_PROFILE": "by-env", "MY_KEY": ""}, None, "environment variable 'MY_KEY' is not set"),
        ({"MSB_PROFILE": "no-key", "MSB_API_KEY": "k"}, None, "needs an api_key_ref"),
        ({"MSB_PROFILE": "keyring"}, None, "keyring keys cannot be read here"),
        ({"MSB_PROFILE": "pasted"}, None, "needs an api_key_ref"),
        ({"MSB_PROFILE": "empty"}, None, "inline: has no key"),
        ({"MSB_BACKEND": "cloud", "MSB_API_KEY": "k", "MSB_API_URL": "ftp://x"}, None, "http or https"),
    ],
)
def test_an_incomplete_selection_never_falls_back(
    environment: dict[str, str],
    active: str | None,
    message: str,
    select: Callable[[dict[str, str], str | None], None],
) -> None:
    select(environment, active)
    with pytest.raises(InvalidConfigError, match="(?s)" + message) as caught:
        default_backend()
    assert "msb_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "active", "expected"),
    [
        ({}, None, ("local", "default", None, None)),
        ({"MSB_API_KEY": "k"}, None, ("local", "default", None, None)),
        ({}, "local-one", ("local", "active_profile", "local-one", None)),
        ({"MSB_BACKEND": "local"}, "inline", ("local", "MSB_BACKEND", None, None)),
        ({"MSB_PROFILE": "inline"}, None, ("cloud", "MSB_PROFILE", "inline", "https://y.example")),
        ({"MSB_BACKEND": "cloud"}, "inline", ("cloud", "MSB_BACKEND", "inline", "https://y.example")),
        (
            {"MSB_BACKEND": "cloud", "MSB_API_KEY": "k"},
            "inline",
            ("cloud", "MSB_BACKEND", None, "https://api.microsandbox.dev"),
        ),
    ],
)
def test_what_chose_the_backend(
    environment: dict[str, str],
    active: str | None,
    expected: tuple[str | None, ...],
    select: Callable[[dict[str, str], str | None], None],
) -> None:
    select(environment, active)
    assert default_backend_info() == expected
    with backend_scope("cloud", profile="inline"):
        assert default_backend_info() == ("cloud", "profile", "inline", "https://y.example")
        with with_backend(LocalBackend()):
            assert default_backend_info() == ("local", "programmatic", None, None)
    set_default_backend("cloud", api_key="abc")
    assert default_backend_info()[:3] == ("cloud", "programmatic", None)
    assert "abc" not in repr(default_backend_info())


def test_allowed_backends_bind_the_program_too(config: Any) -> None:
    config({"allowed_backends": ["local"]})
    with pytest.raises(InvalidConfigError, match="allowed_backends"):
        set_default_backend("cloud", api_key="k")
    assert default_backend_kind() == "local"


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_backend()
    monkeypatch.setenv("MSB_BACKEND", "cloud")
    monkeypatch.setenv("MSB_HOME", "/elsewhere")
    assert default_backend() is first


def test_an_error_is_remembered_until_a_default_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_BACKEND", "mars")
    for _ in range(2):
        with pytest.raises(InvalidConfigError, match="mars"):
            default_backend()
        monkeypatch.setenv("MSB_BACKEND", "local")
    set_default_backend("local")
    assert default_backend_kind() == "local"


def test_local_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = asyncio.run(LocalBackend.builder().home(tmp_path).build())
    assert built == LocalBackend(home=str(tmp_path))
    assert hash(built) == hash(LocalBackend(home=tmp_path))
    assert built.kind == "local"
    assert repr(built) == f"LocalBackend(home={str(tmp_path)!r})"
    monkeypatch.chdir(tmp_path)
    relative = LocalBackend(home="here")
    monkeypatch.chdir("/")
    assert relative.home == tmp_path / "here"
    with pytest.raises(InvalidConfigError, match="empty"):
        LocalBackend(home="")
    assert not (tmp_path / "here").exists()


def test_cloud_backend_hides_its_key() -> None:
    cloud = CloudBackend(url="https://host.example:8443/base/", api_key=" sesame ")
    assert (cloud.kind, cloud.url, cloud.api_key) == ("cloud", "https://host.example:8443/base", "sesame")
    assert "sesame" not in f"{cloud!r} {cloud} {[cloud]}"
    assert cloud == CloudBackend(url="https://host.example:8443/base", api_key="sesame")
    assert cloud != CloudBackend(url="https://host.example:8443/base", api_key="other")


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "ftp://x",
        "https://",
        "https://user:sesame@x.example",
        "https://x.example?key=sesame",
        "https://x.example/#part",
        "https://x.example:port",
        "https://x example",
        "https://x\n.example",
        "https://[::1",
    ],
)
def test_cloud_urls_are_checked(url: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        CloudBackend(url=url, api_key="k")
    assert "sesame" not in str(caught.value)


def test_set_default_backend(config: Any, own_home: Path) -> None:
    config({"profiles": PROFILES})
    set_default_backend(BackendKind.CLOUD, api_key="k", url="https://x.example")
    assert default_backend() == CloudBackend(url="https://x.example", api_key="k")
    set_default_backend("cloud", profile="inline")
    assert default_backend() == CloudBackend(url="https://y.example", api_key="abc")
    for arguments in ({}, {"url": "https://x.example"}):
        # The SDK raises ValueError here, and a missing profile is its InvalidConfigError.
        with pytest.raises(ValueError, match="needs an api_key or a profile"):
            set_default_backend("cloud", **arguments)
    with pytest.raises(InvalidConfigError, match="'nowhere' is not in"):
        set_default_backend("cloud", profile="nowhere", api_key="k")
    with pytest.raises(InvalidConfigError, match="not a cloud profile"):
        set_default_backend("cloud", profile="local-one")
    with pytest.raises(InvalidConfigError, match="not empty"):
        set_default_backend("cloud", api_key="")
    with pytest.raises(InvalidConfigError, match="'mars'"):
        set_default_backend("mars")
    with pytest.raises(TypeError):
        set_default_backend(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        set_default_backend(LocalBackend(), api_key="k")
    assert default_backend_kind() == "cloud"
    set_default_backend(LocalBackend(home=own_home / "other"))
    assert default_backend() == LocalBackend(home=own_home / "other")


def test_scopes_nest_and_work_both_ways() -> None:
    cloud, local = CloudBackend(api_key="k"), LocalBackend()
    scope = with_backend(cloud)
    with scope:
        assert default_backend() is cloud
        with with_backend(local), scope:
            assert default_backend() is cloud
        assert default_backend() is cloud
        with pytest.raises(ZeroDivisionError), backend_scope("local"):
            assert 1 / (default_backend_kind() != "local")
        assert default_backend() is cloud
    assert default_backend_kind() == "local"
    with pytest.raises(InvalidConfigError):
        backend_scope("cloud")
    with pytest.raises(TypeError):
        with_backend("local")  # type: ignore[arg-type]


def test_scopes_belong_to_their_task() -> None:
    scope = with_backend(CloudBackend(api_key="k"))
    seen: list[str] = []

    async def inside(entered: asyncio.Event, leave: asyncio.Event) -> None:
        async with scope:
            entered.set()
            await leave.wait()
            seen.append(default_backend_kind())
            seen.append(await asyncio.create_task(kind()))
            seen.append(await asyncio.to_thread(default_backend_kind))
        seen.append(default_backend_kind())

    async def kind() -> str:
        return default_backend_kind()

    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(inside(entered, leave)) for _ in range(2)]
        await entered.wait()
        assert default_backend_kind() == "local"
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sorted(seen) == ["cloud"] * 6 + ["local"] * 2
