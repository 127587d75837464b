"""What a shell asks when a person presses Tab: which commands, options, images, holders … could come next.

The index is read as it lies there: nothing is recorded, recovered or made, and where it cannot be read, there
is nothing to complete. Of very many answers a shell gets the first ones and the last: then what all have in
common is right, which a shell types by itself.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from msb_cache.cli import look, output
from msb_cache.errors import MicrosandboxError

SHELL = "_MSB_CACHE_COMPLETE"
"""Names the shell, in the environment of a process that a shell asks."""
LINE = "_MSB_CACHE_LINE"
"""Has the line up to the cursor, from the name of the program on."""

MOST = 200
"""Answers to one question of the index, without the last one."""
_STEPS = 1_000_000
"""Of SQLite's machine, after which a question is given up: some tens of milliseconds."""
_LAST = "\U0010ffff"
_ASSIGNMENT = r"([A-Za-z_][A-Za-z0-9_]*)=(.*)"
_HUB = "docker.io/"
_NAMING = ("MSB_HOME", "MSB_CACHE_FLEET")
_LIBPQ = re.compile("PG[A-Z]")
"""How the variables begin that libpq looks at."""

Row = tuple[Any, ...]
Completer = Callable[[click.Context, str], "Iterator[Item]"]

if TYPE_CHECKING:
    Item = CompletionItem[str]
    ParamType = click.ParamType[Any]
else:  # that they are generic is new in click
    ParamType = click.ParamType


def answer(command: click.Command, shell: str) -> int:
    """Answer a shell with what can come next, and return the exit code; what is unknown has no answer."""
    asking = SHELLS.get(shell)
    if asking is None:
        return 1
    attach(command)
    try:
        text = asking(command, {}, "msb-cache", SHELL).complete()
    except (click.ClickException, MicrosandboxError, OSError, sqlite3.Error, ValueError):
        return 1  # a person who types is told nothing, and the command itself will say it
    output.document(f"{text}\n" if text else "")
    return 0


class Completers(NamedTuple):
    """What completes which parameters.

    Attributes:
        by_name: by the name of a parameter, in all commands that have it.
        in_commands: by the name of a command, too; that one wins.
    """

    by_name: dict[str, Completer]
    in_commands: dict[tuple[str, str], Completer]


def attach(command: click.Command, completers: Completers | None = None) -> None:
    """Let the parameters of a command, and of those below it, be completed by what they are called.

    Args:
        command: any.
        completers: other ones than those of a home.
    """
    by_name, in_commands = completers or OF_A_HOME
    for parameter in command.params:
        name = parameter.name or ""
        completer = in_commands.get((command.name or "", name)) or by_name.get(name)
        if completer is not None:
            parameter.type = _Completed(parameter.type, completer)
    for below in getattr(command, "commands", {}).values():
        attach(below, completers)


class _Completed(ParamType):
    """The type of a parameter whose values are completed: those that stand there already are left out."""

    def __init__(self, of: ParamType, completer: Completer) -> None:
        self.name = of.name
        self._of, self._completer = of, completer

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._of.convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Item]:
        given = ctx.params.get(param.name or "")
        known = set(given) if isinstance(given, tuple) else set()
        found = {item.value: item for item in self._completer(ctx, incomplete) if item.value not in known}
        return [*found.values()]


# -- what the index has --------------------------------------------------------------------------------


def connect(home: str) -> sqlite3.Connection:
    """Open the index of a home to read it without a trace, and without waiting.

    Raises:
        sqlite3.Error, OSError, MicrosandboxError: it cannot be read now.
    """
    from urllib.parse import quote

    from msb_cache.artifacts.layout import Layout, check_plain_file

    path = Layout(home).database
    check_plain_file(path)
    # Where SQLite's two files are not beside it, it would make them. What stands in a log alone, because a
    # process was killed, is not seen then: that is good enough for what a person looks at before using it.
    beside = os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm")
    address = f"file:{quote(os.fsencode(path))}?{'mode=ro' if beside else 'immutable=1'}"
    connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.set_progress_handler(lambda: 1, _STEPS)
    return connection


