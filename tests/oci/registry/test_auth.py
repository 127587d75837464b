"""Logging in: challenges, tokens, and that no secret is ever shown or sent astray."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import ImagePullFailedError
from msb_cache.oci.image import SourceImage
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.auth import Challenge, parse_challenges
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import sample
from tests.registry_server import Auth, RegistryServer, answer, error, html, redirect

FAST = RegistryOptions(timeout=1, retries=2, backoff=0.01)
ALICE = Credential("alice", "pass:wörd")
USERS = {"alice": "pass:wörd"}
REFRESH = Credential("", "", "refresh-me")


@contextmanager
def opened(auth: Auth, credential: Credential | None = None) -> Iterator[tuple[RegistryServer, Registry]]:
    with RegistryServer(auth=auth) as server, Registry(server.host, FAST, credential) as registry:
        yield server, registry


def pulled(server: RegistryServer, registry: Registry, folder: Path, repository: str = "app") -> SourceImage:
    name = Reference.parse(server.add(sample(), repository))
    found = registry.image(registry.resolve(name), partials=folder)
    for each in found.layers:
        each.verify_only()
    return found


# --- challenges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, []),
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://auth.example/token",service="a",scope="repository:x/y:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.example/token",
                        "service": "a",
                        "scope": "repository:x/y:pull,push",
                    },
                )
            ],
        ),
        ('BEARER Realm = "x" , Service=y', [("bearer", {"realm": "x", "service": "y"})]),
        (r'Basic realm="say \"hi\" \\ there"', [("basic", {"realm": r'say "hi" \ there'})]),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
        (', ,Basic realm=""', [("basic", {"realm": ""})]),
        ('realm="x"', []),
        ('Bearer realm="open', [("bearer", {"realm": ""})]),
    ],
)
def test_challenges(header: str | None, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(scheme, found) for scheme, found in expected]


@given(st.text(alphabet='Basicer ="\\,/:;\x00é', max_size=200))
def test_any_text_can_be_parsed(header: str) -> None:
    parse_challenges(header)


def test_parsing_takes_no_long_time() -> None:
    started = time.monotonic()
    for hostile in ('Bearer realm="' + "\\" * 1_000_000, "a=" * 500_000, " ," * 500_000, 'B x="y"' * 100_000):
        parse_challenges(hostile)
    assert time.monotonic() - started < 1


# --- good days ----------------------------------------------------------------------------------


def test_basic(tmp_path: Path) -> None:
    with opened(Auth("basic", USERS), ALICE) as (server, registry):
        pulled(server, registry, tmp_path)
        expected = "Basic " + base64.b64encode("alice:pass:wörd".encode()).decode()
        assert [each.authorization for each in server.requests] == [None, *[expected] * 4]


def test_an_anonymous_token_is_fetched_once(tmp_path: Path) -> None:
    with opened(Auth()) as (server, registry):
        pulled(server, registry, tmp_path)
        assert [each.authorization for each in server.requests] == [
            None,
            None,
            *["Bearer secret-token-0"] * 4,
        ]
        token = server.requests[1].path
        assert token == "/token?scope=repository%3Aapp%3Apull&service=test"


def test_a_token_is_fetched_with_the_login(tmp_path: Path) -> None:
    with opened(Auth(users=USERS, anonymous=False), ALICE) as (server, registry):
        pulled(server, registry, tmp_path)
        assert (
            server.requests[1].authorization
            == "Basic " + base64.b64encode("alice:pass:wörd".encode()).decode()
        )
        assert {each.authorization for each in server.requests[2:]} == {"Bearer secret-token-0"}


def test_an_identity_token_is_exchanged(tmp_path: Path) -> None:
    with opened(Auth(refresh_tokens={"refresh-me"}, anonymous=False), REFRESH) as (server, registry):
        pulled(server, registry, tmp_path)
        exchange = server.requests[1]
        assert (exchange.method, exchange.path, exchange.authorization) == ("POST", "/token", None)
        assert b"grant_type=refresh_token" in exchange.body
        assert b"refresh_token=refresh-me" in exchange.body


def test_tokens_are_for_one_repository(tmp_path: Path) -> None:
    with opened(Auth()) as (server, registry):
        pulled(server, registry, tmp_path, "one/app")
        pulled(server, registry, tmp_path, "two/app")
        assert sorted(scope for scope, _ in server.auth.issued.values()) == [  # type: ignore[union-attr]
            "repository:one/app:pull",
            "repository:two/app:pull",
        ]


def test_a_scope_that_the_challenge_does_not_name_is_the_repository(tmp_path: Path) -> None:
    auth = Auth()
    with opened(auth) as (server, registry):
        auth.challenge = f'Bearer realm="{auth.realm}?tenant=7"'
        pulled(server, registry, tmp_path)
        assert server.requests[1].path == "/token?tenant=7&scope=repository%3Aapp%3Apull"


def test_an_expired_token_is_replaced_on_the_way(tmp_path: Path) -> None:
    auth = Auth(seconds=0.2)
    with opened(auth) as (server, registry):
        name = Reference.parse(server.add(sample()))
        found = registry.image(registry.resolve(name), partials=tmp_path)
        time.sleep(0.25)
        for each in found.layers:
            each.verify_only()
        assert len(auth.issued) >= 2


def test_a_revoked_token_is_replaced_on_the_way(tmp_path: Path) -> None:
    auth = Auth()
    with opened(auth) as (server, registry):
        name = Reference.parse(server.add(sample()))
        found = registry.image(registry.resolve(name), partials=tmp_path)
        auth.issued["secret-token-0"] = ("", 0.0)
        for each in found.layers:
            each.verify_only()
        assert len(auth.issued) == 2


def test_threads_share_a_token(tmp_path: Path) -> None:
    auth = Auth()
    with opened(auth) as (server, registry):
        name = Reference.parse(server.add(sample()))
        with ThreadPoolExecutor(8) as pool:
            resolved = list(pool.map(registry.resolve, [name] * 16))
        assert len({each.manifest_digest for each in resolved}) == 1
        assert len(auth.issued) == 1


def test_a_token_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with opened(Auth()) as (server, registry):
        server.on("/token", answer(503), answer(429, Retry_After="0"))
        pulled(server, registry, tmp_path)
        assert server.count("/token") == 3


# --- refusals -----------------------------------------------------------------------------------


def refused(auth: Auth, credential: Credential | None, message: str, server_error: object = None) -> None:
    with opened(auth, credential) as (server, registry):
        if server_error:
            server.on("/token", server_error, always=True)  # type: ignore[arg-type]
        name = Reference.parse(server.add(sample()))
        with pytest.raises(ImagePullFailedError, match=message) as caught:
            registry.resolve(name)
        text = str(caught.value)
        assert "\n" not in text
        for secret in ("pass:wörd", "refresh-me", "secret-token", "Basic ", "Bearer ", "wrong"):
            assert secret not in text
        assert base64.b64encode("alice:pass:wörd".encode()).decode() not in text


def test_a_login_is_needed() -> None:
    message = r"does not exist or needs a login: check the name, or log in with 'docker login 127.0.0.1:\d+'$"
    refused(Auth("basic", USERS), None, message)
    refused(Auth(users=USERS, anonymous=False), None, message)


def test_a_wrong_login_is_refused() -> None:
    wrong = Credential("alice", "wrong")
    refused(Auth("basic", USERS), wrong, "does not exist or 'alice' may not pull it")
    refused(
        Auth(users=USERS),
        wrong,
        r"refuses the login of 'alice' \('incorrect username or password'\): log in again",
    )
    refused(Auth(), REFRESH, "refuses the login of the owner of the login")


def test_a_token_that_is_not_accepted() -> None:
    refused(Auth(seconds=-1), None, "does not exist or needs a login")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (html(), "answers with an HTML page"),
        (answer(200, b"{}"), "gives no token that can be used"),
        (answer(200, b'{"token":"a\\r\\nX-Evil: 1"}'), "gives no token that can be used"),
        (answer(200, b"[" * 60_000), "answers with no token"),
        (answer(200, b" " * (65 << 10)), "answers with more than 65536 bytes"),
        (answer(404), "the token server .* answers 404"),
        (answer(500), r"the token server .* answers 500; try again later"),
        (
            error(500, "X", "pass:wörd YWxpY2U6cGFzczp3w7ZyZA== at https://u:p@h.example/p?sig=1"),
            "https://h.example",
        ),
    ],
)
def test_a_bad_token_server(action: object, message: str) -> None:
    refused(Auth(users=USERS), ALICE, message, action)


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        ("", "asks for a login of an unknown kind"),
        ('Digest realm="x"', "asks for a login of an unknown kind"),
        ('Bearer service="x"', "asks for a login of an unknown kind"),
        ('Bearer realm="file:///etc/passwd"', "token server that is no web address"),
        ('Bearer realm="//"', "token server that is no web address"),
        ('Bearer realm="http://user:pw@127.0.0.1/"', "token server that is no web address"),
        ('Bearer realm="http://[::1/"', "token server that is no web address"),
        ('Bearer realm="http://127.0.0.1:1/"', r"127.0.0.1:1 cannot be reached \(Connection refused\)"),
    ],
)
def test_a_bad_challenge(challenge: str, message: str) -> None:
    refused(Auth(challenge=challenge or " "), ALICE, message)


def test_a_token_server_gets_the_login_only_from_itself() -> None:
    """A token server that redirects to another host does not pass the login on."""
    with RegistryServer() as elsewhere, opened(Auth(users=USERS), ALICE) as (server, registry):
        server.on("/token", redirect(elsewhere.put("/token", b'{"token":"x"}')), always=True)
        with pytest.raises(ImagePullFailedError):
            registry.resolve(Reference.parse(server.add(sample())))
        assert [each.authorization for each in elsewhere.requests] == [None]


def test_an_identity_token_is_not_redirected() -> None:
    with RegistryServer() as elsewhere, opened(Auth(), REFRESH) as (server, registry):
        server.on("/token", redirect(elsewhere.put("/token", b'{"token":"x"}')), always=True)
        with pytest.raises(ImagePullFailedError, match=r"the token server .* answers 307"):
            registry.resolve(Reference.parse(server.add(sample())))
        assert elsewhere.requests == []
