"""structlog on stderr, for ``--log-level``; imported only when that is given."""

from __future__ import annotations

import logging
import sys

import structlog

from msb_cache import diagnostics
from msb_cache.cli import output


def _printable(logger: object, name: str, values: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Show in lines for people what would drive a terminal; lists are shown as Python writes them anyway."""
    return {
        key: output.printable(value) if isinstance(value, str) else value for key, value in values.items()
    }


def configure(level: str, format: str) -> None:
    """Log from now on at this level (``debug``, ``info``, ``warning``), as ``text`` or ``json`` lines."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if format == "json" else [_printable]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    diagnostics.use(structlog.get_logger("msb_cache"))
