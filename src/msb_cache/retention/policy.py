"""What a person asks of a prune, in the words of the command line; ``queries.policy`` says what they mean.

A ``PrunePolicy`` is asked for once. A ``CachePolicy`` stands in a file, and is what a cache is kept small by.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from msb_cache.shapes import Result

By = Literal["used", "pulled"]


class PrunePolicy(Result, Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which images a prune takes; see docs/retention.md. One without any rule takes all that nothing uses.

    Durations are text such as ``14d``, ``12h`` or ``3 months``, or a ``timedelta``; sizes are text such as
    ``20GiB`` or ``500MB``, or a number of bytes. An image goes if it is selected, has each age that is given,
    is not protected, and, with a bound, if its room is needed.

    Attributes:
        unused_for: only what was not used for as long: pulled, used, booted, or held by one that let it go.
        older_than: only what has been what it is for as long: since its name began to point where it points.
        keep_last: keep so many of the most recent manifests of each repository, with all their tags.
        keep_last_by: what ``keep_last`` calls recent: the last use, or the last pull.
        max_size: take only so much that the cache takes no more room than this.
        min_free: take only so much that its file system has this free: a size, or a share such as ``10%``.
        filter: take only what is selected: ``reference=PATTERN``, ``label=KEY[=VALUE]``,
            ``label!=KEY[=VALUE]``, ``dangling[=BOOL]`` or ``digest=DIGEST``. Several of one key: any of them
            selects; of several keys, each must. ``label!=`` selects what has none of these labels.
        exclude: never take these references: patterns.
        grace: with any rule, keep what was pulled or used this short a time ago; None: an hour.
        best_effort: if all that may go frees too little for a bound, take that; else take nothing.
        max_delete: take nothing if more would go: a number of images, or a share such as ``50%``.
    """

    unused_for: str | timedelta | None = None
    older_than: str | timedelta | None = None
    keep_last: int | None = None
    keep_last_by: By = "used"
    max_size: str | int | None = None
    min_free: str | int | None = None
    filter: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    grace: str | timedelta | None = None
    best_effort: bool = False
    max_delete: str | int | None = None

    @property
    def has_rules(self) -> bool:
        """Whether it has any rule; a limit of how much may go is none."""
        return bool(
            self.unused_for is not None
            or self.older_than is not None
            or self.keep_last is not None
            or self.max_size is not None
            or self.min_free is not None
            or self.filter
            or self.exclude
            or self.grace is not None
        )

    def recorded(self) -> dict[str, Any]:
        """Return what the log keeps of it: what was given, and the grace."""
        found = {
            name: _plain(value)
            for name, value in asdict(self).items()
            if value is not None and value is not False and value != ()  # a bound of 0 is given
        }
        if self.has_rules:
            found.setdefault("grace", GRACE)
        if self.keep_last is None:
            found.pop("keep_last_by")
        return found

    def _shape(self) -> dict[str, Any]:
        return self.recorded()


class NamedRule(Struct, frozen=True, kw_only=True):
    """One rule of a policy file, and the name by which the log tells what went by it."""

    name: str
    rule: PrunePolicy


class Watermarks(Struct, frozen=True, kw_only=True):
    """When room is made by itself, and until when: sizes of the cache, or shares of its file system in use.

    Attributes:
        high: once so much is used, the least recently used images go …
        low: … until no more than this is.
    """

    high: str | int
    low: str | int


class CachePolicy(Result, Struct, frozen=True, kw_only=True):
    """What a policy file says; see docs/retention.md.

    Attributes:
        rules: in order: each sees what those before it left, and what any of them takes goes. A bound that
            cannot be kept takes all that may go.
        keep: filters, as a rule has them: what any of them selects, no rule takes.
        watermarks: the last rule, of all images; None: there is none.
        max_delete: take nothing if more would go than that; None: ``BRAKE`` of a cache that is not small.
        source: the file's path; empty: it is from no file.
        digest: the SHA-256 digest of the file, for the record.
    """

    rules: tuple[NamedRule, ...] = ()
    keep: tuple[str, ...] = ()
    watermarks: Watermarks | None = None
    max_delete: str | int | None = None
    source: str = ""
    digest: str = ""

    def recorded(self) -> dict[str, Any]:
        """Return what the log keeps of it."""
        rules = [{"name": each.name, **each.rule.recorded()} for each in self.rules]
        found: dict[str, Any] = {"file": self.source, "digest": self.digest, "rules": rules}
        if self.keep:
            found["keep"] = list(self.keep)
        if self.watermarks is not None:
            found["watermarks"] = {"high": self.watermarks.high, "low": self.watermarks.low}
        found["max_delete"] = BRAKE if self.max_delete is None else self.max_delete
        return found

    def _shape(self) -> dict[str, Any]:
        return self.recorded()


WATERMARKS = "watermarks"
"""The name of the rule that the watermarks are."""

BRAKE = "90%"
"""How much may go at once by a policy file that does not say it …"""
BRAKE_FROM = 10
"""… of a cache of at least so many images: of fewer, to lose all is no sign of a mistake."""

GRACE = "1h"
"""The grace where none is given."""


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        whole, rest = divmod(value, timedelta(seconds=1))
        return f"{whole}{f'.{rest.microseconds:06}'.rstrip('0') if rest else ''} seconds"
    return list(value) if isinstance(value, tuple) else value
