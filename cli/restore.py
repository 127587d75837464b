"""The restore command: bring back what one prune or removal took, as one operation that undoes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import (
    done,
    examples,
    fetching_options,
    max_age_option,
    note,
    open_cache,
    reason_option,
)
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.cli.progress import display
from msb_cache.cli.tables import Column, hanging, sentence, show
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.commands.restore import RestoredImage, RestoreResult

_COLUMNS = (
    Column("REFERENCE", "name"),
    Column("DIGEST", "digest", leave=1),
    Column("HOW", "word", leave=2),
    Column("CERTAINTY", "word", leave=3),
    Column("OUTCOME", "word"),
    Column("NOTES", "prose"),
)

_FIELDS = ("operation", "undoes", "kind", "complete", "images", "others", "lost")

_SAID = {
    "planned": "comes back",
    "guess": "not asked for",
    "none": "cannot be had",
}
"""What a table says of outcomes that are no plain words."""


@click.command(
    epilog=examples(
        "msb-cache restore 01a20ede --dry-run",
        "msb-cache restore 01a20ede",
        "msb-cache restore 01a20ede python:3.12 'ghcr.io/acme/*'",
    )
)
@click.argument("operation", metavar="ID")
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only say what comes back and how; record nothing.")
@click.option(
    "--guesses", is_flag=True, help="Ask registries also for images of which the log has no source."
)
@fetching_options
@max_age_option
@reason_option
@shown_options("the operation's id, or with --dry-run references")
@click.pass_obj
def restore(
    home: str | None,
    operation: str,
    references: tuple[str, ...],
    dry_run: bool,
    guesses: bool,
    insecure: bool,
    ca_certs: Path | None,
    jobs: int,
    max_age_ns: int,
    reason: str | None,
    shown: Shown,
) -> int:
    """Bring back what one prune or removal took.

    ID is the operation, as `msb-cache prunes` lists it, or a unique beginning of it. With REFs only those of
    its images: references, wildcards, digests.

    It runs what `msb-cache prunes restore-plan ID` prints, as one operation that the log knows to undo the
    other. Images that are here already are left alone. What the log has no source for is tried only where it
    is named, or with --guesses. The exit code is 1 if something that was asked for did not come back.
    """
    shown.expect(*_FIELDS)
    with (
        open_cache(home, reason=reason, quiet=shown.quiet) as cache,
        display(not shown.as_table or dry_run) as progress,
    ):
        result = cache.restore(
            operation,
            references,
            dry_run=dry_run,
            guesses=guesses,
            options=RegistryOptions(insecure=insecure, ca_certs=ca_certs),
            jobs=jobs,
            max_age=timedelta(microseconds=max_age_ns // 1000),
            progress=progress,
            report=_say if shown.as_table else None,
            note=None if shown.quiet else note,
        )
    shown.item(
        lambda: jsonable(result),
        names=lambda: _names(result),
        table=lambda: _print_result(result),
        paged=dry_run,
    )
    missing = [image for image in result.images if not image.back]
    if dry_run or not missing:
        return 0
    output.error(_missing(result, missing))
    return EXIT_FAILED


COMMAND = restore


def _names(result: RestoreResult) -> list[str]:
    if result.operation is not None:
        return [result.operation]
    return [image.reference or image.manifest_digest for image in result.images if image.outcome == "planned"]


def _name(image: RestoredImage) -> str:
    return image.reference or look.digest(image.manifest_digest, err=True)


def _say(image: RestoredImage) -> None:
    """Tell of an image as soon as it is known what became of it."""
    if image.outcome == "restored":
        name = _name(image) if image.name == image.reference else f"{_name(image)} as {image.name}"
        done("Restored", f"{name}  {look.digest(image.manifest_digest, err=True)}")
    elif image.outcome == "failed":
        hanging(f"{_name(image)}: {image.reason}", f"  ✗ {'Failed':<10} ", err=True)


def _print_result(result: RestoreResult) -> None:
    rows = [
        (
            image.reference,
            image.manifest_digest,
            " ".join(image.planned.arguments[:1]) or None,
            image.planned.certainty,
            _SAID.get(image.outcome, image.outcome),
            image.reason or "; ".join(image.notes),
        )
        for image in result.images
    ]
    if rows:
        show(_COLUMNS, rows)
    if result.others:
        sentence(f"With them came {', '.join(result.others)}: msb loads all images of an archive.")
    if result.lost:
        sentence(f"Lost for good: {output.plural(len(result.lost), 'file')} that no image accounts for.")
    if result.operation is not None:
        output.line(f"  {'Operation:':<12} {result.operation}")


def _missing(result: RestoreResult, missing: list[RestoredImage]) -> str:
    guesses = sum(image.outcome == "guess" for image in missing)
    count = f"{len(missing):,} of {output.plural(len(result.images), 'image')} did not come back"
    if guesses == len(missing):
        return f"{count}, because the log does not say where from; name them, or use --guesses"
    if guesses:
        return f"{count}, {guesses:,} of them because the log does not say where from (see --guesses)"
    return count
