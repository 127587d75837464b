"""What commands that do something print of it: in every format the same, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from msb_cache.artifacts.layout import Layout
from tests.cli.support import APP, APP_NEXT, Call, Done, fingerprint, on_terminal, sentence, written
from tests.fakemsb import FakeMsb
from tests.proof.signing import keep_signed, new_log_key
from tests.registry_server import RegistryServer

OPERATION = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LOG = "[0-9a-f]{32}"
KEY = new_log_key()
POLICY = '[[rule]]\nname = "all"\nunused-for = "0s"\ngrace = "0s"\n'


class Case(NamedTuple):
    """A command, what is done before it, what its ``-q`` prints, and its exit code."""

    command: str
    quiet: str
    before: tuple[str, ...] = ()
    code: int = 0


CASES = (
    Case("pull {host}/app:1", APP.digest),
    Case("load {tmp}/next.tar", APP_NEXT.digest),
    Case("load {tmp}/app.tar --tag more:1", APP.digest),
    Case("use app:1 --holder sandbox:dev", APP.digest),
    Case("hold app:1 sandbox:dev --until 2099-01-01", APP.digest),
    Case("release sandbox:dev", APP.digest, ("hold app:1 sandbox:dev",)),
    Case("release sandbox:dev", ""),
    Case("pin app:1", "app:1"),
    Case("pin {digest}", APP.digest),
    Case("unpin app:1", "app:1", ("pin app:1",)),
    Case("remove app:1", OPERATION),
    Case("remove --dry-run app:1", "app:1"),
    Case("prune --yes", OPERATION),
    Case("prune --yes", "", ("prune --yes",)),
    Case("prune --dry-run --grace 0s --filter reference=app:1", "app:1"),
    Case("gc", OPERATION),
    Case("gc", "", ("gc",)),
    Case("gc --dry-run --max-delete 100%", "example.org/team/tool:2|app:latest|app:1"),
    Case("restore {operation}", OPERATION, ("remove app:1",)),
    Case("restore --dry-run {operation}", "app:1", ("remove app:1",)),
    Case("rebuild", ""),
    Case("verify", ""),
    Case("verify", "disk cache/layers/sha256_.*erofs", ("break",), code=1),
    Case("doctor", ""),
    Case("doctor --fix", "file-missing cache/layers/sha256_.*erofs", ("break",), code=1),
    Case("checkpoint", ".+"),
    Case("log acknowledge", "", code=1),
    Case("log anew --yes", LOG),
    Case("backup {tmp}/backup.db", "{tmp}/backup.db"),
    Case("restore-backup {tmp}/backup.db", LOG, ("backup {tmp}/backup.db",)),
    Case("restore-backup --confirm", "", code=1),
    Case("export -o {tmp}/log.jsonl", "{tmp}/log.jsonl"),
    Case("--home {tmp}/other import {tmp}/log.jsonl", LOG, ("export -o {tmp}/log.jsonl",)),
    Case("prove app:1 -o {tmp}/event.tlog-proof", "@[0-9]+", ("sign",)),
    Case("prove @2", "@2", ("sign",)),
    Case("check-proof {tmp}/p {key}", "@2", ("sign", "prove @2 -o {tmp}/p")),
    Case("sync", ""),
    Case("info", "{tmp}/home/.microsandbox"),
    Case("df", "[0-9]+"),
)


class Ready:
    """A home in which the case's command can be run, once."""

    def __init__(self, case: Case, call: Call, home: Path, host: str) -> None:
        self._case, self._call, self._home = case, call, home
        self._names = {"host": host, "tmp": str(home.parent.parent), "digest": APP.digest, "operation": ""}
        self._names["key"] = f"--key={KEY.key}"
        (home / "cache-policy.toml").write_text(POLICY)
        for words in case.before:
            if words == "break":
                next(iter((home / "cache" / "layers").glob("*.erofs"))).unlink()
            elif words == "sign":
                keep_signed(Layout(home).database, KEY)
            else:
                assert call(*words.format(**self._names).split()).code == 0
        for deletion in call("prunes", "-n", "1", "--format", "json").json:
            self._names["operation"] = deletion["operation"]

    def run(self, *more: str) -> Done:
        """Run it."""
        return self._call(*self._case.command.format(**self._names).split(), *more)

    @property
    def quiet(self) -> str:
        """The pattern of each line that ``-q`` prints."""
        return self._case.quiet.format(**self._names) if "{tmp}" in self._case.quiet else self._case.quiet

    def fields(self) -> list[str]:
        """Ask for a field that there is none of, which changes nothing, and return those that there are."""
        before = fingerprint(self._home.parent), fingerprint(self._home)
        refused = self.run("--format", "{{nope}} {nope}")
        assert (refused.code, refused.raw) == (2, b"")
        assert (fingerprint(self._home.parent), fingerprint(self._home)) == before
        said = re.fullmatch(r"--format: no field 'nope'; there are: (.*); see `.*`", sentence(refused.err))
        assert said is not None
        return said[1].split(", ")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        running.add(APP, "app", "1")
        yield running


