"""Which alerts names mean, and that one goes only as it was seen."""

from __future__ import annotations

import psycopg
import pytest

from msb_cache import Fleet
from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.acknowledging import acknowledge, chosen
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.hosts import KnownLog
from msb_cache.fleet.standing import Alert
from tests.fleet.shipping import PASSWORD, host

HERE, AWAY = "aaaa" + "0" * 28, "bbbb" + "0" * 28
LOGS = [KnownLog(HERE, "vm", "build", 3, 3)]
ALERTS = [Alert("build", HERE, "fork", 3, "", 1, 1, 1), Alert("clone", AWAY, "claimed", 0, "", 2, 2, 5)]


@pytest.mark.parametrize(
    ("names", "means"),
    [
        ([], [0, 1]),
        (["vm"], [0]),
        (["build"], [0]),
        (["aaaa0"], [0]),
        (["clone"], [1]),
        (["bbbb"], [1]),
        (["bbbb", "vm"], [0, 1]),
    ],
)
def test_names(names: list[str], means: list[int]) -> None:
    assert chosen(ALERTS, LOGS, names) == [ALERTS[number] for number in means]


@pytest.mark.parametrize("name", ["", "aaa", "cccc", "VM"])
def test_names_of_nothing_that_was_refused(name: str) -> None:
    with pytest.raises(ImageNotFoundError, match="nothing was refused of"):
        chosen(ALERTS, LOGS, ["vm", name])


def test_only_what_was_seen_goes(admin: str) -> None:
    init(admin)
    sender = host(admin, 0)

    def refused(log_id: str) -> None:
        with psycopg.connect(sender) as connection:
            connection.execute("SELECT msb_cache.append(%s, 1)", (log_id,))

    refused(HERE)
    refused(AWAY)
    fleet = Fleet(admin)
    seen = fleet.alerts()
    refused(AWAY)
    assert [alert.log_id for alert in acknowledge(admin, seen)] == [HERE]
    [left] = fleet.alerts()
    assert (left.log_id, left.times) == (AWAY, 2)
    reader = enrol(admin, "acknowledges", kind="reader", password=PASSWORD)
    with pytest.raises(FleetError, match="may not change this fleet"):
        Fleet(f"{reader.dsn} password='{PASSWORD}'").acknowledge()
    assert fleet.acknowledge() == [left]
    assert fleet.acknowledge() == fleet.alerts() == []


def test_a_file_has_none(tmp_path) -> None:
    with pytest.raises(InvalidConfigError, match="PostgreSQL"):
        Fleet(db=tmp_path / "fleet.db").acknowledge()
