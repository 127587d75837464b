from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections.digests import digest, digests
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
