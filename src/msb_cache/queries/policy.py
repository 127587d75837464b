"""What a policy means: its durations, sizes, shares and selections, as rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import get_args

from msgspec.structs import replace

from msb_cache.errors import InvalidConfigError, InvalidReferenceError
from msb_cache.oci.digest import shown
from msb_cache.oci.reference import Reference
from msb_cache.queries import resolve
from msb_cache.queries.times import parse_duration
from msb_cache.retention.policy import (
    BRAKE,
    BRAKE_FROM,
    GRACE,
    WATERMARKS,
    By,
    CachePolicy,
    PrunePolicy,
    Watermarks,
)
from msb_cache.retention.rules import Limit, Rules, Share, repository

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE)
_POWERS = "kmgtp"
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%")
_LARGEST = 2**60
_MOST = 10**9
"""No cache has so many images, and every reader of the log can hold it."""
_KEYS = ("reference", "label", "label!", "dangling", "digest")
_TRUE, _FALSE = frozenset({"", "true", "1", "yes"}), frozenset({"false", "0", "no"})

Names = Sequence[str]
Labels = Mapping[str, str]


def rules_of(policy: PrunePolicy | CachePolicy, now_ns: int) -> list[Rules]:
    """Return what a policy means, rule by rule. For a bound of a file's all that may go does, if need be.

    Arguments and errors as for ``rule_of``.
    """
    if isinstance(policy, PrunePolicy):
        return [rule_of(policy, now_ns)]
    found = [replace(rule_of(each.rule, now_ns), name=each.name, best_effort=True) for each in policy.rules]
    if policy.watermarks is not None:
        found.append(replace(marks_of(policy.watermarks), grace=_duration(GRACE, now_ns) or 0))
    keep = [Selection([text]) for text in policy.keep]
    return [_keeping(rules, keep) for rules in found] if keep else found


def limit_of(policy: PrunePolicy | CachePolicy) -> Limit | None:
    """Return how much may go at once; None: all.

    Raises:
        InvalidConfigError: it is no number of images, and no share.
    """
    if policy.max_delete is not None:
        return Limit(_share_or(policy.max_delete, _count))
    return None if isinstance(policy, PrunePolicy) else Limit(_share_or(BRAKE, _count), BRAKE_FROM)


def rule_of(policy: PrunePolicy, now_ns: int) -> Rules:
    """Return what a rule means.

    Args:
        policy: the policy.
        now_ns: the present, in ns since the epoch, UTC: a month is as long as the last one was.

    Raises:
        InvalidConfigError: a value is none of its kind, or two contradict each other.
        InvalidReferenceError: a pattern has characters that no reference has.
    """
    for name in ("filter", "exclude"):
        texts = getattr(policy, name)  # one text alone would be read as its characters, and protect nothing
        if not isinstance(texts, tuple | list) or not all(isinstance(text, str) for text in texts):
            raise InvalidConfigError(f"{name} is a list of texts, and not {shown(repr(texts))}")
    last = policy.keep_last
    if last is not None and (type(last) is not int or not 1 <= last <= _MOST):
        raise InvalidConfigError(f"{shown(str(last))} keeps none; give a number from 1 on")
    if policy.keep_last_by not in get_args(By):
        raise InvalidConfigError(f"{shown(policy.keep_last_by)} is no way to count; use used or pulled")
    if policy.keep_last_by != "used" and policy.keep_last is None:
        raise InvalidConfigError("keep-last-by says what keep-last calls recent; give that with it")
    if policy.best_effort and policy.max_size is None and policy.min_free is None:
        raise InvalidConfigError("best-effort is about a bound; give max-size or min-free with it")
    selection = Selection(policy.filter)
    return Rules(
        unused_for=_duration(policy.unused_for, now_ns),
        older_than=_duration(policy.older_than, now_ns),
        keep_last=policy.keep_last,
        keep_last_by=policy.keep_last_by,
        max_size=None if policy.max_size is None else parse_size(policy.max_size),
        min_free=None if policy.min_free is None else _share_or(policy.min_free, parse_size),
        grace=_duration(policy.grace if policy.grace is not None else GRACE, now_ns) or 0,
        best_effort=policy.best_effort,
        selects=selection if policy.filter else None,
        excludes=_any_of(policy.exclude) if policy.exclude else None,
        needs_labels=selection.needs_labels,
    )


def marks_of(marks: Watermarks) -> Rules:
    """Return the rule that watermarks are.

    Raises:
        InvalidConfigError: one is no size and no share, they are of two kinds, or the low one is not lower.
    """
    high, low = _share_or(marks.high, parse_size), _share_or(marks.low, parse_size)
    if isinstance(high, Share) != isinstance(low, Share):
        raise InvalidConfigError("high and low are both sizes of the cache, or both shares such as 85%")
    if isinstance(high, Share) and isinstance(low, Share):
        lower = low.percent < high.percent
        found = Rules(min_free=Share(100 - low.percent))
    else:
        assert isinstance(low, int) and isinstance(high, int)  # noqa: S101, PT018
        lower, found = low < high, Rules(max_size=low)
    if not lower:
        raise InvalidConfigError(
            f"{shown(str(marks.low))} is not less than high, which is {shown(str(marks.high))}"
        )
    return replace(found, name=WATERMARKS, starts_at=high, best_effort=True)


def _keeping(rules: Rules, keep: Sequence[Selection]) -> Rules:
    """Return a rule that does not take what any of those selects."""
    return replace(
        rules,
        protects=lambda names, digest, labels: any(each(names, digest, labels) for each in keep),
        needs_labels=rules.needs_labels or any(each.needs_labels for each in keep),
    )


def parse_size(size: str | int) -> int:
    """Return a size in bytes: ``20GiB``, ``500 MB``, ``1.5g`` (1024³), or a number of bytes.

    Units with an ``i``, and single letters, count in 1024; ``kB``, ``MB``, ``GB``, ``TB`` and ``PB`` in 1000.

    Raises:
        InvalidConfigError: it is none, or larger than any disk.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found: float = size
    else:
        match = _SIZE.fullmatch(str(size).strip())
        if match is None or (match[3].lower() == "i") or (not match[2] and match[3].lower() == "ib"):
            raise InvalidConfigError(
                f"{shown(str(size))} is no size; write 20GiB, 500MB or a number of bytes"
            )
        unit = 1000 if match[3].lower() == "b" else 1024
        power = _POWERS.index(match[2].lower()) + 1 if match[2] else 0
        found = float(match[1]) * unit**power if "." in match[1] else int(match[1]) * unit**power
    if not 0 <= found <= _LARGEST:
        raise InvalidConfigError(f"{shown(str(size))} is no size that a disk has")
    return math.ceil(found)


