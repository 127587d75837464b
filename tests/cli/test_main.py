"""The program: how it starts and ends, finds its commands, explains and completes them."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import msb_cache.cli
from msb_cache import ImageCache
from msb_cache.cli.main import GROUPS, NO_COMMANDS, ORDER, OTHERS, cli, command_names, module_of
from msb_cache.cli.words import ALIASES
from tests.cli.support import APP, PROGRAM, Call, execute, fingerprint, sentence, written
from tests.imagebuilder import file, image, layer


def every_command() -> Iterator[str]:
    """Yield the words of each command, subcommands too, and none for the overview."""
    yield ""
    for name in command_names():
        command: click.Command = import_module(module_of(name)).COMMAND
        yield name
        if isinstance(command, click.Group):
            yield from (f"{name} {inner}" for inner in command.commands)


class TestProgram:
    """The installed program itself, in a process of its own."""

    def test_a_day_of_work(self, own_home: Path, tmp_path: Path) -> None:
        archive = written(tmp_path / "app.tar", APP)
        loaded = execute("load", "-i", archive)
        assert (loaded.code, loaded.out) == (0, "")
        note, *done = loaded.err.splitlines()
        assert note.startswith(f"note: {own_home} is new and kept by msb-cache itself, for no msb is found")
        assert done == ["  ✓ Loaded     app:1", "  ✓ Loaded     app:latest"]
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
        (tmp_path / "other").mkdir()
        other = execute("--home", tmp_path / "other", "list", "-q", MSB_HOME=str(home))
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
        assert (done.code, done.lines) == (0, [APP.digest])
        for line in done.err.splitlines():
            assert {"event", "level", "timestamp"} <= json.loads(line).keys()

    def test_a_reader_that_leaves_is_no_error(self, home: Path, tmp_path: Path) -> None:
        big = image([layer([file("big", os.urandom(500_000))])], "big:1")
        with ImageCache(home) as cache:
            cache.load(written(tmp_path / "big.tar", big))
            for _ in range(450):  # so that the output does not fit into a pipe's 64 KiB
                cache.use("app:1")
        script = '"$0" "$@" 2>"$OUT" | head -c 100 >/dev/null; echo "${PIPESTATUS[0]}"'
        for arguments in (
            *("events", "events --format json", "events -n 400 --reverse", "log", "history app:1"),
            *("history app:1 --format json", "replay", "export", "save big:1"),
        ):
            errors = tmp_path / "errors"
            done = subprocess.run(
                ["bash", "-c", script, PROGRAM, *arguments.split()],
                capture_output=True,
                env={**os.environ, "OUT": str(errors)},
                check=True,
            )
            assert errors.read_text() == "", arguments
            # 0: all of it was written before the reader left.
            assert int(done.stdout) in (0, 141), arguments
            assert int(done.stdout) == 141 or "json" not in arguments, arguments

    def test_an_error_that_nothing_reads_is_no_traceback(self, home: Path, tmp_path: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for words in (["list", "nothing"], ["list", "--nope"], ["list"]):
            done = subprocess.run([PROGRAM, *words], stdout=writer, stderr=writer)
            assert done.returncode == 141
        os.close(writer)


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

    def test_every_file_has_tests_under_its_name(self) -> None:
        named = {path.name for path in Path(__file__).parent.glob("test_*.py")}
        assert {f"test_{file}.py" for file in FILES} <= named

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
        others = command_names()[len(ORDER) :]
        for name in ("a-new", "with"):
            (tmp_path / f"{module_of(name).rpartition('.')[2]}.py").write_text(
                f"import click\n\n@click.command({name!r})\ndef command():\n"
                f"    'Be new.'\n    click.echo({name!r})\n\nCOMMAND = command\n"
            )
        monkeypatch.setattr(msb_cache.cli, "__path__", [*msb_cache.cli.__path__, str(tmp_path)])
        assert command_names() == [*ORDER, *sorted([*others, "a-new", "with"])]
        try:
            assert call("a-new").out == "a-new\n"
            assert call("with").out == "with\n"
            others = call("--help").out.partition(f"\n{OTHERS}:\n")[2]
            assert re.search(r"^  with +Be new\.$", others, re.MULTILINE)
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
        ("mistyped", "meant"),
        [
            ("lits", "list"),
            ("last_used", "last-used"),
            ("imprt", "import"),
            ("imags", "images"),
            ("hlep", "help"),
            ("prunes shwo", "show"),
        ],
    )
    def test_a_mistyped_name_is_compared_with_all(self, call: Call, mistyped: str, meant: str) -> None:
        said = f"error: No such command '{mistyped.split()[-1]}'; did you mean {meant}?\n"
        assert call(*mistyped.split()).err == said


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
        for heading, names in GROUPS.items():
            listed = overview.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
            assert tuple(line.split()[0] for line in listed.splitlines()) == names
        assert OTHERS not in overview

    def test_without_a_command_the_overview_is_shown(self, call: Call) -> None:
        done = call()
        assert (done.code, done.out) == (2, "")
        assert done.err == call("--help").out

    def test_without_its_command_a_group_shows_its_help(self, call: Call) -> None:
        done = call("image")
        assert (done.code, done.out) == (2, "")
        assert done.err == call("--help").out
        assert call("image", "--help").out == call("help").out == call("--help").out
        assert call("help", "log").out == call("log", "--help").out

    def test_no_sentence_in_the_overview_is_cut_off(self, call: Call) -> None:
        assert "..." not in call("--help").out.partition("\nImages:")[2]
        assert "..." not in call("prunes", "--help").out.partition("\nCommands:")[2]

    @pytest.mark.parametrize("command", [*every_command()])
    def test_the_examples_can_be_typed(self, call: Call, command: str) -> None:
        shown = call(*command.split(), "--help").out
        lines = shown.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
        assert lines
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
    assert done.err.endswith("; did you mean --dry-run or --yes?\n")


def test_reading_appends_nothing(home: Path, call: Call) -> None:
    before = fingerprint(home)
    for command in ("list", "inspect app:1", "history app:1", "events", "prunes", "verify", "prune -n"):
        assert call(*command.split()).code == 0
    assert fingerprint(home) == before


def test_asking_changes_nothing(home: Path, call: Call) -> None:
    call("rm", "app:latest")
    before = fingerprint(home)
    operation = call("prunes", "--format", "json").json[0]["operation"]
    for words in (
        ["why", "app:1"],
        ["why", APP.digest],
        ["last-used"],
        ["prunes", "restore-plan", operation],
        ["restore", operation, "--dry-run"],
    ):
        assert call(*words).code == 0
        assert json.loads(call(*words, "--format", "json").raw) is not None
    assert fingerprint(home) == before


def test_a_context_is_kept_with_every_event(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "team=build,stage=night")
    assert call("--context", "ticket=OPS-12", "--context", "team=infra", "rm", "app:latest").code == 0
    claimed = {"team": "infra", "stage": "night", "ticket": "OPS-12"}
    found = call("events", "--actor", "ticket=OPS-12", "--format", "json").json
    assert found
    assert all(event["actor"]["claimed"] == claimed for event in found)
    for filtered in (["--actor", "infra"], ["--actor", "ticket=OPS-12"], ["--grep", "ops-12"]):
        assert len(call("events", *filtered, "--format", "json").json) == len(found)
    (report,) = call("prunes", "--format", "json").json
    assert report["actor"]["claimed"] == claimed
    for shown in (["prunes", "show", report["operation"]], ["why", "app:latest"]):
        assert "says team=infra, stage=night, ticket=OPS-12" in call(*shown).out
    for table in (["prunes"], ["events"], ["history", "app:latest"]):
        assert ", says team=infra, stage=night, ticket=OPS-12\n" in call(*table).out


@pytest.mark.parametrize("command", [["rm", "app:latest"], ["list"], ["load", "-i", "none.tar"]])
def test_a_context_that_cannot_be_kept_is_refused_before_anything_is_done(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    before = fingerprint(home)
    many = [word for number in range(17) for word in ("--context", f"a{number}=")]
    for context, says in (
        (
            ["--context", "hunter2"],
            "--context takes NAME=VALUE, such as ticket=OPS-12, and there is no = in it",
        ),
        (["--context", "=a"], "'' is none"),
        (["--context", f"a={'x' * 257}"], "has 257 bytes; at most 256 are kept"),
        (many, "the context has 17 names; at most 16 are kept"),
    ):
        done = call(*context, *command)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert says in done.err
        assert "hunter2" not in done.err
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "hunter2")
    done = call(*command)
    assert (done.code, done.err) == (
        2,
        "error: MSB_CACHE_CONTEXT takes NAME=VALUE, such as ticket=OPS-12, and there is no = in it\n",
    )
    assert fingerprint(home) == before


@pytest.mark.parametrize("group", ["key", "fleet"])
def test_a_group_alone_shows_its_help(call: Call, group: str) -> None:
    done = call(group)
    code, out, err = done.code, done.out, done.err
    assert (code, out) == (2, "")
    assert err.startswith(f"Usage: msb-cache {group} ")
    assert "\\n" not in err
    assert f"msb-cache {group}" in err.rstrip().splitlines()[-1]
