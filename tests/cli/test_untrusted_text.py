"""Text from outside never drives a terminal: every command, in a home full of hostile names and reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache, diagnostics
from msb_cache.artifacts.layout import Layout
from msb_cache.audit.prove import prove
from msb_cache.cli.main import command_names
from msb_cache.errors import MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, NewEvent
from msb_cache.home.ledger import Ledger
from tests.cli.support import Call, on_terminal, written
from tests.engines.support import refusing
from tests.imagebuilder import file, image, layer
from tests.logs import digest, pulled
from tests.proof.signing import keep_signed, new_log_key
from tests.registry_server import RegistryServer, error

HOSTILE = "a\x1b]0;t\x07\x1b[2Jb\x9b31mc\u202ed\u2066e\u200bf\rg\nh\x7fi\u2028j\ue000k\U000e0001l"
"""ESC and OSC, a C1 control, bidi overrides and isolates, zero width, other lines, private use, tags."""
EVIL_1 = "docker.io/library/evil:1"
RULED = "docker.io/library/ruled:1"
EVIL = image(
    [layer([file("f", b"f" * 3000)])],
    "evil:1",
    config={
        "Env": [f"K={HOSTILE}"],
        "Cmd": [HOSTILE],
        "Entrypoint": [HOSTILE],
        "WorkingDir": HOSTILE,
        "User": HOSTILE,
        "Labels": {HOSTILE: HOSTILE},
        "StopSignal": HOSTILE,
    },
)
GONE = image([layer([file("gone", b"g" * 3000)])], "gone:1")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""What our own colours are; that of hostile text is none."""


