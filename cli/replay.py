"""The replay command: what each event does to the index, and where a state left the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.audit.log_files import STATE_KIND
from msb_cache.cli import look, output
from msb_cache.cli.common import PATH, examples, note, open_cache
from msb_cache.cli.describe import describe
from msb_cache.cli.event_lines import position, subject
from msb_cache.cli.formats import Shown, nothing, paging, shown_options
from msb_cache.cli.tables import sentence
from msb_cache.projections.replay import ROW_TYPE, Change, Divergence, State, Step
from msb_cache.projections.tables import columns
from msb_cache.queries.told import who
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.replay import Comparison


@click.command(
    epilog=examples(
        "msb-cache replay --from 120 --to 130",
        "msb-cache replay --log log.jsonl --state > state.json",
        "msb-cache replay --until-diff state.json",
    )
)
@click.option(
    "--log", type=PATH, metavar="FILE", help="Another log: an msb-cache.db, or an export; only read."
)
@click.option("--from", "first", type=click.IntRange(1), metavar="N", help="Begin at this event.")
@click.option("--to", "last", type=click.IntRange(1), metavar="N", help="End with this event.")
@click.option("--state", is_flag=True, help="Print all rows there are at the end, as JSON, and no events.")
@click.option(
    "--until-diff",
    "wanted",
    type=PATH,
    metavar="STATE",
    help="Find the event after which this state (a database, or what --state wrote) is not the log's.",
)
@shown_options("the events' positions, such as @5")
@click.pass_obj
def replay(
    home: str | None,
    log: str | None,
    first: int | None,
    last: int | None,
    state: bool,
    wanted: str | None,
    shown: Shown,
) -> int:
    """Show what each event does to the index.

    Rows that an event adds, changes or takes out are shown before and after. With --format json there is
    one line for each event.
    """
    if wanted is not None and (state or first is not None or last is not None):
        raise click.UsageError("--until-diff stands alone: the state says how far to go")
    if state and first is not None:
        raise click.UsageError("--state is of one position: give it with --to, without --from")
    with open_cache(home) as cache:
        if wanted is not None:
            compared = cache.compare_state(wanted, log=log, note=note)
            shown.item(
                lambda: jsonable(compared),
                names=lambda: [] if compared.step is None else [position(compared.step.event)],
                table=lambda: _print_comparison(compared),
            )
            return 1 if compared.divergences else 0
        if state:
            _print_state(cache.replay_state(log=log, until=last, note=note))
            return 0
        steps = cache.replay(log=log, after=(first or 1) - 1, until=last, note=note)
        with paging(shown.as_table):
            shown.as_they_come(
                nothing("No such events.", steps),
                fields=jsonable,
                name=lambda step: position(step.event),
                line=_print_step,
            )
    return 0


COMMAND = replay


# -- rows ---------------------------------------------------------------------------------------------


def _names(table: str) -> Sequence[str]:
    return columns(ROW_TYPE[table])


def _key_length(table: str) -> int:
    return ROW_TYPE[table].key_length


def _shown(value: Any) -> str:
    return "-" if value is None else look.digest(str(value))


_SEQ = 5  # digits of a position, in most logs


def _print_step(step: Step) -> None:
    event = step.event
    parts = (look.digest(subject(event)), describe(event).details, who(event.actor))
    sentence(
        output.styled(f"{event.seq}  {look.moment(event.occurred_at_ns)}  {event.type}", bold=True),
        "  " + "  ".join(filter(None, parts)),
        indent=max(0, _SEQ - len(str(event.seq))),
    )
    for change in step.changes:
        _print_change(change)


def _print_change(change: Change) -> None:
    names, length = _names(change.table), _key_length(change.table)
    key = " ".join(_shown(part) for part in change.key)
    mark, colour = ("~", "yellow")
    if change.before is None or change.after is None:
        mark, colour = ("+", "green") if change.before is None else ("-", "red")
    sentence(output.styled(mark, fg=colour), f" {change.table} {key}", indent=7)
    for at, name in enumerate(names):
        if at < length:
            continue
        if change.before is None or change.after is None:
            row = change.after or change.before or ()
            if row[at] is not None:
                sentence(f"{name}: {_shown(row[at])}", indent=11)
        elif change.before[at] != change.after[at]:
            before, after = change.before[at], change.after[at]
            sentence(f"{name}: {_shown(before)} → {_shown(after)}", indent=11)


# -- states -------------------------------------------------------------------------------------------


def _print_state(state: State) -> None:
    output.json(
        {
            "kind": STATE_KIND,
            **jsonable(state),
        }
    )


def _print_comparison(compared: Comparison) -> None:
    if not compared.divergences:
        output.line(f"At event {compared.seq} the state is exactly what the log says.")
        return
    if compared.step is not None:
        output.line(f"The state went wrong at event {compared.step.event.seq}, which does this:")
        _print_step(compared.step)
        output.line()
    output.line(
        f"{output.plural(len(compared.divergences), 'row')} not as the log says at event {compared.seq}:"
    )
    for found in compared.divergences:
        _print_divergence(found)


def _print_divergence(found: Divergence) -> None:
    key = " ".join(_shown(part) for part in found.key)
    since = f"since event {found.seq}" if found.seq else "no event made such a row"
    sentence(f"{found.table} {key}, {since}", indent=2)
    for name, ours, theirs in _columns(found):
        sentence(f"{name}: the log says {ours}, the state {theirs}", indent=6)


def _columns(found: Divergence) -> list[tuple[str, str, str]]:
    if found.folded is None:
        return [("row", "there is none", "has one")]
    if found.state is None:
        return [("row", "there is one", "has none")]
    cells = zip(_names(found.table), found.folded, found.state, strict=True)
    return [(name, _shown(ours), _shown(theirs)) for name, ours, theirs in cells if ours != theirs]
