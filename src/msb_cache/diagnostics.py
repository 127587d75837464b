"""What the library tells a developer while it works, through structlog, and only if asked to.

Without a logger nothing is logged and structlog is not even imported: a library configures no global
logging. A program passes its own logger to ``use``; the command line makes one from ``--log-level``.
No line of it carries credentials, file contents or command lines.
"""

from __future__ import annotations

from typing import Any, Protocol


class Logger(Protocol):
    """What is asked of a logger; structlog's bound loggers have it."""

    def debug(self, event: str, **fields: Any) -> Any:
        """Log details."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log a step."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log what a person should look at."""


_logger: Logger | None = None


def use(logger: Logger | None) -> None:
    """Log to ``logger`` from now on; None: not at all."""
    global _logger
    _logger = logger


def debug(event: str, **fields: Any) -> None:
    """Log details, if a logger is set."""
    if _logger is not None:
        _logger.debug(event, **fields)


def info(event: str, **fields: Any) -> None:
    """Log a step, if a logger is set."""
    if _logger is not None:
        _logger.info(event, **fields)


def warning(event: str, **fields: Any) -> None:
    """Log what a person should look at, if a logger is set."""
    if _logger is not None:
        _logger.warning(event, **fields)