def _home(ctx: click.Context) -> str:
    home = ctx.find_root().params.get("home")
    if isinstance(home, str):
        return os.path.expanduser(os.path.expandvars(home))  # which the shell does when the line is run
    from msb_cache.msb.config import home_from_environment

    return home_from_environment()


def _beginning(
    index: sqlite3.Connection, selected: str, key: str, prefix: str, *, newest: bool = False
) -> list[Row]:
    """Return rows whose key, which an index has, begins so: the first ones in its order, and the last one.

    ``selected`` are columns and the table; with ``newest`` the order is turned around.
    """
    query = f"SELECT {selected} WHERE {key} >= ? AND {key} < ? ORDER BY {key}"
    between, orders = (prefix, prefix + _LAST), ("DESC", "ASC") if newest else ("ASC", "DESC")
    found = index.execute(f"{query} {orders[0]} LIMIT {MOST + 1}", between).fetchall()
    if len(found) > MOST:
        found[MOST:] = index.execute(f"{query} {orders[1]} LIMIT 1", between).fetchall()
    return found


def canonical(prefix: str) -> Iterator[str]:
    """Yield how a reference can begin in the index that a person begins to write so."""
    yield prefix
    if prefix and not prefix.startswith(_HUB):
        yield f"{_HUB}library/{prefix}"
        yield f"{_HUB}{prefix}"


def in_form_of(rows: Iterable[Row], prefix: str) -> Iterator[Item]:
    """Yield the references of rows (canonical, spelling) in the form in which a person has begun them."""
    from msb_cache.queries.resolve import as_typed

    found = set()
    for reference, spelling in rows:
        seen = as_typed(reference, spelling)
        if seen.startswith(prefix):
            found.add(seen)
        elif prefix.startswith(_HUB) and reference.startswith(prefix):
            found.add(reference)
    return map(CompletionItem, sorted(found))


def _images(index: sqlite3.Connection, prefix: str) -> Iterator[Row]:
    yield from _beginning(index, "reference, spelling FROM image", "name", prefix)
    for beginning in canonical(prefix):
        yield from _beginning(index, "reference, spelling FROM image", "reference", beginning)


def _pointed_at(index: sqlite3.Connection, prefix: str) -> Iterator[Row]:
    for beginning in canonical(prefix):
        yield from _beginning(index, "DISTINCT reference, NULL FROM pointed_at", "reference", beginning)


def _digests(index: sqlite3.Connection, prefix: str) -> Iterator[Item]:
    if prefix.startswith("sha256:"):
        for (digest,) in _beginning(index, "digest FROM manifest", "digest", prefix):
            yield CompletionItem(digest)


def is_pattern(prefix: str) -> bool:
    """Return whether it means images by wildcards, and not by a beginning."""
    return "*" in prefix or "?" in prefix


