"""The database's schema, as sqlite-utils migrations, and the one number that says which are applied.

Knows tables and indexes, not what is written into them. Importing this package is cheap;
``migrations.schema`` imports sqlite_utils and is imported only when something is pending.
"""

SCHEMA_VERSION = 10
"""``PRAGMA user_version`` of an up-to-date database: the number of migrations."""

APPLICATION_ID = 0x4D534243
"""``PRAGMA application_id`` ("MSBC"): tells our database from any other SQLite file."""
