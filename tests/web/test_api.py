"""The API: it says what the commands say, as its description has it, and no more than is to be told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from msb_cache import ImageCache
from msb_cache.cli.main import run
from msb_cache.interchange.privacy import Privacy
from msb_cache.web.api import ENDPOINTS
from msb_cache.web.openapi import description
from tests.cli.support import APP
from tests.msbhome import MsbHome
from tests.web.client import Client
from tests.web.conftest import Serve

EVERYTHING = Privacy(config=True, people=True)
DIFF_ID = APP.layers[1].diff_id

COMMANDS = {
    "/images": ("list",),
    "/images?pattern=app%3A*&as_of=%4045": ("list", "app:*", "--as-of", "@45"),
    "/images/app:1": ("inspect", "app:1"),
    f"/images/{APP.digest}": ("inspect", APP.digest),
    "/images/example.org/team/tool:2": ("inspect", "example.org/team/tool:2"),
    "/history/app:1": ("history", "app:1"),
    "/history/example.org/team/tool:2?types=image.removed": (
        *("history", "example.org/team/tool:2"),
        *("--type", "image.removed"),
    ),
    "/events?after=0&limit=1000": ("events",),
    "/events?limit=3": ("events", "-n", "3"),
    "/events?limit=3&reverse=true": ("events", "-n", "3", "--reverse"),
    "/events?since=%402&until=%406&grep=sha": ("events", "--since", "@2", "--until", "@6", "--grep", "sha"),
    "/prunes": ("prunes",),
    "/prunes/{operation}": ("prunes", "show", "{operation}"),
    "/last-used": ("last-used",),
    "/holders": ("holders",),
    "/holders?reference=app:1": ("holders", "app:1"),
    "/df": ("df",),
    "/why/app:1": ("why", "app:1"),
    f"/why/{APP.digest}": ("why", APP.digest),
    f"/why/{DIFF_ID}": ("why", DIFF_ID),
    "/why/example.org/team/tool:2": ("why", "example.org/team/tool:2"),
    "/diff?before=%405": ("diff", "@5"),
    "/info": ("info",),
}
"""What a path answers is what this command prints with ``--format json``."""


_RUNNING_ON = (
    "idle_ns",
    "age_ns",
    "log",
    "outside",
    "disk_free_bytes",
)  # SQLite has files while a database is open


def timeless(value: Any) -> Any:
    """Return a value without what runs on between two questions."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in _RUNNING_ON}
    return [*map(timeless, value)] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def operation(home: Path) -> str:
    with ImageCache(home) as cache:
        return next(each.operation for each in cache.prunes() if each.counters.kind == "prune")


@pytest.fixture
def printed(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Any]:
    """Run a command on the home, and return the JSON that it prints."""

    def run_command(*arguments: str) -> Any:
        capfdbinary.readouterr()
        assert run(["--home", str(home), *arguments, "--format", "json"]) == 0
        return json.loads(capfdbinary.readouterr().out)

    return run_command


def closed(schema: Any) -> Any:
    """Return a schema that has no room for what it does not name."""
    if isinstance(schema, list):
        return [*map(closed, schema)]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items()}
    if "properties" in found and isinstance(found.get("required"), list):
        found.setdefault("additionalProperties", False)
    return found


@pytest.fixture(scope="module")
def validators() -> dict[str, Draft202012Validator]:
    """What the description says of each path's answer, by its path in ``ENDPOINTS``."""
    found = closed(description())
    return {
        each.path: Draft202012Validator(
            {
                **found["paths"][f"/api{each.path}"]["get"]["responses"]["200"]["content"][
                    "application/json"
                ]["schema"],
                "components": found["components"],
            }
        )
        for each in ENDPOINTS
    }


def path_of(asked: str) -> str:
    """Return which path of ``ENDPOINTS`` a request is for."""
    first, _, more = asked.partition("?")[0].lstrip("/").partition("/")
    return next(
        each.path
        for each in ENDPOINTS
        if each.path.split("/")[1] == first and bool(each.in_path) == bool(more)
    )


