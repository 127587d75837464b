"""Whom a command believes: the options that name keys and a policy file. And reading files from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from msb_cache.cli.common import PATH

F = TypeVar("F", bound=Callable[..., Any])


def policy_option(command: F) -> F:
    """Add ``--policy FILE``: which logs and witnesses are believed; the command gets its path."""
    return click.option(
        "--policy",
        "policy",
        type=PATH,
        metavar="FILE",
        help="Which logs are believed, and which witnesses must have cosigned (C2SP tlog-policy).",
    )(command)


def keys_option(command: F) -> F:
    """Add ``--key VKEY``, repeatable."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        metavar="VKEY",
        help="The key of a log that is believed, or of a witness that must have cosigned; repeatable.",
    )(command)


def read_policy(path: str | None) -> bytes | None:
    """Return a policy file, or more of it than one can have; None: none is named."""
    if path is None:
        return None
    from msb_cache.proof.policy import MAX_POLICY

    return read_at_most(path, MAX_POLICY + 1)


def read_at_most(path: str, limit: int) -> bytes:
    """Return the first bytes of a file, ``-`` for stdin, however long it is."""
    if path == "-":
        return b"" if sys.stdin is None else sys.stdin.buffer.read(limit)
    with open(path, "rb") as file:
        return file.read(limit)
