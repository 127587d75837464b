"""What a fleet answers of a host is what that host answers itself, however its log came there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from tests.fleet.asking import check
from tests.fleet.postgres import PASSWORD
from tests.fleet.random_lives import MINUTE, OPERATIONS, Clock, Host
from tests.fleet.sent import log_of, send

HOSTS = 2


class Way:
    """How logs come into a fleet."""

    fleet: Fleet

    def bring(self, host: Host, events: int | None, batch: int) -> None:
        """Bring so many of a host's first events there; None: all."""
        raise NotImplementedError


class ByExport(Way):
    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self.fleet = Fleet(db=folder / "fleet.db", clock=clock)

    def bring(self, host: Host, events: int | None, batch: int) -> None:
        export = self._folder / f"{host.name}.jsonl"
        export.write_bytes(host.export(events))
        [taken] = self.fleet.take([export])
        assert taken.problem is None


class ByShipping(Way):
    """To PostgreSQL, in transactions of any size, and folded in others of that size."""

    def __init__(self, admin: str, host: str, clock: Clock) -> None:
        self._admin, self._host = admin, host
        self.fleet = Fleet(admin, clock=clock)

    def bring(self, host: Host, events: int | None, batch: int) -> None:
        from msb_cache.fleet.connect import Postgres
        from msb_cache.fleet.fold import fold

        if events is None:
            host.cache.ship(self._host)
        else:
            rows = log_of(host.cache.home)
            for begin in range(0, min(events, len(rows)), batch):
                some = rows[max(0, begin - 1) : min(events, begin + batch)]
                answer = send(self._host, some, host_size=len(rows))
                assert answer.verdict == "accepted"
        assert fold(Postgres(self._admin), batch=batch).stopped == ()


STEPS = st.lists(
    st.tuples(st.integers(0, HOSTS - 1), st.sampled_from((*OPERATIONS, "bring", "bring")), st.integers(0, 7)),
    min_size=4,
    max_size=20,
)


def lived(way: Callable[[Path, Clock], Way], steps: list[tuple[int, str, int]], batch: int) -> None:
    """Let hosts live, bring parts of their logs into a fleet meanwhile, and compare at the end."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        hosts = [Host(folder / f"ci-{number}", f"ci-{number}", clock) for number in range(HOSTS)]
        for host in hosts:
            stack.enter_context(host.cache)
        fleet = way(folder, clock)
        for number, operation, choice in steps:
            if operation == "bring":
                fleet.bring(hosts[number], 1 + 3 * choice, batch)
            else:
                hosts[number].do(operation, choice)
        for host in hosts:
            fleet.bring(host, None, batch)
        clock.now_ns += MINUTE
        for host in hosts:
            check(host, fleet.fleet)


# Lives take a while: what fails is not tried again with shorter ones.
SLOW = settings(
    max_examples=4,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SLOW
@given(STEPS, st.sampled_from((2, 5, 17, 1000)))
def test_a_file_answers_as_each_host_does(steps: list[tuple[int, str, int]], batch: int) -> None:
    lived(ByExport, steps, batch)


@settings(SLOW, max_examples=2)  # each asks over some eighty connections
@given(STEPS, st.sampled_from((2, 5, 17, 1000)))
def test_a_server_answers_as_each_host_does(
    admin: str, steps: list[tuple[int, str, int]], batch: int
) -> None:
    from psycopg.conninfo import make_conninfo

    init(admin)
    enrolled = enrol(admin, "equal", max_logs=1000, password=PASSWORD)
    shipping = make_conninfo(enrolled.dsn, password=PASSWORD)
    lived(lambda _, clock: ByShipping(admin, shipping, clock), steps, batch)
