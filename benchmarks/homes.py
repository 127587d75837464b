"""Homes to measure in: an index of any size, with or without its files, made through the ledger."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import timing
from generate_log import LAYER_TYPE, MANIFEST_TYPE, digest

from msb_cache import ImageCache
from msb_cache.artifacts.durable import make_folder
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger

_BATCH = 2000  # images in one transaction
_LAYERS = 2
_TIME = "2026-11-23 10:04:35.285747457"

MSB_TABLES = ("image_ref", "manifest", "config", "layer", "manifest_layer")
_MSB_SCHEMA = (
    (Path(__file__).parent.parent / "tests" / "msb_images.sql").read_text()
    + """
CREATE UNIQUE INDEX idx_manifest_layers_manifest_position ON manifest_layer (manifest_id, position);
"""
)


def reference(number: int) -> str:
    return f"ghcr.io/acme/app-{number // 10}:{number % 10}"


def index(home: Path, images: int, *, uses: int = 0) -> None:
    """Make a log and index of this many images of two layers each; then so many uses of each."""
    ledger = Ledger(Layout(home))
    for first in range(0, images, _BATCH):
        with ledger.write(uuid7()) as transaction:
            transaction.append(
                [event for number in range(first, min(images, first + _BATCH)) for event in loaded(number)]
            )
    for _ in range(uses):
        for first in range(0, images, _BATCH):
            with ledger.write(uuid7()) as transaction:
                transaction.append([used(number) for number in range(first, min(images, first + _BATCH))])
    ledger.close()


def loaded(number: int) -> list[NewEvent]:
    manifest = digest("manifest", number)
    layers = tuple(
        ev.Layer(
            diff_id=digest("diff", number, position),
            blob_digest=digest("blob", number, position),
            media_type=LAYER_TYPE,
            size=1000,
            erofs_size=4096,
        )
        for position in range(_LAYERS)
    )
    added = ev.ManifestAdded(
        media_type=MANIFEST_TYPE,
        config_digest=digest("config", number),
        architecture="amd64",
        os="linux",
        config=ev.ImageConfig(env=("PATH=/usr/bin:/bin",), cmd=("serve",)),
        layers=layers,
        total_size=sum(layer.size or 0 for layer in layers),
        fsmeta_size=8192,
        vmdk_size=684,
    )
    source = ev.Source(kind="archive", name="app.tar")
    pulled = ev.ImagePulled(manifest_digest=manifest, changed=True, source=source)
    return [NewEvent(added, manifest), NewEvent(pulled, reference(number))]


def used(number: int) -> NewEvent:
    return NewEvent(ev.ImageUsed(manifest_digest=digest("manifest", number)), reference(number))


def msb_index(home: Path, images: int, msb: str | None) -> None:
    """Make msb's database with the images of ``index``: its own one, else one with the tables of 0.7.11."""
    layout = Layout(home)
    if msb is not None:
        command = [msb, "image", "list", "--quiet"]
        subprocess.run(command, env=timing.environment(home), stdout=subprocess.DEVNULL, check=True)
    make_folder(layout.db)
    connection = sqlite3.connect(layout.msb_database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    if msb is None:
        connection.executescript(_MSB_SCHEMA)
    connection.execute("BEGIN")
    for number in range(images):
        _msb_image(connection, number)
    connection.execute("COMMIT")
    connection.close()


_SANDBOXES = """
CREATE TABLE IF NOT EXISTS sandbox (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, name text UNIQUE,
    config text NOT NULL, status text NOT NULL);
CREATE TABLE IF NOT EXISTS sandbox_rootfs (id integer NOT NULL PRIMARY KEY AUTOINCREMENT,
    sandbox_id integer NOT NULL UNIQUE, manifest_id integer, mode text NOT NULL, created_at datetime_text);
CREATE TABLE IF NOT EXISTS run (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, sandbox_id integer NOT NULL,
    pid integer, status text NOT NULL, started_at datetime_text, terminated_at datetime_text);
"""


def boots(home: Path, count: int) -> None:
    """Let msb's database have so many more boots, all of them over, of one sandbox of the first image."""
    connection = sqlite3.connect(Layout(home).msb_database, isolation_level=None)
    connection.executescript(_SANDBOXES)
    connection.execute("BEGIN")
    config = f'{{"image":{{"Oci":{{"reference":"{reference(0)}"}}}}}}'
    connection.execute(
        "INSERT OR IGNORE INTO sandbox (id, name, config, status) VALUES (1, 'dev', ?, 'Stopped')", (config,)
    )
    connection.execute(
        "INSERT OR IGNORE INTO sandbox_rootfs (sandbox_id, manifest_id, mode, created_at) "
        "VALUES (1, 1, 'erofs', ?)",
        (_TIME,),
    )
    connection.executemany(
        "INSERT INTO run (sandbox_id, status, started_at, terminated_at) VALUES (1, 'Terminated', ?, ?)",
        [(_TIME, _TIME)] * count,
    )
    connection.execute("COMMIT")
    connection.close()


def settle(home: Path) -> None:
    """Record all that msb has, and that it stays so: what was just written is looked at again."""
    with ImageCache(home) as cache:
        assert cache.sync().adopted
        time.sleep(0.2)
        assert not cache.sync().events


def _msb_image(connection: sqlite3.Connection, number: int) -> None:
    def insert(table: str, **row: object) -> int:
        marks = ", ".join("?" * len(row))
        query = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"
        return int(connection.execute(query, tuple(row.values())).lastrowid or 0)

    config = digest("config", number)
    manifest = insert(
        "manifest",
        digest=digest("manifest", number),
        media_type=MANIFEST_TYPE,
        config_digest=config,
        architecture="amd64",
        os="linux",
        layer_count=_LAYERS,
        total_size_bytes=1000 * _LAYERS,
        created_at=_TIME,
    )
    insert(
        "config",
        manifest_id=manifest,
        digest=config,
        env='["PATH=/usr/bin:/bin"]',
        cmd='["serve"]',
        created_at=_TIME,
    )
    for position in range(_LAYERS):
        layer = insert(
            "layer",
            diff_id=digest("diff", number, position),
            blob_digest=digest("blob", number, position),
            media_type=LAYER_TYPE,
            compressed_size_bytes=1000,
            created_at=_TIME,
            last_used_at=_TIME,
        )
        insert("manifest_layer", manifest_id=manifest, layer_id=layer, position=position)
    insert("image_ref", reference=reference(number), manifest_id=manifest, created_at=_TIME, updated_at=_TIME)


def files(home: Path, images: int) -> list[str]:
    """Make the files of an index's images, each with its lock file; return all their paths."""
    layout = Layout(home)
    for folder in layout.own_folders:
        make_folder(folder)
    paths = []
    for path in _artifacts(layout, images):
        for each in (path, lock_path(path)):
            descriptor = os.open(each, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            if each is path:
                os.write(descriptor, b"x" * 512)
            os.close(descriptor)
            paths.append(str(each))
    return paths


def _artifacts(layout: Layout, images: int) -> Iterator[Path]:
    for number in range(images):
        manifest = digest("manifest", number)
        yield layout.metadata(reference(number))
        yield layout.vmdk(manifest)
        yield layout.fsmeta(manifest)
        for position in range(_LAYERS):
            yield layout.layer(digest("diff", number, position))
