"""The remove command: references, and what nothing else needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, note, open_cache, quiet_option, reason_option
from msb_cache.cli.deletions import failures, freed
from msb_cache.cli.main import EXIT_FAILED, EXIT_IN_USE, EXIT_NOT_FOUND
from msb_cache.errors import ImageInUseError, ImageNotFoundError

if TYPE_CHECKING:
    from msb_cache.models import ImagePruneReport


@click.command(epilog=examples('msb-cache remove app:1 --reason "app:2 is out"'))
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("-f", "--force", is_flag=True, help="Drop the reference even while the image is held.")
@reason_option
@quiet_option("Print nothing but errors.")
@click.pass_obj
def remove(
    home: str | None, references: tuple[str, ...], force: bool, reason: str | None, quiet: bool
) -> int:
    """Remove images and what nothing else needs.  [alias: rm]

    With --force a held image loses its reference; its files stay until the last hold is released and
    a prune runs.
    """
    codes = []
    with open_cache(home, reason=reason, quiet=quiet) as cache:
        for reference in references:
            try:
                report = cache.remove(reference, force=force)
            except (ImageNotFoundError, ImageInUseError) as error:
                if len(references) == 1:
                    raise
                missing = isinstance(error, ImageNotFoundError)
                output.error(str(error))
                codes.append(EXIT_NOT_FOUND if missing else EXIT_IN_USE)
            else:
                if not quiet:
                    size = freed(
                        report.bytes_reclaimed or 0, report.flat_removed, report.flat_bytes_reclaimed
                    )
                    done("Removed", f"{reference}  ({size} freed)")
                codes += _failures(report)
    if not codes:
        return 0
    return codes[0] if len(set(codes)) == 1 else EXIT_FAILED


COMMAND = remove


def _failures(report: ImagePruneReport) -> list[int]:
    """Say what could not be deleted; only what belongs to the removed image is a failure of its removal."""
    if report.leftovers_failed and report.leftovers_failed == report.artifacts_failed:
        files = output.plural(report.leftovers_failed, "file")
        note(f"{files} of earlier deletions could not be deleted now either; `msb-cache info` names them")
        return []
    return failures(report)
