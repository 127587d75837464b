"""The commands about what a fleet's hosts have, as people call them; of a fleet in a file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache
from msb_cache.fleet.fleet import Fleet
from tests.cli.support import APP, TOOL, Call
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
        ("hosts", "HOST SEEN EVENTS LAG IMAGES SIZE FREE PROBLEM"),
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
        assert shown[0].startswith("Host        ci-2 (log ")
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
