"""witness as a program: it cosigns, is killed and goes on; what it logs and lists; what it refuses."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from msb_cache import diagnostics
from msb_cache.cli import witness as command
from msb_cache.proof import note as notes
from msb_cache.proof.witness import Witness
from tests.cli.support import USAGE, Call, Server, check_privileges, execute, sentence, served
from tests.proof.signing import LOG
from tests.proof.submitting import (
    EARLY,
    HONEST,
    LATE,
    LOG_HASH,
    LOG_KEY,
    WITNESS,
    SubmittingLog,
    leaves,
    witness_at,
    written,
)


@pytest.fixture(autouse=True)
def nothing_stays_configured() -> Iterator[None]:
    yield
    diagnostics.use(None)
    structlog.reset_defaults()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return written(WITNESS, tmp_path / "w.key")


@pytest.fixture
def serving(key: Path, tmp_path: Path) -> tuple[object, ...]:
    """The arguments of a witness that knows the log, on any port."""
    arguments = ("--key", key, "--log", LOG_KEY.key, "--state", tmp_path / "new" / "w.db")
    return ("witness", "serve", *arguments, "--listen", "127.0.0.1:0")


def logged(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines()]


def test_it_cosigns_remembers_and_logs(serving: tuple[object, ...], tmp_path: Path) -> None:
    state = tmp_path / "new" / "w.db"
    with served(*serving) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", server.said)
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == f"{WITNESS.key}\n"
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        with httpx.Client(base_url=server.said, timeout=10) as client:
            answer = client.post("/add-checkpoint", content=HONEST.request(0, 7))
            assert answer.status_code == 200
            note = notes.parse(client.get(f"/{LOG_HASH}/checkpoint").content)
            assert note.signed_by([LOG_KEY.key, WITNESS.key]) == [LOG_KEY.key, WITNESS.key]
            assert client.post("/add-checkpoint", content=EARLY.request(7, 7)).status_code == 422
            assert client.post("/add-checkpoint", content=EARLY.request(7, 9)).status_code == 422
            assert client.post("/add-checkpoint", content=HONEST.request(0, 9)).status_code == 409
            assert client.post("/add-checkpoint", content=b"nothing").status_code == 400
            listed = execute("witness", "list", "--state", state, "--format", "json")
        code, err = server.end()
    assert code == 0
    lines = logged(err)
    assert [(each["event"], each["level"], each["status"], each.get("size")) for each in lines] == [
        ("witness.asked", "info", 200, 7),
        ("witness.fork", "warning", 422, 7),
        ("witness.unproved", "warning", 422, 9),
        ("witness.asked", "info", 409, 9),
        ("witness.asked", "info", 400, None),
    ]
    assert {each.get("origin") for each in lines} == {LOG, None}
    (log,) = listed.json
    assert (log["origin"], log["size"], log["note"]) == (LOG, 7, str(note))
    assert [(each["size"], each["is_fork"]) for each in log["refused"]] == [(7, True), (9, False)]
    with served(*serving) as server:
        assert httpx.post(f"{server.said}add-checkpoint", content=HONEST.request(7, 9)).status_code == 200
        assert server.end(signal.SIGINT)[0] == 0


def test_at_a_socket(key: Path, tmp_path: Path) -> None:
    path, logs = tmp_path / "s", tmp_path / "logs.txt"
    logs.write_text(f"# of the build machines\nlog {LOG_KEY.key} https://ci7.example.com\n")
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with served("witness", "serve", "--key", key, "--logs-file", logs, "--socket", path, **state) as server:
        assert server.said == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://w") as client:
            assert client.post("/add-checkpoint", content=HONEST.request(0, 7)).status_code == 200
        assert server.end()[0] == 0
    assert not path.exists()
    assert execute("witness", "list", "-q", **state).out == f"{LOG}\n"


SHARED = 12
LONG = SubmittingLog(leaves(80))
OTHER = SubmittingLog([*leaves(SHARED), *leaves(80 - SHARED, "other")])


class Submitter(threading.Thread):
    """Submits a log's checkpoints until it is told to end, whatever becomes of the witness."""

    def __init__(self, log: SubmittingLog) -> None:
        super().__init__(daemon=True)
        self.log, self.over, self.url = log, threading.Event(), ""
        self.cosigned: list[int] = []
        self.answered = 0

    def run(self) -> None:
        known, chance = 0, random.Random(7)
        while not self.over.is_set():
            size = min(known + chance.randint(0, 3), len(self.log.leaves))
            with suppress(httpx.HTTPError, httpx.InvalidURL):
                answer = httpx.post(
                    f"{self.url}add-checkpoint", content=self.log.request(known, size), timeout=5
                )
                self.answered += 1
                if answer.status_code == 200:
                    (line,) = notes.signatures_in(answer.text, "the answer")
                    note = self.log.note(size).with_signatures([line])
                    assert WITNESS.key in note.signed_by([WITNESS.key])
                    self.cosigned.append(size)
                    known = size
                elif answer.status_code == 409:
                    known = int(answer.text)
                else:
                    assert answer.status_code == 422
                    known = chance.choice([known, 0])


