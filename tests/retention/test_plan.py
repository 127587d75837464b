"""The plan of a prune and of a remove: pure functions, on tables of cases and against a naive model."""

from __future__ import annotations

from collections.abc import ItemsView
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.projections.state import IndexState, Naming
from msb_cache.retention.plan import Plan, Verdict, plan_prune, plan_remove


def state(
    references: dict[str, str],
    manifests: dict[str, str],
    holders: dict[str, list[str]] | None = None,
    spelled: dict[str, str] | None = None,
    fixed: str = "",
) -> IndexState:
    """References to manifests, these to layers (a letter each) and holders; of what each name is a spelling.

    ``fixed`` are the references and manifests, a letter each, that the deleting program does not know.
    """
    return IndexState(
        references,
        {name: list(found) for name, found in manifests.items()},
        sorted({*"".join(manifests.values())}),
        holders or {},
        {
            each: count
            for each in {*"".join(manifests.values())}
            if (count := sum(each in found for found in manifests.values())) > 1
        },
        unknown_to_msb=frozenset(fixed),
        naming=Naming(spelled or {}, {name: name for name in spelled or {}}),
    )


@pytest.mark.parametrize(
    ("index", "references", "manifests", "layers", "kept"),
    [
        pytest.param(state({}, {}), [], [], {}, [], id="empty"),
        pytest.param(state({"a": "M"}, {"M": "xy"}), ["a"], ["M"], {"x": 1, "y": 1}, [], id="unused"),
        pytest.param(
            state({"a": "M"}, {"M": "xy"}, {"M": ["s"]}),
            [],
            [],
            {},
            [Verdict("a", "held", ("s",))],
            id="held",
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}, {"M": ["s"]}),
            [],
            [],
            {},
            [Verdict("a", "held", ("s",)), Verdict("b", "held", ("s",))],
            id="two references on a held manifest",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "xy", "N": "yz"}, {"N": ["s", "t"]}),
            ["a"],
            ["M"],
            {"x": 1},
            [Verdict("b", "held", ("s", "t"))],
            id="a layer shared with a held manifest stays",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "xy", "N": "yz"}),
            ["a", "b"],
            ["M", "N"],
            {"x": 1, "y": 2, "z": 1},
            [],
            id="a layer shared by two that go counts both",
        ),
        pytest.param(
            state({"a": "N"}, {"M": "xy", "N": "y"}, {"N": ["s"]}),
            [],
            ["M"],
            {"x": 1},
            [Verdict("a", "held", ("s",))],
            id="a manifest left dangling by a retag goes",
        ),
        pytest.param(
            state({"a": "N"}, {"M": "xy", "N": "y"}, {"M": ["s"]}),
            ["a"],
            ["N"],
            {},
            [Verdict("M", "held", ("s",))],
            id="a dangling manifest that is held stays with its layers",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "xy", "N": "y"}, {"N": ["s"]}, {"b": "a"}),
            ["a"],
            ["M"],
            {"x": 1},
            [Verdict("b", "held", ("s",))],
            id="another spelling is held",
        ),
        pytest.param(
            IndexState({}, {}, ["x"], {}),
            [],
            [],
            {"x": 1},
            [],
            id="a layer record without a manifest",
        ),
        pytest.param(state({"a": "M"}, {"M": "xxy"}), ["a"], ["M"], {"x": 1, "y": 1}, [], id="a layer twice"),
        pytest.param(state({"a": "M"}, {}), ["a"], [], {}, [], id="a reference whose manifest is unknown"),
    ],
)
def test_prune(
    index: IndexState,
    references: list[str],
    manifests: list[str],
    layers: dict[str, int],
    kept: list[Verdict],
) -> None:
    plan = plan_prune(index)
    assert [*plan.references] == references
    assert list(plan.manifests) == manifests
    assert {diff_id: plan.sharing_counts.get(diff_id, 1) for diff_id in plan.layers} == layers
    assert list(plan.kept) == kept
    assert plan.empty == (not references and not manifests and not layers)


