from __future__ import annotations

from io import BytesIO
from pathlib import Path

from msb_cache import ImageCache
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections.digests import digest, digests, undigested
from tests.imagebuilder import docker_archive, file, image, layer
from tests.logs import PYTHON, new_ledger
from tests.logs import digest as of


def made(kind: ev.ArtifactKind, subject: str, number: int, how: str = "made") -> NewEvent:
    return NewEvent(
        ev.ArtifactDigested(kind=kind, algorithm="sha256", digest=of(number), how=how),  # type: ignore[arg-type]
        subject,
    )


LAYER, MANIFEST = of("layer"), of("manifest")


def test_the_last_one_counts_until_the_file_is_gone(tmp_path: Path) -> None:
    ledger = new_ledger(
        tmp_path,
        [
            made("layer", LAYER, 1, "seen"),
            made("fsmeta", MANIFEST, 2),
            made("vmdk", MANIFEST, 3),
            made("metadata", PYTHON, 4),
            made("layer", LAYER, 5),
            NewEvent(ev.VmdkDeleted(bytes=1), MANIFEST),
            NewEvent(ev.MetadataDeleted(bytes=1), PYTHON),
            NewEvent(ev.LayerDeleted(bytes=1), of("another")),
        ],
    )
    with ledger.read() as connection:
        assert connection is not None
        found = digests(connection)
        assert {artifact: row.digest for artifact, row in found.items()} == {
            ("layer", LAYER): of(5),
            ("fsmeta", MANIFEST): of(2),
        }
        row = digest(connection, ("layer", LAYER))
        assert row == found["layer", LAYER]
        assert (row.how, row.algorithm, row.seq) == ("made", "sha256", 6)
        assert digest(connection, ("vmdk", MANIFEST)) is None


def test_what_the_index_needs_and_has_no_digest(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "home") as cache:
        built = image([layer([file("a", b"a")]), layer([file("b", b"b")])], "a:1")
        cache.load(BytesIO(docker_archive(built)))
        with cache._ledger.read() as connection:
            assert connection is not None
            found = {kind: undigested(connection, kind, of) for kind, of in RECORDS.items()}
            assert found == {kind: [] for kind in RECORDS}  # what is made is digested at once
        with cache._ledger.write(uuid7()) as transaction:
            transaction.connection.execute("DELETE FROM digest")
            diff_ids = sorted(each.diff_id for each in built.layers)
            assert undigested(transaction.connection, "layer", "layer") == [
                ("layer", each) for each in diff_ids
            ]
            assert undigested(transaction.connection, "vmdk", "manifest") == [("vmdk", built.digest)]
            (metadata,) = undigested(transaction.connection, "metadata", "image")
            assert metadata == ("metadata", "docker.io/library/a:1")


RECORDS = {"layer": "layer", "fsmeta": "manifest", "vmdk": "manifest", "metadata": "image"}
