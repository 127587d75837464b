"""What a shell is answered below `fleet`: of the fleet that the line names, or nothing where that is away."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from msb_cache import Actor, ImageCache
from msb_cache.cli import completing, completing_fleet
from msb_cache.cli.fleet import MODULES, fleet
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.servers import add_server
from tests.cli.support import APP, TOOL, Ask, Call, execute, parameters
from tests.fleet.conftest import admin as admin
from tests.fleet.conftest import filled as filled
from tests.fleet.conftest import postgres as postgres
from tests.fleet.conftest import server as server
from tests.fleet.filled import Filled
from tests.fleet.postgres import PASSWORD, free_port
from tests.imagebuilder import docker_archive


@pytest.fixture(scope="module")
def removal(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two hosts: both have app:1, one of them tool:2, and has removed app:latest; the operation of that."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("ci-1", "ci-2", "it's $(x)"):
        actor = Actor(user="ci", uid=1000, host=name, program="test")
        with ImageCache(folder / name[:4], actor=actor) as cache:
            cache.load(io.BytesIO(docker_archive(APP)))
            if name == "ci-2":
                cache.load(io.BytesIO(docker_archive(TOOL)))
                cache.remove("app:latest", reason="superseded")
                cache.hold("app:1", "sandbox:dev")
                [found] = [each.operation for each in cache.prunes()]
        filled.add(folder / name[:4])
    return found


@pytest.fixture
def named(filled: Filled, removal: str) -> str:
    """How a line names the fleet."""
    [(option, value)] = filled.options.items()
    return f"--{option} '{value}'"


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("hosts ci", ["ci-1", "ci-2"]),
        ("hosts it\\'s", ["it's $(x)"]),
        ("hosts ci-1 ci", ["ci-2"]),
        ("hosts nobody", []),
        ("verify ci", ["ci-1", "ci-2"]),
        ("diff ci-1 ci-2", ["ci-2"]),
        ("diff ci", ["ci-1", "ci-2"]),
        ("list --host ci", ["ci-1", "ci-2"]),
        ("list --host=ci-2", ["ci-2"]),
        ("events --host ci-1 --host c", ["ci-2"]),
        ("archive --host ci-1", ["ci-1"]),
        ("fold --rebuild ci-1", ["ci-1"]),
        ("prunes --host ci-2", ["ci-2"]),
        ("list a", ["app:1", "app:latest"]),
        ("list ", ["app:1", "app:latest", "example.org/team/tool:2"]),
        ("list app:1 app", ["app:latest"]),
        ("list ap?", []),
        ("list %", []),
        ("list _", []),
        ('list "a\';"', []),
        ("list docker.io/library/app:1", ["docker.io/library/app:1"]),
        ("last-used ex", ["example.org/team/tool:2"]),
        ("holders app:", ["app:1", "app:latest"]),
        ("history ex", ["example.org/team/tool:2"]),
        ("why app:", ["app:1", "app:latest"]),
        ("events --subject app:", ["app:1", "app:latest"]),
        (f"history {TOOL.digest[:12]}", [TOOL.digest]),
        (f"list {TOOL.digest[:12]}", [TOOL.digest]),
        ("events --holder sand", ["sandbox:dev"]),
        ("events --type image.un", ["image.unpinned"]),
    ],
)
def test_what_can_come_next(ask: Ask, named: str, line: str, answers: list[str]) -> None:
    command, _, rest = line.partition(" ")
    assert ask(f"msb-cache fleet {named} {line}") == answers
    assert ask(f"msb-cache fleet {command} {named} {rest}") == answers


def test_operations_and_ids_of_logs(
    ask: Ask, call: Call, filled: Filled, named: str, removal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(f"msb-cache fleet {named} prunes show ") == [removal]
    assert ask(f"msb-cache fleet prunes {named} show {removal[:5]}") == [removal]
    assert ask(f"msb-cache fleet prunes show {named} f") == []
    assert ask(f"msb-cache fleet events {named} --operation ") == [removal]
    log = filled.fleet().logs(["ci-1"])[0]
    assert ask(f"msb-cache fleet {named} hosts {log.log_id[:6]}") == [log.log_id]
    monkeypatch.setenv("_MSB_CACHE_COMPLETE", "fish")
    monkeypatch.setenv("_MSB_CACHE_LINE", f"msb-cache fleet {named} prunes show ")
    *_, said = call().lines
    assert said.endswith(" remove of 1 image on ci-2")
    monkeypatch.setenv("_MSB_CACHE_LINE", f"msb-cache fleet {named} hosts {log.log_id[:6]}")
    assert call().lines == ["plain", log.log_id, "the log of ci-1"]


def test_the_fleet_of_the_environment_and_of_the_line(
    ask: Ask, filled: Filled, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MSB_CACHE_FLEET", raising=False)
    assert ask("msb-cache fleet hosts ci") == []  # none is named
    assert ask(f"msb-cache fleet {named} hosts --db {tmp_path}/none ci") == []  # the nearest one is meant
    assert ask(f"msb-cache fleet {named} --dsn x --db y hosts ci") == []
    if "dsn" in filled.options:
        monkeypatch.setenv("MSB_CACHE_FLEET", filled.options["dsn"])
        assert ask("msb-cache fleet hosts ci") == ["ci-1", "ci-2"]
        monkeypatch.setenv("MSB_CACHE_FLEET", "postgresql://localhost:1/none")
        assert ask(f"MSB_CACHE_FLEET='{filled.options['dsn']}' msb-cache fleet hosts ci") == ["ci-1", "ci-2"]
        monkeypatch.setenv("FLEET", filled.options["dsn"])
        assert ask("msb-cache fleet hosts --dsn $FLEET ci") == ["ci-1", "ci-2"]
        without = make_conninfo(filled.options["dsn"], password=" ").replace("password=' '", "")
        assert ask(f'PGPASSWORD={PASSWORD} msb-cache fleet --dsn "{without}" hosts ci') == ["ci-1", "ci-2"]
        monkeypatch.delenv("PGPASSWORD")
    else:
        monkeypatch.setenv("WHERE", str(Path(filled.options["db"]).parent))
        assert ask("msb-cache fleet hosts --db $WHERE/fleet.db ci") == ["ci-1", "ci-2"]


def test_who_is_enrolled_and_further_servers(ask: Ask, admin: str, server: object) -> None:
    enrol(admin, "comp-1")
    add_server(admin, "east", "host=127.0.0.1 port=1 dbname=fleet")
    assert ask(f"msb-cache fleet --dsn {admin} unenrol comp") == ["comp-1"]
    assert ask(f"msb-cache fleet --dsn {admin} enrol comp") == ["comp-1"]
    assert ask(f"msb-cache fleet --dsn {admin} servers --remove ") == ["east"]


@pytest.mark.parametrize("filled", ["server"], indirect=True)
def test_what_a_further_server_has_and_what_one_that_is_away_has_not(
    ask: Ask, postgres: object, filled: Filled, removal: str, admin: str, server: object
) -> None:
    # As the superuser, who reads both databases.
    database = filled.options["dsn"].rpartition("/")[2]
    away = f"host=127.0.0.1 port={free_port()} dbname=fleet"
    port = psycopg.conninfo.conninfo_to_dict(admin)["port"]
    add_server(admin, "away", away)
    add_server(admin, "east", f"host=127.0.0.1 port={port} dbname={database}")
    line = f'PGPASSWORD={PASSWORD} msb-cache fleet --dsn "{admin}" hosts ci'
    assert ask(line) == ["ci-1", "ci-2"]


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections, and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield listening.getsockname()[1]


@contextmanager
def babbling() -> Iterator[int]:
    """A port of something else than PostgreSQL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    yield free_port()


