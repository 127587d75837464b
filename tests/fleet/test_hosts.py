"""What names a log of a fleet, and what it answers is wrapped in."""

from __future__ import annotations

import pytest

from msb_cache import ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.hosts import KnownLog, chosen, on_host, only
from msb_cache.shapes import Result

LOGS = [
    KnownLog("a" * 32, "build-1", "ci", 9, 9),
    KnownLog("ab" * 16, "runner", "ci", 5, 4),
    KnownLog("c" * 32, "runner", "other", 5, 0),
]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], [0, 1, 2]),
        (["build-1"], [0]),
        (["runner"], [1, 2]),
        (["ci"], [0, 1]),
        (["abab", "other"], [1, 2]),
        (["c" * 32], [2]),
    ],
)
def test_names_mean_logs(names: list[str], expected: list[int]) -> None:
    assert chosen(LOGS, names) == [LOGS[n] for n in expected]


@pytest.mark.parametrize("name", ["", "aba", "ABAB", "d" * 32, "runne"])
def test_a_name_that_means_none_is_refused(name: str) -> None:
    with pytest.raises(ImageNotFoundError, match="no host of the fleet"):
        chosen(LOGS, [name])


def test_one_is_one() -> None:
    assert only(LOGS, "build-1") == LOGS[0]
    with pytest.raises(InvalidConfigError, match=r"2 logs of the fleet: runner .abababababab., runner"):
        only(LOGS, "runner")


def test_an_answer_has_its_host_first() -> None:
    class Answer(Result):
        def _shape(self) -> dict[str, object]:
            return {"reference": "app:1", "host": "of the answer's own"}

    assert on_host(LOGS[1], Answer()).to_dict() == {
        "host": "runner",
        "log_id": "ab" * 16,
        "folded_seq": 4,
        "reference": "app:1",
    }


def test_a_name_that_is_like_none_says_where_they_are_listed() -> None:
    log = KnownLog("ab" * 16, "build-1", "builders", 1, 1, 0)
    with pytest.raises(ImageNotFoundError, match="'zzzzzz'; `msb-cache fleet hosts` lists them"):
        chosen([log], ["zzzzzz"])
