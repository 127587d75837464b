"""The room that images take: by whatever steps, always what is counted from scratch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msb_cache.projections.state import ImageFacts, IndexState
from msb_cache.retention.room import Considered, Room
from tests.retention.caches import Disk, cache, caches, disks, files, freed, unnamed

IDLE = ImageFacts(0, 0, 0)


def considered(state: IndexState, subject: str) -> Considered:
    return Considered(subject, state.references.get(subject, subject), IDLE)


@given(caches(), disks(), st.lists(st.integers(0, 9), max_size=14))
def test_taking_and_putting_back_in_any_order_is_counting_from_scratch(
    state: IndexState, disk: Disk, steps: list[int]
) -> None:
    subjects = [*state.references, *unnamed(state)]
    room, taken, total = Room(state, disk), set[str](), 0
    for step in steps if subjects else ():
        subject = subjects[step % len(subjects)]
        if subject in taken:
            total -= room.put_back(considered(state, subject))
        else:
            total += room.take(considered(state, subject))
        taken ^= {subject}
        assert total == freed(state, disk, taken)


@given(caches(), disks())
def test_the_size_of_an_image_is_all_its_files_whoever_needs_them_too(state: IndexState, disk: Disk) -> None:
    room = Room(state, disk)
    for subject in (*state.references, *unnamed(state)):
        digest = state.references.get(subject, subject)
        layers = {digest: state.manifests[digest]} if digest in state.manifests else {}
        names = {subject: (digest, IDLE)} if subject in state.references else {}
        needed = files(cache(names, layers), disk)
        if digest in state.manifests:  # of another, files that are there are not known to be its
            assert room.size(considered(state, subject)) == sum(disk.size(*each) for each in needed)


def take(state: IndexState, disk: Disk, *subjects: str) -> list[int]:
    room = Room(state, disk)
    return [room.take(considered(state, subject)) for subject in subjects]


def test_a_layer_comes_free_with_the_last_that_has_it() -> None:
    state = cache({"a:1": ("M", IDLE), "b:1": ("N", IDLE)}, {"M": "xxy", "N": "x"})
    disk = Disk({("layer", "x"): (100, 100), ("layer", "y"): (10, 10), ("fsmeta", "N"): (1, 1)})
    assert take(state, disk, "a:1", "b:1") == [10, 101]
    assert take(state, disk, "b:1", "a:1") == [1, 110]


def test_a_flat_root_of_two_manifests_comes_free_with_the_second() -> None:
    state = cache({"a:1": ("M", IDLE), "b:1": ("N", IDLE)}, {"M": "", "N": ""})
    disk = Disk({("flat", "P"): (100, 100), ("flat_ref", "M"): (1, 1)}, {"M": "P", "N": "P"})
    assert take(state, disk, "a:1", "b:1") == [1, 100]
    assert take(state, disk, "b:1") == [0]


def test_metadata_of_one_reference_comes_free_with_its_last_spelling() -> None:
    state = cache({"a:1": ("M", IDLE), "A:1": ("N", IDLE)}, {"M": "", "N": ""})
    disk = Disk({("metadata", "a:1"): (5, 5), ("vmdk", "M"): (1, 1), ("vmdk", "N"): (2, 2)})
    assert take(state, disk, "a:1", "A:1") == [1, 7]
    assert take(state, disk, "A:1", "a:1") == [2, 6]


def test_what_is_held_and_files_with_another_name_free_nothing() -> None:
    disk = Disk({("layer", "x"): (100, 0), ("layer", "y"): (10, 10), ("metadata", "a:1"): (5, 5)})
    images = {"a:1": ("M", IDLE)}
    assert take(cache(images, {"M": "xy"}), disk, "a:1") == [15]
    assert take(cache(images, {"M": "xy"}, holders={"M": ["sandbox:x"]}), disk, "a:1") == [5]
    assert take(cache(images, {"M": "xy"}, running={"M": ["sandbox:x"]}), disk, "a:1") == [5]
    assert take(cache(images, {}), disk, "a:1") == [5]
    assert Room(cache(images, {"M": "xy"}), disk).size(Considered("a:1", "M", IDLE)) == 115
