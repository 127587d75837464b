"""The command group: global options, exit codes, and errors as one sentence."""

from __future__ import annotations

import gc
import io
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

import click

import msb_cache.cli
from msb_cache import errors
from msb_cache.cli import look, output, settings
from msb_cache.cli.common import PATH, examples
from msb_cache.cli.words import ALIASES, meant
from msb_cache.wording import as_sentence

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_IN_USE = 4
EXIT_BOUND = 5
EXIT_PIPE = 141
"""What a shell says of a program that SIGPIPE ended: the reader of the output has gone, as `head` does."""

_GROUP_ALONE: tuple[type[click.UsageError], ...] = tuple(
    filter(None, (getattr(click.exceptions, "NoArgsIsHelpError", None),))
)
"""What newer clicks raise for a group without a command: its message is the group's whole help."""

GROUPS = {
    "Images": ("pull", "load", "save", "list", "inspect", "remove", "use", "hold", "release", "holders"),
    "Audit": (
        *("history", "events", "why", "last-used", "diff", "sql"),
        *("prunes", "restore", "replay", "export", "import", "schema"),
    ),
    "Care": (
        *("prune", "gc", "policy", "pin", "unpin", "pins"),
        *("df", "report", "serve", "doctor", "rebuild", "metrics"),
    ),
    "Proof": (
        *("verify", "checkpoint", "checkpoints", "prove", "check-proof", "key", "witness"),
        *("log", "backup", "restore-backup"),
    ),
    "Fleet": ("ship", "fleet"),
    "Home": ("info", "config", "hand-over", "sync", "watch", "completion"),
}
"""The commands as the overview shows them: each heading with its own, in order."""

ORDER = tuple(name for names in GROUPS.values() for name in names)
"""The commands that have a place in the overview; others follow, sorted by their names."""

OTHERS = "Other"
"""The heading of those."""

NO_COMMANDS = (
    "bars",
    "because",
    "common",
    "completing",
    "completing_fleet",
    "considered",
    "deletions",
    "describe",
    "differences",
    "entry",
    "event_lines",
    "fields",
    "filters",
    "fleet_admin",
    "fleet_care",
    "fleet_events",
    "fleet_fold",
    "fleet_images",
    "fleet_take",
    "formats",
    "leftovers",
    "logging",
    "look",
    "main",
    "output",
    "pager",
    "pictures",
    "posting",
    "privacy",
    "progress",
    "report_text",
    "rules",
    "signing",
    "settings",
    "showing",
    "tables",
    "trust",
    "words",
)
"""The modules of this folder that are no commands; each of the others offers its own as ``COMMAND``."""


class BrokenOutput(Exception):
    """A pipe has no reader. Click would end the program with 1 if it saw the error itself."""

    def __init__(self, error: BrokenPipeError) -> None:
        super().__init__(str(error))
        self.error = error


