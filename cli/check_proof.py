"""The check-proof command: what a proof proves, without the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import PATH, examples
from msb_cache.cli.describe import describe
from msb_cache.cli.event_lines import subject
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import hanging
from msb_cache.cli.trust import keys_option, policy_option, read_at_most, read_policy
from msb_cache.queries.told import who_in_full
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.proof.inclusion import CheckedEvent

_FIELDS = ("origin", "size", "root", "seq", "event", "columns", "log", "cosigned")


@click.command(
    epilog=examples(
        "msb-cache check-proof removed.tlog-proof --key ci7.example.com/msb-cache+8c2f1c26+AQ…",
        "msb-cache check-proof - --policy witnesses.policy --format json",
    )
)
@click.argument("path", metavar="FILE|-", type=PATH)
@keys_option
@policy_option
@shown_options("the event's position, such as @5", tables=False)
def check_proof(path: str, keys: tuple[str, ...], policy: str | None, shown: Shown) -> None:
    """Check what a proof proves, without its log.

    No home is needed, only what `prove` wrote. It says what happened, who did it and when, in which log that
    is, who signed this and who cosigned it; nothing of that, if any of it is not proved.

    Give the log's key, which `key show` prints, or a policy file. It must come to you by another way than the
    proof.
    """
    shown.expect(*_FIELDS)
    from msb_cache.proof.inclusion import MAX_PROOF, check
    from msb_cache.proof.policy import trusted

    if not keys and policy is None:
        raise click.UsageError("give the key of the log that you believe with --key, or a --policy")
    believed = trusted(keys, read_policy(policy))
    found = check(read_at_most(path, MAX_PROOF + 1), believed)
    shown.item(
        lambda: jsonable(found), names=lambda: [f"@{found.seq}"], table=lambda: _print(found), paged=False
    )


COMMAND = check_proof


def _print(found: CheckedEvent) -> None:
    good, before = output.styled("✓", fg="green"), None
    for part, text in _lines(found):
        mark = good if part != before else " "
        hanging(text, "  ", mark, f" {part if part != before else '':<8} ")
        before = part


def _lines(found: CheckedEvent) -> Iterator[tuple[str, str]]:
    """Yield what is proved: of each part its name, and a line."""
    event, columns = found.event, found.columns
    if event is None:
        yield "event", f"{columns['type']} of {columns['subject']} (event {found.seq})"
        yield "event", "this msb-cache does not know such events; --format json shows what it says"
        yield "event", look.absolute(columns["occurred_at"])
        yield "event", f"operation {columns['operation']}"
    else:
        line = describe(event)
        told = ", ".join(filter(None, (f"{line.what} {subject(event)}", line.details)))
        yield "event", f"{told} ({event.type}, event {found.seq})"
        yield "event", look.absolute(event.occurred_at_ns)
        yield "event", f"by {who_in_full(event.actor)}"
        yield "event", f"operation {event.operation}"
    yield "log", f"among the first {output.plural(found.size, 'event')} of {found.origin}"
    yield "signed", f"by the log's key {found.log}"
    for each in found.cosigned:
        yield "cosigned", f"by {each.name}, {look.absolute(each.cosigned_at_ns)}"
