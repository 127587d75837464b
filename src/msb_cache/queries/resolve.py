"""What a person's word for an image means: a reference, a wildcard, a digest or the beginning of one.

An exact reference always wins over a digest. In the index a word means an image that is there; in the log,
anything that ever was.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from msb_cache.errors import ImageNotFoundError, InvalidConfigError, InvalidReferenceError
from msb_cache.oci.digest import shown
from msb_cache.oci.reference import Reference
from msb_cache.oci.reference import as_typed as as_typed
from msb_cache.oci.reference import familiar as familiar
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow
from msb_cache.wording import short

if TYPE_CHECKING:
    from msb_cache.projections.state import Naming

# Compiled when first used.
_DIGEST = r"(?:sha256:)?([0-9a-f]{4,64})"
_HOLDER = r"(sandbox|snapshot):[^\x00-\x1f\x7f\ud800-\udfff]{1,500}"
_PATTERN = r"[A-Za-z0-9._:/@\[\]*?-]{1,300}"
_CANDIDATES = 5  # that an error lists


def seen(row: HandleRow) -> str:
    """Return how people see an image's reference."""
    return as_typed(row.reference, row.spelling)


def seen_name(naming: Naming, name: str) -> str:
    """Return how people see an image's reference, by the image's name."""
    return as_typed(name, naming.spelling(name))


def shown_name(naming: Naming, subject: str) -> str:
    """Return how people see an image, by its name, or a manifest without a reference, by its short digest."""
    return short(subject) if subject.startswith("sha256:") else seen_name(naming, subject)


def is_pattern(text: str) -> bool:
    """Return whether the text has a wildcard: ``*`` for any characters, ``?`` for one."""
    return "*" in text or "?" in text


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a canonical reference matches, in its canonical or its familiar form.

    What is no canonical reference is tested as it is.

    Raises:
        InvalidReferenceError: the pattern has characters that no reference has.
    """
    fits = wildcards(pattern)
    return lambda canonical: fits(canonical) or fits(familiar(canonical))


def wildcards(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a text matches as it is.

    Raises:
        InvalidReferenceError: the pattern has characters that no reference has.
    """
    if not re.fullmatch(_PATTERN, pattern):
        raise InvalidReferenceError(f"{shown(pattern)} is no image reference with wildcards")
    wanted = pattern.replace("[", "[[]")  # a reference may have brackets: to fnmatch one begins a set
    return lambda text: fnmatchcase(text, wanted)


def check_holder(text: str) -> None:
    """Refuse what is not the name of a holder.

    Raises:
        InvalidConfigError: it is none.
    """
    if not re.fullmatch(_HOLDER, text):
        raise InvalidConfigError(
            f"{shown(text[:100])} is no holder; write sandbox:NAME or snapshot:NAME (or its path)"
        )


def digest_prefix(text: str) -> str | None:
    """Return the beginning of a digest that the text can be, ``sha256:`` added; None if it can be none."""
    found = re.fullmatch(_DIGEST, text)
    return None if found is None else f"sha256:{found[1]}"


def as_reference(text: str) -> Reference | None:
    """Return the reference; None for what can only be a digest, such as 64 digits alone.

    Raises:
        InvalidReferenceError: it is neither.
    """
    try:
        return Reference.parse(text)
    except InvalidReferenceError:
        if digest_prefix(text) is None:
            raise
        return None


def only(digests: Sequence[str], text: str, where: str) -> str:
    """Return the one digest that was found for a text.

    Raises:
        ImageNotFoundError: there is none.
        InvalidReferenceError: there are several.
    """
    if len(digests) == 1:
        return digests[0]
    if not digests:
        raise ImageNotFoundError(f"image not found: no reference {shown(text)} and no such digest is {where}")
    raise InvalidReferenceError(f"several digests begin with {shown(text)}: {_listed(digests)}; give more")


def image(connection: sqlite3.Connection | None, text: str) -> HandleRow:
    """Return the image in the index that the text means; of several references to one manifest, the newest.

    Raises:
        ImageNotFoundError: there is none.
        InvalidReferenceError: the text is neither a reference nor a digest, or several digests begin with it,
            or the reference is there in several spellings, and the text is none of them.
    """
    found = _images(connection, text)
    if len({row.reference for row in found}) == 1:
        check_one_spelling(found, text)
    return found[0]


def reference(connection: sqlite3.Connection | None, text: str) -> HandleRow:
    """Return the image in the index whose reference the text means, for what is done to a reference.

    Raises:
        ImageNotFoundError: there is none.
        InvalidReferenceError: as for ``image``, or several references point at the digest.
    """
    found = _images(connection, text)
    if len(found) > 1:
        if digest_prefix(text) is None:
            check_one_spelling(found, text)
        names = _listed([seen(row) for row in found])
        raise InvalidReferenceError(f"{shown(text)} is the digest of several references, {names}; name one")
    return found[0]