def matcher(pattern: str) -> Callable[[Names, str], bool]:
    """Return a test whether an image is meant by a pattern: its reference, in any form, or its digest.

    A pattern without a tag means all tags of the repositories that match: ``app`` means ``app:1``, too.
    References are canonical or as typed; an image without one has only its digest.

    Raises:
        InvalidReferenceError: the pattern has characters that no reference has, or without wildcards is none.
    """
    if pattern.startswith("sha256:"):
        prefix = _digest(pattern)
        return lambda names, digest: digest.startswith(prefix)
    parsed = None if resolve.is_pattern(pattern) else resolve.as_reference(pattern)
    if parsed is not None:
        return _same(parsed, all_tags=repository(pattern) == pattern)
    fits = resolve.wildcards(pattern)

    def test(names: Names, digest: str) -> bool:
        # Not of the repository as a reference: that would have the tag ``latest``.
        forms = {form for name in names for form in (name, resolve.familiar(name))}
        return any(fits(form) or fits(repository(form)) for form in forms)

    return test


def _same(wanted: Reference, *, all_tags: bool) -> Callable[[Names, str], bool]:
    """Return a test whether an image has this reference, however that is written."""
    canonical, name = wanted.canonical, wanted.name

    def test(names: Names, digest: str) -> bool:
        if canonical in names:
            return True
        if wanted.digest is not None:
            tagged = wanted.tag is None or f"{name}:{wanted.tag}" in names
            return digest == wanted.digest and tagged and name in map(repository, names)
        return all_tags and name in map(repository, names)

    return test


class Selection:
    """Whether an image is selected by filters: by any of those of one key, and by each key."""

    def __init__(self, filters: Sequence[str]) -> None:
        found: dict[str, list[Callable[[Names, str, Labels], bool]]] = {}
        for text in filters:
            key, equals, value = text.partition("=")
            key = key.strip()
            if key not in _KEYS or (not equals and key != "dangling"):
                raise InvalidConfigError(
                    f"{shown(text)} is no filter; use reference=PATTERN, label=KEY[=VALUE], "
                    "label!=KEY[=VALUE], dangling[=true|false] or digest=DIGEST"
                )
            found.setdefault(key, []).append(_test(key, value.strip(), text))
        self._by_key = found
        self.needs_labels = "label" in found or "label!" in found

    def __call__(self, names: Names, digest: str, labels: Labels) -> bool:
        """Return whether an image of these names is selected; none: no reference points at it."""
        return all(
            any(test(names, digest, labels) for test in tests) != (key == "label!")
            for key, tests in self._by_key.items()
        )


def _test(key: str, value: str, text: str) -> Callable[[Names, str, Labels], bool]:
    if key == "dangling":
        wanted = value.lower()
        if wanted not in _TRUE | _FALSE:
            raise InvalidConfigError(f"{shown(text)} is no filter; dangling is true or false")
        return lambda names, digest, labels: bool(names) != (wanted in _TRUE)
    if not value:
        raise InvalidConfigError(f"{shown(text)} is no filter; it names nothing")
    if key == "reference":
        fits = matcher(value)
        return lambda names, digest, labels: fits(names, digest)
    if key == "digest":
        prefix = _digest(value)
        return lambda names, digest, labels: digest.startswith(prefix)
    name, equals, wanted = value.partition("=")
    if equals:
        return lambda names, digest, labels: labels.get(name) == wanted
    return lambda names, digest, labels: name in labels


def _digest(text: str) -> str:
    prefix = resolve.digest_prefix(text)
    if prefix is None:
        raise InvalidReferenceError(
            f"{shown(text)} is no digest; write at least four lower-case hexadecimal digits"
        )
    return prefix


def _any_of(patterns: Sequence[str]) -> Callable[[Names, str], bool]:
    tests = [matcher(pattern) for pattern in patterns]
    return lambda names, digest: any(test(names, digest) for test in tests)


def _duration(value: str | timedelta | None, now_ns: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise InvalidConfigError(f"{value} is no duration: it is negative")
        return (value // timedelta(microseconds=1)) * 1000
    if not isinstance(value, str):
        raise InvalidConfigError(f"{shown(repr(value))} is no duration; write '30 days', 12h or '3 months'")
    return parse_duration(value, now_ns)


def _share_or(value: str | int, otherwise: Callable[[str | int], int]) -> int | Share:
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return otherwise(value)
    if float(match[1]) > 100:
        raise InvalidConfigError(f"{shown(str(value))} is more than 100%")
    return Share(float(match[1]))


def _count(value: str | int) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidConfigError(f"{shown(text)} is no number of images and no share; write 100 or 50%")
    return int(text)