@pytest.mark.parametrize("port", [silent, babbling, closed])
def test_a_server_that_is_away_completes_nothing_soon(port: object) -> None:
    with port() as number:  # type: ignore[operator]
        began = time.monotonic()
        for word in ("fleet list ", "fleet hosts --format json --host c"):
            done = execute(
                _MSB_CACHE_COMPLETE="bash",
                _MSB_CACHE_LINE=f"msb-cache {word}",
                MSB_CACHE_FLEET=f"postgresql://u:p@127.0.0.1:{number}/fleet?connect_timeout=60",
            )
            assert (done.code, done.out, done.err) == (0, "", "")
        assert time.monotonic() - began < 2 * (completing_fleet.SECONDS + 3)


@pytest.mark.parametrize(
    "named",
    [
        "--dsn nonsense=",
        "--dsn ''",
        "--dsn 'host=a..b'",
        "--dsn service=nosuch",
        "--db {tmp}/none.db",
        "--db {tmp}",
        "--db {tmp}/text",
        "--db {tmp}/empty",
        "--db {tmp}/other.db",
        "--db /dev/zero",
        "--db ''",
    ],
)
def test_what_cannot_be_asked_has_no_answers(named: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n" * 10_000)
    (tmp_path / "empty").touch()
    with ImageCache(tmp_path / "home") as cache:
        cache.load(io.BytesIO(docker_archive(APP)))
    (tmp_path / "other.db").write_bytes((tmp_path / "home" / "db" / "msb-cache.db").read_bytes())
    before = sorted(tmp_path.iterdir())
    line = f"msb-cache fleet {named.format(tmp=tmp_path)} hosts "
    done = execute(_MSB_CACHE_COMPLETE="zsh", _MSB_CACHE_LINE=line)
    assert (done.out, done.err) == ("", "")
    assert sorted(tmp_path.iterdir()) == before


def test_a_database_that_lets_nobody_read(ask: Ask, admin: str, postgres: object) -> None:
    line = f"msb-cache fleet --dsn {admin} hosts "
    assert ask(line) == []  # it has no fleet


@pytest.mark.parametrize("filled", ["server"], indirect=True)
def test_a_table_that_is_locked_is_not_waited_for(ask: Ask, filled: Filled, removal: str, admin: str) -> None:
    database = filled.options["dsn"].rpartition("/")[2]
    with psycopg.connect(make_conninfo(admin, dbname=database)) as other:
        other.execute("LOCK TABLE msb_cache.image IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert ask(f"msb-cache fleet --dsn '{filled.options['dsn']}' list ") == []
        assert time.monotonic() - began < completing_fleet.SECONDS + 1
        assert ask(f"msb-cache fleet --dsn '{filled.options['dsn']}' hosts ci") == ["ci-1", "ci-2"]


def test_names_that_drive_a_terminal_are_no_answers(
    ask: Ask, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = Filled({"db": str(tmp_path / "fleet.db")})
    actor = Actor(user="ci", uid=1000, host="ci\x1b[2J\nplain", program="test")
    with ImageCache(tmp_path / "home", actor=actor) as cache:
        cache.load(io.BytesIO(docker_archive(APP)))
        cache.remove("app:latest")
    log_id = filled.add(tmp_path / "home")
    assert ask(f"msb-cache fleet --db {tmp_path}/fleet.db hosts ") == []
    monkeypatch.setenv("_MSB_CACHE_COMPLETE", "zsh")
    for line, answer in (("prunes show ", None), (f"hosts {log_id[:5]}", log_id)):
        monkeypatch.setenv("_MSB_CACHE_LINE", f"msb-cache fleet --db {tmp_path}/fleet.db {line}")
        kind, value, said = call().lines
        assert (kind, said) == ("plain", "")
        assert answer in (None, value)


def test_every_parameter_that_is_completed_is_in_a_command() -> None:
    context = click.Context(fleet)
    there: set[tuple[str, str]] = set()
    for name in MODULES:
        command = fleet.get_command(context, name)
        assert command is not None
        there |= parameters(command)
    by_name, in_commands = completing_fleet.OF_A_FLEET
    assert {name for _, name in there} >= by_name.keys()
    assert there >= in_commands.keys()
    assert completing.OF_A_HOME.by_name.keys() & by_name.keys()  # which stand for a home above the group
