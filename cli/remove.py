"""The remove command: images by name, pattern or digest, and what nothing else needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import (
    done,
    examples,
    note,
    open_cache,
    reason_option,
)
from msb_cache.cli.deletions import failures, freed, operation_of
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_FAILED, exit_code, said
from msb_cache.cli.tables import hanging, sentence
from msb_cache.queries.resolve import as_typed, seen_name
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache
    from msb_cache.engines.decision import Preview
    from msb_cache.errors import MicrosandboxError
    from msb_cache.models import ImagePruneReport


@click.command(
    epilog=examples('msb-cache remove app:1 --reason "app:2 is out"', "msb-cache remove 'ghcr.io/acme/*' -n")
)
@click.argument("references", nargs=-1, required=True, metavar="REF|PATTERN|DIGEST...")
@click.option("-f", "--force", is_flag=True, help="Drop what is held or pinned, too.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go; nothing is recorded.")
@reason_option
@shown_options("the operation's id, or with --dry-run references", tables=False)
@click.pass_obj
def remove(
    home: str | None,
    references: tuple[str, ...],
    force: bool,
    dry_run: bool,
    reason: str | None,
    shown: Shown,
) -> int:
    """Remove images and what nothing else needs.  [alias: rm]

    All of them go as one operation; what cannot go is said, and the rest goes.

    With --force a held image loses its reference; its files stay until the last hold is released and
    a prune runs. A pin stays, and keeps the image when it comes again.
    """
    from msb_cache.models import ImagePruneReport

    if not dry_run:
        shown.expect(*ImagePruneReport.__struct_fields__)
    codes: list[int] = []

    def refused(error: MicrosandboxError) -> None:
        output.error(said(error))
        codes.append(exit_code(error))

    one = len(references) == 1 and not any(character in references[0] for character in "*?")
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        if dry_run:
            preview = cache.preview_remove(references, force=force, refused=None if one else refused)
            names = [_whole_name(preview, each) for each in preview.going]
            shown.item(
                lambda: _preview_fields(preview),
                names=lambda: names,
                table=lambda: _print_preview(preview, names),
            )
        else:
            report = cache.remove(references, force=force, refused=None if one else refused)
            shown.item(
                lambda: jsonable(report),
                names=lambda: operation_of(report),
                table=lambda: _print_report(cache, references, report),
                paged=False,
            )
            codes += _failures(report)
    if not codes:
        return 0
    return codes[0] if len(set(codes)) == 1 else EXIT_FAILED


COMMAND = remove


def _whole_name(preview: Preview, subject: str) -> str:
    """Return an image's reference, or the digest of a manifest without one."""
    return subject if subject.startswith("sha256:") else seen_name(preview.plan.naming, subject)


def _preview_fields(preview: Preview) -> dict[str, Any]:
    plan = preview.plan
    return {
        "dry_run": True,
        "images": [
            {"reference": seen_name(plan.naming, name), "digest": digest}
            for name, digest in plan.references.items()
        ],
        "manifests": [*plan.manifests],
        "layers": [*plan.layers],
        "bytes_reclaimable": preview.bytes,
        "bytes_freed": preview.freed_bytes,
    }


def _print_preview(preview: Preview, names: Sequence[str]) -> None:
    for name in names:
        hanging(look.digest(name), "  ")
    if not names:
        output.line("Nothing to remove.")
        return
    plan = preview.plan
    counts = (len(names), "image"), (len(plan.manifests), "manifest"), (len(plan.layers), "layer")
    parts = [output.plural(count, what) for count, what in counts if count]
    sentence(f"Removes {', '.join(parts)}: {output.size(preview.freed_bytes)} come free.")


def _print_report(cache: ImageCache, references: tuple[str, ...], report: ImagePruneReport) -> None:
    if report.operation is None:
        return
    size = freed(report.bytes_reclaimed or 0, report.flat_removed, report.flat_bytes_reclaimed)
    whole = cache.prune_report(report.operation)
    names = [as_typed(reference, data.spelling) for reference, data in whole.images]
    if len(names) == len(references) == 1:
        done("Removed", f"{references[0]}  ({size} freed)")
        return
    pointed_at = {data.manifest_digest for _, data in whole.images}
    names += [
        look.digest(each.subject, err=True)
        for each in whole.artifacts
        if each.kind == "manifest" and each.outcome == "deleted" and each.subject not in pointed_at
    ]
    for name in names:
        done("Removed", name)
    if names:
        output.line(f"  {output.plural(len(names), 'image')}, {size} freed", err=True)


def _failures(report: ImagePruneReport) -> list[int]:
    """Say what could not be deleted; only what belongs to the removed image is a failure of its removal."""
    if report.leftovers_failed and report.leftovers_failed == report.artifacts_failed:
        files = output.plural(report.leftovers_failed, "file")
        note(f"{files} of earlier deletions could not be deleted now either; `msb-cache info` names them")
        return []
    return failures(report)
