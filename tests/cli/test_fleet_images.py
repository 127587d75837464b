"""The commands about what a fleet's hosts have, as people call them; of a fleet in a file."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache
from msb_cache.eventstore.store import as_datetime
from msb_cache.fleet.fleet import Fleet
from tests.cli.support import APP, TOOL, Call, execute
from tests.imagebuilder import docker_archive


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two hosts: both have app:1, one of them tool:2, and has removed app:latest."""
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("ci-1", "ci-2"):
        actor = Actor(user="ci", uid=1000, host=name, program="test")
        with ImageCache(folder / name, actor=actor) as cache:
            cache.load(io.BytesIO(docker_archive(APP)))
            if name == "ci-2":
                cache.load(io.BytesIO(docker_archive(TOOL)))
                cache.use("app:1", holder="sandbox:dev")
                cache.remove("app:latest", reason="superseded")
            cache.hold("app:1", "sandbox:dev")
    path = folder / "fleet.db"
    homes = [folder / name / "db" / "msb-cache.db" for name in ("ci-1", "ci-2")]
    assert all(taken.problem is None for taken in Fleet(db=path).take(homes))
    return str(path)


def lines(call: Call, *arguments: str) -> list[str]:
    done = call(*arguments)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


@pytest.mark.parametrize(
    ("command", "header"),
    [
        ("hosts", "HOST SEEN EVENTS VERIFIED LAG IMAGES SIZE FREE PROBLEM"),
        ("list", "HOST REFERENCE DIGEST SIZE IN USE CREATED LAST USED"),
        ("last-used", "HOST REFERENCE DIGEST IDLE LAST USED WHO BECAUSE"),
        ("holders", "HOST HOLDER STATUS DIGEST REFERENCE SINCE UNTIL MORE"),
        ("prunes", "HOST ID WHEN KIND IMAGES LAYERS FREED OUTCOME WHO"),
    ],
)
def test_tables_have_the_columns_of_one_host_behind_it(
    call: Call, db: str, command: str, header: str
) -> None:
    first, *rows = lines(call, "fleet", "--db", db, command)
    assert " ".join(first.split()) == header
    assert {row.split()[0] for row in rows} <= {"ci-1", "ci-2"}
    assert rows


@pytest.mark.parametrize("command", ["list", "last-used", "holders", "prunes"])
def test_json_has_each_hosts_own_fields_behind_three(
    call: Call, db: str, tmp_path: Path, command: str
) -> None:
    found = json.loads("\n".join(lines(call, "fleet", command, "--db", db, "--format", "json")))
    home = Path(db).parent / "ci-2"
    own = json.loads("\n".join(lines(call, "--home", str(home), "--no-sync", command, "--format", "json")))
    assert [*found[0]] == ["host", "log_id", "folded_seq", *own[0]]
    of_host = [each for each in found if each["host"] == "ci-2"]
    assert len(of_host) == len(own)
    for theirs, mine in zip(of_host, own, strict=True):
        for moving in ("host", "log_id", "folded_seq", "idle_ns"):
            theirs.pop(moving, None)
            mine.pop(moving, None)
        assert theirs == mine


def test_an_images_last_use_stands_first(call: Call, db: str) -> None:
    template = "{host} {reference}"
    of_image = ("fleet", "--db", db, "last-used", "app:1", "--format", template)
    assert lines(call, *of_image) == ["ci-2 app:1", "ci-1 app:1"]
    assert lines(call, *of_image, "--host", "ci-1") == ["ci-1 app:1"]
    everywhere = ("fleet", "--db", db, "last-used", "--idle", "0s", "--format", template)
    assert sorted(lines(call, *everywhere)) == [
        "ci-1 app:latest",
        "ci-2 app:1",
        "ci-2 example.org/team/tool:2",
    ]
    assert lines(call, *everywhere[:5], "30d", "-q") == []


