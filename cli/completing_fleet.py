"""What a shell asks below ``fleet``: which hosts, images, operations … of a fleet could come next.

The fleet is the one that the line names, else that of the environment. A server may be far away, or gone:
it is waited for a little, by threads that nobody waits for then. Whatever goes wrong, there is nothing to
complete.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from msb_cache.cli.completing import (
    Completers,
    canonical,
    event_types,
    in_form_of,
    is_pattern,
    operation_item,
)
from msb_cache.cli.completing import attach as attach_to
from msb_cache.fleet import beginnings

if TYPE_CHECKING:
    from msb_cache.cli.completing import Completer, Item
    from msb_cache.fleet.connect import Postgres
    from msb_cache.fleet.file import FleetFile
    from msb_cache.fleet.place import Reading

    Question = Callable[[Reading], Iterable[Item]]

SECONDS = 2.0
"""So long all servers together are waited for."""


def attach(command: click.Command) -> None:
    """Let the parameters of a command of the group, and of those below it, be completed from its fleet."""
    attach_to(command, OF_A_FLEET)


def _named(context: click.Context | None) -> tuple[str | None, str | None]:
    """Return the DSN and the file of the command that has either, or of the nearest one above it."""
    while context is not None:
        dsn, db = context.params.get("dsn"), context.params.get("db")
        if dsn is not None or db is not None:
            return dsn, db
        context = context.parent
    from msb_cache.fleet.place import VARIABLE

    return os.environ.get(VARIABLE) or None, None


def _asked(context: click.Context, question: Question, *, newest: bool = False) -> list[Item]:
    """Return what all places answer in time, in order; nothing where the line names no fleet, or two.

    Args:
        context: of the line.
        question: is asked of each place, in a thread.
        newest: turn the order around.

    Raises:
        InvalidConfigError: a DSN is none.
        UnsupportedError: the extra is not installed.
    """
    until = time.monotonic() + SECONDS
    dsn, db = _named(context)
    if (dsn is None) == (db is None):
        return []
    if db is not None:
        from msb_cache.fleet.file import FleetFile

        found = _in_time([FleetFile(_expanded(db))], question, until)
    else:
        found = _on_servers(_expanded(dsn or ""), question, until)
    return sorted(found, key=lambda item: item.value, reverse=newest)


def _expanded(word: str) -> str:
    return os.path.expanduser(os.path.expandvars(word))  # which the shell does when the line is run


def _on_servers(dsn: str, question: Question, until: float) -> list[Item]:
    from msb_cache.fleet.connect import Postgres, further

    first = Postgres(dsn)
    others: SimpleQueue[Sequence[Postgres]] = SimpleQueue()

    def of_first(reading: Reading) -> Iterable[Item]:
        others.put(further(reading, dsn))
        return question(reading)

    found = _in_time([first], of_first, until)
    return found if others.empty() else found + _in_time(others.get(), question, until)


def _in_time(places: Sequence[Postgres | FleetFile], question: Question, until: float) -> list[Item]:
    """Ask all places at once, and return what has been answered when it is so late."""
    answers: SimpleQueue[list[Item]] = SimpleQueue()

    def ask(place: Postgres | FleetFile) -> None:
        found: list[Item] = []
        # Whatever it is, a person who types is told nothing, and the command itself will say it.
        with suppress(Exception), place.peek() as reading:
            found = [item for item in question(reading) if isinstance(item.value, str)]
        answers.put(found)

    for place in places:
        threading.Thread(target=ask, args=(place,), daemon=True).start()
    together: list[Item] = []
    with suppress(Empty):
        for _ in places:
            together += answers.get(timeout=max(0.0, until - time.monotonic()))
    return together


def _plain(question: Callable[[Reading, str], Iterable[str]]) -> Completer:
    """Return what completes the answers of a question as they are."""

    def names(context: click.Context, prefix: str) -> Iterator[Item]:
        yield from _asked(context, lambda reading: map(CompletionItem, question(reading, prefix)))

    return names


def hosts(context: click.Context, prefix: str) -> Iterator[Item]:
    """Yield hosts' names and roles, and to what begins as one the ids of logs."""

    def question(reading: Reading) -> Iterator[Item]:
        yield from map(CompletionItem, beginnings.hosts(reading, prefix))
        for log_id, host in beginnings.logs(reading, prefix):
            yield CompletionItem(log_id, help=f"the log of {host}")

    yield from _asked(context, question)


def _images(context: click.Context, prefix: str, *, gone: bool) -> Iterator[Item]:
    """Yield images, and digests to what begins as one; what has wildcards stays as it is."""

    def question(reading: Reading) -> Iterator[Item]:
        found = beginnings.references(reading, canonical(prefix), gone=gone)
        yield from in_form_of(((reference, None) for reference in found), prefix)
        yield from map(CompletionItem, beginnings.digests(reading, prefix, gone=gone))

    if not is_pattern(prefix):
        yield from _asked(context, question)


def _operations(context: click.Context, prefix: str, *, restores: bool) -> Iterator[Item]:
    """Yield operations, the newest first, with when each was, of how much and where."""

    def question(reading: Reading) -> Iterator[Item]:
        for *told, host in beginnings.operations(reading, prefix, restores=restores):
            item = operation_item(tuple(told))
            yield CompletionItem(item.value, help=f"{item.help} on {host}")

    yield from _asked(context, question, newest=True)


_on_hosts, _ever = partial(_images, gone=False), partial(_images, gone=True)
_deletions, _all_operations = partial(_operations, restores=False), partial(_operations, restores=True)
_enrolled = _plain(beginnings.enrolled)
OF_A_FLEET = Completers(
    {
        "hosts": hosts,
        "rebuild": hosts,
        "reference": _on_hosts,
        "patterns": _on_hosts,
        "target": _ever,
        "subject": _ever,
        "holder": _plain(beginnings.holders),
        "operation": _all_operations,
        "types": event_types,
    },
    {
        ("diff", "before"): hosts,
        ("diff", "after"): hosts,
        ("history", "reference"): _ever,
        ("show", "operation"): _deletions,
        ("enrol", "name"): _enrolled,
        ("unenrol", "name"): _enrolled,
        ("servers", "remove"): _plain(beginnings.servers),
    },
)
"""What is completed from the fleet that the line names."""
