"""What each command prints: tables for people, JSON for programs, -q for scripts; words on stderr."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import click
import pytest

import msb_cache.cli
from msb_cache import ImageCache
from msb_cache.cli.main import ALIASES, NO_COMMANDS, ORDER, cli, command_names, module_of
from tests.cli.conftest import Call
from tests.cli.support import (
    APP,
    APP_NEXT,
    ESCAPE,
    PROGRAM,
    TOOL,
    execute,
    fingerprint,
    sentence,
    written,
)
from tests.imagebuilder import file, image, layer

WITHOUT_EXAMPLES = ("rebuild", "sync", "watch", "info")
# What `msb image list --format json` and `msb image inspect --format json` of 0.7.11 print.
MSB_LIST_KEYS = {"architecture", "created_at", "digest", "layer_count", "os", "reference", "size_bytes"}
MSB_INSPECT_KEYS = MSB_LIST_KEYS | {"config", "layers"}
MSB_CONFIG_KEYS = {
    "cmd",
    "digest",
    "entrypoint",
    "env",
    "labels",
    "stop_signal",
    "user",
    "working_dir",
}
MSB_LAYER_KEYS = {
    "blob_digest",
    "compressed_size_bytes",
    "diff_id",
    "erofs_size_bytes",
    "media_type",
    "position",
}
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\+00:00")


class TestProgram:
    """The installed program itself, in a process of its own."""

    def test_a_day_of_work(self, own_home: Path, tmp_path: Path) -> None:
        archive = written(tmp_path / "app.tar", APP)
        loaded = execute("load", "-i", archive)
        assert (loaded.code, loaded.out) == (0, "")
        assert loaded.err.splitlines() == ["  ✓ Loaded     app:1", "  ✓ Loaded     app:latest"]
        listed = execute("list", "-q")
        assert (listed.code, listed.lines, listed.err) == (0, ["app:latest", "app:1"], "")
        assert execute("inspect", "app:1", "--format", "json").json["digest"] == APP.digest
        saved = execute("save", "app:1")
        assert (saved.code, saved.err) == (0, "")
        assert execute("load", "-t", "again:1", stdin=saved.raw).code == 0
        assert execute("inspect", "nothing:1").code == 3
        assert execute("hold", "app:1", "sandbox:dev").code == 0
        assert execute("rm", "app:1").code == 4
        assert execute("release", "sandbox:dev").code == 0
        assert execute("rm", "app:1", "app:latest", "again:1").code == 0
        pruned = execute("prune", "-y", "--format", "json")
        assert (pruned.code, pruned.json["image_refs_removed"]) == (0, 0)
        assert execute("verify").code == 0
        assert {path.name for path in own_home.iterdir()} == {"cache", "db"}

    def test_version(self) -> None:
        done = execute("--version")
        assert done.code == 0
        assert re.fullmatch(r"msb-cache, version \d+\.\d+\.\d+\S*\n", done.out)

    def test_home_option_goes_before_the_environment(self, home: Path, tmp_path: Path) -> None:
        assert execute("list", "-q").lines
        other = execute("--home", tmp_path / "other", "list", "-q")
        assert (other.code, other.out, other.err) == (0, "", "")

    def test_without_any_setting_the_home_is_the_users(self, own_home: Path, tmp_path: Path) -> None:
        user = tmp_path / "user"
        user.mkdir()
        archive = written(tmp_path / "app.tar", APP)
        done = execute("load", "-q", "-i", archive, MSB_HOME="", HOME=str(user))
        assert done.code == 0
        assert (user / ".microsandbox" / "cache" / "layers").is_dir()
        assert not own_home.exists()

    def test_log_lines_go_to_stderr(self, home: Path) -> None:
        done = execute("--log-level", "debug", "--log-format", "json", "use", "app:1", "-q")
        assert (done.code, done.out) == (0, "")
        for line in done.err.splitlines():
            assert {"event", "level", "timestamp"} <= json.loads(line).keys()

    def test_a_reader_that_leaves_is_no_error(self, home: Path, tmp_path: Path) -> None:
        big = image([layer([file("big", os.urandom(500_000))])], "big:1")
        with ImageCache(home) as cache:
            cache.load(written(tmp_path / "big.tar", big))
            for _ in range(250):  # so that the output does not fit into a pipe's 64 KiB
                cache.use("app:1")
        script = '"$0" "$@" 2>"$OUT" | head -c 100 >/dev/null; echo "${PIPESTATUS[0]}"'
        for arguments in ("events", "events --format json", "history app:1", "save big:1"):
            errors = tmp_path / "errors"
            done = subprocess.run(
                ["bash", "-c", script, PROGRAM, *arguments.split()],
                capture_output=True,
                env={**os.environ, "OUT": str(errors)},
                check=True,
            )
            assert errors.read_text() == "", arguments
            assert int(done.stdout) in (0, 1, 141)


class TestCompletion:
    """What a shell asks the program for (bash's way)."""

    @pytest.mark.parametrize(
        ("line", "completed"),
        [
            ("msb-cache che", ["plain,checkpoint"]),
            ("msb-cache --home ", ["file,"]),
            ("msb-cache load ", ["file,"]),
            ("msb-cache save -o ", ["file,"]),
            ("msb-cache export -o ", ["file,"]),
            ("msb-cache list --form", ["plain,--format"]),
        ],
    )
    def test_completed(self, own_home: Path, line: str, completed: list[str]) -> None:
        position = str(len(line.split(" ")) - 1)
        done = execute(_MSB_CACHE_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=position)
        assert done.out.split() == completed


FILES = sorted(file.name for file in pkgutil.iter_modules(msb_cache.cli.__path__))


class TestLookup:
    """A command is found by the name of its file."""

    @pytest.mark.parametrize("file", FILES)
    def test_a_file_in_cli_offers_its_command_or_is_named_as_none(self, file: str) -> None:
        if file in NO_COMMANDS:
            assert not hasattr(import_module(f"msb_cache.cli.{file}"), "COMMAND")
        else:
            command = import_module(f"msb_cache.cli.{file}").COMMAND
            assert isinstance(command, click.Command)
            assert module_of(command.name or "") == f"msb_cache.cli.{file}"

    def test_what_is_named_as_no_command_is_there(self) -> None:
        assert sorted(NO_COMMANDS) == [file for file in FILES if file in NO_COMMANDS]

    def test_the_order_names_commands_that_are_there(self) -> None:
        for name in ORDER:
            assert module_of(name).removeprefix("msb_cache.cli.") in FILES
        assert len(set(ORDER)) == len(ORDER)
        for name in ALIASES.values():
            assert name in ORDER

    def test_a_new_file_is_a_new_command(
        self, own_home: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a-new", "with"):
            (tmp_path / f"{module_of(name).rpartition('.')[2]}.py").write_text(
                f"import click\n\n@click.command({name!r})\ndef command():\n"
                f"    'Be new.'\n    click.echo({name!r})\n\nCOMMAND = command\n"
            )
        monkeypatch.setattr(msb_cache.cli, "__path__", [*msb_cache.cli.__path__, str(tmp_path)])
        assert command_names() == [*ORDER, "a-new", "with"]
        try:
            assert call("a-new").out == "a-new\n"
            assert call("with").out == "with\n"
            assert "\n  with        Be new.\n" in call("--help").out
        finally:
            for name in ("a-new", "with"):
                cli.commands.pop(name, None)
                sys.modules.pop(module_of(name), None)

    @pytest.mark.parametrize("name", ["last_used", "import_", "main", "__init__", "../list", "list.py", ""])
    def test_a_name_that_is_no_command_imports_no_such_module(self, call: Call, name: str) -> None:
        done = call(name)
        assert (done.code, done.out) == (2, "")
        assert f"No such command '{name}'" in sentence(done.err)

    @pytest.mark.parametrize(
        ("mistyped", "meant"), [("lits", "'list'"), ("last_used", "'last-used'"), ("imprt", "'import'")]
    )
    def test_a_mistyped_name_is_compared_with_all(self, call: Call, mistyped: str, meant: str) -> None:
        assert call(mistyped).err.endswith(f"Did you mean {meant}?\n")


class TestHelp:
    @pytest.mark.parametrize("command", [*command_names(), *ALIASES, ""])
    def test_every_command_explains_itself(self, call: Call, command: str) -> None:
        for flag in ("-h", "--help"):
            done = call(*command.split(), flag)
            assert (done.code, done.err) == (0, "")
            assert done.out.startswith("Usage: msb-cache")
            assert all(len(line) <= 100 for line in done.lines)

    def test_the_overview_names_every_command(self, call: Call) -> None:
        overview = call("--help").out
        for command in command_names():
            assert f"\n  {command} " in overview

    def test_without_a_command_the_overview_is_shown(self, call: Call) -> None:
        done = call()
        assert (done.code, done.out) == (2, "")
        assert done.err == call("--help").out

    def test_no_sentence_in_the_overview_is_cut_off(self, call: Call) -> None:
        assert "..." not in call("--help").out.partition("\nCommands:")[2]
        assert "..." not in call("prunes", "--help").out.partition("\nCommands:")[2]

    @pytest.mark.parametrize("command", ["", *command_names(), "prunes restore-plan"])
    def test_the_examples_can_be_typed(self, call: Call, command: str) -> None:
        shown = call(*command.split(), "--help").out
        lines = shown.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
        assert lines or command in WITHOUT_EXAMPLES
        for line in lines:
            (words,) = [words for part in line.split("|") if (words := shlex.split(part))[0] == "msb-cache"]
            words = words[: words.index(">")] if ">" in words else words
            words = words[3:] if words[1] == "--home" else words[1:]
            found: click.Command = cli
            context = click.Context(cli, info_name="msb-cache")
            while isinstance(found, click.Group) and words and not words[0].startswith("-"):
                name, inner, words = found.resolve_command(context, words)
                assert inner is not None
                context, found = click.Context(inner, parent=context, info_name=name), inner
            assert context.command_path.startswith(f"msb-cache {command}".rstrip())
            found.make_context(context.info_name, words, parent=context.parent)


class TestList:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("list")
        assert (done.code, done.err) == (0, "")
        header, *lines = done.lines
        assert header.split() == ["REFERENCE", "DIGEST", "SIZE", "CREATED", "LAST", "USED"]
        assert [line.split()[0] for line in lines] == ["example.org/team/tool:2", "app:latest", "app:1"]
        for line in lines:
            assert re.fullmatch(rf"\S+ +sha256:[0-9a-f]{{12}} +[\d.]+ KiB +{TIME} +{TIME}", line)
        assert ESCAPE not in done.out
        assert len({line.index("sha256:") for line in lines}) == 1

    def test_json(self, home: Path, call: Call) -> None:
        done = call("ls", "--format", "json")
        assert (done.code, done.err) == (0, "")
        for entry in done.json:
            assert entry.keys() >= MSB_LIST_KEYS
            assert RFC3339.fullmatch(entry["created_at"])
            assert RFC3339.fullmatch(entry["last_used_at"])
        newest = done.json[0]
        assert newest["reference"] == "example.org/team/tool:2"
        assert newest["digest"] == TOOL.digest
        assert newest["size_bytes"] == sum(len(each.blob) for each in TOOL.layers)
        assert (newest["architecture"], newest["os"], newest["layer_count"]) == ("amd64", "linux", 2)

    def test_quiet(self, home: Path, call: Call) -> None:
        assert call("list", "-q").lines == ["example.org/team/tool:2", "app:latest", "app:1"]

    def test_nothing(self, own_home: Path, call: Call) -> None:
        assert call("list").out == ""
        assert call("list").err == "No cached images.\n"
        assert call("list", "--format", "json").json == []
        assert call("list", "-q").raw == b""
        assert not own_home.exists()

    def test_newest_first_and_retag_keeps_its_place(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = {entry["reference"]: entry for entry in call("list", "--format", "json").json}
        assert call("load", "-i", written(tmp_path / "next.tar", APP_NEXT)).code == 0
        after = call("list", "--format", "json").json
        assert [entry["reference"] for entry in after] == list(before)
        moved = next(entry for entry in after if entry["reference"] == "app:1")
        assert moved["digest"] == APP_NEXT.digest
        assert moved["created_at"] == before["app:1"]["created_at"]
        assert moved["last_used_at"] > before["app:1"]["last_used_at"]

    def test_times_are_local_for_people(self, home: Path, call: Call) -> None:
        [utc] = {entry["created_at"][:16] for entry in call("ls", "--format", "json").json[:1]}
        there = execute("ls", TZ="Asia/Kolkata").lines[1]
        here = execute("ls", TZ="UTC").lines[1]
        assert datetime.fromisoformat(utc).strftime("%Y-%m-%d %H:%M") in here
        stamps = [datetime.fromisoformat(re.findall(TIME, line)[0]) for line in (there, here)]
        assert (stamps[0] - stamps[1]).total_seconds() == 5.5 * 3600


class TestInspect:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("inspect", "app:1")
        assert (done.code, done.err) == (0, "")
        text = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.lines)}
        assert text["Reference"] == "app:1"
        assert text["Digest"] == APP.digest
        assert text["Platform"] == "linux/amd64"
        assert text["Held by"] == "nobody"
        assert text["Entrypoint"] == "/usr/bin/env"
        assert text["Cmd"] == "serve 'a b'"
        assert text["Working dir"] == "/srv"
        assert text["User"] == "1000:1000"
        assert text["Stop signal"] == "SIGINT"
        assert "    GREETING=good day" in done.lines
        assert "    team=green" in done.lines
        bottom, top = done.lines[-2:]
        assert bottom.split()[:2] == ["0", APP.layers[0].diff_id[:19]]
        assert top.split()[:2] == ["1", APP.layers[1].diff_id[:19]]

    def test_json(self, home: Path, call: Call) -> None:
        detail = call("inspect", "app:1", "--format", "json").json
        assert detail.keys() >= MSB_INSPECT_KEYS
        assert detail["config"].keys() >= MSB_CONFIG_KEYS
        assert detail["config"]["env"] == ["PATH=/usr/bin:/bin", "GREETING=good day"]
        assert detail["config"]["labels"] == {"team": "green"}
        for position, (shown, built) in enumerate(zip(detail["layers"], APP.layers, strict=True)):
            assert shown.keys() >= MSB_LAYER_KEYS
            assert (shown["position"], shown["diff_id"]) == (position, built.diff_id)
            assert (shown["blob_digest"], shown["compressed_size_bytes"]) == (built.digest, len(built.blob))
            path = home / "cache" / "layers" / f"{built.diff_id.replace(':', '_')}.erofs"
            assert shown["erofs_size_bytes"] == path.stat().st_size

    def test_every_spelling_finds_it(self, home: Path, call: Call) -> None:
        for spelling in (
            "app:1",
            "library/app:1",
            "docker.io/app:1",
            "docker.io/library/app:1",
            "index.docker.io/library/app:1",
            f"app@{APP.digest}",
            f"app:1@{APP.digest}",
        ):
            assert call("inspect", spelling, "--format", "json").json["digest"] == APP.digest
        assert call("inspect", "app", "--format", "json").json["reference"] == "app:latest"
        assert call("inspect", f"app:1@{TOOL.digest}").code == 3

    def test_holders_are_named(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        call("hold", "app:latest", "snapshot:/snaps/one")
        shown = call("inspect", "app:1", "--format", "json").json["holders"]
        assert sorted(shown) == ["sandbox:dev", "snapshot:/snaps/one"]
        assert "sandbox:dev" in call("inspect", "app:1").out

    def test_an_image_without_settings_has_no_empty_heading(
        self, home: Path, call: Call, tmp_path: Path
    ) -> None:
        call("load", "-i", written(tmp_path / "bare.tar", image(TOOL.layers, "bare:1")))
        assert "\nConfig\n\n" not in call("inspect", "bare:1").out

    def test_control_characters_do_not_reach_the_terminal(
        self, home: Path, call: Call, tmp_path: Path
    ) -> None:
        evil = {"Cmd": ["\x1b[31mred"], "Env": ["A=\x1b]0;title\x07"], "Labels": {"k": "\r\nfake: line"}}
        call("load", "-i", written(tmp_path / "evil.tar", image(TOOL.layers, "evil:1", config=evil)))
        shown = call("inspect", "evil:1").out
        assert not set(shown) & set("\x1b\x07\r")
        assert call("inspect", "evil:1", "--format", "json").json["config"]["cmd"] == ["\x1b[31mred"]


class TestRemove:
    def test_shared_layers_stay(self, home: Path, call: Call) -> None:
        done = call("remove", "app:1", "app:latest")
        assert (done.code, done.out) == (0, "")
        assert [line.split()[:3] for line in done.err.splitlines()] == [
            ["✓", "Removed", "app:1"],
            ["✓", "Removed", "app:latest"],
        ]
        layers = {path.name for path in (home / "cache" / "layers").glob("*.erofs")}
        assert layers == {f"{each.diff_id.replace(':', '_')}.erofs" for each in TOOL.layers}
        assert call("verify").code == 0

    def test_quiet(self, home: Path, call: Call) -> None:
        done = call("rm", "-q", "app:1")
        assert (done.code, done.out, done.err) == (0, "", "")

    def test_held(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        before = fingerprint(home)
        done = call("rm", "app:1")
        assert done.code == 4
        assert "sandbox:dev" in sentence(done.err)
        assert fingerprint(home) == before

    def test_force_drops_only_the_reference(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        assert call("rm", "-f", "app:1").code == 0
        assert call("inspect", "app:1").code == 3
        report = call("prune", "-y", "--format", "json").json
        assert (report["manifests_removed"], report["layers_removed"]) == (1, 1)  # the tool's
        assert call("verify").code == 0
        call("release", "sandbox:dev")
        assert call("prune", "-y", "--format", "json").json["manifests_removed"] == 1
        assert list((home / "cache" / "layers").glob("*.erofs")) == []

    def test_several_with_different_ends(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        done = call("rm", "nothing:1", "app:1", "example.org/team/tool:2")
        assert done.code == 1
        assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 2
        assert call("ls", "-q").lines == ["app:latest", "app:1"]
        assert call("rm", "nothing:1", "nothing:2").code == 3
        assert call("rm", "app:latest", "app:1").code == 4


class TestHolds:
    def test_use_hold_release(self, home: Path, call: Call) -> None:
        used = call("use", "app:1", "--holder", "sandbox:dev")
        assert (used.code, used.out, used.err) == (0, "", "  ✓ Used       app:1\n")
        assert call("rm", "app:1").code == 0  # used is not held
        held = call("hold", "app:latest", "sandbox:dev")
        assert (held.code, held.out) == (0, "")
        assert f"app:latest ({APP.digest[:19]}) by sandbox:dev" in held.err
        released = call("release", "sandbox:dev")
        assert (released.code, released.out) == (0, "")
        assert APP.digest[:19] in released.err

    def test_use_moves_last_used(self, home: Path, call: Call) -> None:
        before = call("inspect", "app:1", "--format", "json").json
        call("use", "app:1")
        after = call("inspect", "app:1", "--format", "json").json
        assert after["last_used_at"] > before["last_used_at"]
        assert after["created_at"] == before["created_at"]

    def test_holding_twice_is_one_event(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        once = fingerprint(home)
        assert call("hold", "app:1", "sandbox:dev").code == 0
        assert fingerprint(home) == once

    def test_releasing_nothing_is_no_error(self, home: Path, call: Call) -> None:
        done = call("release", "sandbox:dev")
        assert (done.code, done.out, done.err) == (0, "", "sandbox:dev holds nothing.\n")

    def test_quiet(self, home: Path, call: Call) -> None:
        for arguments in (
            ("use", "app:1"),
            ("hold", "app:1", "sandbox:dev"),
            ("release", "sandbox:dev"),
            ("release", "sandbox:dev"),
        ):
            done = call(*arguments, "-q")
            assert (done.code, done.out, done.err) == (0, "", "")


class TestPrune:
    def test_report(self, home: Path, call: Call) -> None:
        done = call("prune", "-y")
        assert done.code == 0
        text = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.lines)}
        operation = text.pop("Operation")
        assert re.fullmatch(r"[\d.]+ KiB", text.pop("Reclaimed"))
        assert text == {"Image refs": "3", "Manifests": "2", "Layers": "3", "Fsmeta": "2", "VMDK": "2"}
        assert call("prunes", "show", operation).code == 0

    def test_json_and_what_was_there(self, home: Path, call: Call) -> None:
        sizes = sum(path.stat().st_size for path in (home / "cache").rglob("*") if path.is_file())
        report = call("prune", "--yes", "--format", "json").json
        assert report["bytes_reclaimed"] == sizes
        assert report["skipped_in_use"] == 0
        assert [path for path in (home / "cache").rglob("*") if path.is_file()] == []

    def test_quiet(self, home: Path, call: Call) -> None:
        for _ in range(2):
            done = call("prune", "-y", "-q")
            assert (done.code, done.out, done.err) == (0, "", "")

    def test_nothing_to_prune(self, own_home: Path, call: Call) -> None:
        assert call("prune", "-y").err == "Nothing was pruned.\n"
        done = call("prune", "-y", "--format", "json")
        assert done.json["operation"] is None
        assert done.json["bytes_reclaimed"] is None

    def test_dry_run_appends_nothing(self, home: Path, call: Call) -> None:
        call("hold", "app:1", "sandbox:dev")
        before = fingerprint(home)
        shown = call("prune", "--dry-run")
        assert shown.code == 0
        assert "example.org/team/tool:2" in shown.out
        kept = shown.out.partition("Keeps")[2]
        assert re.search(r"^ +app:1 +held by sandbox:dev$", kept, re.M)
        assert re.search(r"^ +app:latest +held by sandbox:dev$", kept, re.M)
        plan = call("prune", "-n", "--format", "json").json
        assert [entry["reference"] for entry in plan["images"]] == ["example.org/team/tool:2"]
        assert plan["layers"] == [TOOL.layers[1].diff_id]
        assert {entry["subject"] for entry in plan["kept"]} == {
            "docker.io/library/app:1",
            "docker.io/library/app:latest",
        }
        assert fingerprint(home) == before
        done = call("prune", "-y", "--format", "json").json
        assert done["bytes_reclaimed"] == plan["bytes_reclaimable"]

    def test_dry_run_without_a_home_makes_none(self, own_home: Path, call: Call) -> None:
        assert call("prune", "-n").out.startswith("Nothing to ")
        assert not own_home.exists()

    def test_nobody_to_ask(self, home: Path) -> None:
        before = fingerprint(home)
        done = execute("prune")
        assert (done.code, done.out) == (2, "")
        assert "--yes" in sentence(done.err)
        assert fingerprint(home) == before

    def test_orphans(self, home: Path, call: Call) -> None:
        stray = home / "cache" / "layers" / f"sha256_{'ab' * 32}.erofs"
        stray.write_bytes(bytes(5000))
        own = home / "cache" / "layers" / "notes.txt"
        own.write_text("not a file of the cache")
        call("hold", "app:1", "sandbox:dev")
        call("hold", "example.org/team/tool:2", "sandbox:dev")
        assert call("prune", "-n").out.startswith("Nothing to ")
        assert call("prune", "-y").err == "Nothing was pruned.\n"
        assert stray.exists()
        assert "1 file that no image names" in call("prune", "-n", "--orphans").out
        report = call("prune", "-y", "--orphans", "--format", "json").json
        assert report["bytes_reclaimed"] == 5000
        assert not stray.exists()
        assert own.exists()
        assert call("verify").code == 0

    def test_the_reason_is_kept(self, home: Path, call: Call) -> None:
        call("prune", "-y", "--reason", "disk full on Monday")
        [row] = call("prunes", "--format", "json").json
        assert row["actor"]["reason"] == "disk full on Monday"
        assert "disk full on Monday" in call("prunes").out


def test_times_in_json_are_now(home: Path, call: Call) -> None:
    for event in call("events", "--format", "json").json:
        for key in ("occurred_at", "recorded_at"):
            assert RFC3339.fullmatch(event[key])
            age = datetime.now(UTC) - datetime.fromisoformat(event[key])
            assert 0 <= age.total_seconds() < 60


def test_the_program_may_run_in_any_thread(home: Path) -> None:
    program = (
        "import sys, threading; from msb_cache.cli.main import main; "
        "threading.Thread(target=main, args=(sys.argv[1:],)).start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--home", str(home), "list"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_suggestion_ends_the_sentence(call: Call) -> None:
    done = call("prune", "--dry")
    assert done.code == 2
    assert done.err.endswith("(Did you mean one of: '--dry-run', '--yes'?)\n")
