"""The inspect command: all there is to say about one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from msgspec import json

from msb_cache.cli import look, output
from msb_cache.cli.common import examples, open_cache
from msb_cache.cli.filters import as_of_option
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Column, fields, sentence, show

if TYPE_CHECKING:
    from msb_cache.models import ImageConfigDetail, ImageDetail
    from msb_cache.queries.pins import Pin

_SETTINGS = ("entrypoint", "cmd", "working_dir", "user", "stop_signal", "env", "labels")


@click.command(epilog=examples("msb-cache inspect app:1", "msb-cache inspect 7678ec90 --format json"))
@click.argument("reference", metavar="REF")
@as_of_option
@shown_options("the reference")
@click.pass_obj
def inspect(home: str | None, reference: str, as_of: str | None, shown: Shown) -> None:
    """Show an image's configuration, layers, holders and pins.

    REF is a reference, or a digest or its beginning.
    """
    with open_cache(home) as cache:
        detail = cache.inspect(reference, as_of=as_of)
        holders = cache.holders(reference, as_of=as_of)
        pins = cache.pins(reference, as_of=as_of)
    shown.item(
        lambda: _detail_fields(detail, holders, pins),
        names=lambda: [detail.handle.reference],
        table=lambda: _print_detail(detail, holders, pins),
    )


COMMAND = inspect


def _detail_fields(detail: ImageDetail, holders: list[str], pins: list[Pin]) -> dict[str, Any]:
    from msb_cache.shapes import jsonable

    # In this order: the long lists come last.
    return {**jsonable(detail.handle), "holders": holders, "pins": jsonable(pins), **jsonable(detail)}


_LAYERS = (
    Column("#", "count"),
    Column("DIFF ID", "digest"),
    Column("BLOB", "size"),
    Column("EROFS", "size"),
    Column("MEDIA TYPE", leave=1),
)
_BEHIND = 16  # columns: where values begin


def _print_detail(detail: ImageDetail, holders: list[str], pins: list[Pin]) -> None:
    fields(_summary(detail, holders, pins), name_width=_BEHIND)
    _print_config(detail.config)
    output.line()
    output.line(f"Layers ({len(detail.layers)}), bottom to top")
    show(
        _LAYERS,
        (
            (
                layer.position,
                layer.diff_id,
                layer.compressed_size_bytes,
                layer.erofs_size_bytes,
                layer.media_type,
            )
            for layer in detail.layers
        ),
    )


def _summary(detail: ImageDetail, holders: list[str], pins: list[Pin]) -> Iterator[tuple[str, str]]:
    handle = detail.handle
    yield "Reference", handle.reference
    yield "Digest", handle.manifest_digest or "-"
    yield "Platform", f"{handle.os or '?'}/{handle.architecture or '?'}"
    yield "Size", output.size(handle.size_bytes)
    yield "Created", look.in_full(handle.created_at_ns)
    yield "Last used", look.in_full(handle.last_used_at_ns)
    if handle.in_use_since_ns is not None:
        yield "Now", output.in_use(handle.in_use_by, look.in_full(handle.in_use_since_ns))
    elif handle.idle_since_ns is not None:
        yield "Idle since", look.in_full(handle.idle_since_ns)
    yield "Held by", ", ".join(holders) or "nobody"
    for pin in pins:
        of = " by its digest" if pin.reference is None else ""
        until = "" if pin.until_ns is None else f" until {look.in_full(pin.until_ns)}"
        yield "Pinned by", f"{pin.by}{of}{until}{'' if pin.reason is None else f': {pin.reason}'}"
    if detail.flat is not None:
        root = detail.flat
        taken = "missing" if root.allocated_bytes is None else f"{output.size(root.allocated_bytes)} on disk"
        digest = look.digest(root.artifact_digest)
        yield "Flat root", f"{digest}, {output.size(root.virtual_size_bytes)}, {taken}"


def _print_config(config: ImageConfigDetail | None) -> None:
    if config is None or not any(getattr(config, name) for name in _SETTINGS):
        return
    output.line()
    output.line("Config")
    pairs = (
        ("Entrypoint", _words(config.entrypoint)),
        ("Cmd", _words(config.cmd)),
        ("Working dir", config.working_dir),
        ("User", config.user),
        ("Stop signal", config.stop_signal),
    )
    fields([(name, value) for name, value in pairs if value], name_width=_BEHIND - 2, indent=2)
    for name, values in (("Env", config.env), ("Labels", _labels(config.labels))):
        if values:
            output.line(f"  {name}:")
        for value in values:
            sentence(value, indent=4)


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