@pytest.mark.slow
def test_killed_at_any_moment_it_never_cosigns_two_histories(
    serving: tuple[object, ...], tmp_path: Path
) -> None:
    chance = random.Random(21)
    clients = [Submitter(LONG), Submitter(OTHER)]
    sizes, state = [0], tmp_path / "new" / "w.db"
    deadline = time.monotonic() + 60
    while len(sizes) <= 4 or sizes[-1] <= SHARED:
        server = Server(*serving)
        answered = [each.answered for each in clients]
        for each in clients:
            each.url = server.said
            if len(sizes) == 1:
                each.start()
        while [each.answered for each in clients] == answered:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.random() / 5)
        server.process.send_signal(signal.SIGKILL)
        server.process.communicate(timeout=10)
        copy = tmp_path / "copy" / f"{len(sizes)}.db"  # with the journal that it may have left
        copy.parent.mkdir(exist_ok=True)
        for path in state.parent.iterdir():
            shutil.copy(path, f"{copy}{path.name.removeprefix('w.db')}")
        with closing(Witness(copy, WITNESS, [LOG_KEY.key])) as found:
            (log,) = found.remembered()
        assert log.size is not None
        sizes.append(log.size)
    for each in clients:
        each.over.set()
    for each in clients:
        each.join(20)
    assert sizes == sorted(sizes)
    honest, other = (max(each.cosigned, default=0) for each in clients)
    assert max(honest, other) <= sizes[-1]
    assert min(honest, other) <= SHARED  # from there on they are two histories
    roots = [each.log.head(sizes[-1]).root for each in clients]
    assert log.root in roots
    for each, root in zip(clients, roots, strict=True):
        assert log.root == root or max(each.cosigned, default=0) <= SHARED


@pytest.mark.parametrize("moment", range(6))
def test_killed_between_any_two_steps_it_remembers_all_or_nothing(tmp_path: Path, moment: int) -> None:
    """By the child itself, before or after each wait for the database, and while it signs."""
    with closing(witness_at(tmp_path)) as found:
        assert found.add_checkpoint(HONEST.request(0, 18)).status == 200
    pid = os.fork()
    if pid == 0:
        _submit_and_die(tmp_path, moment)
    _, status = os.waitpid(pid, 0)
    cosigned = (tmp_path / "cosigned").exists()
    assert cosigned is (moment == 5)
    assert os.WIFSIGNALED(status)
    with closing(witness_at(tmp_path)) as found:
        (log,) = found.remembered()
        assert log.size == (25 if moment >= 4 else 18)
        answer = found.add_checkpoint(LATE.request(18, 25))
        assert answer.status == (409 if moment >= 4 else 200)


def _submit_and_die(folder: Path, moment: int) -> None:
    from msb_cache.proof import witness, witness_state

    steps = iter(range(100))

    def step() -> None:
        if next(steps) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    found = witness_at(folder)

    def patiently(attempt: Callable[[], object], **given: Any) -> object:
        step()
        done = attempt()
        step()
        return done

    def cosign(*arguments: Any) -> Any:
        step()
        return signed(*arguments)

    signed = witness.cosign
    # Before and behind BEGIN (0, 1), at the signature (2), before and behind COMMIT (3, 4), and at last (5).
    witness_state.patiently, witness.cosign = patiently, cosign  # type: ignore[assignment]
    try:
        found.add_checkpoint(HONEST.request(18, 25))
        (folder / "cosigned").touch()
        step()
    finally:
        os._exit(1)