@pytest.mark.parametrize(
    ("index", "asked", "force", "references", "manifests", "layers", "kept"),
    [
        pytest.param(
            state({"a": "M"}, {"M": "xy"}), ["a"], False, ["a"], ["M"], "xy", [], id="the last reference"
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}),
            ["a"],
            False,
            ["a"],
            [],
            "",
            [Verdict("M", "referenced", ("b",))],
            id="another reference keeps the manifest",
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}),
            ["a", "b"],
            False,
            ["a", "b"],
            ["M"],
            "x",
            [],
            id="both at once",
        ),
        pytest.param(
            state({"a": "M"}, {"M": "x"}, {"M": ["s"]}),
            ["a"],
            False,
            [],
            [],
            "",
            [Verdict("a", "held", ("s",))],
            id="held",
        ),
        pytest.param(
            state({"a": "M"}, {"M": "x"}, {"M": ["s"]}),
            ["a"],
            True,
            ["a"],
            [],
            "",
            [Verdict("M", "held", ("s",))],
            id="forced: only the reference",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "xy", "N": "y"}),
            ["a"],
            False,
            ["a"],
            ["M"],
            "x",
            [],
            id="a shared layer",
        ),
        pytest.param(
            state({"a": "M"}, {"M": "x", "N": "z"}),
            ["a"],
            False,
            ["a"],
            ["M"],
            "x",
            [],
            id="others are not its business",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "x", "N": "y"}, {"N": ["s"]}, {"b": "a"}),
            ["a"],
            False,
            ["a"],
            ["M"],
            "x",
            [],
            id="another spelling is held",
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}, {}, {"b": "a"}),
            ["a"],
            False,
            ["a"],
            [],
            "",
            [Verdict("M", "referenced", ("b",))],
            id="another spelling keeps the manifest",
        ),
        pytest.param(state({"a": "M"}, {"M": "x"}), ["nope"], False, [], [], "", [], id="not in the index"),
        pytest.param(
            state({"a": "M"}, {"M": "x"}, {"M": ["s"]}),
            ["nope", "a", "never"],
            True,
            ["a"],
            [],
            "",
            [Verdict("M", "held", ("s",))],
            id="forced: those not in the index are passed over",
        ),
        pytest.param(
            state({"a": "M"}, {"M": "x"}), ["a", "a"], False, ["a"], ["M"], "x", [], id="asked twice"
        ),
    ],
)
def test_remove(
    index: IndexState,
    asked: list[str],
    force: bool,
    references: list[str],
    manifests: list[str],
    layers: str,
    kept: list[Verdict],
) -> None:
    plan = plan_remove(index, asked, force=force)
    assert [*plan.references] == references
    assert list(plan.manifests) == manifests
    assert set(plan.layers) == set(layers)
    assert list(plan.kept) == kept


