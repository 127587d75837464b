"""Commands that check the log and report what it says of deletions: prunes, rebuild, verify."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import (
    PATH,
    examples,
    format_option,
    limit_option,
    open_cache,
)
from msb_cache.cli.history import subject

if TYPE_CHECKING:
    from msb_cache.audit.verify import Verification
    from msb_cache.projections.deletions import ArtifactReport, DeletionReport, DeletionSummary


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "msb-cache prunes -n 10", "msb-cache prunes show 01a20ede", "msb-cache prunes restore-plan 01a20ede"
    ),
)
@limit_option
@format_option
@click.pass_context
def prunes(ctx: click.Context, limit: int | None, format_: str) -> None:
    """List past prunes and removals, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with open_cache(ctx.obj) as cache:
        reports = cache.deletions(limit=limit)
    if format_ == "json":
        output.json([_deletion_fields(report) for report in reports])
        return
    from msb_cache.cli.describe import who

    rows = [
        (
            report.operation[:13],
            output.local_time_with_offset(report.counters.started_at),
            report.counters.kind,
            str(report.counters.image_refs_removed),
            str(report.counters.layers_removed),
            output.size(report.counters.bytes_reclaimed),
            report.counters.outcome or "unfinished",
            who(report.actor),
        )
        for report in reports
    ]
    if rows:
        header = ("ID", "WHEN", "KIND", "IMAGES", "LAYERS", "FREED", "OUTCOME", "WHO")
        output.table(header, rows, right=(3, 4, 5))
    else:
        click.echo("Nothing was ever pruned or removed.", err=True)


@prunes.command(short_help="Show what one prune or removal deleted and kept.")
@click.argument("operation", metavar="ID")
@format_option
@click.pass_obj
def show(home: str | None, operation: str, format_: str) -> None:
    """Show everything one prune or removal deleted, what it kept and why, and who ran it."""
    with open_cache(home) as cache:
        report = cache.deletion(operation)
    if format_ == "json":
        output.json(_deletion_fields(report))
    else:
        _print_deletion(report)


@click.command()
@format_option
@click.pass_obj
def rebuild(home: str | None, format_: str) -> int:
    """Fold the whole log again into the index.

    Prints any difference there was. There must never be one; if there is, it is mended and the exit
    code is 1.
    """
    with open_cache(home) as cache:
        differences = cache.rebuild()
    if format_ == "json":
        output.json([_difference_fields(difference) for difference in differences])
    elif differences:
        _print_differences(differences)
        click.echo(
            f"{output.plural(len(differences), 'row')} differed and are now as the log says.", err=True
        )
    else:
        click.echo("The index is exactly what the log says.")
    return 1 if differences else 0


@click.command(epilog=examples("msb-cache verify", "msb-cache verify --against note.txt"))
@click.option(
    "--against",
    "path",
    type=PATH,
    metavar="NOTE",
    help="A checkpoint that the log must extend; - reads stdin.",
)
@format_option
@click.pass_obj
def verify(home: str | None, path: str | None, format_: str) -> int:
    """Check the log, the index and the disk.

    That is the log's hash chain, the index against the log, and the disk against the index. With --against
    also that the log begins with all that it said when `checkpoint` made the note.
    """
    note = None if path is None else _read_note(path)
    with open_cache(home) as cache:
        found = cache.verify(note)
    if format_ == "json":
        output.json(_verification_fields(found))
    else:
        _print_verification(found)
    return 0 if found.sound else 1


COMMANDS = (rebuild, verify)


def _read_note(path: str) -> str:
    from msb_cache.eventstore.checkpoint import MAX_NOTE

    if path == "-":
        data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_NOTE)
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_NOTE)
    return data.decode("ascii", "replace")


