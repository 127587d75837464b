"""Whether stderr can show what goes on; how it does is ``progress``, which is imported only then."""

from __future__ import annotations

import sys

import click

from msb_cache.cli import look


def shows_progress() -> bool:
    """Return whether stderr is a terminal on which lines can come and go, and nothing is logged there."""
    stream, context = sys.stderr, click.get_current_context(silent=True)
    logs = context is not None and context.find_root().params.get("log_level") is not None
    return not look.is_dumb() and not logs and stream is not None and stream.isatty()