def test_one_prune_is_shown_wherever_it_is_said_where(call: Call, db: str) -> None:
    [operation] = lines(call, "fleet", "--db", db, "prunes", "-q")
    for arguments in (
        ("--db", db, "prunes", "show", operation),
        ("prunes", "--db", db, "show", operation[:13]),
        ("prunes", "show", operation, "--db", db, "--host", "ci-2"),
    ):
        shown = lines(call, "fleet", *arguments)
        assert shown[0].startswith("Host:        ci-2 (log ")
        assert any("superseded" in line for line in shown)
    assert lines(call, "fleet", "--db", db, "prunes", "show", operation, "-q") == ["app:latest"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("list", "nosuch:1"), 3, "image not found on any host: nosuch:1"),
        (("list", "--filter", "label=team"), 2, "a fleet does not tell the labels of images"),
        (("list", "--host", "ci-3"), 3, "no host of the fleet is 'ci-3'; did you mean ci-2?"),
        (("last-used", "--idle", "1d", "--idle-for", "1d"), 2, "give one of them"),
        (("prunes", "show", "ffffffff"), 3, "no deletion of any host has the id ffffffff"),
        (("prunes", "show", "no"), 3, "is no operation id"),
        (("holders", "nosuch:1"), 3, "on any host: nosuch:1; `msb-cache fleet list`"),
    ],
)
def test_what_is_not_there_is_said(
    call: Call, db: str, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = call("fleet", "--db", db, *arguments)
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err


def test_hosts_are_sorted_by_what_needs_looking_at(call: Call, db: str) -> None:
    def names(*arguments: str) -> list[str]:
        return lines(call, "fleet", "--db", db, "hosts", *arguments, "-q")

    assert names() == ["ci-1", "ci-2"]
    assert names("--sort", "size") == ["ci-2", "ci-1"]
    assert sorted(names("--sort", "seen")) == sorted(names("--sort", "free")) == ["ci-1", "ci-2"]
    assert names("ci-2") == ["ci-2"]


# -- the past --------------------------------------------------------------------------------------

HOUR = 3600 * 10**9
BEGIN = 1_790_000_000 * 10**9


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of ``ci-1``, which has app for two hours, and ``ci-2``, which begins an hour later."""
    folder = tmp_path_factory.mktemp("past")

    def do(name: str, hours: int, what: Callable[[ImageCache], object]) -> None:
        actor = Actor(user="ci", uid=1000, host=name, program="test")
        with ImageCache(folder / name, actor=actor, clock=lambda: BEGIN + hours * HOUR) as cache:
            what(cache)

    do("ci-1", 0, lambda cache: cache.load(io.BytesIO(docker_archive(APP))))
    do("ci-1", 0, lambda cache: cache.hold("app:1", "sandbox:dev"))
    do("ci-2", 1, lambda cache: cache.load(io.BytesIO(docker_archive(TOOL))))
    do("ci-1", 2, lambda cache: cache.release("sandbox:dev"))
    do("ci-1", 2, lambda cache: cache.remove(["app:1", "app:latest"]))
    homes = [folder / name / "db" / "msb-cache.db" for name in ("ci-1", "ci-2")]
    assert all(taken.problem is None for taken in Fleet(db=folder / "fleet.db").take(homes))
    return folder


def at(hours: float) -> str:
    return as_datetime(int(BEGIN + hours * HOUR)).isoformat()


def asked(past: Path, *arguments: str) -> tuple[int, list[str], str]:
    """What the installed program says."""
    done = execute("fleet", "--db", past / "fleet.db", *arguments, TZ="UTC")
    return done.code, done.raw.decode().splitlines(), done.err


@pytest.mark.parametrize(
    ("hours", "images", "holders", "said"),
    [
        (-1, [], [], "note: no host's log begins before that, so what was there then is not known\n"),
        (
            *(0.5, ["ci-1 app:latest", "ci-1 app:1"], ["ci-1 sandbox:dev"]),
            "note: 1 of 2 logs begins later: ci-2; what was there then is not known\n",
        ),
        (
            *(1.5, ["ci-2 example.org/team/tool:2", "ci-1 app:latest", "ci-1 app:1"], ["ci-1 sandbox:dev"]),
            "",
        ),
        (2.5, ["ci-2 example.org/team/tool:2"], [], ""),
    ],
)
def test_what_was_there_is_shown_as_it_was(
    past: Path, hours: float, images: list[str], holders: list[str], said: str
) -> None:
    then = ("--as-of", at(hours))
    assert asked(past, "list", *then, "--format", "{host} {reference}") == (0, images, said)
    assert asked(past, "holders", *then, "--format", "{host} {holder}") == (0, holders, said)
    idle = asked(past, "last-used", *then, "--format", "{host} {reference}")
    assert (idle[0], sorted(idle[1]), idle[2]) == (0, sorted(images), said)


def test_a_table_of_what_was_never_known_is_empty(past: Path) -> None:
    for command, nothing in (("list", "No such images on any host."), ("holders", "Nobody holds anything")):
        code, rows, said = asked(past, command, "--as-of", at(-1))
        assert (code, rows, said.count("\n")) == (0, [], 1)
        assert nothing not in said
    assert "Nobody holds anything on any host." in asked(past, "holders", "--as-of", at(2.5))[2]


def test_json_has_the_last_event_of_then(past: Path) -> None:
    code, out, _ = asked(past, "list", "app:1", "--as-of", at(1.5), "--format", "json")
    [found] = json.loads("\n".join(out))
    with ImageCache(past / "ci-1") as cache:
        events = [event for event in cache.events() if event.recorded_at_ns <= BEGIN + 1.5 * HOUR]
    assert (code, found["folded_seq"], found["held_by"]) == (0, events[-1].seq, ["sandbox:dev"])
    position = ("--host", "ci-1", "--as-of", f"@{events[-1].seq}", "--format", "json")
    assert json.loads("\n".join(asked(past, "list", "app:1", *position)[1])) == [found]


def test_ages_are_counted_from_then(past: Path) -> None:
    idle = ("last-used", "--as-of", at(1.5), "-q")
    assert asked(past, *idle, "--idle", "1h")[1] == ["app:1", "app:latest"]
    assert asked(past, *idle, "--idle-for", "100m")[1] == []


def test_hosts_are_compared_as_they_were(past: Path) -> None:
    names = asked(past, "diff", "ci-1", "ci-2", "--as-of", at(1.5), "-q")[1]
    assert sorted(names) == ["app:1", "app:latest", "example.org/team/tool:2"]
    assert asked(past, "diff", "ci-1", "ci-2", "--as-of", at(2.5), "-q")[1] == ["example.org/team/tool:2"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("list", "--as-of", "2999-01-01"), 2, "'2999-01-01' is in the future; what will be is not known"),
        (("holders", "--as-of", "@4"), 2, "and 2 logs are asked; choose one with --host, or give a time"),
        (("last-used", "--host", "ci-2", "--as-of", "@99"), 2, "the log of ci-2 has no event 99 here"),
        (("diff", "ci-1", "ci-2", "--as-of", "@4"), 2, "is one of one log"),
        (("list", "app:1", "--as-of", at(2.5)), 3, "image not found on any host: app:1"),
        (("list", "app:1", "--as-of", at(-1)), 3, "no host's log begins before that"),
    ],
)
def test_moments_that_have_no_answer(
    past: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = asked(past, *arguments)
    assert (done[0], done[1]) == (code, [])
    assert sentence in " ".join(done[2].split())


def test_what_is_not_folded_may_be_of_then(past: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes((past / "fleet.db").read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE head SET size = size + 1 WHERE log_id = (SELECT max(log_id) FROM head)")
    now = call("fleet", "--db", str(path), "list", "-q", "--as-of", at(5))
    assert now.err == ""  # -q says nothing
    for hours, said in ((0.5, False), (5, True)):
        done = call("fleet", "--db", str(path), "list", "--as-of", at(hours))
        assert ("1 of 2 logs not folded up to the last event" in done.err) == said
