"""The hand-over command: images that msb does not know, made known to it as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import done, examples, note, open_cache, reason_option
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.commands.hand_over import HandedOver


@click.command(
    "hand-over",
    short_help="Make images known to msb that it does not know.",
    epilog=examples("msb-cache hand-over --dry-run", "msb-cache hand-over app:1"),
)
@click.argument("references", nargs=-1, metavar="[REF]...")
@click.option("--dry-run", is_flag=True, help="Only check, and say what would be handed over.")
@reason_option
@shown_options("references", tables=False)
@click.pass_obj
def hand_over(
    home: str | None,
    references: tuple[str, ...],
    dry_run: bool,
    reason: str | None,
    shown: Shown,
) -> int:
    """Make images known to msb that it does not know, as they are.

    Without REFs all that lie in this home and not in msb's index. Digests stay, and no layer is copied. A
    home that msb-cache keeps becomes msb's by it.
    """
    shown.expect(*_FIELDS)
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        found = cache.hand_over(references, dry_run=dry_run)
    shown.items(
        found,
        fields=jsonable,
        name=lambda each: each.reference if each.outcome in _GIVEN or each.outcome == "planned" else None,
        table=_print_all,
        paged=False,
    )
    failed = [each for each in found if each.outcome == "failed"]
    for each in failed:
        output.error(f"{each.reference}: {each.problem}")
    return EXIT_FAILED if failed else 0


COMMAND = hand_over

_FIELDS = ("reference", "digest", "outcome", "new_digest", "reset", "problem")
_GIVEN = ("handed over", "saved")
_WORDS = {"planned": "Would be", "handed over": "Handed over", "saved": "Saved", "known": "Known"}


def _print_all(found: Iterable[HandedOver]) -> None:
    outcomes = set()
    for each in nothing("msb knows every image here.", found):
        _print(each)
        outcomes.add(each.outcome)
    if not outcomes.isdisjoint(_GIVEN):
        note("for msb they were created and last used now; the log has the times as they were")


def _print(each: HandedOver) -> None:
    if each.outcome == "failed":
        return
    digest = look.digest(each.manifest_digest, err=True)
    if each.new_digest is not None:
        digest = f"{digest} → {look.digest(each.new_digest, err=True)}"
    done(_WORDS[each.outcome], f"{each.reference}  {digest}")
    if each.outcome == "saved":
        note(f"{each.reference} has another digest now: {each.problem}")
    for reset in each.reset:
        if reset.what == "platform":
            note(f"for msb {each.reference} is of {reset.after}, and it is of {reset.before}")