@pytest.mark.parametrize(
    ("index", "references", "manifests", "layers", "kept"),
    [
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "x", "N": "y"}, fixed="aM"),
            ["b"],
            ["N"],
            "y",
            [Verdict("a", "unknown")],
            id="neither the reference nor its manifest is known",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "x", "N": "y"}, fixed="M"),
            ["b"],
            ["N"],
            "y",
            [Verdict("a", "unknown")],
            id="only the manifest is unknown",
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}, fixed="a"),
            [],
            [],
            "",
            [Verdict("a", "unknown"), Verdict("b", "shared", ("M",))],
            id="only the reference is unknown, and another one points at its manifest",
        ),
        pytest.param(
            state({"b": "N"}, {"M": "x", "N": "y", "O": "z"}, fixed="M"),
            ["b"],
            ["N", "O"],
            "yz",
            [],
            id="an unknown manifest without a reference stays, a known one goes",
        ),
        pytest.param(
            state({"b": "N"}, {"M": "wx", "N": "xy", "O": "xz"}, fixed="M"),
            [],
            [],
            "",
            [Verdict("b", "shared", ("M",))],
            id="manifests, with a reference or without, that have a layer of an unknown one",
        ),
        pytest.param(
            state({"a": "M", "b": "N", "c": "O"}, {"M": "v", "N": "w", "O": "vwx"}, fixed="abMN"),
            [],
            [],
            "",
            [Verdict("a", "unknown"), Verdict("b", "unknown"), Verdict("c", "shared", ("M", "N"))],
            id="layers of two unknown ones",
        ),
        pytest.param(
            state({"a": "M"}, {"M": "x", "N": "y"}, {"M": ["s"], "N": ["t"]}, fixed="aMN"),
            [],
            [],
            "",
            [Verdict("a", "held", ("s",)), Verdict("N", "held", ("t",))],
            id="what holds it is said first",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"N": "y"}, fixed="a"),
            ["b"],
            ["N"],
            "y",
            [Verdict("a", "unknown")],
            id="an unknown reference whose manifest has no record",
        ),
    ],
)
def test_a_prune_leaves_what_msb_does_not_know_where_it_cannot_be_judged(
    index: IndexState, references: list[str], manifests: list[str], layers: str, kept: list[Verdict]
) -> None:
    plan = plan_prune(replace(index, unjudged=True))
    assert [*plan.references] == references
    assert list(plan.manifests) == manifests
    assert set(plan.layers) == set(layers)
    assert list(plan.kept) == kept


@pytest.mark.parametrize(
    ("index", "references", "manifests", "layers", "kept"),
    [
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "x", "N": "xy"}, fixed="aM"),
            ["a", "b"],
            ["M", "N"],
            "xy",
            [],
            id="layers of one that goes, too",
        ),
        pytest.param(
            state({"a": "M", "b": "M"}, {"M": "x"}, fixed="a"),
            ["a", "b"],
            ["M"],
            "x",
            [],
            id="only the reference is unknown",
        ),
        pytest.param(
            state({"a": "M", "b": "N"}, {"M": "x", "N": "xy"}, {"M": ["s"]}, fixed="aM"),
            [],
            [],
            "",
            [Verdict("a", "held", ("s",)), Verdict("b", "shared", ("M",))],
            id="an unknown one that is held keeps what shares its layers",
        ),
        pytest.param(
            state({"b": "N"}, {"M": "wx", "N": "y"}, fixed="M"),
            ["b"],
            ["M", "N"],
            "wxy",
            [],
            id="an unknown manifest that no reference has",
        ),
    ],
)
def test_a_prune_takes_what_msb_does_not_know(
    index: IndexState, references: list[str], manifests: list[str], layers: str, kept: list[Verdict]
) -> None:
    plan = plan_prune(index)
    assert [*plan.references] == references
    assert list(plan.manifests) == manifests
    assert set(plan.layers) == set(layers)
    assert list(plan.kept) == kept


def test_what_came_after_a_plan_was_shown_keeps_what_shares_its_layers() -> None:
    shown = plan_prune(state({"b": "N"}, {"N": "xy"}))
    later = state({"b": "N", "a": "M"}, {"N": "xy", "M": "x"}, fixed="aM")
    plan = plan_prune(later, shown=shown)
    assert not plan.references
    assert plan.kept == (Verdict("b", "shared", ("M",)),)


def test_a_dangling_manifest_and_a_lone_layer_are_plans_too() -> None:
    assert not Plan(manifests=("M",)).empty
    assert not Plan(layers=("x",)).empty
    assert not Plan(references={"a": "M"}).empty
    assert Plan(kept=(Verdict("a", "held", ("s",)),)).empty


def test_metadata_goes_with_the_last_spelling() -> None:
    index = state({"a": "M", "b": "N", "c": "O"}, {"M": "x", "N": "y", "O": "z"}, {}, {"b": "a"})
    assert list(plan_remove(index, ["a", "c"]).metadata) == ["c"]
    assert list(plan_remove(index, ["b"]).metadata) == []
    assert sorted(plan_prune(index).metadata) == ["a", "c"]


