"""structlog on stderr, for ``--log-level`` and for commands that stay; imported only then."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from msb_cache import diagnostics
from msb_cache.cli import output


@contextmanager
def _not_found(module: str) -> Iterator[None]:
    """Let no import in the block find a module that is not imported yet."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with _not_found("rich"):  # which it would use to print tracebacks, and a process that stays would keep
    import structlog


def _printable(logger: object, name: str, values: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Show in lines for people what would drive a terminal; lists are shown as Python writes them anyway."""
    return {
        key: output.printable(value) if isinstance(value, str) else value for key, value in values.items()
    }


def configure(level: str, format: str, library: str | None = None) -> Any:
    """Log from now on at this level (``debug``, ``info``, ``warning``), as ``text`` or ``json`` lines.

    Args:
        level: of what is logged through the logger that is returned.
        format: of all lines.
        library: the level of what the library says of its work; None: the same.
    """
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=_on_terminal())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if format == "json" else [_printable]),
            renderer,
        ],
        wrapper_class=_from(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logger = structlog.get_logger()
    diagnostics.use(logger if library is None else structlog.wrap_logger(None, wrapper_class=_from(library)))
    return logger


def staying(level: str | None, format: str | None, *, quiet: bool = False) -> Any:
    """Return what a command that stays logs its decisions to.

    Args:
        level: ``--log-level``; None: ``info`` for the command, and warnings only of what the library says.
        format: ``--log-format``; None: text on a terminal, else JSON, which a journal can be searched by.
        quiet: only warnings, where no level is given.
    """
    own = level or ("warning" if quiet else "info")
    lines = format or ("text" if _on_terminal() else "json")
    return configure(own, lines, library=level or "warning")


def _from(level: str) -> Any:
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
