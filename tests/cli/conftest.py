"""Homes to run commands in, and the command run in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache
from msb_cache.cli import look
from msb_cache.cli.main import run
from tests.cli.support import APP, APP_NEXT, TOOL, Ask, Call, Done, Put, answer, written
from tests.logs import ticking
from tests.moving import settle
from tests.msbhome import MsbHome

SECOND = 10**9
START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z
QUESTIONS = (
    "list",
    "list --quiet",
    "list --format json",
    "list app:*",
    "inspect app:1",
    "inspect app:1 --format json",
    f"inspect {TOOL.digest} --format json",
    "holders",
    "holders --format json",
    "holders app:latest",
    f"holders {APP.digest[7:19]} --format json",
)
SESSION = (
    "load -q -i {tmp}/app.tar",
    "use app:1",
    "hold app:1 sandbox:dev",
    "load -q -i {tmp}/tool.tar",
    "load -q -i {tmp}/next.tar",
    "hold app:1 snapshot:nightly",
    "use example.org/team/tool:2 --holder sandbox:dev",
    "rm -q -f app:latest",
    "release sandbox:dev",
    "prune -y",
    "load -q -i {tmp}/app.tar",
    "hold app:1 sandbox:again",
    "rm -q -f app:1",
    "load -q -i {tmp}/tool.tar",
    "release snapshot:nightly",
    "prune -y",
)


@pytest.fixture(autouse=True)
def own_home(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the home be the default one: of one that MSB_HOME names, each command says that it is not there."""
    monkeypatch.delenv("MSB_HOME")
    return tmp_path / "home" / ".microsandbox"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Make stdout and stderr a terminal of this many columns; None: pipes."""

    def make(columns: int | None) -> None:
        monkeypatch.setattr(look, "width", lambda *, err=False: columns)
        monkeypatch.setattr(look, "on_terminal", lambda stream: columns is not None)

    return make


@pytest.fixture
def call(capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Run the command in this process."""

    def call(*arguments: object) -> Done:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Done(code, captured.out, captured.err.decode())

    return call


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two archives, and the home that they were loaded into."""
    folder = tmp_path_factory.mktemp("template")
    with ImageCache(folder / "home") as cache:
        cache.load(written(folder / "app.tar", APP))
        cache.load(written(folder / "tool.tar", TOOL))
    return folder


@pytest.fixture
def home(own_home: Path, tmp_path: Path, template: Path) -> Path:
    """A home, the default one, with app:1, app:latest and example.org/team/tool:2.

    It is a copy: loading takes ten times as long. So its log names the archives in the template's folder;
    the same archives are in ``tmp_path``.
    """
    shutil.copytree(template / "home", own_home)
    settle(own_home)
    for name in ("app.tar", "tool.tar"):
        shutil.copy(template / name, tmp_path)
    return own_home


@pytest.fixture
def loaded(own_home: Path, tmp_path: Path) -> Path:
    """A home as ``home``, but loaded now, and from the archives in ``tmp_path``."""
    with ImageCache(own_home) as cache:
        cache.load(written(tmp_path / "app.tar", APP))
        cache.load(written(tmp_path / "tool.tar", TOOL))
    return own_home


@pytest.fixture
def put(own_home: Path, tmp_path: Path) -> Put:
    """Write the config.toml of the user, or of the home; return its path."""

    def write(whose: str, text: str) -> str:
        folder = own_home if whose == "home" else tmp_path / "home/.config/msb-cache"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(text)
        return str(folder / "config.toml")

    return write


@pytest.fixture
def msb_home(own_home: Path) -> Iterator[MsbHome]:
    """A home of msb with app:1 and two:2, and a sandbox of app:1."""
    found = MsbHome(own_home)
    found.load("app:1", "one", "xy", env=["A=1"])
    found.load("example.org/two:2", "two", "xz")
    found.create("app:1", "dev")
    yield found
    found.close()


@pytest.fixture
def long(own_home: Path, tmp_path: Path) -> Path:
    """A home where each event has a second of its own, by two people on two machines."""
    clock = ticking(START, SECOND)
    for user, host in (("ada", "one"), ("grace", "two")):
        actor = Actor(user=user, uid=1, host=host, program="test", reason='it\'s "due"')
        with ImageCache(own_home, actor=actor, clock=lambda: next(clock)) as cache:
            if user == "ada":
                cache.load(written(tmp_path / "app.tar", APP))
                cache.load(written(tmp_path / "tool.tar", TOOL))
            cache.hold("app:1", f"sandbox:{user}")
            cache.use("example.org/team/tool:2", holder=f"sandbox:{user}")
            cache.load(written(tmp_path / "next.tar", APP_NEXT))
    return own_home


@pytest.fixture
def recorded(own_home: Path, call: Call, tmp_path: Path) -> list[tuple[int, str, dict[str, object]]]:
    """A session: after each operation the position, the time it was recorded, and all answers then."""
    for name, image in (("app", APP), ("tool", TOOL), ("next", APP_NEXT)):
        written(tmp_path / f"{name}.tar", image)
    found = []
    for command in SESSION:
        assert call(*command.format(tmp=tmp_path).split()).code == 0
        (last,) = call("events", "--reverse", "-n", "1", "--format", "json").json
        answers: dict[str, object] = {words: answer(call(*words.split())) for words in QUESTIONS}
        found.append((last["seq"], last["recorded_at"], answers))
    return found


@pytest.fixture
def exported(home: Path, call: Call, tmp_path: Path) -> Path:
    """The home's log as a file."""
    path = tmp_path / "log.jsonl"
    assert call("export", "-o", path).code == 0
    return path


@pytest.fixture
def ask(call: Call, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask as bash does what can come next on a line; a word of it is broken only at spaces."""

    def ask(line: str, breaks: str = "") -> list[str]:
        monkeypatch.setenv("_MSB_CACHE_COMPLETE", "bash")
        monkeypatch.setenv("_MSB_CACHE_LINE", line)
        monkeypatch.setenv("_MSB_CACHE_BREAKS", breaks)
        done = call("these", "arguments", "mean", "nothing")
        monkeypatch.delenv("_MSB_CACHE_COMPLETE")
        assert done.err == ""
        assert len(done.lines) % 3 == 0
        found = [*zip(done.lines[::3], done.lines[1::3], strict=True)]
        return [value if kind == "plain" else f"<{kind}>" for kind, value in found]

    return ask
