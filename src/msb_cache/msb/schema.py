"""Which schema msb's database has, by the migrations that its table names, and whether it was tried.

Not how its tables are read: ``database`` goes by columns, whatever the schema is.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from msb_cache.home import foreign_db
from msb_cache.oci.digest import shown
from msb_cache.wording import plural

TRIED = frozenset(
    {
        "m20260305_000001_create_image_tables",
        "m20260305_000002_create_sandbox_tables",
        "m20260305_000003_create_storage_tables",
        "m20260305_000004_create_sandbox_images_table",
        "m20260410_000001_erofs_image_schema",
        "m20260501_000001_create_snapshot_index",
        "m20260517_000001_drop_sandbox_metric",
        "m20260527_000001_migrate_oci_rootfs_source",
        "m20260531_000001_create_sandbox_labels",
        "m20260531_000002_index_sandbox_labels_key_value",
        "m20260606_000001_named_volume_kinds",
        "m20260621_000001_add_sandbox_ephemeral",
        "m20260621_000002_create_maintenance_lease",
        "m20260703_000001_add_sandbox_active_config",
        "m20260708_000001_migrate_bind_rootfs_source",
        "m20260710_000001_migrate_root_disk",
        "m20260714_000001_add_snapshot_scope",
        "m20260719_000001_create_cpu_allocations",
        "m20260723_000001_snapshot_artifact_transition",
        "m20260803_000001_create_writeback_allocations",
        "m20260808_000001_create_memory_allocation_nodes",
        "m20260810_000001_rebuild_sandbox_labels",
        "m20260813_000001_share_cpu_allocations",
        "m20260818_000001_sandbox_network_slot",
        "m20260824_000001_mount_owner_config",
        # with 0.7.0
        "m20260829_000001_split_snapshot_identity",
        "m20260910_000001_snapshot_groups",
        # with 0.7.11
        "m20260922_000001_migrate_secret_config",
        "m20261001_000001_guest_clock_config",
        "m20261022_000001_sandbox_caller_config_overrides",
    }
)
"""The migrations of the releases that this msb-cache is tested with, from 0.6.18 to 0.7.11."""

_MOST = 1000  # names that are looked at


class MsbSchema(msgspec.Struct, frozen=True, gc=False):
    """The schema of a database of msb's.

    Attributes:
        version: the name of its newest migration, of the untried ones if there are any; names begin with
            a date, and come from the database.
        untried: how many of its migrations this msb-cache was not tried with.
    """

    version: str
    untried: int

    @property
    def note(self) -> str | None:
        """A sentence about a schema that was not tried; None about any other."""
        if not self.untried:
            return None
        more = "" if self.untried == 1 else f" and {plural(self.untried - 1, 'more migration')}"
        return (
            "msb's database has a schema that this msb-cache was not tried with "
            f"({shown(self.version)}{more}); "
            "it is read as far as its columns are known: look for a newer msb-cache"
        )


def of(connection: sqlite3.Connection) -> MsbSchema | None:
    """Return the schema that a database names; None if it names none."""
    if not foreign_db.has_table(connection, "seaql_migrations"):
        return None
    try:
        rows = connection.execute(
            "SELECT version FROM seaql_migrations WHERE typeof(version) = 'text' AND length(version) < 256 "
            "ORDER BY version DESC LIMIT ?",
            (_MOST,),
        ).fetchall()
    except sqlite3.Error:
        return None  # no column of that name, or no text
    names = [str(row[0]) for row in rows]
    untried = [name for name in names if name not in TRIED]
    if not names:
        return None
    return MsbSchema((untried or names)[0], len(untried))


def read(path: str | Path) -> MsbSchema | None:
    """Return the schema of the database that lies there; None if it cannot be read, or names none."""
    try:
        with foreign_db.opened(path) as connection:
            return of(connection)
    except (OSError, sqlite3.Error):
        return None