class Group(click.Group):
    """A group that knows aliases, and imports a command when it is asked for."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Find a command by its name or alias."""
        name = ALIASES.get(name, name)
        # A name that is none is compared with all there are, for a suggestion.
        known = name in ORDER or name in command_names()
        for each in [name] if known else command_names():
            self.add_command(import_module(module_of(each)).COMMAND)
        command = super().get_command(ctx, name)
        if command is not None and ctx.resilient_parsing:  # which is how a shell's question is read
            from msb_cache.cli import completing

            completing.attach(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Answer a shell with the names of commands, for which none is imported, and with options."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [*map(CompletionItem, names), *click.Command.shell_complete(self, ctx, incomplete)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return command_names()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by what other tools call it, too, and show it under its own name."""
        words = meant(args)
        if words in ([], ["help"], ["version"]):
            if ctx.resilient_parsing:  # a shell completes what stands there
                return None, None, args[1:]
            _answer(ctx, *words)
        if not ctx.resilient_parsing and words[0][:1] != "-" and self.get_command(ctx, words[0]) is None:
            ctx.fail(f"No such command {words[0]!r}{_command_meant(words[0])}")
        _, command, rest = super().resolve_command(ctx, words)
        if command is None:  # a shell asks what can follow it
            ctx.fail(f"No such command {words[0]!r}.")
        return command.name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise BrokenOutput(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        others, width = command_names()[len(ORDER) :], max(map(len, ORDER))
        for heading, names in {**GROUPS, OTHERS: others}.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            limit = formatter.width - 6 - width
            rows = [(name.ljust(width), each.get_short_help_str(limit)) for name, each in commands if each]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _command_meant(word: str) -> str:
    """Return the end of the sentence about a word that is no command: ours, or other tools' for it."""
    from msb_cache.queries import near

    return "" if " " in word else near.meant(word, [*command_names(), *ALIASES, "help", "version"])


def _answer(ctx: click.Context, asked: str | None = None) -> NoReturn:
    """Show the overview or the version, and end; nothing asked for is a mistake of usage."""
    if asked == "version":
        from importlib.metadata import version

        output.line(f"msb-cache, version {version('msb-cache')}")
    else:
        output.document(f"{ctx.get_help()}\n", err=asked is None)
    ctx.exit(EXIT_USAGE if asked is None else 0)


def command_names() -> list[str]:
    """Return the names of all commands, found by the files in this folder, in the order of the help."""
    from pkgutil import iter_modules  # a command whose name ORDER has needs no list of them

    files = {module.name for module in iter_modules(msb_cache.cli.__path__)}.difference(NO_COMMANDS)
    names = {file.removesuffix("_").replace("_", "-") for file in files}
    return [*ORDER, *sorted(names.difference(ORDER))]


def module_of(command: str) -> str:
    """Return the module that offers a command: ``last-used`` is in last_used.py, ``import`` in import_.py."""
    name = command.replace("-", "_")
    return f"msb_cache.cli.{name}_" if iskeyword(name) else f"msb_cache.cli.{name}"


def _context(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Return the context, which is checked before anything is done: the environment's and what is given."""
    if not given and not os.environ.get("MSB_CACHE_CONTEXT"):
        return {}
    from msb_cache.home import identity

    pairs: dict[str, str] = {}
    for pair in given:
        pairs |= identity.split(pair, "--context")
    return identity.checked_context(pairs)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog=examples(
        "msb-cache load app.tar",
        "msb-cache list",
        "msb-cache history app:1",
        "msb-cache prune --dry-run",
    )
    + "\n\nEach command has its own: `msb-cache COMMAND --help`.",
)
@click.option(
    "--home",
    type=PATH,
    help="The microsandbox home whose cache to use.  [default: $MSB_HOME, else ~/.microsandbox]",
)
@click.option(
    "--no-sync",
    is_flag=True,
    help="Do not look first at what msb did in this home since the last time.",
)
@click.option(
    "--engine",
    type=click.Choice(["own", "msb"]),
    help="Who keeps a home that is new: msb-cache itself, or msb.  [default: msb, if it is the default home "
    "and an msb is found]",
)
@click.option(
    "--context",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_context,
    help="What the log keeps of this command beside your name, such as ticket=OPS-12; repeatable.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    help="Log what happens inside, to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How to log.  [default: text; of gc --every and watch, json where stderr is no terminal]",
)
@click.option("--no-pager", is_flag=True, help="Do not show long output with a pager.")
@click.version_option(package_name="msb-cache")
@click.pass_context
def cli(
    ctx: click.Context,
    home: str | None,
    no_sync: bool,
    engine: str | None,
    context: dict[str, str],
    log_level: str | None,
    log_format: str | None,
    no_pager: bool,
) -> None:
    """The image cache of microsandbox, and everything that ever happened to it.

    Every pull, use, remove and prune of a cached image is an event in an append-only log.
    """
    if home is not None and not home:
        raise click.UsageError("--home is empty or no path")
    with suppress(errors.MicrosandboxError):  # said by what opens the cache, or `config check`
        look.settle(settings.load(home))
    ctx.color = look.color()
    if no_pager:
        from msb_cache.cli import pager

        pager.turn_off()
    ctx.obj = home  # the context is looked up by what opens the cache
    if log_level is not None:
        from msb_cache.cli.logging import configure

        configure(log_level, log_format or "text")
    if ctx.invoked_subcommand is None:
        _answer(ctx)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 not found, 4 in use, 5 a bound."""
    # A command ends soon, and what it makes in large numbers are trees that live as long.
    gc.set_threshold(100_000)
    try:
        code = run(arguments)
    except BrokenPipeError:  # an error could not be said
        _leave_broken_pipes()
        code = EXIT_PIPE
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        code = code or EXIT_PIPE
    except OSError as error:
        code = code or EXIT_FAILED
        with suppress(OSError):
            output.error(f"the output could not be written: {error.strerror or error}")
    # Everything is closed and written. Taking apart what is left in memory would only take time.
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal's encoding
    if shell := os.environ.get("_MSB_CACHE_COMPLETE"):
        from msb_cache.cli import completing

        return completing.answer(cli, shell)
    try:
        result: Any = cli.main(arguments, prog_name="msb-cache", standalone_mode=False)
    except click.exceptions.Abort:
        output.line("stopped", err=True)
        return 130
    except click.UsageError as error:
        if isinstance(error, _GROUP_ALONE):
            output.document(f"{error.message}\n", err=True)
            return error.exit_code
        command = error.ctx.command_path if error.ctx else "msb-cache"
        known = _hint(error)
        message = (error.message if known else error.format_message()).rstrip(".")
        message = message.partition(". Choose from:")[0]  # a list over several lines, of what is named before
        message = _offering(message)
        message = message.replace("is not a valid integer range", "is no whole number")
        more = known or f"see `{command} --help`"
        output.error(message if message.endswith("?") else f"{message}; {more}")
        return error.exit_code
    except click.ClickException as error:
        output.error(error.format_message())
        return error.exit_code
    except errors.MicrosandboxError as error:
        output.error(said(error))
        return exit_code(error)
    except BrokenOutput as error:
        if _leave_broken_pipes():
            return EXIT_PIPE
        # Another pipe than our output, as to a program that was run.
        output.error(as_sentence(error.error))
        return EXIT_FAILED
    except (OSError, sqlite3.Error, MemoryError) as error:
        output.error(as_sentence(error))
        return EXIT_FAILED
    finally:
        look.settle(None)  # another command of this process has settings of its own
    return result if isinstance(result, int) else 0


def _offering(message: str) -> str:
    """Return a sentence of click's that offers something, as our own do."""
    said, offers, names = message.partition("Did you mean ")
    if not offers:
        return message
    offered = names.removeprefix("one of: ").rstrip("?)").replace("'", "").split(", ")
    return f"{said.rstrip(' .(')}; did you mean {' or '.join(offered)}?"


def _leave_broken_pipes() -> bool:
    """Write to nowhere where the reader of our output has gone; return whether one has.

    Writing more, also at exit, would only fail again.
    """
    found = False
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = -1 if stream is None else stream.fileno()
        except (OSError, ValueError):  # no file, as in a program's own test
            continue
        if descriptor >= 0 and _has_no_reader(descriptor):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            found = True
    return found


def _has_no_reader(descriptor: int) -> bool:
    from select import POLLERR, POLLHUP, poll

    looking = poll()
    looking.register(descriptor, 0)  # POLLERR comes unasked
    return any(found & (POLLERR | POLLHUP) for _, found in looking.poll(0))


def said(error: errors.MicrosandboxError) -> str:
    """Return an error's sentence, with what to do about it that is a matter of the command."""
    return f"{error}{_release_hint(error)}{_listing_hint(error)}"


def _listing_hint(error: errors.MicrosandboxError) -> str:
    """Return where to look for what there is, if the error offers nothing."""
    says_more = any(joint in str(error) for joint in ("; ", ", and "))
    if says_more or not isinstance(error, errors.ImageNotFoundError):
        return ""
    return "; `msb-cache list` shows what is here, `msb-cache events` what was"


def _release_hint(error: errors.MicrosandboxError) -> str:
    if not isinstance(error, errors.ImageInUseError):
        return ""
    if error.pinned:
        ends = f"`msb-cache unpin {error.pinned}` ends that"
        forced = "`remove --force` removes it all the same"
    else:
        ends = "`msb-cache release HOLDER` ends a hold"
        if error.seen_in_msb:
            ends = "`msb rm NAME` deletes a sandbox"
        forced = "`remove --force` drops the reference only"
    return f"; {ends}, {forced}" if error.forcible else f"; {ends}"


def exit_code(error: errors.MicrosandboxError) -> int:
    """Return the exit code of an error."""
    if isinstance(
        error, errors.ImageNotFoundError | errors.OperationNotFoundError | errors.HomeNotFoundError
    ):
        return EXIT_NOT_FOUND
    if isinstance(error, errors.ImageInUseError):
        return EXIT_IN_USE
    if isinstance(error, errors.BoundNotKeptError):
        return EXIT_BOUND
    mistakes = errors.InvalidReferenceError | errors.InvalidConfigError | errors.InvalidQueryError
    if isinstance(error, mistakes):
        return EXIT_USAGE
    return EXIT_FAILED


def _hint(error: click.UsageError) -> str | None:
    """Return what was probably meant, where that is known."""
    if not isinstance(error, click.NoSuchOption):
        return None
    if error.option_name in ("--home", "--no-sync", "--engine", "--context", "--log-level", "--log-format"):
        return f"it goes before the command: `msb-cache {error.option_name} … COMMAND`"
    return "use `--format json`" if error.option_name == "--json" else None
