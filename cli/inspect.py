"""The inspect command: all there is to say about one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import json
from msgspec.structs import asdict

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache
from msb_cache.cli.filters import as_of_option

if TYPE_CHECKING:
    from msb_cache.models import ImageDetail
    from msb_cache.queries.pins import Pin

_SETTINGS = ("entrypoint", "cmd", "working_dir", "user", "stop_signal", "env", "labels")


@click.command(epilog=examples("msb-cache inspect app:1", "msb-cache inspect 7678ec90 --format json"))
@click.argument("reference", metavar="REF")
@as_of_option
@format_option
@click.pass_obj
def inspect(home: str | None, reference: str, as_of: str | None, format_: str) -> None:
    """Show an image's configuration, layers, holders and pins.

    REF is a reference, or a digest or its beginning.
    """
    with open_cache(home) as cache:
        detail = cache.inspect(reference, as_of=as_of)
        holders = cache.holders(reference, as_of=as_of)
        pins = cache.pins(reference, as_of=as_of)
    if format_ == "json":
        output.json(_detail_fields(detail, holders, pins))
    else:
        _print_detail(detail, holders, pins)


COMMAND = inspect


def _detail_fields(detail: ImageDetail, holders: list[str], pins: list[Pin]) -> dict[str, Any]:
    from msb_cache.cli.fields import image_fields, pin_fields

    config = detail.config
    return {
        **image_fields(detail.handle),
        "holders": holders,
        "pins": [pin_fields(pin) for pin in pins],
        "config": None if config is None else asdict(config),
        "layers": [asdict(layer) for layer in detail.layers],
        "flat": None if detail.flat is None else asdict(detail.flat),
    }


def _print_detail(detail: ImageDetail, holders: list[str], pins: list[Pin]) -> None:
    handle, config = detail.handle, detail.config

    def line(name: str, value: str) -> None:
        output.line(f"{name + ':':<16} {value}")

    line("Reference", handle.reference)
    line("Digest", handle.manifest_digest or "-")
    line("Platform", f"{handle.os or '?'}/{handle.architecture or '?'}")
    line("Size", output.size(handle.size_bytes))
    line("Created", output.local_time(handle.created_at_ns))
    line("Last used", output.local_time(handle.last_used_at_ns))
    if handle.in_use_since_ns is not None:
        line("Now", output.in_use(handle.in_use_by, output.local_time(handle.in_use_since_ns)))
    elif handle.idle_since_ns is not None:
        line("Idle since", output.local_time(handle.idle_since_ns))
    line("Held by", ", ".join(holders) or "nobody")
    for pin in pins:
        of = " by its digest" if pin.reference is None else ""
        until = "" if pin.until_ns is None else f" until {output.local_time(pin.until_ns)}"
        line("Pinned by", f"{pin.by}{of}{until}{'' if pin.reason is None else f': {pin.reason}'}")
    if detail.flat is not None:
        root = detail.flat
        taken = "missing" if root.allocated_bytes is None else f"{output.size(root.allocated_bytes)} on disk"
        line(
            "Flat root",
            f"{output.short(root.artifact_digest)}, {output.size(root.virtual_size_bytes)}, {taken}",
        )
    if config is not None and any(getattr(config, name) for name in _SETTINGS):
        output.line()
        output.line("Config")
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
            ("Labels", _labels(config.labels)),
        ):
            if values:
                output.line(f"  {name}:")
            for value in values:
                output.line(f"    {value}")
    output.line()
    output.line(f"Layers ({len(detail.layers)}), bottom to top")
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


def _labels(labels: Any) -> list[str]:
    if not labels:
        return []
    if not isinstance(labels, dict):
        return [_text(labels)]
    return [f"{key}={_text(value)}" for key, value in labels.items()]


def _text(value: Any) -> str:
    """Return what a label says; msb's database can have other JSON there than text."""
    return value if isinstance(value, str) else json.encode(value).decode()


def _words(words: list[str] | None) -> str | None:
    if not words:
        return None
    import shlex

    return shlex.join(words)