def manifest(connection: sqlite3.Connection | None, text: str) -> str:
    """Return the digest of the manifest in the index that the text means, with a reference or without.

    Raises:
        ImageNotFoundError, InvalidReferenceError: as for ``image``.
    """
    prefix = digest_prefix(text)
    rows = [] if connection is None else by_reference(connection, text)
    if rows:
        check_one_spelling(rows, text)
        return rows[0].manifest_digest
    digests = []
    if connection is not None and prefix is not None:
        digests = images.digests_with(connection, prefix, _CANDIDATES + 1)
    return only(digests, text, "in the cache")


def in_index(connection: sqlite3.Connection | None, text: str) -> list[str]:
    """Return the names of the images in the index that the text means, with wildcards or without.

    Raises:
        ImageNotFoundError, InvalidReferenceError: as for ``image``; of several spellings all are meant.
    """
    if not is_pattern(text):
        return [row.name for row in _images(connection, text)]
    fits = matcher(text)
    rows = [] if connection is None else images.by_reference(connection)
    found = [row.name for row in rows if fits(row.reference) or (row.spelling and fits(row.spelling))]
    if not found:
        raise _no_match(text)
    return found


def in_log(connection: sqlite3.Connection | None, text: str) -> tuple[list[str], str | None]:
    """Return the references that the text ever meant and, if it is a digest, the whole digest.

    Raises:
        ImageNotFoundError: the log knows nothing of it.
        InvalidReferenceError: as for ``image``.
    """
    if is_pattern(text):
        return matching(text, [] if connection is None else images.known_references(connection)), None
    parsed = as_reference(text)
    if connection is not None and parsed is not None and images.is_subject(connection, parsed.canonical):
        return [parsed.canonical], None
    if connection is None or digest_prefix(text) is None:
        name = text if parsed is None else parsed.familiar
        known = [] if connection is None else images.known_references(connection)
        raise _not_found(f"the log knows no image {name}", text, map(familiar, known))
    digest = digest_in_log(connection, text)
    return images.references_of(connection, digest), digest


def digest_in_log(connection: sqlite3.Connection, text: str) -> str:
    """Return the digest of a manifest or layer in the log, from a unique beginning of it.

    Raises:
        ImageNotFoundError: the log knows none.
        InvalidReferenceError: the text is no beginning of a digest, or of several.
    """
    prefix = digest_prefix(text)
    if prefix is None:
        raise no_digest(text)
    return only(images.digests_in_log(connection, prefix, _CANDIDATES + 1), text, "in the log")


def no_digest(text: str) -> InvalidReferenceError:
    """Return the error about a text that cannot be the beginning of a digest."""
    return InvalidReferenceError(
        f"{shown(text)} is no digest; write sha256: and at least four lower-case hexadecimal digits"
    )


def matching(pattern: str, references: Iterable[str]) -> list[str]:
    """Return the canonical references that match, at least one.

    Raises:
        ImageNotFoundError: none does.
    """
    fits = matcher(pattern)
    found = [name for name in references if fits(name)]
    if not found:
        raise _no_match(pattern)
    return found


def _no_match(pattern: str) -> ImageNotFoundError:
    return ImageNotFoundError(f"no image matches {shown(pattern)}")


def _not_found(sentence: str, text: str, known: Iterable[str]) -> ImageNotFoundError:
    from msb_cache.queries.near import image_meant  # only an error offers what was probably meant

    return ImageNotFoundError(f"{sentence}{image_meant(text, known)}")


def _images(connection: sqlite3.Connection | None, text: str) -> list[HandleRow]:
    rows = [] if connection is None else by_reference(connection, text)
    if rows:
        return rows
    parsed, prefix = as_reference(text), digest_prefix(text)
    if connection is None or prefix is None:
        name = text if parsed is None else parsed.familiar
        known = [] if connection is None else images.by_reference(connection)
        raise _not_found(f"image not found: {name}", text, map(seen, known))
    digest = only(images.digests_with(connection, prefix, _CANDIDATES + 1), text, "in the cache")
    found = images.handles_of(connection, digest)
    if not found:
        raise ImageNotFoundError(f"image not found: no reference points at {digest} any more")
    return found


def by_reference(connection: sqlite3.Connection, text: str) -> list[HandleRow]:
    """Return the images of the reference that the text is: one, unless it is there in several spellings."""
    parsed = as_reference(text)
    if parsed is None:
        return []
    rows = images.spellings(connection, parsed.canonical)
    if not rows and parsed.digest is not None:
        row = images.handle_by_digest(connection, parsed.name, parsed.tag, parsed.digest)
        return [] if row is None else [row]
    return [row for row in rows if row.name == text] or rows


def check_one_spelling(rows: Sequence[HandleRow], text: str) -> None:
    """Refuse a reference that is there in several spellings."""
    if len(rows) > 1:
        names = _listed([seen(row) for row in rows])
        raise InvalidReferenceError(f"{shown(text)} is here under several names, {names}; write one as it is")


def _listed(names: Sequence[str]) -> str:
    more = " and more" if len(names) > _CANDIDATES else ""
    return ", ".join(names[:_CANDIDATES]) + more
