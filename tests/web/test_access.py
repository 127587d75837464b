"""Who may ask: names, other pages, tokens, cookies, methods, sizes; and what every answer has."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from msb_cache.errors import InvalidConfigError
from msb_cache.web.access import Access
from msb_cache.web.problems import RefusedError
from tests.web.client import Client
from tests.web.conftest import ACCESS, TOKEN, Serve

HOMES = "/api/homes"


def scope(*headers: tuple[str, str], method: str = "GET", query: str = "", **more: Any) -> dict[str, Any]:
    """A request as an ASGI server hands it on."""
    return {
        "type": "http",
        "scheme": "http",
        "method": method,
        "path": "/",
        "raw_path": b"/",
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        **more,
    }


def called(access: Access, host: str) -> bool:
    try:
        access.check(scope(("host", host)))
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:9470", True),
        ("localhost:9470", True),
        ("LOCALHOST:9470", True),
        ("[::1]:9470", True),
        ("127.0.0.1", False),
        ("127.0.0.1:9471", False),
        ("localhost", False),
        ("evil.example:9470", False),
        ("127.0.0.1.evil.example:9470", False),
        ("localhost.:9470", False),
        ("evil.example", False),
        ("192.0.2.7:9470", False),
        ("2130706433:9470", False),
        ("user@127.0.0.1:9470", False),
        ("127.0.0.1:9470@evil.example", False),
        ("127.0.0.1:9470, evil.example", False),
        ("127.0.0.1:09470000", False),
        ("127.0.0.1:9470\x00", False),
        ("127.0.0.1:9470 ", False),
        ("", False),
        (":9470", False),
        ("[::1", False),
    ],
)
def test_only_the_names_that_it_listens_on_count(host: str, allowed: bool) -> None:
    assert called(ACCESS, host) is allowed


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
def test_no_other_host_counts(host: str) -> None:
    if host.lower() not in ("127.0.0.1:9470", "localhost:9470", "[::1]:9470"):
        assert not called(ACCESS, host)


@pytest.mark.parametrize(
    ("access", "allowed", "refused"),
    [
        (Access.of_address("127.0.0.1", 80, TOKEN), ["127.0.0.1", "localhost:80"], ["evil.example"]),
        (Access.of_address("::1", 9470, TOKEN), ["[::1]:9470"], ["[::2]:9470"]),
        (
            Access.of_address("0.0.0.0", 9470, TOKEN),
            ["192.0.2.7:9470", "[2001:db8::1]:9470", "127.0.0.1:9470"],
            ["evil.example:9470", "192.0.2.7", "192.0.2.7:80", "cache:9470"],
        ),
        (Access.of_address("192.0.2.7", 9470, TOKEN), ["192.0.2.7:9470"], ["192.0.2.8:9470"]),
        (
            Access.of_address("127.0.0.1", 9470, TOKEN, allow=["Cache.example.org", "other.example:8443"]),
            ["cache.example.org", "cache.example.org:8443", "other.example:8443"],
            ["other.example", "x.cache.example.org"],
        ),
        (
            Access.of_socket(),
            ["localhost", "localhost:8000", "127.0.0.1:1234"],
            ["evil.example", "192.0.2.7"],
        ),
        (Access.of_socket(allow=["cache.example.org"]), ["cache.example.org"], ["evil.example"]),
    ],
)
def test_what_is_listened_on_says_which_names_count(
    access: Access, allowed: list[str], refused: list[str]
) -> None:
    assert [*filter(lambda host: called(access, host), allowed + refused)] == allowed


def test_a_request_with_no_host_or_with_two_is_refused() -> None:
    for headers in ([], [("host", "127.0.0.1:9470"), ("host", "127.0.0.1:9470")]):
        with pytest.raises(RefusedError, match="does not answer to the name"):
            ACCESS.check(scope(*headers))


@pytest.mark.parametrize("name", ["", "a b", "http://cache.example.org", "x/y", "-x", "x" * 300])
def test_a_name_that_is_none_cannot_be_allowed(name: str) -> None:
    with pytest.raises(InvalidConfigError, match="no name of a host"):
        Access.of_socket(allow=[name])


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Origin": "http://127.0.0.1:9470"}, True),
        ({"Origin": "https://127.0.0.1:9470"}, True),  # a proxy with TLS stands before it
        ({"Origin": "http://localhost:9470"}, False),
        ({"Origin": "http://127.0.0.1:8000"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),  # another port of this machine: cookies are sent
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        ({"Sec-Fetch-Site": "?"}, False),
    ],
)
def test_other_pages_are_told_nothing(client: Client, headers: dict[str, str], allowed: bool) -> None:
    answer = client.get(HOMES, headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    assert not any(name.startswith("access-control") for name in answer.headers)
    if not allowed:
        assert answer.json()["code"] == "another-origin"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Cookie": f"msb-cache-9470={TOKEN}"},  # the cookie is not the token
        {"Cookie": "msb-cache-9470="},
        {"Cookie": 'msb-cache-9470="'},
        {"X-Token": TOKEN},
    ],
)
def test_a_stranger_is_told_to_show_the_token_and_no_more(serve: Serve, home: Path, headers: Any) -> None:
    client = serve(home, headers=headers)
    for path in ("/", "/page", "/events", HOMES, "/api/openapi.json", "/api/images/app:1", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthorized"
        assert TOKEN not in answer.text
        assert str(home) not in answer.text


def test_the_first_visit_gives_a_cookie_and_takes_the_token_out_of_the_address(
    serve: Serve, home: Path
) -> None:
    client = serve(home, headers={})
    answer = client.get(f"/?home=home&token={TOKEN}&as_of=%405")
    assert answer.status_code == 303
    assert answer.headers["location"] == "./?home=home&as_of=%405"
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"msb-cache-9470=[0-9a-f]{64}; HttpOnly; Path=/; SameSite=strict", cookie)
    assert TOKEN not in str(answer.headers)
    assert client.get(HOMES).status_code == 200


def test_a_cookie_counts_among_those_of_other_servers(serve: Serve, home: Path) -> None:
    client = serve(home, headers={})
    value = client.get(f"/?token={TOKEN}").cookies["msb-cache-9470"]
    others = f'a="{{b}}|\\"; msb-cache-9470=planted; =; ;; msb-cache-9470={value}; _xsrf=2|1|x'
    assert client.get(HOMES, headers={"Cookie": others}).status_code == 200


@pytest.mark.parametrize(
    ("address", "headers"),
    [("https://127.0.0.1:9470", {}), ("http://127.0.0.1:9470", {"X-Forwarded-Proto": "https"})],
)
def test_the_cookie_is_secure_where_there_is_tls(
    serve: Serve, home: Path, address: str, headers: dict[str, str]
) -> None:
    answer = serve(home, headers={}, address=address).get(f"/?token={TOKEN}", headers=headers)
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "query", ["token=", "token=x", f"token={TOKEN}&token={TOKEN}", f"token={TOKEN}%00", "token=%ff"]
)
def test_a_wrong_token_in_the_address_is_refused_also_of_one_who_has_the_cookie(
    serve: Serve, home: Path, query: str
) -> None:
    client = serve(home, headers={})
    client.get(f"/?token={TOKEN}")
    answer = client.get(f"/?{query}")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_the_token_is_taken_from_the_address_of_the_page_only(serve: Serve, home: Path) -> None:
    assert serve(home, headers={}).get(f"{HOMES}?token={TOKEN}").status_code == 401


def test_the_address_leads_nowhere_else(serve: Serve, home: Path) -> None:
    query = f"token={TOKEN}&home=%2F%2Fevil.example%2F&x=%0d%0aSet-Cookie:%20a"
    location = serve(home, headers={}).get(f"/?{query}").headers["location"]
    assert location == "./?home=%2F%2Fevil.example%2F&x=%0D%0ASet-Cookie%3A+a"


def test_a_socket_asks_for_no_token(serve: Serve, home: Path) -> None:
    client = serve(home, headers={}, access=Access.of_socket(), address="http://localhost")
    assert client.get(HOMES).status_code == 200
    assert client.get(HOMES, headers={"Host": "evil.example"}).status_code == 403
    assert client.get(f"/api/homes?token={TOKEN}").status_code == 400


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "x" * 600, "x" * 40 + " ", "ä" * 40, "a&b" * 20])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(InvalidConfigError, match="a token has 32 to 512"):
        Access.of_address("127.0.0.1", 9470, token)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "G", "X"])
def test_nothing_but_reading_is_answered(client: Client, method: str) -> None:
    for path in ("/", HOMES, "/events", "/nothing"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["code"] == "method-not-allowed"


def test_head_has_no_more_than_headers(client: Client) -> None:
    assert client.request("HEAD", HOMES).status_code == 200
    assert client.request("HEAD", "/events").headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"url": f"{HOMES}?x={'y' * 5000}"}, 414),
        ({"url": f"/api/images/{'y' * 3000}"}, 414),
        ({"url": HOMES, "headers": {f"x-{n}": "y" for n in range(70)}}, 431),
        ({"url": HOMES, "headers": {"x": "y" * 20_000}}, 431),
        ({"url": HOMES, "headers": {"Content-Length": "5"}, "content": b"12345"}, 413),
        ({"url": HOMES, "headers": {"Transfer-Encoding": "chunked"}}, 413),
    ],
)
def test_what_is_too_large_is_refused(client: Client, request_: dict[str, Any], status: int) -> None:
    assert client.request("GET", **request_).status_code == status


def test_every_answer_says_what_browsers_may_do_with_it(serve: Serve, home: Path) -> None:
    client, stranger = serve(home), serve(home, headers={})
    answers = [client.get(path) for path in (HOMES, "/nothing", "/api/images/nothing")]
    answers += [stranger.get("/"), stranger.get(f"/?token={TOKEN}"), client.request("POST", "/")]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_there_are_no_web_sockets(client: Client) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    asyncio.run(client.app({**scope(), "type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
