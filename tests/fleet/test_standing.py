"""How hosts stand: in a file and on a server, and with what a server refused."""

from __future__ import annotations

import pytest

from msb_cache import ImageNotFoundError
from tests.carrying import lived_in
from tests.fleet.filled import Filled
from tests.fleet.sent import chained, log_of, send


def test_a_host_stands_as_its_index_says(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = lived_in(tmp_path_factory.mktemp("lived") / "home")
    log_id, events = filled.add(home), len(log_of(home))
    fleet = filled.fleet()
    [host] = fleet.hosts([log_id[:8]])
    assert (host.log_id, host.events, host.host_events, host.folded_seq) == (log_id, events, events, events)
    assert (host.not_shipped, host.not_folded, host.problems) == (0, 0, [])
    assert (host.images, host.layers) == (1, 2)
    assert host.image_bytes > 0
    assert host in fleet.hosts()
    shape = host.to_dict()
    assert [*shape][:3] == ["host", "log_id", "folded_seq"]
    assert shape["not_shipped"] == shape["not_folded"] == 0
    with pytest.raises(ImageNotFoundError):
        fleet.hosts(["nobody"])


def test_what_was_refused_stands_with_the_host(
    filled: Filled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not filled.sender:
        pytest.skip("a file takes exports, and refuses none for later")
    home = lived_in(tmp_path_factory.mktemp("forked") / "home")
    rows = log_of(home)
    log_id = filled.add(home)
    fork = chained([*rows[:-1], (*rows[-1][:5], "other", *rows[-1][6:])])
    assert send(filled.sender, fork[-1:], host_size=len(rows) + 7).verdict == "fork"
    [host] = filled.fleet().hosts([log_id])
    [alert] = host.alerts
    assert (alert.kind, alert.log_id, alert.times) == ("fork", log_id, 1)
    assert alert in filled.fleet().alerts()
    assert host.problems[0].startswith("fork, refused 1 time: ")
