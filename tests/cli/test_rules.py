"""The options of a policy: the same in every command, and what they ask for."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from msb_cache import PrunePolicy
from msb_cache.cli import prune, rules, why
from tests.cli.support import TOOL, USAGE, Call, fingerprint, sentence


def options(command: click.Command) -> set[str]:
    return {name for each in command.params for name in each.opts if name.startswith("--")}


def asked(*arguments: str) -> PrunePolicy:
    """The policy of a command line."""
    found: list[PrunePolicy] = []

    @click.command()
    @rules.policy_options
    def command(**given: object) -> None:
        found.append(rules.policy_of(given))

    command.main([*arguments], standalone_mode=False)
    return found[0]


def test_every_field_of_a_policy_is_an_option() -> None:
    fields = {f"--{name.replace('_', '-')}" for name in PrunePolicy.__struct_fields__}
    limits = {"--best-effort", "--max-delete"}
    assert fields <= options(prune.COMMAND)
    assert fields - limits <= options(why.COMMAND)
    assert not limits & options(why.COMMAND)


def test_what_is_given() -> None:
    assert asked() == PrunePolicy()
    assert not asked("--max-delete", "5").has_rules
    given = asked(
        *("--unused-for", "14d", "--older-than", "30d", "--keep-last", "2", "--keep-last-by", "pulled"),
        *("--max-size", "20GiB", "--min-free", "10%", "--filter", "dangling", "--filter", "label=a=b"),
        *("--exclude", "a*", "--grace", "2h", "--best-effort", "--max-delete", "50%"),
    )
    assert given == PrunePolicy(
        unused_for="14d",
        older_than="30d",
        keep_last=2,
        keep_last_by="pulled",
        max_size="20GiB",
        min_free="10%",
        filter=("dangling", "label=a=b"),
        exclude=("a*",),
        grace="2h",
        best_effort=True,
        max_delete="50%",
    )
    assert given.has_rules


WRONG = {
    "--unused-for 14": "'14' is no duration",
    "--older-than fortnight": "'fortnight' is no duration",
    "--grace -1h": "'-1h' is no duration",
    "--keep-last 0": "Invalid value for '--keep-last'",
    "--keep-last two": "Invalid value for '--keep-last'",
    "--keep-last-by size": "Invalid value for '--keep-last-by'",
    "--max-size 5x": "'5x' is no size",
    "--min-free 200%": "'200%' is more than 100%",
    "--max-delete -1": "'-1' is no number of images",
    "--filter a=b": "'a=b' is no filter",
    "--filter label": "'label' is no filter",
    "--exclude $$": "'$$' is not an image reference",
    "--exclude App:1": "a repository name must be lower case",
    "--filter digest=xyz": "'xyz' is no digest",
    "--keep-last-by used": "--keep-last-by says what --keep-last calls recent",
    "--best-effort": "best-effort is about a bound",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_values_are_one_sentence(home: Path, call: Call, words: str) -> None:
    before = fingerprint(home)
    for command in (["prune", "-n"], ["prune", "-y"], ["why", "app:1"]):
        if command[0] == "why" and words.startswith(("--best-effort", "--max-delete")):
            continue
        done = call(*command, *words.split())
        assert (done.code, done.out) == (USAGE, ""), command
        assert WRONG[words] in sentence(done.err)
    assert fingerprint(home) == before


def test_rules_without_a_home(own_home: Path, call: Call) -> None:
    for words in ("--unused-for 14d", "--max-size 1", "--min-free 1", "--keep-last 1 --grace 0s"):
        done = call("prune", "-n", *words.split())
        assert (done.code, done.out, done.err) == (0, "Nothing to delete.\n", "")
        assert call("prune", "-y", *words.split()).err == "Nothing was pruned.\n"
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--filter reference=app", {"app:1", "app:latest"}),
        ("--filter reference=app:latest", {"app:latest"}),
        ("--exclude app", {"example.org/team/tool:2"}),
        ("--exclude docker.io/app:1", {"app:latest", "example.org/team/tool:2"}),
        ("--filter label=team=green", {"app:1", "app:latest"}),
        ("--filter label!=team", {"example.org/team/tool:2"}),
        (f"--filter digest={TOOL.digest[7:15]}", {"example.org/team/tool:2"}),
        ("--filter dangling", set()),
        ("--unused-for 1h", set()),
    ],
)
def test_what_they_select(home: Path, call: Call, words: str, names: set[str]) -> None:
    found = call("prune", "-n", "-q", "--grace", "0s", *words.split())
    assert (found.code, {*found.lines}) == (0, names)
    call("prune", "-y", "-q", "--grace", "0s", *words.split())
    assert {"app:1", "app:latest", "example.org/team/tool:2"} - names == {*call("list", "-q").lines}
