"""Images of many hosts: in a file and on a server the same, and as each host says it itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache, ImageNotFoundError, InvalidConfigError, InvalidReferenceError
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.images import Word
from msb_cache.home.connect import open_database
from msb_cache.shapes import jsonable
from tests.carrying import OPERATION
from tests.cli.support import APP, TOOL
from tests.fleet.filled import Filled
from tests.imagebuilder import docker_archive
from tests.logs import digest, pulled

DAY = 86400 * 10**9
NOW = 1_800_000_000 * 10**9
TOOL_2 = "example.org/team/tool:2"
HOSTS = ("ci-1", "ci-2")
SPELLINGS = ("docker.io/spelled:1", "index.docker.io/library/spelled:1")


class Hosts:
    """``ci-1`` loads app 40 days ago and uses app:1 10 days ago; ``ci-2`` loads app 20 days ago, and tool:2.

    A third one, ``msb-1``, has one reference in two spellings, as homes of msb can.
    """

    def __init__(self, folder: Path, filled: Filled) -> None:
        self.folder = folder
        self._do("ci-1", 40, lambda cache: cache.load(io.BytesIO(docker_archive(APP))))
        self._do("ci-1", 10, lambda cache: cache.use("app:1", holder="sandbox:dev"))
        self._do("ci-2", 20, lambda cache: cache.load(io.BytesIO(docker_archive(APP))))
        self._do("ci-2", 15, lambda cache: cache.load(io.BytesIO(docker_archive(TOOL))))
        self._do("ci-2", 12, lambda cache: cache.hold(TOOL_2, "sandbox:ended", until="2d"))
        self._do("ci-2", 11, lambda cache: cache.hold("app:1", "sandbox:dev"))
        reference = "docker.io/library/spelled:1"
        used = ev.ImageUsed(manifest_digest=digest(1), spelling="docker.io/spelled:1")
        with open_database(Layout(folder / "msb-1"), pytest.fail) as connection:
            connection.execute("BEGIN")
            store = EventStore(connection, clock=lambda: NOW - 5 * DAY)
            actor = Actor(user="ci", uid=1000, host="msb-1", program="test")
            for spelling in SPELLINGS:
                store.append([NewEvent(_spelled(spelling), reference)], operation=OPERATION, actor=actor)
            store.append([NewEvent(used, reference)], operation=OPERATION, actor=actor)
            connection.execute("COMMIT")
        self.log_ids = {name: filled.add(folder / name) for name in (*HOSTS, "msb-1")}
        self.fleet: Fleet = filled.fleet(clock=lambda: NOW)

    def cache(self, name: str, days: int = 0) -> ImageCache:
        actor = Actor(user="ci", uid=1000, host=name, program="test")
        return ImageCache(self.folder / name, actor=actor, clock=lambda: NOW - days * DAY)

    def _do(self, name: str, days: int, what: object) -> None:
        with self.cache(name, days) as cache:
            what(cache)  # type: ignore[operator]


def _spelled(spelling: str) -> ev.ImagePulled:
    found = pulled(digest(1))
    return ev.ImagePulled(
        manifest_digest=found.manifest_digest,
        previous_digest=None,
        changed=True,
        source=found.source,
        spelling=spelling,
        row=f"{spelling}@1",
    )


@pytest.fixture(scope="module")
def hosts(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    return Hosts(tmp_path_factory.mktemp("hosts"), filled)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize(
    ("question", "arguments", "named"),
    [
        ("list", (), {}),
        ("list", ("app:*",), {}),
        ("list", ("*",), {"filter": ["reference=app:1", "reference=tool*"]}),
        ("last_used", (), {}),
        ("last_used", (), {"at_least": "15d"}),
        ("holds", (), {}),
        ("holds", ("app:latest",), {}),
    ],
)
def test_a_host_answers_the_same_itself(
    hosts: Hosts, name: str, question: str, arguments: tuple[str, ...], named: dict[str, object]
) -> None:
    found = getattr(hosts.fleet, question)(*arguments, **named, hosts=[name])
    with hosts.cache(name) as cache:
        own = getattr(cache, question)(*arguments, **named)
    assert [jsonable(each.found) for each in found] == jsonable(own)
    assert {(each.host, each.log_id) for each in found} <= {(name, hosts.log_ids[name])}


def test_images_are_listed_newest_first_across_hosts(hosts: Hosts) -> None:
    listed = [(each.host, each.found.reference) for each in hosts.fleet.list()]
    assert listed[0][0] == "msb-1"
    assert listed[2] == ("ci-2", TOOL_2)
    assert {host for host, _ in listed[3:5]} == {"ci-2"}
    assert {host for host, _ in listed[5:]} == {"ci-1"}
    assert all(each.found.origin is None for each in hosts.fleet.list())


def test_an_image_is_told_by_its_last_use_first(hosts: Hosts) -> None:
    first, second = hosts.fleet.last_used("app:1")
    assert (first.host, second.host) == ("ci-1", "ci-2")
    assert first.found.last_used_ns == NOW - 10 * DAY
    assert first.found.event is not None
    assert first.found.event.type == ev.ImageUsed.type
    assert [each.host for each in hosts.fleet.last_used("app:1", hosts=["ci-2"])] == ["ci-2"]


def test_what_no_host_has_used_stands_there_once(hosts: Hosts) -> None:
    def idle(at_least: str) -> list[tuple[str, str]]:
        found = hosts.fleet.last_used(at_least=at_least, everywhere=True)
        return [(each.host, each.found.reference) for each in found]

    assert idle("18d") == [("ci-2", "app:latest")]
    # A hold of it ended 10 days ago, and that counts as on its host.
    assert idle("9d") == [("ci-2", "app:latest"), ("ci-1", "app:1"), ("ci-2", TOOL_2)]
    assert idle("30d") == []


def test_a_use_counts_for_its_own_spelling(hosts: Hosts) -> None:
    found = {each.found.reference: each.found for each in hosts.fleet.last_used("spelled:1")}
    events = {name: each.event and (each.event.type, each.event.seq) for name, each in found.items()}
    assert events == {
        "docker.io/spelled:1": ("image.used", 4),
        "index.docker.io/library/spelled:1": ("image.pulled", 3),
    }


def test_a_digest_means_images_of_all_hosts(hosts: Hosts) -> None:
    app = hosts.fleet.list("app:1")[0].found.manifest_digest
    assert app is not None
    for text in (app, app[7:20]):
        assert {each.host for each in hosts.fleet.list(text)} == {"ci-1", "ci-2"}
        assert [each.host for each in hosts.fleet.holds(text)] == ["ci-2"]
    assert [each.host for each in hosts.fleet.last_used(f"app:1@{app}")] == ["ci-1", "ci-2"]


@pytest.mark.parametrize(
    ("ask", "error", "sentence"),
    [
        (lambda fleet: fleet.list("ap:1"), ImageNotFoundError, "did you mean app:1"),
        (lambda fleet: fleet.list("nosuch*"), ImageNotFoundError, "no image of any host matches"),
        (lambda fleet: fleet.list("sha256:0000"), ImageNotFoundError, "no such digest is on any host"),
        (lambda fleet: fleet.last_used("app:3"), ImageNotFoundError, "not found on any host: app:3"),
        (lambda fleet: fleet.holds("app:3"), ImageNotFoundError, "not found on any host: app:3"),
        (lambda fleet: fleet.holds("spelled:1"), InvalidReferenceError, "under several names"),
        (lambda fleet: fleet.list(filter=["label=a"]), InvalidConfigError, "does not tell the labels"),
        (lambda fleet: fleet.last_used(at_least="soon"), InvalidConfigError, "soon"),
        (lambda fleet: fleet.list(hosts=["ci-9"]), ImageNotFoundError, "no host of the fleet is"),
    ],
)
def test_what_is_not_there_is_said(hosts: Hosts, ask: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        ask(hosts.fleet)  # type: ignore[operator]


def test_a_word_may_be_of_images_on_one_host_alone(hosts: Hosts) -> None:
    assert [each.host for each in hosts.fleet.list("app:1", TOOL_2)].count("ci-2") == 2
    with pytest.raises(ImageNotFoundError):
        hosts.fleet.list("app:1", TOOL_2, hosts=["ci-1"])


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidReferenceError):
        Word("no such/word!")


def test_nothing_is_damaged(hosts: Hosts) -> None:
    assert hosts.fleet.damage() == []
