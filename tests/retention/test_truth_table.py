"""The table of docs/retention.md that says how rules combine is true, row by row, and names every rule."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from msb_cache.cli.prune import COMMAND
from msb_cache.cli.rules import policy_of
from msb_cache.commands.prune import planner
from msb_cache.projections.state import ImageFacts, IndexState, Pin
from msb_cache.queries.policy import parse_size, rules_of
from msb_cache.queries.times import parse_duration
from msb_cache.retention import plan as plans
from msb_cache.retention import rules as by_rules
from msb_cache.retention.policy import PrunePolicy
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "retention.md").read_text()
NOW = 1_800_000_000 * 10**9
DIGEST = f"sha256:{'a' * 64}"
NAME = "docker.io/library/app:1"


def rows_below(heading: str) -> list[list[str]]:
    """The cells of all tables below a heading, without their headers."""
    body = PAGE.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [number for number, row in enumerate(cells) if set(row) == {"---"}]
    headers = {number - 1 for number in rules}
    return [row for number, row in enumerate(cells) if number not in headers and number not in rules]


class Row(NamedTuple):
    """One row of the table."""

    idle: str
    age: str
    place: str
    besides: str
    options: str
    outcome: str
    rule: str


ROWS = [Row(*row) for row in rows_below("How rules combine")]


class Disk:
    """The disk that the page describes."""

    total_bytes = parse_size("30GiB")
    free_bytes = parse_size("12GiB")
    capacity_bytes = parse_size("100GiB")
    going_anyway_bytes = 0

    def freed(self, kind: str, subject: str) -> int:
        return parse_size("10GiB") if (kind, subject) == ("fsmeta", DIGEST) else 0

    def size(self, kind: str, subject: str) -> int:
        return self.freed(kind, subject)

    def flat_root(self, manifest_digest: str) -> str | None:
        return None


def duration(text: str) -> int:
    return parse_duration(text, NOW)


def policy_in(options: str) -> PrunePolicy:
    """What the command line makes of options; not those that are no part of a policy."""
    given = COMMAND.make_context("prune", shlex.split(options.strip("`"))).params
    others = {"yes", "dry_run", "by_policy", "orphans", "orphans_only", "reason"}
    others |= {"format_", "quiet", "absolute", "no_trunc"}
    return policy_of({name: value for name, value in given.items() if name not in others})


def index_of(row: Row) -> IndexState:
    """The index that a row describes: its image, and others of the repository that are held."""
    idle, since = NOW - duration(row.idle), NOW - duration(row.age)
    names = {} if row.besides == "without a reference" else {NAME: DIGEST}
    subject = next(iter(names), DIGEST)
    facts = {subject: ImageFacts(None if row.besides == "running" else idle, since, idle)}
    place = int(row.place[0]) if row.place[0].isdigit() else 1
    others = {f"docker.io/library/app:other{number}": f"sha256:{number:064}" for number in range(4)}
    for number, name in enumerate(others):
        recent = idle + 1 if number < place - 1 else idle - 1
        facts[name] = ImageFacts(recent, recent, recent)
    return IndexState(
        {**names, **others},
        dict.fromkeys((DIGEST, *others.values()), ()),
        (),
        {
            **{digest: ["sandbox:other"] for digest in others.values()},
            **({DIGEST: ["sandbox:dev"]} if row.besides == "held" else {}),
        },
        now_ns=NOW,
        pins={DIGEST: Pin("ada")} if row.besides == "pinned" else {},
        running={DIGEST: ["sandbox:dev"]} if row.besides == "running" else {},
        facts=facts,
        labels={DIGEST: {"ci": "1"}},
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.options or 'no rule'} {row.besides or row.idle}")
def test_a_row_is_true(row: Row) -> None:
    assert row.besides in ("", "held", "running", "pinned", "without a reference")
    policy, state = policy_in(row.options), index_of(row)
    subject = NAME if NAME in state.references else DIGEST
    plan = planner(rules_of(policy, NOW) if policy.has_rules else None)(state, None, Disk())
    goes = subject in plan.references or subject in plan.manifests
    kept = {verdict.subject: verdict.rule for verdict in plan.kept}
    taken = {verdict.subject: verdict.rule for verdict in plan.going}
    assert goes == (row.outcome == "goes")
    assert goes == (DIGEST in plan.manifests)
    assert subject not in kept or subject not in taken
    if goes:
        assert f"`{taken.get(subject, plans.UNUSED)}`" == row.rule
        assert (subject in taken) == policy.has_rules
    elif row.rule == "not selected":
        assert subject not in kept
    else:
        assert f"`{kept[subject]}`" == row.rule
    assert bool(plan.shortfall) == (row.rule == "`too-little`" or "15GiB" in row.options or too_young(row))


def too_young(row: Row) -> bool:
    """Whether a bound is asked for, and another rule keeps the image that could meet it."""
    return row.rule in ("`keep-last`", "`unused-for`") and "--max-size 25GiB" in row.options


def test_the_table_has_every_option_and_is_no_other_table() -> None:
    assert len(ROWS) > 40
    options = " ".join(row.options for row in ROWS)
    rules: Sequence[str] = [
        option for row in rows_below("The rules") for option in row[0].strip("`").split()[:1]
    ]
    assert len(rules) == 9
    assert [option for option in rules if option not in options] == ["--keep-last-by"]
    assert "--best-effort" in options


def test_every_rule_is_named() -> None:
    named = {cell.strip("`") for cell, *_ in rows_below("What decided")}
    constants = {
        value
        for module in (plans, by_rules)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    assert named == constants
