"""Commands that show and change the cache: load, save, list, inspect, remove, prune, use, hold, release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from msb_cache.cli import output
from msb_cache.cli.common import (
    PATH,
    done,
    examples,
    format_option,
    note,
    on_terminal,
    open_cache,
    quiet_option,
    reason_option,
)
from msb_cache.cli.filters import as_of_option
from msb_cache.errors import ImageInUseError, ImageNotFoundError

if TYPE_CHECKING:
    from msb_cache.engines.decision import Preview
    from msb_cache.models import ImageDetail, ImageHandle, ImagePruneReport


@click.command(epilog=examples("msb-cache load app.tar --tag app:dev", "docker save app:1 | msb-cache load"))
@click.argument("archive", type=PATH, required=False)
@click.option("-i", "--input", "path", type=PATH, help="The archive; without one, stdin.")
@click.option("-t", "--tag", metavar="REF", help="One more reference for the first image.")
@click.option(
    "--platform", metavar="OS/ARCH", help="Which image of an index; default: linux on this machine."
)
@quiet_option("Print nothing but errors.")
@click.pass_obj
def load(
    home: str | None,
    archive: str | None,
    path: str | None,
    tag: str | None,
    platform: str | None,
    quiet: bool,
) -> None:
    """Add the images of a docker-save or OCI archive.

    The archive is a tar file (plain, gzip, zstd, xz or bzip2) or an OCI layout directory. All of its
    images are added, or none if anything is wrong with one.
    """
    if archive is not None and path is not None:
        raise click.UsageError("two archives were named; load one after the other")
    path = archive if path is None else path
    if path in (None, "-") and on_terminal(sys.stdin):
        raise click.UsageError("nothing to load: name an archive, or pipe one in")
    if path in (None, "-") and sys.stdin is None:
        raise click.UsageError("nothing to load: stdin is closed")
    source = sys.stdin.buffer if path is None or path == "-" else path
    with open_cache(home, quiet=quiet) as cache:
        handles = cache.load(source, tag=tag, platform=platform, note=None if quiet else note)
    if not quiet:
        for handle in handles:
            done("Loaded", handle.reference)


@click.command(epilog=examples("msb-cache save app:1 -o app.tar", "msb-cache save app:1 | docker load"))
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("-o", "--output", "path", type=PATH, help="The archive; without it, stdout.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["docker", "oci"]),
    default="docker",
    show_default=True,
    help="docker-save, or an OCI image layout.",
)
@quiet_option("Print nothing but errors.")
@click.pass_obj
def save(home: str | None, references: tuple[str, ...], path: str | None, format_: str, quiet: bool) -> None:
    """Write images to an archive.

    docker, skopeo, msb and msb-cache load it. Layers are made anew from their EROFS images, so digests
    differ from the original's.
    """
    if path in (None, "-") and on_terminal(sys.stdout):
        raise click.UsageError(
            "an archive would garble the terminal: name a file with -o FILE, or pipe it on"
        )
    if path in (None, "-") and sys.stdout is None:
        raise click.UsageError("nowhere to write to: stdout is closed")
    target = sys.stdout.buffer if path is None or path == "-" else path
    with open_cache(home, quiet=quiet) as cache:
        cache.save(references, target, format=format_)
    if not quiet and path not in (None, "-"):
        done("Saved", str(path))


@click.command(
    "list", epilog=examples("msb-cache list 'ghcr.io/acme/*'", "msb-cache list --as-of 'yesterday 14:00'")
)
@click.argument("patterns", nargs=-1, metavar="[REF]...")
@as_of_option
@format_option
@quiet_option("Print references only.")
@click.pass_obj
def list_(home: str | None, patterns: tuple[str, ...], as_of: str | None, format_: str, quiet: bool) -> None:
    """List cached images, newest first.  [alias: ls]

    Of REFs, which may have wildcards as in 'ghcr.io/acme/*', only the images that they mean.
    """
    with open_cache(home) as cache:
        handles = cache.list(*patterns, as_of=as_of)
    if quiet:
        for handle in handles:
            click.echo(handle.reference)
    elif format_ == "json":
        output.json([_handle_fields(handle) for handle in handles])
    elif handles:
        rows = [
            (
                handle.reference,
                output.short(handle.manifest_digest),
                output.size(handle.size_bytes),
                output.local_time(handle.created_at_ns),
                output.local_time(handle.last_used_at_ns),
            )
            for handle in handles
        ]
        output.table(("REFERENCE", "DIGEST", "SIZE", "CREATED", "LAST USED"), rows, right=(2,))
    else:
        click.echo("No cached images.", err=True)


@click.command(epilog=examples("msb-cache inspect app:1", "msb-cache inspect 7678ec90 --format json"))
@click.argument("reference", metavar="REF")
@as_of_option
@format_option
@click.pass_obj
def inspect(home: str | None, reference: str, as_of: str | None, format_: str) -> None:
    """Show an image's configuration, layers and holders.

    REF is a reference, or a digest or its beginning.
    """
    with open_cache(home) as cache:
        detail = cache.inspect(reference, as_of=as_of)
        holders = cache.holders(reference, as_of=as_of)
    if format_ == "json":
        output.json(_detail_fields(detail, holders))
    else:
        _print_detail(detail, holders)


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
    from msb_cache.cli.main import EXIT_FAILED, EXIT_IN_USE, EXIT_NOT_FOUND

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
                    freed = output.size(report.bytes_reclaimed or 0)
                    done("Removed", f"{reference}  ({freed} freed)")
                codes += _failures(report)
    if not codes:
        return 0
    return codes[0] if len(set(codes)) == 1 else EXIT_FAILED


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
                from msb_cache.queries.resolve import familiar

                for reference in shown.plan.references:
                    click.echo(familiar(reference))
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
            click.echo("Nothing was pruned.", err=True)
    elif not quiet:
        _print_report(report)
    return max(_failures(report), default=0)


@click.command(epilog=examples("msb-cache use app:1 --holder sandbox:dev"))
@click.argument("reference", metavar="REF")
@click.option("--holder", metavar="HOLDER", help="Who used it: sandbox:NAME or snapshot:NAME.")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def use(home: str | None, reference: str, holder: str | None, quiet: bool) -> None:
    """Record that an image was used, now. That does not hold it."""
    with open_cache(home, quiet=quiet) as cache:
        handle = cache.use(reference, holder=holder)
    if not quiet:
        done("Used", handle.reference)


@click.command(epilog=examples("msb-cache hold app:1 sandbox:dev"))
@click.argument("reference", metavar="REF")
@click.argument("holder", metavar="HOLDER")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def hold(home: str | None, reference: str, holder: str, quiet: bool) -> None:
    """Keep an image until its holder releases it.

    HOLDER is sandbox:NAME or snapshot:NAME (or its path).
    """
    with open_cache(home, quiet=quiet) as cache:
        handle = cache.hold(reference, holder)
    if not quiet:
        done("Held", f"{handle.reference} ({output.short(handle.manifest_digest)}) by {holder}")


@click.command(epilog=examples("msb-cache release sandbox:dev"))
@click.argument("holder", metavar="HOLDER")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def release(home: str | None, holder: str, quiet: bool) -> None:
    """End every hold of a holder."""
    with open_cache(home, quiet=quiet) as cache:
        digests = cache.release(holder)
    if quiet:
        return
    if not digests:
        click.echo(f"{holder} holds nothing.", err=True)
    for digest in digests:
        done("Released", f"{output.short(digest)} by {holder}")


COMMANDS = (load, save, list_, inspect, remove, prune, use, hold, release)


def _handle_fields(handle: ImageHandle) -> dict[str, Any]:
    return {
        "reference": handle.reference,
        "digest": handle.manifest_digest,
        "size_bytes": handle.size_bytes,
        "architecture": handle.architecture,
        "os": handle.os,
        "layer_count": handle.layer_count,
        "created_at": output.rfc3339(handle.created_at_ns),
        "last_used_at": output.rfc3339(handle.last_used_at_ns),
    }


def _detail_fields(detail: ImageDetail, holders: list[str]) -> dict[str, Any]:
    config = detail.config
    return {
        **_handle_fields(detail.handle),
        "holders": holders,
        "config": None if config is None else asdict(config),
        "layers": [asdict(layer) for layer in detail.layers],
    }


def _print_detail(detail: ImageDetail, holders: list[str]) -> None:
    handle, config = detail.handle, detail.config

    def line(name: str, value: str) -> None:
        click.echo(f"{name + ':':<16} {output.printable(value)}")

    line("Reference", handle.reference)
    line("Digest", handle.manifest_digest or "-")
    line("Platform", f"{handle.os or '?'}/{handle.architecture or '?'}")
    line("Size", output.size(handle.size_bytes))
    line("Created", output.local_time(handle.created_at_ns))
    line("Last used", output.local_time(handle.last_used_at_ns))
    line("Held by", ", ".join(holders) or "nobody")
    if config is not None and any(getattr(config, name) for name in _SETTINGS):
        click.echo("\nConfig")
        for name, value in (
            ("Entrypoint", _words(config.entrypoint)),
            ("Cmd", _words(config.cmd)),
            ("Working dir", config.working_dir),
            ("User", config.user),
            ("Stop signal", config.stop_signal),
        ):
            if value:
                line(f"  {name}", value)
        for name, values in (
            ("Env", config.env),
            ("Labels", [f"{key}={value}" for key, value in (config.labels or {}).items()]),
        ):
            if values:
                click.echo(f"  {name}:")
            for value in values:
                click.echo(f"    {output.printable(value)}")
    click.echo(f"\nLayers ({len(detail.layers)}), bottom to top")
    output.table(
        ("#", "DIFF ID", "BLOB", "EROFS", "MEDIA TYPE"),
        [
            (
                str(layer.position),
                output.short(layer.diff_id),
                output.size(layer.compressed_size_bytes),
                output.size(layer.erofs_size_bytes),
                layer.media_type or "-",
            )
            for layer in detail.layers
        ],
        right=(0, 2, 3),
    )


def _failures(report: ImagePruneReport) -> list[int]:
    """Say what could not be deleted, if anything, and return the exit codes for it."""
    if not report.artifacts_failed:
        return []
    files = output.plural(report.artifacts_failed, "file")
    output.error(
        f"{files} could not be deleted; `msb-cache prunes show {report.operation}` says which and why"
    )
    return [1]


_SETTINGS = ("entrypoint", "cmd", "working_dir", "user", "stop_signal", "env", "labels")


def _words(words: list[str] | None) -> str | None:
    if not words:
        return None
    import shlex

    return shlex.join(words)


def _confirm(shown: Preview) -> bool:
    _print_preview(shown, err=True)  # beside the question, and out of the way of what a program reads
    try:
        return click.confirm("\nDelete these?", err=True)
    except click.Abort:
        click.echo(err=True)  # behind the question, and what the terminal shows of Ctrl-C
        raise


def _print_preview(shown: Preview, *, err: bool = False) -> None:
    from msb_cache.queries.resolve import familiar

    plan = shown.plan
    if plan.empty and not shown.artifacts:
        click.echo("Nothing to delete.", err=err)
    else:
        counts = (
            (len(plan.references), "reference", None),
            (len(plan.manifests), "manifest", None),
            (len(plan.layers), "layer", None),
            (shown.orphans, "file that no image names", "files that no image names"),
        )
        parts = [output.plural(count, one, many) for count, one, many in counts if count]
        click.echo(f"Deletes {', '.join(parts)}: {output.size(shown.bytes or 0)}", err=err)
        output.columns(
            ((familiar(name), output.short(digest)) for name, digest in plan.references.items()), err=err
        )
    if plan.kept:
        from msb_cache.cli.describe import kept_because

        click.echo(f"Keeps {len(plan.kept)}", err=err)
        rows = (
            (
                output.short(kept.subject) if kept.subject.startswith("sha256:") else familiar(kept.subject),
                kept_because(kept.rule, kept.by),
            )
            for kept in plan.kept
        )
        output.columns(rows, err=err)


def _preview_fields(shown: Preview) -> dict[str, Any]:
    from msb_cache.queries.resolve import familiar

    plan = shown.plan
    return {
        "dry_run": True,
        "images": [
            {"reference": familiar(name), "digest": digest} for name, digest in plan.references.items()
        ],
        "manifests": list(plan.manifests),
        "layers": [*plan.layers],
        "artifacts": [
            {"kind": artifact.kind, "subject": artifact.subject, "bytes": artifact.bytes}
            for artifact in shown.artifacts
        ],
        "kept": [{"subject": kept.subject, "rule": kept.rule, "by": list(kept.by)} for kept in plan.kept],
        "bytes_reclaimable": shown.bytes,
    }


def _print_report(report: Any) -> None:
    for name, value in (
        ("Image refs", f"{report.image_refs_removed:,}"),
        ("Manifests", f"{report.manifests_removed:,}"),
        ("Layers", f"{report.layers_removed:,}"),
        ("Fsmeta", f"{report.fsmeta_removed:,}"),
        ("VMDK", f"{report.vmdk_removed:,}"),
        *([("Orphans", f"{report.orphans_removed:,}")] if report.orphans_removed else []),
        ("Reclaimed", output.size(report.bytes_reclaimed)),
    ):
        click.echo(f"  {name + ':':<12} {value}")
    click.echo(f"  {'Operation:':<12} {report.operation}")
