"""A cache's metrics as text for a monitoring system: OpenMetrics, or the classic format of Prometheus.

What there is to tell, with its name and its words, stands in ``FAMILIES``; docs/metrics.md has the same as a
table. Only this module needs prometheus_client, the extra ``metrics``. No label has a value that a log could
make without end: no reference, no digest, no holder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from msb_cache.care.metrics import CacheMetrics, LastPrune
from msb_cache.extras import require
from msb_cache.home.atomic import opened

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Format = Literal["openmetrics", "prometheus"]

PREFIX = "msb_cache_"
_SECOND = 10**9
_FOR_ALL = 0o644
"""The mode of a file for node-exporter, which runs as another user."""

Values = Iterable[tuple[tuple[str, ...], float]]
"""The samples of a family: the values of its labels, and the sample's."""


class Family(NamedTuple):
    """One thing that is told.

    Attributes:
        name: without the prefix, and for a counter without ``_total``.
        kind: its type.
        words: what it is, in a sentence.
        values: its samples; none: it is left out.
        labels: the names of its labels.
        unit: in which it is counted, where that is the end of its name.
    """

    name: str
    kind: Literal["gauge", "counter", "info"]
    words: str
    values: Callable[[CacheMetrics], Values]
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def printed(self) -> str:
        """Its samples' name."""
        return PREFIX + self.name + {"gauge": "", "counter": "_total", "info": "_info"}[self.kind]


def _one(value: float | None) -> Values:
    return () if value is None else [((), value)]


def _by(counts: Mapping[str, int]) -> Values:
    return [((name,), count) for name, count in counts.items()]


def _of_last_prune(value: Callable[[LastPrune], float]) -> Callable[[CacheMetrics], Values]:
    return lambda found: _one(None if found.last_prune is None else value(found.last_prune))


def _version() -> str:
    from importlib.metadata import version

    return version("msb-cache")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _bytes(found: CacheMetrics) -> Values:
    return [*(((each.kind,), each.bytes) for each in found.files), (("flat",), found.flat_bytes)]


def _counts(found: CacheMetrics) -> Values:
    return [*(((each.kind,), each.files) for each in found.files), (("flat",), found.flat_roots)]


