"""Have msb make files of images anew, in a home that it keeps: it writes an image's files when it pulls it.

msb pulls what a reference means. So its registry is asked first, and msb only where that is the manifest
whose files are wrong: a mended image must not become another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from msb_cache.artifacts.digests import digest_of
from msb_cache.engines.digesting import Stamp, stamp
from msb_cache.engines.engine import Mended, Mending, MendRequest, Wrong
from msb_cache.engines.mending import archive_of, manifests_of, repaired, sources
from msb_cache.errors import MicrosandboxError
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.msb.program import require_program
from msb_cache.msb.sync import sync
from msb_cache.oci.reference import Reference
from msb_cache.projections import digests, images
from msb_cache.projections.digests import Artifact
from msb_cache.wording import as_sentence, short


def mend(ledger: Ledger, request: MendRequest) -> Mending:
    """Have msb pull the images whose files are wrong, if that is wanted; as for ``Engine.mend``."""
    mending = Mending([], {})
    if not request.pull or not request.wrong:
        return mending
    require_program(ledger.layout.home, ledger.note)
    sync(ledger)
    left = {wrong.artifact: wrong for wrong in request.wrong}
    tried: set[str] = set()
    for artifact in list(left):
        with ledger.read() as connection:
            wanted = [] if connection is None else manifests_of(connection, artifact)
        for digest in wanted:
            if artifact in left and digest not in tried:
                tried.add(digest)
                _mend(ledger, request, digest, left, mending)
    return mending


def _mend(
    ledger: Ledger, request: MendRequest, digest: str, left: dict[Artifact, Wrong], mending: Mending
) -> None:
    layout = ledger.layout
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        of_it = [wrong for each, wrong in left.items() if digest in manifests_of(connection, each)]
        names = [row.name for row in images.handles_of(connection, digest)]
        came = [source for _, source in sources(connection, ledger.store(connection), digest)]
    before = {wrong.artifact: stamp(layout.artifact(*wrong.artifact)) for wrong in of_it}
    archive = archive_of(came)
    if archive is not None:
        why = f"it was loaded from {archive}: delete the file, and `msb load` that archive again"
    else:
        why = "no reference points at its manifest, and msb pulls references only"
        for name in names:
            try:
                _pull(ledger, request, digest, name)
            except (MicrosandboxError, OSError) as error:
                why = as_sentence(error)
            else:
                why = "msb has pulled its image, and did not write it anew: delete the file, and try again"
                break
    for each in _recorded(ledger, of_it, before):
        mending.mended.append(each)
        del left[each.kind, each.subject]
    for wrong in of_it:
        if wrong.artifact in left:
            mending.why_not[wrong.artifact] = why
        else:
            mending.why_not.pop(wrong.artifact, None)


def _pull(ledger: Ledger, request: MendRequest, digest: str, name: str) -> None:
    from msb_cache.engines.msb.add import pull
    from msb_cache.oci.registry.credentials import find_credential
    from msb_cache.oci.registry.images import Registry

    reference = Reference.parse(name)
    credential = find_credential(reference.registry, note=request.note)
    with Registry(reference, request.options, credential, request.note) as registry:
        found = registry.resolve(reference).manifest_digest
    if found != digest:
        raise MicrosandboxError(
            f"{reference.familiar} means {short(found)} at its registry by now, so a pull would make another "
            f"image of it than {short(digest)}; if you want that, `msb pull --force {reference.familiar}`"
        )
    pull(ledger, request.pulling(reference, None))


def _recorded(ledger: Ledger, wrong: Sequence[Wrong], before: dict[Artifact, Stamp | None]) -> list[Mended]:
    """Record of the files which msb has written anew that they are; return these."""
    anew = []
    for each in wrong:
        path = ledger.layout.artifact(*each.artifact)
        looks = stamp(path)
        if looks is not None and looks != before[each.artifact]:
            anew.append((each, digest_of(each.kind, path)))
    if not anew:
        return []
    with ledger.write(uuid7(), owner="msb") as transaction:
        for each, digest in anew:
            known = digests.digest(transaction.connection, each.artifact)
            transaction.append([repaired(each, digest, "pulled", known)])
    return [Mended(each.kind, each.subject, "pulled") for each, _ in anew]