class TestList:
    def test_as_tables(self, call: Call, tmp_path: Path) -> None:
        with closing(witness_at(tmp_path)) as found:
            for body in (HONEST.request(0, 7), EARLY.request(7, 7), EARLY.request(7, 9)):
                found.add_checkpoint(body)
        done = call("witness", "list", "--state", tmp_path / "w.db")
        assert (done.code, done.err) == (0, "")
        words = [line.split() for line in done.lines]
        assert words[0] == ["LOG", "EVENTS", "ROOT", "COSIGNED"]
        assert words[1][:2] == [LOG, "7"]
        assert HONEST.head(7).text.split("\n")[2] in words[1]
        assert words[3] == ["REFUSED", "EVENTS", "ROOT", "WHEN"]
        assert (words[4][:2], words[4][-1:]) == ([LOG, "7"], ["FORK"])
        assert (words[5][:2], words[5][-2:]) == ([LOG, "9"], ["not", "proved"])
        assert call("witness", "list", "--state", tmp_path / "w.db", "--format", "{origin} {size}").out == (
            f"{LOG} 7\n"
        )

    def test_of_nothing(self, call: Call, tmp_path: Path) -> None:
        witness_at(tmp_path).close()
        done = call("witness", "list", "--state", tmp_path / "w.db")
        assert (done.code, done.out, done.err) == (0, "", "Nothing was cosigned yet.\n")

    def test_of_no_witness(self, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        for arguments in (("witness",), ("witness", "list")):
            done = call(*arguments)
            assert (done.code, done.out) == (USAGE, "")
            assert f"no state of a witness at {tmp_path}/msb-cache/witness.db" in sentence(done.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--key'"),
        (("--key", "w.key"), "give the key of one with --log"),
        (("--key", "w.key", "--log", "x"), "'x' is no verifier key"),
        (("--key", "w.key", "--log", str(WITNESS.key)), "is of a witness, and it is to be of a log"),
        (("--key", "log.key", "--log", str(LOG_KEY.key)), "is the key of a log"),
        (("--key", "open.key", "--log", str(LOG_KEY.key)), "open.key"),
        (("--key", "none.key", "--log", str(LOG_KEY.key)), "none.key"),
        (("--key", "w.key", "--logs-file", "none"), "the keys of logs in none cannot be read"),
        (("--key", "w.key", "--logs-file", "bad.txt"), "bad.txt, line 2: "),
        (("--key", "w.key", "--log", str(LOG_KEY.key), "--listen", "x:1"), "no address to listen on"),
        (("--key", "w.key", "--log", str(LOG_KEY.key), "--socket", "w.key"), "something else is there"),
        (("--key", "w.key", "--log", str(LOG_KEY.key), "--state", "w.key"), "damaged, or no state"),
        (("--key", "w.key", "--socket", "s", "--listen", "127.0.0.1:0"), "give --socket alone"),
        (("--key", ""), "is empty"),
        (("--key", "w.key", "--state", ""), "is empty"),
    ],
)
def test_what_makes_no_witness_is_a_sentence(
    call: Call, key: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(key.parent)
    written(LOG_KEY, Path("log.key"))
    written(WITNESS, Path("open.key")).chmod(0o644)
    Path("bad.txt").write_text("\nnothing of the kind\n")
    before = key.read_bytes()
    done = call("witness", "serve", *arguments)
    assert (done.code in (1, USAGE), done.raw) == (True, b"")
    assert said in sentence(done.err)
    assert key.read_bytes() == before


@pytest.mark.parametrize(("address", "warns"), [("0.0.0.0:0", True), ("[::1]:0", False)])
def test_what_other_machines_reach_is_said(
    call: Call, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, warns: bool
) -> None:
    monkeypatch.setattr(command, "_run", lambda *_: None)
    arguments = ("--key", key, "--log", LOG_KEY.key, "--state", tmp_path / "w.db", "--listen", address)
    done = call("witness", "serve", *arguments)
    assert (done.code, done.lines[1]) == (0, str(WITNESS.key))
    assert re.fullmatch(rf"http://{re.escape(address[:-2])}:[1-9]\d*/", done.lines[0])
    assert ("other machines can reach this witness" in done.err) is warns


@pytest.mark.parametrize(("module", "extra"), [("uvicorn", "web"), ("cryptography", "proof")])
def test_what_it_needs_and_how_to_get_it_is_said(
    call: Call, key: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = call("witness", "serve", "--key", key, "--log", LOG_KEY.key)
    assert done.code == 1
    assert f"the witness needs {module}; `pip install 'msb-cache[{extra}]'`" in done.err


def test_the_unit_serves_with_few_privileges(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    analyze = require_peer("systemd-analyze")
    text = (Path(__file__).parents[2] / "examples/systemd/msb-cache-witness.service").read_text()
    (words,) = re.findall(r"(?m)^ExecStart=/usr/local/bin/msb-cache (.*)$", text)
    assert words.split()[:2] == ["witness", "serve"]
    given = command.serve.make_context("serve", words.split()[2:]).params
    assert [name for name, value in given.items() if value] == ["key", "logs_file", "state", "listen"]
    unit = tmp_path / "witness.service"
    check_privileges(text, unit, analyze)