@pytest.fixture(autouse=True)
def coloured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Print as on a terminal: click would take escapes away, hostile ones too."""
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream=None, color=None: False)
    yield
    diagnostics.use(None)


@pytest.fixture
def hostile(own_home: Path, tmp_path: Path) -> dict[str, Any]:
    """A home in which everything that somebody else can name has such a name."""
    actor = Actor(
        user=HOSTILE,
        uid=1,
        host=HOSTILE,
        program=HOSTILE,
        reason=HOSTILE,
        login=HOSTILE,
        unit=f"{HOSTILE}.service",
        container=HOSTILE,
        parent=HOSTILE,
        seen_by=HOSTILE,
        claimed={HOSTILE: HOSTILE, "ci_job": HOSTILE},
    )
    folder = tmp_path / HOSTILE
    folder.mkdir()
    archive = written(folder / "evil.tar", EVIL)
    layout = Layout(own_home)
    with ImageCache(own_home, actor=actor) as cache:
        cache.load(archive)
        cache.load(written(folder / f"{HOSTILE}.tar", GONE))
        cache.hold("evil:1", "sandbox:dev")
        cache.pin("evil:1")
        with refusing(5, layout.layer(GONE.layers[0].diff_id)):
            operation = cache.remove("gone:1").operation
    source = ev.Source(kind="archive", name=HOSTILE)
    ruled = ev.Judged(subject=RULED, rule="due", policy_rule=HOSTILE)
    ledger = Ledger(layout, actor=actor)
    with ledger.write("hostile") as transaction:
        transaction.append(
            [
                NewEvent(
                    ev.ImageHeld(
                        holder=f"sandbox:{HOSTILE}",
                        reference=EVIL_1,
                        status=HOSTILE,
                        root=HOSTILE,
                        labels={HOSTILE: HOSTILE},
                    ),
                    EVIL.digest,
                ),
                NewEvent(ev.ImageUsed(manifest_digest=EVIL.digest, holder=HOSTILE, run=HOSTILE), EVIL_1),
                NewEvent(
                    ev.ImageUsed(manifest_digest=EVIL.digest, holder=HOSTILE, run="over", status=HOSTILE),
                    EVIL_1,
                ),
                NewEvent(
                    ev.ImageUseEnded(
                        manifest_digest=EVIL.digest, holder=HOSTILE, run="over", how="ended", status=HOSTILE
                    ),
                    EVIL_1,
                ),
                NewEvent(ev.ImageUsed(manifest_digest=EVIL.digest, holder=HOSTILE), EVIL_1),
                NewEvent(ev.ImagePullFailed(reason=HOSTILE, source=source), "docker.io/library/failed:1"),
                NewEvent(ev.ArtifactDeleteFailed(kind="vmdk", errno=5, reason=HOSTILE), digest(2)),
                NewEvent(pulled(digest(3)), RULED),
                NewEvent(ev.DeletionStarted(kind="prune", policy={}, going=(ruled,)), "hostile"),
                NewEvent(ev.ImageRemoved(manifest_digest=digest(3), cause="prune"), RULED),
                NewEvent(ev.DeletionFinished(outcome="completed"), "hostile"),
            ]
        )
    ledger.close()
    keep_signed(layout.database, new_log_key())
    for position in range(1, 100):
        with suppress(MicrosandboxError):
            found = prove(ledger, position)
            (folder / f"{position}.tlog-proof").write_text(found.text)
    ledger.close()
    (folder / "hostile.policy").write_bytes(b"quorum none\n" + HOSTILE.replace("\n", "").encode() + b"\xff\n")
    layout.vmdk(digest(2)).write_bytes(b"left")
    for kind in layout.folders.values():
        kind.mkdir(parents=True, exist_ok=True)
        (kind / HOSTILE.replace("/", "_")).write_bytes(b"foreign")
    as_toml = "".join(f"\\u{ord(each):04x}" for each in HOSTILE)
    (folder / "hostile.toml").write_text(
        f'"{as_toml}" = 1\n[keep]\nreferences = ["{as_toml}"]\n[[rule]]\nname = "{as_toml}"\n'
        f'filter = "{as_toml}"\nunused-for = "{as_toml}"\nkeep-last = "{as_toml}"\n"{as_toml}" = 2\n'
    )
    return {"archive": archive, "operation": operation, "folder": folder}


def commands(at: dict[str, Any]) -> dict[str, list[list[object]]]:
    """What is run of each command; some succeed, some are refused because of hostile arguments."""
    operation, folder, archive = at["operation"], at["folder"], at["archive"]
    return {
        "pull": [["pull", HOSTILE], ["pull", "--policy", HOSTILE, "a"]],
        "load": [
            ["load", "-i", archive],
            ["load", "-i", folder / f"no {HOSTILE}"],
            ["load", "-i", archive, "--tag", HOSTILE],
        ],
        "save": [["save", "evil:1", "-o", folder / f"{HOSTILE}.out"], ["save", HOSTILE, "-o", folder / "no"]],
        "list": [["list"], ["list", "-q"], ["list", HOSTILE]],
        "inspect": [["inspect", "evil:1"], ["inspect", HOSTILE]],
        "use": [["use", "evil:1", "--holder", HOSTILE], ["use", HOSTILE]],
        "hold": [["hold", "evil:1", HOSTILE], ["hold", HOSTILE, "sandbox:x"]],
        "release": [["release", HOSTILE], ["release", f"sandbox:{HOSTILE}x"]],
        "holders": [["holders"], ["holders", HOSTILE]],
        "pin": [["pin", "evil:1", "--reason", HOSTILE], ["pin", HOSTILE], ["pin", "a", "--until", HOSTILE]],
        "unpin": [["unpin", "never:1"], ["unpin", HOSTILE]],
        "policy": [
            ["policy", "init"],
            ["policy", "show"],
            ["policy", "test", "evil:1"],
            ["policy", "test", HOSTILE],
            ["policy", "check", folder / "hostile.toml"],
            ["policy", "check", HOSTILE],
        ],
        "pins": [["pins"], ["pins", "--as-of", HOSTILE]],
        "diff": [["diff", "@1"], ["diff", HOSTILE]],
        "why": [["why", target] for target in ("evil:1", "gone:1", "failed:1", EVIL.digest, HOSTILE)],
        "last-used": [["last-used"], ["last-used", "--idle-for", HOSTILE]],
        "history": [["history", "evil:1"], ["history", "gone:1"], ["history", HOSTILE]],
        "events": [["events"], ["events", "--subject", HOSTILE], ["events", "--since", HOSTILE]],
        "sql": [
            *(["sql", f"SELECT * FROM {view}"] for view in ("v_images", "v_events", "v_prunes", "v_holders")),
            ["sql", f"SELECT 1 AS '{HOSTILE}'"],
            ["sql", HOSTILE],
        ],
        "gc": [
            ["gc", "-n"],
            ["gc", "-n", "--policy-file", folder / "hostile.toml"],
            ["gc", "--policy-file", HOSTILE],
            ["gc", "--max-delete", HOSTILE],
            ["gc", "--every", HOSTILE],
            ["gc", "--reason", HOSTILE],
        ],
        "prunes": [
            ["prunes"],
            ["prunes", "show", operation],
            ["prunes", "restore-plan", operation],
            ["prunes", "show", HOSTILE],
            ["prunes", HOSTILE],
        ],
        "restore": [
            ["restore", operation, "--dry-run"],
            ["restore", operation, "--reason", HOSTILE],
            ["restore", operation, HOSTILE],
            ["restore", HOSTILE],
        ],
        "rebuild": [["rebuild"]],
        "verify": [["verify"], ["verify", "--against", folder / "no"]],
        "checkpoint": [
            ["checkpoint"],
            ["checkpoint", "--origin", HOSTILE],
            ["checkpoint", "--sign", HOSTILE],
            ["checkpoint", "--sign", HOSTILE, "--witness", HOSTILE],
        ],
        "checkpoints": [
            ["checkpoints"],
            ["checkpoints", "show"],
            ["checkpoints", "show", "--origin", HOSTILE],
            ["checkpoints", "forget", "1", "--origin", HOSTILE],
        ],
        "key": [
            ["key", "new", folder / HOSTILE, "--name", "log"],
            ["key", "new", folder / "no" / HOSTILE, "--name", "log"],
            ["key", "new", folder / "hostile.key", "--name", HOSTILE],
            ["key", "show", folder / "hostile.toml"],
            ["key", "show", folder / HOSTILE],
        ],
        "prove": [
            *(["prove", what, "-o", folder / f"proof-{HOSTILE}"] for what in ("evil:1", "@2", HOSTILE)),
            ["prove", "evil:1", "--type", HOSTILE],
            ["prove", "evil:1", "--origin", HOSTILE],
            ["prove", "evil:1", "--policy", folder / "hostile.policy"],
            ["prove", operation],
        ],
        "check-proof": [
            *(["check-proof", proof, "--key", new_log_key().key] for proof in folder.glob("*.tlog-proof")),
            *(
                ["check-proof", proof, "--key", new_log_key().key, "--format", "json"]
                for proof in folder.glob("*.tlog-proof")
            ),
            ["check-proof", folder / HOSTILE, "--key", HOSTILE],
            ["check-proof", archive, "--key", new_log_key().key],
            ["check-proof", archive, "--policy", folder / "hostile.policy"],
        ],
        "log": [["log"], ["log", "acknowledge"], ["log", "anew", "--yes"], ["log", HOSTILE]],
        "backup": [["backup", folder / f"{HOSTILE}.db"], ["backup", folder / "no" / HOSTILE]],
        "restore-backup": [["restore-backup", folder / HOSTILE], ["restore-backup", archive]],
        "export": [
            ["export", "-o", folder / HOSTILE],
            ["export", "-o", folder / "no" / HOSTILE],
            ["export", "--format", "cloudevents", "-o", folder / "no" / HOSTILE],
        ],
        "import": [["import", archive], ["import", folder / "no"]],
        "replay": [["replay"], ["replay", "--log", archive], ["replay", "--until-diff", archive]],
        "hand-over": [["hand-over", "evil:1"], ["hand-over", HOSTILE]],
        "sync": [["sync"]],
        "watch": [["watch", HOSTILE], ["watch", "--ship", f"host={HOSTILE}"]],
        "ship": [["ship", "--to", HOSTILE], ["ship", "--to", f"host='{HOSTILE}'"]],
        "fleet": [
            ["export", "-o", folder / "export.jsonl"],
            ["fleet", "--db", folder / f"{HOSTILE}.fleet", "take", folder / HOSTILE],
            ["fleet", "--db", folder / "hostile.fleet", "take", folder / "export.jsonl"],
            *(
                ["fleet", "--db", folder / "hostile.fleet", *asked]
                for asked in (
                    ["hosts"],
                    ["list"],
                    ["history", "evil:1"],
                    ["last-used"],
                    ["holders"],
                    ["prunes"],
                    ["prunes", "show", operation],
                    ["why", "evil:1"],
                    ["why", HOSTILE],
                    ["events"],
                    ["events", "--host", HOSTILE],
                    ["diff", HOSTILE, HOSTILE],
                    ["verify", "--against", folder / HOSTILE],
                    ["archive", "--before", HOSTILE, "--to", folder / HOSTILE],
                    ["fold"],
                )
            ),
            ["fleet", "--dsn", HOSTILE, "hosts"],
            ["fleet", "--dsn", f"host='{HOSTILE}'", "enrol", HOSTILE],
            ["fleet", HOSTILE],
        ],
        "config": [
            ["--context", f"a={HOSTILE}", "config"],
            ["--home", folder / HOSTILE, "config", "path"],
            ["config", "check", folder / "hostile.toml"],
            ["config", "check", HOSTILE],
        ],
        "completion": [["completion", "bash"], ["completion", HOSTILE]],
        "info": [["info"], ["--home", folder / HOSTILE, "info"], ["--home", f"{archive}/x", "use", "a"]],
        "df": [["df"], ["df", HOSTILE]],
        "metrics": [["metrics"], ["metrics", "--textfile", folder / HOSTILE], ["metrics", HOSTILE]],
        "report": [
            ["report", "--text"],
            ["report", "-o", "-"],
            ["report", "--format", "{home}"],
            ["report", "-o", folder / "no" / HOSTILE],
            ["report", "--since", HOSTILE, "--text"],
            ["report", "--as-of", HOSTILE, "--text"],
        ],
        "schema": [["schema"], ["schema", "image.pulled"], ["schema", HOSTILE]],
        "serve": [
            ["serve", "--socket", folder / "no" / HOSTILE],
            ["serve", "--socket", folder / "no" / "s", "--home", folder / HOSTILE],
            ["serve", "--socket", folder / "no" / "s", "--allow-host", HOSTILE],
            ["serve", "--listen", HOSTILE, "--token-file", folder / "no" / "t"],
            ["serve", "--listen", "127.0.0.1:0", "--token-file", folder / "no" / HOSTILE],
        ],
        "witness": [
            ["witness", HOSTILE],
            ["witness", "list", "--state", folder / HOSTILE],
            ["witness", "list", "--state", archive],
            ["witness", "serve", "--key", folder / HOSTILE, "--log", HOSTILE],
            ["witness", "serve", "--key", folder / HOSTILE, "--logs-file", folder / "hostile.toml"],
            ["witness", "serve", "--key", HOSTILE, "--logs-file", folder / HOSTILE],
        ],
        "doctor": [["doctor"], ["doctor", "--fix"], ["doctor", HOSTILE]],
        "prune": [
            ["prune", "-n", "--orphans"],
            ["prune", "-n", "--unused-for", HOSTILE],
            ["prune", "-n", "--filter", HOSTILE, "--exclude", HOSTILE],
            ["prune", "-n", "--filter", f"label={HOSTILE}", "--grace", "0s"],
            ["prune", "-y", "--reason", HOSTILE],
        ],
        "remove": [
            ["remove", "evil:1"],
            ["remove", "-n", "evil*", f"{HOSTILE}*"],
            ["remove", "-f", "evil:1", HOSTILE],
        ],
    }


def check(text: str) -> None:
    """Nothing but our own colours and lines reaches the terminal."""
    plain = STYLE.sub("", text)
    assert [line for line in plain.split("\n") if not line.isprintable()] == []


def test_every_command(hostile: dict[str, Any], call: Call) -> None:
    tried = commands(hostile)
    assert {*tried} == {*command_names()}
    shown = ""
    for arguments in (each for several in tried.values() for each in several):
        done = call("--log-level", "debug", *arguments)
        check(done.out + done.err)
        shown += done.out + done.err
        assert "Traceback" not in done.err
    # It was there to be shown, and is shown as what it is.
    assert shown.count(r"\x1b]0;t\x07\x1b[2Jb\x9b31mc\u202ed\u2066e\u200bf\rg\nh\x7fi\u2028j") > 100


def test_json_has_the_text_itself(hostile: dict[str, Any], call: Call) -> None:
    operation = hostile["operation"]
    found = 0
    for arguments in (
        ["inspect", "evil:1"],
        ["events"],
        ["history", "evil:1"],
        ["holders"],
        ["pins"],
        ["prunes"],
        ["prunes", "show", operation],
        ["prunes", "restore-plan", operation],
        ["restore", operation, "--dry-run"],
        ["why", "gone:1"],
        ["verify"],
        ["info"],
        ["df"],
        ["doctor"],
        ["list"],
        ["replay"],
        ["prune", "-n"],
        ["sql", "SELECT * FROM v_events"],
    ):
        done = call(*arguments, "--format", "json")
        check(done.out)
        documents = done.lines if arguments == ["replay"] else [done.out]
        text = str([json.loads(each) for each in documents])
        found += repr(HOSTILE)[1:-1] in text
    assert found >= 10


def test_the_question_before_a_prune(hostile: dict[str, Any]) -> None:
    talk = on_terminal(["prune"], [("Delete these?", b"n\n")])
    plain = STYLE.sub("", talk.said.replace("\r\n", "\n"))
    assert [line for line in plain.split("\n") if not line.isprintable()] == []
    assert r"\u202e" in plain


def test_what_a_registry_says(hostile: dict[str, Any], call: Call) -> None:
    with RegistryServer() as registry:
        registry.on("manifests", error(418, HOSTILE, HOSTILE), always=True)
        done = call("--log-level", "debug", "pull", f"{registry.host}/a:1")
    check(done.out + done.err)
    assert r"\u202e" in done.err