@pytest.fixture(params=CASES, ids=lambda case: f"{case.command.partition(' /')[0]} {case.quiet[:9]}")
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def ready(case: Case, home: Path, call: Call, server: RegistryServer, tmp_path: Path) -> Ready:
    written(tmp_path / "next.tar", APP_NEXT)
    return Ready(case, call, home, server.host)


def test_json(case: Case, ready: Ready) -> None:
    fields = ready.fields()
    done = ready.run("--format", "json")
    assert done.code == case.code
    assert "✓" not in done.err
    found = done.json if isinstance(done.json, list) else [done.json]
    assert found
    assert [[*each] for each in found] == [fields] * len(found)


def test_lines(case: Case, ready: Ready) -> None:
    fields = ready.fields()
    done = ready.run("--format", "jsonl")
    assert (done.code, "✓" in done.err) == (case.code, False)
    assert done.lines
    for line in done.lines:
        assert [*json.loads(line)] == fields


def test_a_template(case: Case, ready: Ready) -> None:
    fields = ready.fields()
    first, last = fields[0], fields[-1]
    done = ready.run("--format", f"<{{{first}}}\\t{{{last}}}>")
    assert (done.code, "✓" in done.err) == (case.code, False)
    assert done.lines
    for line in done.lines:
        assert re.fullmatch(r"<.*\t.*>", line)


def test_names_only(case: Case, ready: Ready) -> None:
    done = ready.run("-q")
    assert done.code == case.code
    assert re.fullmatch(f"(({ready.quiet})\n)*" if ready.quiet else "", done.out)
    assert bool(done.out) == bool(ready.quiet)
    assert len({*done.lines}) == len(done.lines)
    assert done.err == ""


def test_json_without_a_word_beside_it(case: Case, ready: Ready) -> None:
    done = ready.run("-q", "--format", "json")
    assert (done.code, done.err) == (case.code, "")
    assert done.json is not None


class TestPull:
    def test_what_was_recorded(self, own_home: Path, call: Call, server: RegistryServer) -> None:
        name = f"{server.host}/app:1"
        first = call("pull", name, "--format", "json").json
        assert (first["reference"], first["changed"], first["previous_digest"]) == (name, True, None)
        assert (first["bytes_fetched"] > 1000, first["bytes_reused"]) == (True, 0)
        (event,) = call("events", "--type", "image.pulled", "--format", "json").json
        assert (first["operation"], first["seq"]) == (event["operation"], event["seq"])
        server.add(APP_NEXT, "app", "1")
        moved = call("pull", "--policy", "always", name, "--format", "json").json
        assert (moved["digest"], moved["previous_digest"]) == (APP_NEXT.digest, APP.digest)
        assert moved["bytes_reused"] > 0

    def test_no_bar_beside_json_on_a_terminal(self, own_home: Path, server: RegistryServer) -> None:
        talk = on_terminal(["pull", f"{server.host}/app:1", "--format", "jsonl"])
        *notes, line = talk.said.splitlines()
        assert ["is new and kept by" in each for each in notes] == [True]
        assert json.loads(line)["digest"] == APP.digest


class TestHandOver:
    @pytest.fixture(autouse=True)
    def fake(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
        fake = FakeMsb(tmp_path / "msb", home)
        monkeypatch.setenv("MSB_PATH", str(fake.program))
        return fake

    def test_each_format(self, home: Path, call: Call) -> None:
        before = fingerprint(home)
        refused = call("hand-over", "--format", "{nope}")
        assert (refused.code, fingerprint(home)) == (2, before)
        planned = call("hand-over", "--dry-run", "--format", "json")
        assert [
            {**each} for each in map(json.loads, call("hand-over", "--dry-run", "--format", "jsonl").lines)
        ] == (planned.json)
        assert f"there are: {', '.join(planned.json[0])};" in refused.err
        assert call("hand-over", "--dry-run", "-q").lines == [
            "app:1",
            "app:latest",
            "example.org/team/tool:2",
        ]
        done = call("hand-over", "--format", "{reference} {outcome}")
        assert sorted(done.lines) == [
            "app:1 handed over",
            "app:latest handed over",
            "example.org/team/tool:2 handed over",
        ]
        assert "✓" not in done.err


def test_watch_knows_the_fields_of_events(home: Path, call: Call) -> None:
    event = call("events", "--format", "json").json[0]
    refused = call("watch", "--format", "{nope}")
    assert (refused.code, refused.raw) == (2, b"")
    assert f"there are: {', '.join(event)};" in refused.err


def test_export_to_stdout_tells_nothing(home: Path, call: Call) -> None:
    done = call("export", "--format", "json")
    assert (done.code, done.raw) == (2, b"")
    assert "-o FILE" in sentence(done.err)
    assert call("export", "-q").raw == call("export").raw
