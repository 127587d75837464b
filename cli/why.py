"""The why command: the reasons why an image, manifest or layer is here, or gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import look, output
from msb_cache.cli.because import Reason, because, because_of, judged_because
from msb_cache.cli.common import examples, open_cache
from msb_cache.cli.deletions import policy_in_words
from msb_cache.cli.describe import describe
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.rules import policy_if_readable, policy_of, rule_options
from msb_cache.cli.tables import fields as print_fields
from msb_cache.cli.tables import sentence
from msb_cache.queries.told import holder_of, who, who_in_full
from msb_cache.queries.why import (
    Fate,
    ImageReasons,
    LayerReasons,
    Loss,
    ManifestReasons,
    Reasons,
    UnderPolicy,
)
from msb_cache.retention.rules import repository
from msb_cache.shapes import jsonable
from msb_cache.wording import duration

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent
    from msb_cache.retention.plan import Verdict

_LISTED = 5  # names in a line; of the others the number
_BEHIND = 14  # columns: where values begin

Lines = Iterator[tuple[str, str]]


@click.command(epilog=examples("msb-cache why app:1", "msb-cache why 695829d7"))
@click.argument("target", metavar="REF|DIGEST")
@rule_options
@shown_options("the image's reference, or the digest")
@click.pass_obj
def why(home: str | None, /, target: str, shown: Shown, **rules: Any) -> None:
    """Say why an image, manifest or layer is here, or gone.

    Who brought it, when and from where; who holds it; what shares its layers; what a prune would do to it.
    Or what took it away, whose command that was, by which policy, and how much it freed.

    A DIGEST is that of a manifest or a layer (diff ID or blob), or a unique beginning of
    it: at least four digits, with sha256: or without.

    With rules as for `msb-cache prune`, also what those would do to an image now, and when; without, what the
    policy file's would, if there is one.
    """
    given = policy_of(rules)
    with open_cache(home) as cache:
        policy = given if given.has_rules else policy_if_readable(cache)
        found = cache.why(target, policy=policy)
    under = None if isinstance(found, LayerReasons) else found.policy
    recorded = None if under is None or policy is None else policy.recorded()

    def table() -> None:
        more = []
        if under is not None and recorded is not None:
            name = "By rules" if policy is given else "By policy"
            more.append((name, _policy_line(found, under, recorded)))
        print_reasons(found, more)

    shown.item(lambda: jsonable(found), names=lambda: [_name(found)], table=table)


COMMAND = why


def print_reasons(found: Reasons, more: Sequence[tuple[str, str]] = (), *, elsewhere: bool = False) -> None:
    """Print why something is here or gone; ``more`` are further names and values.

    ``elsewhere``: that is on another host, and the fleet is asked about it.
    """
    _print_state(found)
    lines = _elsewhere(_lines(found)) if elsewhere else _lines(found)
    print_fields([*lines, *more], name_width=_BEHIND, indent=2)


def _elsewhere(lines: Lines) -> Lines:
    """Yield lines about another host: what is asked is asked of the fleet, what is done is done there."""
    for name, value in lines:
        if name == "More":
            yield name, value.replace("msb-cache", "msb-cache fleet", 1)
        else:
            yield name, f"{value}, on that host" if name in ("Bring back", "Mended by") else value


def _policy_because(found: Reasons, verdict: Verdict, goes: bool, policy: Mapping[str, Any]) -> str:
    reference = found.reference if isinstance(found, ImageReasons) else None
    of = None if reference is None else repository(reference)
    return because_of(verdict, policy, goes=goes, by=verdict.by, repository=of)


def _policy_line(found: Reasons, under: UnderPolicy, policy: Mapping[str, Any]) -> str:
    if under.verdict is None:
        return "it stays: no rule selects it"
    said = _policy_because(found, under.verdict, under.goes, policy)
    if under.goes:
        return f"it goes ({said})"
    when = ""
    if under.at_ns is not None:
        left = duration(max(0, under.at_ns - time.time_ns()))
        when = f"; it goes in {left} unless used, {look.absolute(under.at_ns)}"
    return f"it stays ({said}){when}"


def _name(found: Reasons) -> str:
    if isinstance(found, ImageReasons):
        return found.reference
    return found.digest if isinstance(found, ManifestReasons) else found.diff_id


def _print_state(found: Reasons) -> None:
    if isinstance(found, ImageReasons) and found.failure is not None:
        sentence(f"{found.reference} was never here: no pull of it succeeded.")
        return
    name = {ManifestReasons: "The manifest ", LayerReasons: "The layer "}.get(type(found), "")
    name += _short_if_long(_name(found), len(f"{name} is here."))
    sentence(f"{name} ", output.styled("is here" if found.here else "is gone", bold=True), ".")


def _short_if_long(name: str, beside: int) -> str:
    room = look.room()
    return look.digest(name) if room is not None and beside + len(name) > room else name


def _lines(found: Reasons) -> Lines:
    if isinstance(found, ImageReasons):
        return _image(found)
    return _manifest(found) if isinstance(found, ManifestReasons) else _layer(found)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _by(event: StoredEvent) -> str:
    """When, what in a few words, and who."""
    line = describe(event)
    told = f"{line.what} {line.details}".rstrip()
    return f"{look.in_full(event.occurred_at_ns)}  {told}, {who(event.actor)} (event {event.seq})"


def _image(found: ImageReasons) -> Lines:
    if found.failure is not None:
        yield "Last failure", _by(found.failure)
        return
    yield "Manifest" if found.here else "Was", found.manifest_digest or "-"
    if found.arrived is not None:
        yield "Came", _by(found.arrived)
    if found.pointed is not None:
        yield "Moved", _by(found.pointed)
    if found.used is not None and found.used != (found.pointed or found.arrived):
        yield "Last used", _by(found.used)
    yield from _uses(found.uses)
    if found.idle is not None:
        yield "Idle since", _by(found.idle)
    if found.loss is not None:
        yield from _lost(found.loss)
        return
    for event in found.damage:
        yield "Damaged", _by(event)
    if found.damage:
        yield "Mended by", f"`msb-cache pull {found.reference}`, or loading its archive again"
    yield from _holds(found.holds, found.statuses)
    if found.pin is not None:
        yield "Pinned", _by(found.pin)
    if found.shares:
        shared = [
            f"{each.reference} ({each.layers} of {output.plural(found.layer_count or 0, 'layer')})"
            for each in found.shares
        ]
        yield "Shares with", _listed(shared)
    yield from _fate(found.fate)


def _manifest(found: ManifestReasons) -> Lines:
    yield "Came", _by(found.added)
    if found.references:
        yield "References", _listed(found.references)
    if found.earlier:
        yield "Earlier", _listed(found.earlier)
    yield from _uses(found.uses)
    yield from _holds(found.holds, found.statuses)
    if found.pin is not None:
        yield "Pinned", _by(found.pin)
    if found.loss is not None:
        yield from _lost(found.loss)
    yield from _fate(found.fate)


def _uses(uses: Sequence[StoredEvent]) -> Lines:
    for event in uses:
        yield (
            "In use",
            f"by {holder_of(event)} since {look.in_full(event.occurred_at_ns)} (event {event.seq})",
        )


def _holds(holds: Sequence[StoredEvent], statuses: Mapping[str, str]) -> Lines:
    for event in holds:
        now = statuses.get(holder_of(event))
        changed = now is not None and now != getattr(event.data, "status", None)
        yield "Held", _by(event) + (f", {now.lower()} now" if now is not None and changed else "")


def _layer(found: LayerReasons) -> Lines:
    for owner in found.manifests:
        names = _listed(owner.references) or "no reference"
        yield "Needed by" if owner.here else "Was part of", f"{look.digest(owner.digest)}  {names}"
    if found.loss is not None:
        yield from _lost(found.loss)
    yield from _fate(found.fate)


def _lost(loss: Loss) -> Lines:
    event, deletion = loss.event, loss.deletion
    when = look.in_full(event.occurred_at_ns)
    if deletion is None or deletion.counters.kind == "external":
        yield "Went", f"{when}  by another program"
        yield "By", who_in_full(event.actor)
    else:
        yield "Went", f"{when}  by a {deletion.counters.kind}"
        yield "By", who_in_full(deletion.actor)
        yield "Policy", policy_in_words(deletion.policy)
    freed = output.size(loss.bytes)
    if loss.layers_kept:
        freed += f"; {output.plural(loss.layers_kept, 'layer')} stayed"
    if (said := _loss_because(loss)) is not None:
        yield "Because", said
    yield "Freed", freed
    if deletion is not None:
        operation = look.operation(deletion.operation)
        yield "More", f"msb-cache prunes show {operation}"
        yield "Bring back", f"msb-cache restore {operation}"


def _fate(fate: Fate | None) -> Lines:
    if fate is None:
        return
    if fate.goes:
        yield "A prune now", "deletes it (rule: unused, nothing holds it)"
        return
    more = max(len(fate.by) - _LISTED, 0)
    said = because(Reason(False, fate.rule, fate.by[:_LISTED], more), {})
    yield "A prune now", f"keeps it ({said})"


def _loss_because(loss: Loss) -> str | None:
    if loss.judged is None or loss.deletion is None:
        return None
    return judged_because(loss.judged, loss.deletion.policy, goes=True)
