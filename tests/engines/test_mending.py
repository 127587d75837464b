"""Which manifests bring a file back, where they came from, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import ImageCache, RegistryOptions
from msb_cache.engines.engine import Wrong
from msb_cache.engines.mending import archive_of, manifests_of, repaired, sources
from msb_cache.eventstore import events as ev
from msb_cache.projections.rows import DigestRow
from tests.cli.support import APP, TOOL, written
from tests.logs import digest
from tests.registry_server import RegistryServer

FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
ARCHIVE, STDIN, REGISTRY, MSB = (
    ev.Source(kind="archive", name="/a.tar"),
    ev.Source(kind="archive", name="-"),
    ev.Source(kind="registry", name="docker.io"),
    ev.Source(kind="microsandbox"),
)


def test_where_an_image_came_from(tmp_path: Path) -> None:
    """A registry counts, though the image was loaded later, and the reference that it had then."""
    with ImageCache(tmp_path / "home") as cache, RegistryServer() as server:
        name = server.add(APP)
        cache.pull(name, options=FAST)
        cache.load(written(tmp_path / "app.tar", APP), tag=name)
        cache.remove(name, force=True)
        cache.pull(server.add(TOOL), options=FAST)  # the same name is of another image now
        with cache._ledger.read() as connection:
            assert connection is not None
            found = [*sources(connection, cache._ledger.store(connection), APP.digest)]
            shared = manifests_of(connection, ("layer", APP.layers[0].diff_id))
            of_metadata = manifests_of(connection, ("metadata", "docker.io/library/app:1"))
            of_nothing = manifests_of(connection, ("vmdk", digest("none")))
    assert [(str(reference), source and source.kind) for reference, source in found] == [
        ("app:latest", "archive"),
        ("app:1", "archive"),
        (name, "registry"),
    ]
    assert {*shared} == {APP.digest, TOOL.digest}
    assert (of_metadata, of_nothing) == ([APP.digest], [])


@pytest.mark.parametrize(
    ("came", "archive"),
    [
        ([], None),
        ([None, MSB], None),
        ([ARCHIVE], "/a.tar"),
        ([STDIN], "stdin"),
        ([ARCHIVE, REGISTRY], None),
    ],
)
def test_the_archive_that_it_came_from(came: list[ev.Source | None], archive: str | None) -> None:
    assert archive_of(came) == archive


@pytest.mark.parametrize(
    ("before", "differs"),
    [(None, False), (("made", 1), False), (("made", 2), True), (("seen", 2), False)],
)
def test_what_is_recorded(before: tuple[str, int] | None, differs: bool) -> None:
    row = before and DigestRow("vmdk", digest(9), "sha256", digest(before[1]), before[0], 0, 1)
    event = repaired(Wrong("vmdk", digest(9), "missing"), digest(1), "made", row or None)
    assert event.subject == digest(9)
    assert event.event == ev.ArtifactRepaired(
        kind="vmdk", algorithm="sha256", digest=digest(1), problem="missing", how="made", differs=differs
    )