def _plain(text: str) -> str:
    """Return a label's value that a log holds, without what would drive a terminal that shows it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "_" for c in text)


def _deleted(found: CacheMetrics) -> Values:
    counts: dict[tuple[str, ...], int] = {}
    for each in found.deleted:
        key = each.cause, _plain(each.rule)
        counts[key] = counts.get(key, 0) + each.images
    return counts.items()


IDLE = PREFIX + "image_idle_seconds"
IDLE_WORDS = "For how long images are idle now; in use is idle for 0 seconds. Not a rate: counts also fall."

FAMILIES = (
    Family("images", "gauge", "References in the cache.", lambda m: _one(m.images)),
    Family("manifests", "gauge", "Manifests in the index.", lambda m: _one(m.manifests)),
    Family(
        "unreferenced_manifests",
        "gauge",
        "Manifests in the index at which no reference points.",
        lambda m: _one(m.unreferenced_manifests),
    ),
    Family("files", "gauge", "Files of the index by kind; flat roots as they lie there.", _counts, ("kind",)),
    Family(
        "file_bytes",
        "gauge",
        "Bytes of the files of the index when they came, by kind; of flat roots, what they take now.",
        _bytes,
        ("kind",),
        "bytes",
    ),
    Family(
        "files_of_unknown_size",
        "gauge",
        "Files of the index of which no size was recorded; they count as 0 bytes.",
        lambda m: [((each.kind,), each.unknown) for each in m.files],
        ("kind",),
    ),
    Family(
        "reclaimable_bytes",
        "gauge",
        "Bytes of the files that `prune` without rules would delete now, by kind.",
        lambda m: [((each.kind,), each.reclaimable_bytes) for each in m.files],
        ("kind",),
        "bytes",
    ),
    Family("holders", "gauge", "What holds an image, by kind.", lambda m: _by(m.holders), ("kind",)),
    Family("running", "gauge", "Boots from an image that have not ended.", lambda m: _one(m.running)),
    Family("pins", "gauge", "Pins that have not ended.", lambda m: _one(m.pins)),
    Family(
        "last_prune_timestamp_seconds",
        "gauge",
        "When the last prune ended, since the epoch.",
        _of_last_prune(lambda last: last.finished_at_ns / _SECOND),
        unit="seconds",
    ),
    Family(
        "last_prune_duration_seconds",
        "gauge",
        "How long the last prune took.",
        _of_last_prune(lambda last: last.duration_ns / _SECOND),
        unit="seconds",
    ),
    Family(
        "last_prune_freed_bytes",
        "gauge",
        "Bytes of the files that the last prune deleted.",
        _of_last_prune(lambda last: last.freed_bytes),
        unit="bytes",
    ),
    Family(
        "last_prune",
        "info",
        "How the last prune ended: completed, or partial if something had to stay.",
        lambda m: [((m.last_prune.outcome,), 1)] if m.last_prune else (),
        ("outcome",),
    ),
    Family(
        "deleted_images",
        "counter",
        "References that left the index since the log began, by cause and by the rule that decided.",
        _deleted,
        ("cause", "rule"),
    ),
    Family("events", "counter", "Events in the log, by type.", lambda m: _by(m.events), ("type",)),
    Family(
        "unfinished_deletions",
        "gauge",
        "Deletions that have begun and not ended: running now, or cut short.",
        lambda m: _one(m.unfinished_deletions),
    ),
    Family(
        "leftover_files",
        "gauge",
        "Files that deletions had to leave and that the log has not seen go, by reason.",
        lambda m: _by(m.leftover_files),
        ("reason",),
    ),
    Family(
        "damaged_images",
        "gauge",
        "Images that lack a file which another program deleted.",
        lambda m: _one(m.damaged_images),
    ),
    Family(
        "disk_free_bytes",
        "gauge",
        "What the file system of the cache has left for the user who asks.",
        lambda m: _one(m.disk_free_bytes),
        unit="bytes",
    ),
    Family(
        "disk_size_bytes",
        "gauge",
        "How large the file system of the cache is.",
        lambda m: _one(m.disk_size_bytes),
        unit="bytes",
    ),
    Family("kept_by_msb", "gauge", "1 if msb keeps the home, else 0.", lambda m: _one(m.kept_by_msb)),
    Family(
        "sync_age_seconds",
        "gauge",
        "Since when msb's database was not read into the log; it is read only when it has changed.",
        lambda m: _one(None if m.sync_age_ns is None else m.sync_age_ns / _SECOND),
        unit="seconds",
    ),
    Family(
        "sync_failed",
        "gauge",
        "1 if what msb did could not be recorded now, so that all else lacks it.",
        lambda m: _one(m.sync_failed),
    ),
    Family("log_position", "gauge", "The last event's position.", lambda m: _one(m.log_position)),
    Family(
        "log_bytes",
        "gauge",
        "What the log takes of the disk, with what is folded from it.",
        lambda m: _one(m.log_bytes),
        unit="bytes",
    ),
    Family(
        "home",
        "info",
        "Which engine deletes in the home, and the versions of the log's schema and of the fold.",
        lambda m: [(("msb" if m.kept_by_msb else "msb-cache", str(m.schema), str(m.fold)), 1)],
        ("engine", "schema", "fold"),
    ),
    Family(
        "build",
        "info",
        "The release of msb-cache that says this, and its Python.",
        lambda m: [((_version(), _python()), 1)],
        ("version", "python"),
    ),
)
"""All but the histogram, in the order in which they are printed."""


def exposition(found: CacheMetrics, format_: Format = "openmetrics") -> str:
    """Return metrics as text.

    Args:
        found: what ``ImageCache.metrics`` returned.
        format_: ``openmetrics``, version 1.0.0, or ``prometheus``, the text format 0.0.4.

    Raises:
        UnsupportedError: prometheus_client is not installed.
    """
    require("metrics", "`metrics`", "prometheus_client")
    # All of it is imported, whichever part is asked for: with its HTTP server that takes 60 ms.
    from prometheus_client import exposition as prometheus
    from prometheus_client.openmetrics import exposition as openmetrics

    generate = openmetrics.generate_latest if format_ == "openmetrics" else prometheus.generate_latest
    return generate(_Collected([*_families(found)])).decode()


def write_textfile(found: CacheMetrics, path: str | os.PathLike[str]) -> None:
    """Write metrics for node-exporter's textfile collector: the classic format, which is all that it reads.

    The file is replaced when the new one is whole, and any user may read it.

    Args:
        found: what ``ImageCache.metrics`` returned.
        path: the file; node-exporter reads those whose names end with ``.prom``.

    Raises:
        UnsupportedError: prometheus_client is not installed.
        OSError: it cannot be written; what was there stays.
    """
    text = exposition(found, "prometheus").encode()
    with opened(path) as out:
        if os.path.isfile(out.name):
            os.fchmod(out.fileno(), _FOR_ALL)
        out.write(text)


class _Collected:
    """What prometheus_client asks for metrics: without a registry, which would add those of this process."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._metrics


def _families(found: CacheMetrics) -> Iterator[Metric]:
    from prometheus_client.metrics_core import HistogramMetricFamily, Metric

    for family in FAMILIES:
        metric = Metric(PREFIX + family.name, family.words, family.kind, family.unit)
        for values, value in family.values(found):
            metric.add_sample(family.printed, dict(zip(family.labels, values, strict=True)), value)
        if metric.samples:
            yield metric
    # Not a gauge histogram, which node-exporter does not know.
    idle = found.idle
    buckets = [(str(float(bound)), float(count)) for bound, count in idle.bounds]
    buckets.append(("+Inf", float(idle.images)))
    yield HistogramMetricFamily(IDLE, IDLE_WORDS, buckets, idle.sum_seconds, unit="seconds")
