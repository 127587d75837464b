"""Copy a home's log into one file that can be kept elsewhere, while other processes work with it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from msb_cache.artifacts import durable, files
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore import chain
from msb_cache.eventstore.ids import uuid7
from msb_cache.failpoints import reached
from msb_cache.home.connect import in_words
from msb_cache.home.ledger import Ledger
from msb_cache.home.replacing import COMPANIONS
from msb_cache.shapes import Result
from msb_cache.wording import reason_of


@dataclass(frozen=True)
class BackupReport(Result):
    """What was copied: the log, up to which event, and the file's size in bytes."""

    log_id: str
    events: int
    head: bytes
    bytes: int


def backup(ledger: Ledger, target: Path) -> BackupReport:
    """Write a copy of the log's database; a file that is there is replaced when the copy is whole.

    Args:
        ledger: the home.
        target: the file; it is one database, without a write-ahead log beside it.

    Raises:
        CorruptLogError: the log does not verify.
        LogError: there is none, or the file cannot be written.
    """
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise LogError(f"{target} is a folder; name the file to write in it")
    part = path.with_name(f".{path.name[:100]}.{uuid7()}.part")
    try:
        with ledger.read() as connection:
            if connection is None:
                raise LogError(f"{ledger.layout.home} has no log yet, so there is nothing to back up")
            # Not the folder's owner's, if root makes it: what a log says is for the person who asked.
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            copy(connection, part)
        reached("backup.copied")
        found = _checked(part)
        files.sync(part)
        size = part.stat().st_size
        changes = durable.Changes()
        changes.replace(part, path)
        changes.sync()
    except sqlite3.Error as error:
        raise LogError(f"{target} cannot be written: {in_words(error)}") from None
    except OSError as error:
        raise LogError(f"{target} cannot be written: {reason_of(error)}") from None
    finally:
        for suffix in ("", *COMPANIONS):
            with suppress(OSError):
                durable.delete_unsynced(f"{part}{suffix}")
    assert found.log_id is not None  # noqa: S101
    return BackupReport(found.log_id, found.events, found.head, size)


def copy(connection: sqlite3.Connection, target: Path) -> None:
    """Copy what a connection reads, in the position that it reads, into an empty file of the caller's own."""
    with closing(sqlite3.connect(target, isolation_level=None)) as copied:
        copied.execute("PRAGMA synchronous = OFF")  # the caller syncs the whole of it
        connection.backup(copied)


def _checked(path: Path) -> chain.Verified:
    address = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        found = chain.verify(connection)
    if isinstance(found, chain.Break):
        raise CorruptLogError(
            f"{found.problem}; a backup is only made of a log that verifies, `msb-cache export` writes "
            "what can be read of it"
        )
    if found.log_id is None:
        raise LogError("the log is empty, so there is nothing to back up")
    return found
