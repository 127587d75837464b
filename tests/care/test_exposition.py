"""What is printed is what was found, in both formats; and how a file of it is written."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from msb_cache import CacheMetrics, DeletedImages, IdleTimes, LastPrune, RecordedFiles, UnsupportedError
from msb_cache.care.exposition import FAMILIES, IDLE, IDLE_WORDS, PREFIX, exposition, write_textfile
from msb_cache.care.metrics import IDLE_BOUNDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
NS = 10**9

FOUND = CacheMetrics(
    images=3,
    manifests=2,
    unreferenced_manifests=1,
    files=(
        RecordedFiles("layer", 4, 1, 2**53, 7000),
        RecordedFiles("fsmeta", 2, 0, 8192, 4096),
        RecordedFiles("vmdk", 2, 0, 900, 450),
    ),
    flat_roots=5,
    flat_bytes=123_456_789,
    holders={"sandbox": 2, "snapshot": 0, "other": 1},
    running=6,
    pins=7,
    idle=IdleTimes(tuple((bound, place) for place, bound in enumerate(IDLE_BOUNDS)), 9, 1234.5),
    last_prune=LastPrune(1_800_000_000_123_000_000, 2_500_000_000, "partial", 99),
    deleted=(DeletedImages("prune", "due", 11), DeletedImages("prune", 'a "rule"\\\n\x1b[2J', 12)),
    events={"image.pulled": 13, "image.used": 0},
    unfinished_deletions=14,
    leftover_files={"busy": 15},
    damaged_images=16,
    disk_free_bytes=17,
    disk_size_bytes=18,
    kept_by_msb=True,
    sync_age_ns=1_500_000_000,
    sync_failed=True,
    log_position=19,
    log_bytes=20,
)
EMPTY = CacheMetrics(disk_free_bytes=1, disk_size_bytes=2, kept_by_msb=False, log_bytes=0)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[PREFIX + name, tuple(sorted(labels.items()))]


def test_both_formats_have_the_same_samples() -> None:
    modern, classic = exposition(FOUND), exposition(FOUND, "prometheus")
    assert modern.endswith("# EOF\n")
    assert "EOF" not in classic
    found = samples(openmetrics(modern))
    assert found == samples(prometheus(classic))
    assert value(found, "images") == 3
    assert value(found, "file_bytes", kind="layer") == 2**53
    assert value(found, "file_bytes", kind="flat") == 123_456_789
    assert value(found, "files", kind="flat") == 5
    assert value(found, "files_of_unknown_size", kind="layer") == 1
    assert value(found, "reclaimable_bytes", kind="fsmeta") == 4096
    assert value(found, "last_prune_timestamp_seconds") == 1_800_000_000.123
    assert value(found, "last_prune_duration_seconds") == 2.5
    assert value(found, "last_prune_info", outcome="partial") == 1
    assert value(found, "deleted_images_total", cause="prune", rule="due") == 11
    assert value(found, "events_total", type="image.pulled") == 13
    assert value(found, "sync_age_seconds") == 1.5
    assert value(found, "kept_by_msb") == 1
    assert value(found, "image_idle_seconds_bucket", le="3600.0") == 0
    assert value(found, "image_idle_seconds_bucket", le="7776000.0") == 6
    assert value(found, "image_idle_seconds_bucket", le="+Inf") == 9
    assert value(found, "image_idle_seconds_count") == 9
    assert value(found, "image_idle_seconds_sum") == 1234.5


def test_all_that_is_found_is_printed() -> None:
    """Each field, also of what is in a field: another value is another text."""

    def others(field: str) -> Iterator[object]:
        match getattr(FOUND, field):
            case bool(found):
                yield not found
            case int(found):
                yield found + 1
            case dict(found):
                yield from ({**found, key: count + 1} for key, count in found.items())
            case IdleTimes() as found:
                yield replace(found, images=found.images + 1)
                yield replace(found, sum_seconds=0.5)
                yield replace(found, bounds=(*found.bounds[:-1], (found.bounds[-1][0], 7)))
            case LastPrune() as found:
                yield replace(found, outcome="completed")
                yield from (
                    replace(found, **{name: getattr(found, name) + NS})
                    for name in ("finished_at_ns", "duration_ns", "freed_bytes")
                )
            case tuple(found):
                for place, each in enumerate(found):
                    for name in type(each).__struct_fields__:
                        old = getattr(each, name)
                        new = f"{old}x" if isinstance(old, str) else old + 4
                        yield (*found[:place], replace(each, **{name: new}), *found[place + 1 :])
            case found:
                raise AssertionError(f"{field} is {found!r}")

    usual = exposition(FOUND)
    for field in CacheMetrics.__struct_fields__:
        for other in others(field):
            assert exposition(replace(FOUND, **{field: other})) != usual, (field, other)


def test_what_there_is_not_is_left_out() -> None:
    names = {name for name, _ in samples(openmetrics(exposition(EMPTY)))}
    always = {name for name, _ in samples(openmetrics(exposition(FOUND)))}
    assert {name.removeprefix(PREFIX) for name in always - names} == {
        *("last_prune_timestamp_seconds", "last_prune_duration_seconds", "last_prune_freed_bytes"),
        *("last_prune_info", "sync_age_seconds"),
    }


@pytest.mark.parametrize("format_", ["openmetrics", "prometheus"])
def test_what_a_log_holds_drives_no_terminal_and_breaks_no_line(format_: str) -> None:
    text = exposition(FOUND, format_)  # type: ignore[arg-type]
    assert "\x1b" not in text
    assert all(line.startswith(("#", PREFIX)) for line in text.splitlines())
    rules = {dict(labels).get("rule") for _, labels in samples(prometheus(exposition(FOUND, "prometheus")))}
    assert 'a "rule"\\__[2J' in rules


def test_rules_that_look_alike_are_one() -> None:
    alike = DeletedImages("prune", "a\x1b", 1), DeletedImages("prune", "a\x1c", 2)
    found = samples(openmetrics(exposition(replace(EMPTY, deleted=alike))))
    assert value(found, "deleted_images_total", cause="prune", rule="a_") == 3


def test_the_document_has_what_is_printed() -> None:
    rows = re.findall(r"^\| `(msb_cache_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", DOCUMENT.read_text(), re.M)
    printed = [
        (each.printed, each.kind, ", ".join(f"`{label}`" for label in each.labels), each.words)
        for each in FAMILIES
    ]
    printed.append((IDLE, "histogram", "`le`", IDLE_WORDS))
    assert [tuple(cell.strip() for cell in row) for row in rows] == printed


def test_without_prometheus_client_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UnsupportedError, match=r"`pip install 'msb-cache\[metrics\]'`"):
        exposition(FOUND)
    with pytest.raises(UnsupportedError):
        write_textfile(FOUND, tmp_path / "x.prom")
    assert not (tmp_path / "x.prom").exists()


class TestTextfile:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        found = tmp_path / "textfiles"
        found.mkdir()
        return found

    def test_any_user_may_read_it(self, folder: Path) -> None:
        path = folder / "cache.prom"
        before = os.umask(0o077)
        try:
            write_textfile(FOUND, path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.read_text() == exposition(FOUND, "prometheus")
        assert [*folder.iterdir()] == [path]

    def test_it_is_replaced_as_a_whole(self, folder: Path) -> None:
        path = folder / "cache.prom"
        path.write_text("old")
        with path.open() as reader:
            write_textfile(EMPTY, path)
            assert reader.read() == "old"
        assert path.read_text() == exposition(EMPTY, "prometheus")

    def test_what_was_there_stays_if_it_cannot_be_written(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder / "cache.prom"
        path.write_text("old")

        def full(descriptor: int, path: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("msb_cache.artifacts.files.sync_descriptor", full)
        with pytest.raises(OSError, match="No space left"):
            write_textfile(FOUND, path)
        assert path.read_text() == "old"
        assert [*folder.iterdir()] == [path]

    def test_a_pipe_is_written_to(self, folder: Path) -> None:
        pipe = folder / "pipe"
        os.mkfifo(pipe, 0o600)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_textfile(EMPTY, pipe)
        text = os.read(reader, 65536)
        os.close(reader)
        assert text.decode() == exposition(EMPTY, "prometheus")
        assert stat.S_IMODE(pipe.stat().st_mode) == 0o600
