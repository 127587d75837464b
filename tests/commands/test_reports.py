"""What a deletion has done, or would do, in counters: they agree with the log and with each other."""

from __future__ import annotations

from msgspec.structs import replace

from msb_cache import ImageCache, ImagePruneReport
from msb_cache.artifacts.layout import Layout
from msb_cache.commands.reports import of_preview
from tests.engines.support import refusing
from tests.examples import ONE, TWO, archive
from tests.flatroots import add


def test_a_preview_says_what_the_run_then_does(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO), tag="alias:1")
    add(cache.home, ONE.digest)
    Layout(cache.home).vmdk("sha256:" + "2" * 64).write_bytes(b"12345")
    before = of_preview(cache.preview_prune(orphans=True))
    after = cache.prune(orphans=True)
    assert before == replace(after, operation=None)
    assert (before.image_refs_removed, before.manifests_removed, before.layers_removed) == (3, 2, 3)
    assert (before.orphans_removed, before.flat_removed, before.vmdk_removed) == (1, 1, 3)


def test_nothing_was_decided(cache: ImageCache) -> None:
    nothing = ImagePruneReport(0, 0, 0, 0, 0, None)
    assert cache.prune() == cache.prune(orphans=True) == cache.prune(dry_run=True) == nothing
    cache.load(archive(ONE))
    assert cache.prune(confirm=lambda shown: False) == nothing


def test_what_could_not_go_and_what_was_left_before(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    stuck = Layout(cache.home).layer(ONE.layers[1].diff_id)
    with refusing(5, stuck):
        first = cache.remove("one:1")
        second = cache.remove("two:1")
    assert (first.artifacts_failed, first.leftovers_failed) == (1, 0)
    assert (second.artifacts_failed, second.leftovers_failed) == (1, 1)
    assert second.manifests_removed == 1
    assert cache.preview_prune().leftovers
    third = cache.prune()
    assert (third.orphans_removed, third.artifacts_failed) == (1, 0)
    assert not stuck.exists()


def test_what_stayed_because_it_was_needed_meanwhile(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))

    def confirm(shown: object) -> bool:
        with ImageCache(cache.home) as other:
            other.pin("one:1")
        return True

    report = cache.prune(confirm=confirm)
    assert (report.image_refs_removed, report.skipped_in_use) == (1, 1)
    assert [handle.reference for handle in cache.list()] == ["one:1"]