@pytest.mark.parametrize("asked", COMMANDS)
def test_the_api_says_what_the_command_says_and_what_its_description_says(
    serve: Serve,
    home: Path,
    operation: str,
    asked: str,
    printed: Callable[..., Any],
    validators: dict[str, Draft202012Validator],
) -> None:
    command = [each.format(operation=operation) for each in COMMANDS[asked]]
    answer = serve(home, privacy=EVERYTHING).get("/api" + asked.format(operation=operation))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() != []
    assert timeless(answer.json()) == timeless(printed(*command))
    validators[path_of(asked)].validate(answer.json())


def test_what_no_command_says_fits_its_description(
    client: Client, validators: dict[str, Draft202012Validator], home: Path
) -> None:
    homes = client.get("/api/homes").json()
    assert homes == [{"id": "home", "home": str(home), "kept_by_msb": False}]
    validators["/homes"].validate(homes)
    validators["/report"].validate(client.get("/api/report").json())


def test_every_path_is_asked() -> None:
    asked = {path_of(each) for each in COMMANDS} | {"/homes", "/report"}
    assert asked == {each.path for each in ENDPOINTS}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/images/nothing:1", 404, "image-not-found"),
        ("/images/", 400, "invalid-reference"),
        ("/images/%00", 400, "invalid-reference"),
        ("/images/..%2F..%2Fetc%2Fpasswd", 400, "invalid-reference"),
        ("/images/" + "a" * 1500, 400, "invalid-reference"),
        ("/images?pattern=nothing", 404, "image-not-found"),
        ("/images?as_of=sometime", 400, "invalid-config"),
        ("/images?as_of=%4099999999999999999999", 400, "invalid-config"),
        ("/images?filter=x", 400, "invalid-config"),
        ("/history/nothing:1", 404, "image-not-found"),
        ("/events?types=image.x", 400, "invalid-config"),
        ("/events?operation=0000", 404, "operation-not-found"),
        ("/events?holder=x", 400, "invalid-config"),
        ("/events?limit=1001", 400, "invalid-parameter"),
        ("/events?follow=1", 400, "invalid-parameter"),
        ("/prunes/0000", 404, "operation-not-found"),
        ("/prunes/'%3B drop table events%3B--", 404, "operation-not-found"),
        ("/last-used?idle_for=long", 400, "invalid-config"),
        ("/diff", 400, "invalid-parameter"),
        ("/diff?before=%40x", 400, "invalid-config"),
        ("/why/nothing:1", 404, "image-not-found"),
        ("/info?home=other", 404, "home-not-found"),
        ("/info?home=%3Cscript%3E", 404, "home-not-found"),
        ("/info?home=home&home=home", 400, "invalid-parameter"),
        ("/", 404, "not-found"),
        ("", 404, "not-found"),
        ("/nothing", 404, "not-found"),
        ("/info/", 404, "not-found"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(client: Client, path: str, status: int, code: str) -> None:
    answer = client.get(f"/api{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "privacy", "refused"),
    [
        ("/events?grep=PATH", Privacy(), True),
        ("/history/app:1?grep=PATH", Privacy(), True),
        ("/events?grep=PATH", Privacy(config=True), False),
        ("/events?grep=PATH", Privacy(config=True, people=False), True),
        ("/events?actor=alice", Privacy(), False),
        ("/events?actor=alice", Privacy(people=False), True),
        ("/history/app:1?host=build", Privacy(config=True, people=False), True),
        ("/images?filter=label%3Dteam%3Dgreen", Privacy(), True),
        ("/images?filter=label!%3Dteam%3Dgreen", Privacy(), True),
        ("/images?filter=label%3Dteam%3Dgreen", Privacy(config=True), False),
        ("/images?filter=label%3Dteam", Privacy(), False),
        ("/images?filter=reference%3Dapp", Privacy(), False),
    ],
)
def test_what_is_not_told_cannot_be_spelt_out(
    serve: Serve, home: Path, path: str, privacy: Privacy, refused: bool
) -> None:
    answer = serve(home, privacy=privacy).get(f"/api{path}")
    assert (answer.status_code == 403) == refused, answer.text
    if refused:
        assert answer.json()["code"] == "not-told"


@pytest.fixture
def telling_all(serve: Serve, home: Path) -> Client:
    """A client of a server that leaves nothing out, and so refuses no parameter for what it would tell."""
    return serve(home, privacy=EVERYTHING)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([each.path for each in ENDPOINTS if each.path not in ("/df", "/report")]),
    name=st.text(max_size=40),
    query=st.dictionaries(
        st.sampled_from([each.name for endpoint in ENDPOINTS for each in endpoint.all_parameters]),
        st.text(max_size=20) | st.sampled_from(["@1", "@0", "yesterday", "sha256:", "app:*", "1", "true"]),
        max_size=4,
    ),
)
def test_whatever_is_asked_is_answered_or_refused(
    telling_all: Client, path: str, name: str, query: dict[str, str]
) -> None:
    url = "/api" + re.sub("{.*}", quote(name, errors="replace"), path)
    answer = telling_all.get(url, params=query)
    assert answer.status_code in (200, 400, 404), (url, query, answer.text)


