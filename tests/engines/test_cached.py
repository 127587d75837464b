"""Pulls that find their image cached: recorded as such, unless it has changed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.engines.cached import not_cached, record_cached
from msb_cache.engines.engine import PullRequest
from msb_cache.errors import ImageNotFoundError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.options import RegistryOptions
from tests.logs import PYTHON, digest, layer, manifest_added, new_ledger, pulled

REQUEST = PullRequest(reference=Reference.parse(PYTHON), began_ns=0, options=RegistryOptions())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return new_ledger(
        tmp_path,
        [
            NewEvent(manifest_added([layer(1, 10), layer(2, 20)]), digest(1)),
            NewEvent(pulled(digest(1)), PYTHON),
        ],
    )


def test_it_is_recorded_with_what_was_used_again(ledger: Ledger) -> None:
    found = record_cached(ledger, REQUEST, PYTHON, digest(1))
    data = found.recorded.data
    assert isinstance(data, ev.ImagePulled)
    assert (data.changed, data.bytes_fetched, data.bytes_reused) == (False, 0, 30)
    assert data.source == ev.Source(kind="registry", name="docker.io")
    assert found.row.last_used_at == found.recorded.occurred_at_ns > found.row.created_at


def test_an_image_that_moved_meanwhile_is_not_recorded(ledger: Ledger) -> None:
    with pytest.raises(ImageNotFoundError, match=r"python:3\.12 changed while it was pulled"):
        record_cached(ledger, REQUEST, PYTHON, digest(2))
    with ledger.read() as connection:
        assert connection is not None
        head = ledger.store(connection).head()
        assert head is not None
        assert head.seq == 3


def test_the_policy_never_is_named() -> None:
    assert "python:3.12, and the policy `never`" in str(not_cached(REQUEST.reference))