def _deletion_fields(report: DeletionReport | DeletionSummary) -> dict[str, Any]:
    import msgspec

    from msb_cache.projections.deletions import DeletionReport

    row = report.counters
    found: dict[str, Any] = {
        "operation": report.operation,
        "kind": row.kind,
        "engine": row.engine,
        "policy": report.policy,
        "actor": msgspec.to_builtins(report.actor),
        "started_at": output.rfc3339(row.started_at),
        "finished_at": output.rfc3339(row.finished_at),
        "outcome": row.outcome,
        "recovered": bool(row.recovered),
        "image_refs_removed": row.image_refs_removed,
        "manifests_removed": row.manifests_removed,
        "layers_removed": row.layers_removed,
        "fsmeta_removed": row.fsmeta_removed,
        "vmdk_removed": row.vmdk_removed,
        "bytes_reclaimed": row.bytes_reclaimed,
    }
    if isinstance(report, DeletionReport):
        from msb_cache.queries.resolve import familiar

        found["images"] = [
            {"reference": familiar(reference), "digest": data.manifest_digest, "forced": data.forced}
            for reference, data in report.images
        ]
        found["artifacts"] = [msgspec.to_builtins(artifact) for artifact in report.artifacts]
        found["kept"] = [
            {"subject": kept.subject, "rule": kept.rule, "by": list(kept.holders), "more": kept.more}
            for kept in report.kept
        ]
    return found


def _print_deletion(report: DeletionReport) -> None:
    from msb_cache.cli.describe import kept_because, who
    from msb_cache.queries.resolve import familiar

    row = report.counters

    def line(name: str, value: str) -> None:
        click.echo(f"{name + ':':<12} {value}")

    line("Operation", report.operation)
    line("Kind", row.kind)
    line("Policy", ", ".join(f"{key}={_value(value)}" for key, value in report.policy.items()))
    if row.engine == "msb":
        line("Engine", "msb")
    line("By", who(report.actor))
    line("Started", output.local_time_with_offset(row.started_at))
    line("Finished", output.local_time_with_offset(row.finished_at))
    line("Outcome", (row.outcome or "unfinished") + (", finished by recovery" if row.recovered else ""))
    line("Freed", output.size(row.bytes_reclaimed))
    if report.images:
        click.echo(f"\nImages removed ({len(report.images)})")
        for reference, data in report.images:
            forced = "   forced" if data.forced else ""
            click.echo(f"  {output.printable(familiar(reference))}   {data.manifest_digest}{forced}")
    if report.artifacts:
        click.echo(f"\nArtifacts ({len(report.artifacts)})")
        output.table(
            ("KIND", "OUTCOME", "SIZE", "SUBJECT", "NOTE"),
            [
                (
                    artifact.kind,
                    artifact.outcome or "unknown",
                    output.size(artifact.bytes if artifact.outcome == "deleted" else artifact.planned_bytes),
                    familiar(artifact.subject),
                    _artifact_note(artifact),
                )
                for artifact in report.artifacts
            ],
            right=(2,),
        )
    if report.kept:
        click.echo(f"\nKept ({len(report.kept)})")
        for kept in report.kept:
            because = kept_because(kept.rule, kept.holders, kept.more)
            click.echo(f"  {output.printable(subject(kept.subject))}   {output.printable(because)}")


def _artifact_note(artifact: ArtifactReport) -> str:
    if artifact.recovered:
        return "found gone while recovering"
    by = f" by {', '.join(artifact.holders)}" if artifact.holders else ""
    return f"{artifact.reason or ''}{by}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return output.printable(" ".join(map(str, value)))
    return output.printable(str(value).lower() if isinstance(value, bool) else str(value))


def _difference_fields(difference: Any) -> dict[str, Any]:
    return {
        "table": difference.table,
        "key": list(difference.key),
        "live": None if difference.live is None else list(difference.live),
        "folded": None if difference.folded is None else list(difference.folded),
    }


def _print_differences(differences: list[Any]) -> None:
    for difference in differences:
        key = output.printable(" ".join(map(str, difference.key)))
        click.echo(f"{difference.table} {key}")
        click.echo(f"  index  {output.printable(str(difference.live))}")
        click.echo(f"  log    {output.printable(str(difference.folded))}")