def test_pages_lead_through_the_log_both_ways(client: Client) -> None:
    def walk(query: str) -> Iterator[int]:
        while query:
            answer = client.get(f"/api/events{query}")
            yield from (each["seq"] for each in answer.json())
            found = (
                re.fullmatch('<(.*)>; rel="next"', answer.headers.get("link", "")) if answer.json() else None
            )
            query = found[1] if found else ""

    every = [each["seq"] for each in client.get("/api/events?limit=1000").json()]
    assert [*walk("?after=0&limit=7&home=home")] == every
    assert [*walk("?reverse=true&limit=7")] == every[::-1]
    pulled = [each["seq"] for each in client.get("/api/events?types=image.pulled&limit=1000").json()]
    assert [*walk("?after=0&limit=1&types=image.pulled")] == pulled
    assert "link" not in client.get("/api/events?limit=7").headers  # the newest: nothing comes after


def test_config_and_people_are_told_only_where_that_was_said(serve: Serve, home: Path) -> None:
    config, people = ("GREETING", "good day", "green"), ("root@", "OPS-12", "the disk is full", "the release")
    paths = [*COMMANDS, "/report"]

    def told(privacy: Privacy) -> str:
        client = serve(home, privacy=privacy)
        with ImageCache(home) as cache:
            operation = cache.prunes()[0].operation
        return "".join(client.get("/api" + each.format(operation=operation)).text for each in paths)

    everything = told(EVERYTHING)
    nothing = told(Privacy(config=False, people=False))
    for secret in (*config, *people[1:]):
        assert secret in everything
        assert secret not in nothing
    assert "good day" not in told(Privacy())
    assert "OPS-12" in told(Privacy())


def test_several_homes_are_told_apart(serve: Serve, home: Path, tmp_path: Path) -> None:
    with ImageCache(tmp_path / "other", clock=lambda: 10**18) as cache:
        cache.pin("app:9")
    client = serve(home, tmp_path / "other")
    assert [each["id"] for each in client.get("/api/homes").json()] == ["home", "other"]
    assert client.get("/api/info?home=other").json()["home"] == str(tmp_path / "other")
    assert client.get("/api/info").json()["home"] == str(home)
    assert client.get("/api/images?home=other").json() == []


def test_a_home_that_is_not_there_is_an_empty_cache(serve: Serve, tmp_path: Path) -> None:
    client = serve(tmp_path / "nowhere")
    for path in ("/images", "/events", "/prunes", "/last-used", "/holders"):
        assert client.get(f"/api{path}").json() == []
    assert client.get("/api/info").json()["events"] == 0
    assert not (tmp_path / "nowhere").exists()


def test_what_msb_did_is_recorded_before_a_question_is_answered(serve: Serve, tmp_path: Path) -> None:
    found = MsbHome(tmp_path / "msb")
    found.load("app:1", "one", "xy", env=["A=1"])
    client = serve(tmp_path / "msb")
    assert client.get("/api/homes").json()[0]["kept_by_msb"] is True
    assert [each["reference"] for each in client.get("/api/images").json()] == ["app:1"]
    found.load("two:2", "two", "xz")
    assert client.get("/api/images/two:2").json()["config"]["env"] == []
    found.close()


def test_hostile_names_are_text(serve: Serve, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e\u2028"
    with ImageCache(tmp_path / "other") as cache:
        cache.pin("app:9", reason=hostile)
    answer = serve(tmp_path / "other").get("/api/events?types=image.pinned")
    assert answer.headers["content-type"] == "application/json"
    assert hostile in str(answer.json()[0]["actor"]["reason"])
