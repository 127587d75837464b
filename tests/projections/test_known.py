"""What the log knows, as a sync compares it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import known
from msb_cache.projections.known import Known, KnownHold, KnownImage, KnownManifest
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled


def test_all_of_it(tmp_path: Path) -> None:
    ledger = new_ledger(
        tmp_path,
        [
            NewEvent(manifest_added([layer("y"), layer("x")]), digest(1)),
            NewEvent(pulled(digest(1)), PYTHON),
            NewEvent(ev.ImageHeld(holder="sandbox:dev"), digest(1)),
            NewEvent(manifest_added([]), digest(2)),
        ],
    )
    with ledger.read() as connection:
        assert connection is not None
        found = known.load(connection)
    layers = tuple(layer(name).diff_id for name in "yx")
    assert found == Known(
        images={PYTHON: KnownImage(PYTHON, digest(1), 1_800_000_001 * 10**9, None)},
        manifests={
            digest(1): KnownManifest(layers, 4096, 500, None, 2000, True, None),
            digest(2): KnownManifest((), 4096, 500, None, 0, True, None),
        },
        layers=dict.fromkeys(layers),
        holds={(digest(1), "sandbox:dev"): KnownHold(None)},
        uses={},
    )
    assert not found.observed


@pytest.mark.parametrize(
    "seen",
    [
        Known({PYTHON: KnownImage(PYTHON, "m", 1, "7")}, {}, {}, {}, {}),
        Known({}, {"m": KnownManifest((), None, None, "7")}, {}, {}, {}),
        Known({}, {}, {}, {("m", "sandbox:dev"): KnownHold("7")}, {}),
    ],
)
def test_one_row_of_msb_makes_it_observed(seen: Known) -> None:
    assert seen.observed