def _verification_fields(found: Verification) -> dict[str, Any]:
    from msb_cache.eventstore.chain import Break

    chain: dict[str, Any]
    if isinstance(found.chain, Break):
        broken = found.chain
        chain = {"valid": False, "broken_at": broken.seq, "kind": broken.kind, "problem": broken.problem}
    else:
        head = found.chain.head.hex()
        chain = {"valid": True, "events": found.chain.events, "head": head, "log_id": found.chain.log_id}
    against = None
    if found.note is not None:
        against = {
            "size": found.note.size,
            "extended": not found.contradiction,
            "problem": found.contradiction,
        }
    return {
        "sound": found.sound,
        "chain": chain,
        "against": against,
        "unreadable": found.unreadable,
        "differences": [_difference_fields(difference) for difference in found.differences],
        "files": found.files,
        "disk": [
            {
                "problem": problem.problem,
                "kind": problem.kind,
                "path": str(problem.path),
                "expected_bytes": problem.expected_bytes,
                "found_bytes": problem.found_bytes,
            }
            for problem in found.disk
        ],
    }


def _print_verification(found: Verification) -> None:
    from msb_cache.audit.verify import BROKEN
    from msb_cache.eventstore.chain import Break

    good, bad = click.style("✓", fg="green"), click.style("✗", fg="red")
    if isinstance(found.chain, Break):
        click.echo(f"  {bad} log      {output.printable(found.chain.problem)}")
    else:
        head = f", head {found.chain.head.hex()[:12]}" if found.chain.events else ""
        click.echo(f"  {good} log      {output.plural(found.chain.events, 'event')}{head}")
    if found.note is not None:
        noted = f"the note of {output.plural(found.note.size, 'event')}"
        if found.contradiction:
            click.echo(f"  {bad} note     {output.printable(found.contradiction)}")
        else:
            click.echo(f"  {good} note     the log begins with {noted}")
    if found.unreadable:
        click.echo(f"  {bad} index    cannot be compared: {found.unreadable}")
    elif found.differences:
        click.echo(f"  {bad} index    {output.plural(len(found.differences), 'row')} not as the log says:")
        _print_differences(found.differences)
        click.echo("             `msb-cache rebuild` mends that")
    else:
        click.echo(f"  {good} index    exactly what the log says")
    broken = [problem for problem in found.disk if problem.problem in BROKEN]
    extra = [problem for problem in found.disk if problem not in broken]
    mark = bad if broken else good
    click.echo(
        f"  {mark} disk     {output.plural(found.files, 'file')} expected, {len(broken)} missing or damaged"
    )
    for problem in broken:
        wrong = {"missing": "is missing", "damaged": "is damaged"}.get(problem.problem) or _wrong_size(
            problem
        )
        click.echo(f"      {_place(found, problem)} {wrong}; load the image again")
    if extra:
        mark = click.style("!", fg="yellow")
        click.echo(f"  {mark} disk     {output.plural(len(extra), 'file')} more than that")
    for problem in extra:
        what = "no image names it; `msb-cache prune --orphans` deletes it"
        if found.owned_by_msb:
            what = "neither msb nor the log names it; `msb-cache prune --orphans` deletes it after an hour"
        if problem.problem == "foreign":
            what = "not a file of the cache"
        elif problem.problem == "unclear":
            what = "the log names no image of it; it may be msb's"
        elif problem.problem == "unfinished":
            what = "msb was stopped while deleting; its next deletion goes on with that"
        click.echo(f"      {_place(found, problem)}: {what}")


def _place(found: Verification, problem: Any) -> str:
    return output.printable(str(problem.path.relative_to(found.home)))


def _wrong_size(problem: Any) -> str:
    return f"has {problem.found_bytes:,} bytes, not {problem.expected_bytes:,}"