def references(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield the images in the cache, and digests to what begins as one; what has wildcards stays as it is."""
    if is_pattern(prefix):
        return
    with closing(connect(_home(ctx))) as index:
        yield from in_form_of(_images(index, prefix), prefix)
        yield from _digests(index, prefix)


def ever(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield all images that were ever in the cache."""
    if is_pattern(prefix):
        return
    with closing(connect(_home(ctx))) as index:
        yield from in_form_of([*_images(index, prefix), *_pointed_at(index, prefix)], prefix)
        yield from _digests(index, prefix)


def pinned(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield what is pinned."""
    with closing(connect(_home(ctx))) as index:
        rows = [
            row
            for beginning in canonical(prefix)
            for row in _beginning(index, "subject, spelling FROM pin", "subject", beginning)
        ]
    yield from in_form_of(rows, prefix)


def lost(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield the images that the deletion took which the line names."""
    operation = ctx.params.get("operation") or ""
    query = """
        SELECT DISTINCT subject, NULL FROM events
        WHERE operation >= ? AND operation < ? AND type = 'image.removed' LIMIT ?
    """
    with closing(connect(_home(ctx))) as index:
        yield from in_form_of(index.execute(query, (operation, operation + _LAST, 5 * MOST)), prefix)


def holders(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield who holds an image, or runs one."""
    with closing(connect(_home(ctx))) as index:
        rows = _beginning(index, "DISTINCT holder FROM hold", "holder", prefix)
        rows += _beginning(index, "DISTINCT holder FROM open_use", "holder", prefix)
    return map(CompletionItem, sorted({holder for (holder,) in rows}))


def deletions(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield the operations that deleted something, the newest first, with when that was and of how much."""
    selected = "operation, started_at, kind, image_refs_removed FROM deletion"
    with closing(connect(_home(ctx))) as index:
        rows = _beginning(index, selected, "operation", prefix, newest=True)
    return map(operation_item, rows)


def signed(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield of how many events signed checkpoints are, the largest first, with when and as what."""
    query = """
        SELECT CAST(size AS TEXT), signed_at, origin FROM signed_checkpoint
        WHERE CAST(size AS TEXT) LIKE ? ORDER BY size DESC LIMIT ?
    """
    with closing(connect(_home(ctx))) as index:
        rows = index.execute(query, (f"{prefix}%" if prefix.isdecimal() else "%", MOST)).fetchall()
    for size, signed_at, origin in rows:
        yield CompletionItem(size, help=f"{look.absolute(signed_at)[:16]} {origin}")


def operations(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield the deletions and what restored some, the newest first."""
    with closing(connect(_home(ctx))) as index:
        rows = [
            row
            for selected in (
                "operation, started_at, kind, image_refs_removed FROM deletion",
                "operation, started_at, 'restore', restored FROM undoing",
            )
            for row in _beginning(index, selected, "operation", prefix, newest=True)
        ]
    return map(operation_item, sorted(rows, reverse=True))


def operation_item(row: Row) -> Item:
    """Return an operation (its id, when it began in ns since the epoch, what it was, of how many images)."""
    identifier, started_at, kind, images = row
    said = f"{look.absolute(started_at)[:16]} {kind} of {output.plural(images, 'image')}"
    return CompletionItem(identifier, help=said)


def event_types(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield the types of events, with what they say."""
    from msb_cache.eventstore.events import EVENT_TYPES

    for each in EVENT_TYPES:
        name = str(each.type)
        if name.startswith(prefix):
            yield CompletionItem(name, help=_first_sentence(each.__doc__ or ""))


def schemas(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Yield what has a JSON Schema: the types of events, and what any event fits."""
    from msb_cache.eventstore.schema import ENVELOPE

    if ENVELOPE.startswith(prefix):
        yield CompletionItem(ENVELOPE, help="An event of any type")
    yield from event_types(ctx, prefix)


def _first_sentence(text: str) -> str:
    return re.split(r"[.:;](?:\s|$)", text, maxsplit=1)[0].replace("*", "")


def folders(ctx: click.Context, prefix: str) -> Iterator[Item]:
    """Leave it to the shell, which knows folders."""
    yield CompletionItem(prefix, type="dir")


OF_A_HOME = Completers(
    {
        "reference": references,
        "references": references,
        "patterns": references,
        "exclude": references,
        "target": ever,
        "holder": holders,
        "operation": operations,
        "types": event_types,
        "home": folders,
    },
    {
        ("history", "reference"): ever,
        ("prove", "what"): ever,
        ("prove", "type_"): event_types,
        ("prove", "size"): signed,
        ("show", "events"): signed,
        ("forget", "events"): signed,
        ("unpin", "reference"): pinned,
        ("restore", "operation"): deletions,
        ("restore", "references"): lost,
        ("show", "operation"): deletions,
        ("restore-plan", "operation"): deletions,
        ("schema", "type_"): schemas,
    },
)
"""What is completed from the home that the line names."""


# -- the shells ----------------------------------------------------------------------------------------


class _Shell(ShellComplete):
    """A shell that hands over the line up to the cursor as it was typed."""

    script: ClassVar[str]
    """What the shell runs once, to ask here from then on."""

    def source(self) -> str:
        return self.script

    def get_completion_args(self) -> tuple[list[str], str]:
        words = split_arg_string(os.environ.get(LINE, "") + "x")  # so that there is a last word
        while words and (assigned := re.fullmatch(_ASSIGNMENT, words[0], re.DOTALL)):
            if assigned[1] in _NAMING or _LIBPQ.match(assigned[1]):
                os.environ[assigned[1]] = assigned[2]
            del words[0]
        return words[1:-1], words[-1][:-1] if len(words) > 1 else ""

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """Return the answers that a person can be shown and can type."""
        found = [item for item in super().get_completions(args, incomplete) if item.value.isprintable()]
        for item in found:
            if item.help and not item.help.isprintable():
                item.help = None
        return found

    def format_completion(self, item: Item) -> str:
        return f"{item.type}\n{item.value}\n{item.help or ''}"


class _Bash(_Shell):
    name = "bash"
    script = r"""_msb_cache_completion() {
    local kind value help quoted breaks=$COMP_WORDBREAKS
    if [[ ${COMP_WORDS[COMP_CWORD]} == [\'\"]* ]]; then
        quoted=1 breaks=
    fi
    while IFS= read -r kind && IFS= read -r value && IFS= read -r help; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                if [[ -z $quoted ]]; then
                    printf -v value %q "$value"
                elif [[ $value == *[!A-Za-z0-9._:/@+=,\ -]* ]]; then
                    continue
                fi
                COMPREPLY+=("$value")
                ;;
        esac
    done < <(_MSB_CACHE_COMPLETE=bash _MSB_CACHE_LINE=${COMP_LINE:0:COMP_POINT} \
        _MSB_CACHE_BREAKS=$breaks "${1/#\~\//$HOME/}" 2>/dev/null)
}
complete -o nosort -F _msb_cache_completion msb-cache
"""

    def get_completions(self, args: list[str], incomplete: str) -> list[Item]:
        """Return of each answer what replaces the line from the last character on at which bash breaks words.

        Within quotes it breaks at none.
        """
        breaks = set(os.environ.get("_MSB_CACHE_BREAKS", "")) & set(":=@")
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        cut = max((value.rfind(each) + 1 for each in breaks), default=0)
        found = super().get_completions(args, incomplete)
        if cut:
            for item in found:
                item.value = item.value[cut:]
        return found


class _Zsh(_Shell):
    name = "zsh"
    script = r"""#compdef msb-cache
_msb_cache_completion() {
    local kind value help files program=${(Q)words[1]} line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    local -a plain described
    while IFS= read -r kind && IFS= read -r value && IFS= read -r help; do
        case $kind in
            plain)
                if [[ -n $help ]]; then
                    value=${value//\\/\\\\}
                    described+=("${value//:/\\:}:$help")
                else
                    plain+=("$value")
                fi
                ;;
            *) files=$kind ;;
        esac
    done < <(_MSB_CACHE_COMPLETE=zsh _MSB_CACHE_LINE=$line ${program/#\~\//$HOME/} 2>/dev/null)
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    case $files in
        dir) _path_files -/ ;;
        file) _path_files ;;
    esac
    (( $#described )) && _describe -V value described
    (( $#plain )) && compadd -V value -a plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _msb_cache_completion "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
    compdef _msb_cache_completion msb-cache
fi
"""


class _Fish(_Shell):
    name = "fish"
    script = r"""function _msb_cache_completion
    set -l token (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' "$token")
    set -l path (string replace -- "$option" '' "$token")
    set -l program (commandline -opc)[1]
    type -q "$program"; or set program msb-cache
    env _MSB_CACHE_COMPLETE=fish _MSB_CACHE_LINE=(commandline -cp | string collect) $program 2>/dev/null |
        while read -l kind; and read -l value; and read -l help
            switch $kind
                case plain
                    printf '%s%s\t%s\n' "$option" "$value" "$help"
                case dir
                    for each in (__fish_complete_directories "$path" '')
                        echo "$option$each"
                    end
                case file
                    for each in (__fish_complete_path "$path" '')
                        echo "$option$each"
                    end
            end
        end
end
complete --no-files --keep-order --command msb-cache --arguments '(_msb_cache_completion)'
"""


SHELLS: dict[str, type[_Shell]] = {each.name: each for each in (_Bash, _Zsh, _Fish)}
"""The shells that are known, by their names."""
