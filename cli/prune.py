"""The prune command: what would go, the question, and what went."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from msb_cache.cli import output
from msb_cache.cli.common import (
    examples,
    format_option,
    on_terminal,
    open_cache,
    quiet_option,
    reason_option,
)
from msb_cache.cli.deletions import failures, freed
from msb_cache.cli.describe import kept_because
from msb_cache.cli.leftovers import leftover_cells, leftover_fields
from msb_cache.queries.resolve import seen_name

if TYPE_CHECKING:
    from msb_cache.engines.decision import Preview
    from msb_cache.engines.prune_plan import Plan


@click.command(
    epilog=examples("msb-cache prune --dry-run", 'msb-cache prune --yes --reason "the disk is full"')
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go; nothing is recorded.")
@click.option("--orphans", is_flag=True, help="Also delete files that the index does not name.")
@reason_option
@format_option
@quiet_option("Print nothing but errors; with --dry-run, references only.")
@click.pass_obj
def prune(
    home: str | None, yes: bool, dry_run: bool, orphans: bool, reason: str | None, format_: str, quiet: bool
) -> int:
    """Remove every image that nothing uses.

    That is: no sandbox and no snapshot. What was deleted, kept and why is recorded: see `msb-cache prunes`.
    """
    with open_cache(home, reason=reason, quiet=quiet) as cache:
        if dry_run:
            shown = cache.preview_prune(orphans=orphans)
            if format_ == "json":
                output.json(_preview_fields(shown))
            elif quiet:
                for reference in shown.plan.references:
                    output.line(seen_name(shown.plan.naming, reference))
            else:
                _print_preview(shown)
            return 0
        if not yes and not on_terminal(sys.stdin):
            raise click.UsageError(
                "nobody to ask: stdin is no terminal; use --yes, or --dry-run to look first"
            )
        report = cache.prune(orphans=orphans, confirm=None if yes else _confirm)
    if format_ == "json":
        output.json(asdict(report))
    elif report.operation is None:
        if not quiet:
            output.line("Nothing was pruned.", err=True)
    elif not quiet:
        _print_report(report)
    return max(failures(report), default=0)


COMMAND = prune


def _confirm(shown: Preview) -> bool:
    _print_preview(shown, err=True)  # beside the question, and out of the way of what a program reads
    try:
        return click.confirm("\nDelete these?", err=True)
    except click.Abort:
        output.line(err=True)  # behind the question, and what the terminal shows of Ctrl-C
        raise


def _print_preview(shown: Preview, *, err: bool = False) -> None:
    plan = shown.plan
    if plan.empty and not shown.artifacts:
        output.line("Nothing to delete.", err=err)
    else:
        counts = (
            (len(plan.references), "reference", None),
            (len(plan.manifests), "manifest", None),
            (len(plan.layers), "layer", None),
            (shown.orphans, "file that no image names", "files that no image names"),
            (shown.count("flat"), "flat root", None),
        )
        parts = [output.plural(count, one, many) for count, one, many in counts if count]
        size = freed(shown.bytes or 0, shown.count("flat"), shown.flat_bytes)
        output.line(f"Deletes {', '.join(parts)}: {size}", err=err)
        output.columns(
            (
                (seen_name(plan.naming, name), output.short(digest))
                for name, digest in plan.references.items()
            ),
            err=err,
        )
        output.columns(leftover_cells(shown.leftovers), err=err)
    if plan.kept:
        output.line(f"Keeps {len(plan.kept)}", err=err)
        rows = (
            (
                _subject(plan, kept.subject),
                kept_because(kept.rule, [_subject(plan, name) for name in kept.by]),
            )
            for kept in plan.kept
        )
        output.columns(rows, err=err)


def _subject(plan: Plan, name: str) -> str:
    return output.short(name) if name.startswith("sha256:") else seen_name(plan.naming, name)


def _preview_fields(shown: Preview) -> dict[str, Any]:
    plan = shown.plan
    return {
        "dry_run": True,
        "images": [
            {"reference": seen_name(plan.naming, name), "digest": digest}
            for name, digest in plan.references.items()
        ],
        "manifests": list(plan.manifests),
        "layers": [*plan.layers],
        "artifacts": [
            {
                "kind": artifact.kind,
                "subject": artifact.subject,
                "bytes": artifact.bytes,
                "manifest_digest": artifact.manifest_digest,
            }
            for artifact in shown.artifacts
        ],
        "leftovers": [leftover_fields(each) for each in shown.leftovers],
        "kept": [
            {
                "subject": plan.naming.reference(kept.subject),
                "spelling": plan.naming.spelling(kept.subject),
                "rule": kept.rule,
                "by": list(kept.by),
            }
            for kept in plan.kept
        ],
        "bytes_reclaimable": shown.bytes,
        "flat_bytes_reclaimable": shown.flat_bytes,
    }


def _print_report(report: Any) -> None:
    for name, value in (
        ("Image refs", f"{report.image_refs_removed:,}"),
        ("Manifests", f"{report.manifests_removed:,}"),
        ("Layers", f"{report.layers_removed:,}"),
        ("Fsmeta", f"{report.fsmeta_removed:,}"),
        ("VMDK", f"{report.vmdk_removed:,}"),
        *([("Orphans", f"{report.orphans_removed:,}")] if report.orphans_removed else []),
        *([("Flat roots", f"{report.flat_removed:,}")] if report.flat_removed else []),
        ("Reclaimed", freed(report.bytes_reclaimed, report.flat_removed, report.flat_bytes_reclaimed)),
    ):
        output.line(f"  {name + ':':<12} {value}")
    output.line(f"  {'Operation:':<12} {report.operation}")