def test_a_remove_counts_only_what_goes() -> None:
    index = state({"a": "M", "b": "N", "c": "O"}, {"M": "wxy", "N": "xyz", "O": "zv"})
    plan = plan_remove(index, ["a", "b"])
    assert (plan.layers, plan.sharing_counts) == (("w", "x", "y"), {"x": 2, "y": 2})


def test_a_reference_that_moved_since_it_was_shown_stays() -> None:
    shown = plan_prune(state({"a": "M", "b": "N"}, {"M": "x", "N": "y"}))
    plan = plan_prune(state({"a": "N", "b": "N"}, {"M": "x", "N": "y"}), shown=shown)
    assert (plan.references, plan.manifests, plan.layers) == ({"b": "N"}, ("M",), ("x",))
    removal = plan_remove(state({"a": "N", "b": "N"}, {"N": "y"}), ["a", "b"], shown=shown)
    assert (removal.references, removal.manifests) == ({"b": "N"}, ())
    assert plan_remove(state({"a": "N"}, {"N": "y"}), ["a"], shown=shown).empty


def test_without_force_a_held_reference_stays() -> None:
    index = state({"a": "M"}, {"M": "x"}, {"M": ["s"]})
    assert plan_remove(index, ["a"]) == plan_remove(index, ["a"], force=False)


names = st.sampled_from(["a", "b", "c"])
digests = st.sampled_from(["M", "N", "O"])
indexes = st.builds(
    state,
    st.dictionaries(names, digests),
    st.dictionaries(digests, st.text("vwxyz", min_size=1, max_size=3)),
    st.dictionaries(digests, st.just(["s"]), max_size=2),
    st.just({"b": "a"}) | st.just({}),
)


def check_consistent(index: IndexState, plan: Plan) -> None:
    for diff_id in plan.layers:
        assert plan.sharing_counts.get(diff_id, 1) == sum(
            diff_id in index.manifests[digest] for digest in plan.manifests
        )
    gone = set(plan.references)
    left = {digest for name, digest in index.references.items() if name not in gone}
    assert not set(plan.manifests) & (left | set(index.holders))
    remaining = {digest: found for digest, found in index.manifests.items() if digest not in plan.manifests}
    assert not set(plan.layers) & {each for found in remaining.values() for each in found}


@given(indexes)
def test_a_prune_leaves_only_what_is_held(index: IndexState) -> None:
    plan = plan_prune(index)
    check_consistent(index, plan)
    gone = set(plan.references)
    held = {name for name, digest in index.references.items() if digest in index.holders}
    assert gone == set(index.references) - held
    reached = {index.references[name] for name in held} | set(index.holders)
    assert set(index.manifests) - set(plan.manifests) == set(index.manifests) & reached
    needed = {each for digest in set(index.manifests) & reached for each in index.manifests[digest]}
    assert {*index.layers} - {*plan.layers} == set(index.layers) & needed


@given(indexes, st.lists(names), st.booleans())
def test_a_remove_never_breaks_what_stays(index: IndexState, asked: list[str], force: bool) -> None:
    plan = plan_remove(index, asked, force=force)
    check_consistent(index, plan)
    assert set(plan.references) <= set(asked)


@given(indexes, indexes)
def test_a_plan_made_later_within_a_shown_one_only_drops(before: IndexState, after: IndexState) -> None:
    shown = plan_prune(before)
    plan = plan_prune(after, shown=shown)
    check_consistent(after, plan)
    assert plan.references.items() <= shown.references.items()
    assert set(plan.manifests) <= set(shown.manifests)
    assert set(plan.layers) <= set(shown.layers)


def test_many_are_removed_by_one_look_at_all_references() -> None:
    class Counted(dict[str, str]):
        looks = 0

        def items(self) -> ItemsView[str, str]:
            Counted.looks += 1
            return super().items()

    names = [f"app:{number}" for number in range(100)]
    index = state({name: name.upper() for name in names}, {name.upper(): "y" for name in names})
    plan = plan_remove(replace(index, references=Counted(index.references)), names)
    assert len(plan.manifests) == 100
    assert Counted.looks < 5
