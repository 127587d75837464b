"""Pulling into a cache: what is fetched, what is reused, what is recorded, and what is left after a fault."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    ImageCache,
    ImageNotFoundError,
    ImagePullFailedError,
    InvalidConfigError,
    InvalidImageError,
    InvalidReferenceError,
    PlatformNotFoundError,
    failpoints,
)
from msb_cache.artifacts.kinds import ArtifactKind
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.engine import PullRequest
from msb_cache.engines.own.downloads import STALE_SECONDS
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.credentials import Credential
from msb_cache.oci.registry.downloads import LayerProgress
from msb_cache.oci.registry.options import RegistryOptions
from tests.engines.interrupting import in_a_child, killing_at
from tests.imagebuilder import OCI_INDEX, docker_archive, file, image, index, layer, sha256
from tests.registry_server import (
    Auth,
    RegistryServer,
    answer,
    corrupt,
    drop,
    endless,
    error,
    html,
    redirect,
    stall,
    truncate,
)
from tests.trees import files_below

FAST = RegistryOptions(timeout=2, retries=2, backoff=0.01)
NOISE = random.Random(7).randbytes(700_000)
SHARED = layer([file("shared", NOISE)], "gzip")
ONE = image([SHARED, layer([file("one", b"1")], "zstd")])
TWO = image([SHARED, layer([file("two", b"2")], "gzip")])


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "cache-home") as opened:
        yield opened


def pull(cache: ImageCache, reference: str, **options: Any) -> str:
    handle = cache.pull(reference, **{"options": FAST, **options})
    assert handle.manifest_digest is not None
    return handle.manifest_digest


def last(cache: ImageCache) -> Any:
    return cache.events(reverse=True, limit=1)[0].data


def requested(server: RegistryServer) -> list[str]:
    return [request.path.split("/")[3] for request in server.requests if request.path != "/v2/"]


def partials(cache: ImageCache) -> list[str]:
    folder = cache.home / "cache/tmp/downloads"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_pull_and_what_it_records(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    seen: list[LayerProgress] = []
    handle = cache.pull(reference, options=FAST, progress=seen.append)
    assert handle.reference == reference
    assert handle.manifest_digest == ONE.digest
    assert handle.size_bytes == sum(len(each.blob) for each in ONE.layers)
    pulled = last(cache)
    assert (pulled.changed, pulled.previous_digest) == (True, None)
    assert (pulled.source.kind, pulled.source.name) == ("registry", server.host)
    assert (pulled.bytes_fetched, pulled.bytes_reused) == (handle.size_bytes, 0)
    assert pulled.duration_ns > 0
    queued = [LayerProgress(each.digest, "queued", 0, len(each.blob)) for each in ONE.layers]
    assert seen[: len(queued)] == queued
    assert {each.event for each in seen} >= {"started", "done"}
    assert requested(server) == ["manifests", "blobs", "blobs", "blobs"]
    assert partials(cache) == []
    assert cache.verify().sound
    assert cache.verify().disk == []


def test_pulled_and_loaded_are_the_same(server: RegistryServer, cache: ImageCache, tmp_path: Path) -> None:
    plain = image([layer([file("f", b"x" * 5000)]), layer([file("g", b"y")])], "app:1")
    (tmp_path / "a.tar").write_bytes(docker_archive(plain))
    with ImageCache(tmp_path / "other") as other:
        other.load(tmp_path / "a.tar")
        pull(cache, server.add(plain))
        pulled, loaded = cache.inspect(f"{server.host}/app:1"), other.inspect("app:1")
        assert pulled.config == loaded.config
        assert pulled.layers == loaded.layers
        assert files_below(cache.home / "cache/layers") == files_below(other.home / "cache/layers")


@pytest.mark.parametrize(("policy", "requests"), [("missing", []), ("always", ["manifests"]), ("never", [])])
def test_everything_cached(
    server: RegistryServer, cache: ImageCache, policy: str, requests: list[str]
) -> None:
    reference = server.add(ONE)
    pull(cache, reference)
    server.requests.clear()
    pull(cache, reference, policy=policy)
    assert requested(server) == requests
    pulled = last(cache)
    assert (pulled.changed, pulled.bytes_fetched) == (False, 0)
    assert pulled.bytes_reused == sum(len(each.blob) for each in ONE.layers)


def test_an_index_costs_one_request_too_when_all_is_cached(server: RegistryServer, cache: ImageCache) -> None:
    other = image(TWO.layers, architecture="s390x")
    server.add(ONE, tag="one")
    server.add(other, tag="other")
    reference = server.index(index([ONE.descriptor, other.descriptor]), tag="multi")
    assert pull(cache, reference, platform="linux/amd64") == ONE.digest
    server.requests.clear()
    pull(cache, reference, platform="linux/amd64", policy="always")
    assert requested(server) == ["manifests"]
    assert pull(cache, reference, platform="linux/s390x") == other.digest
    assert cache.get(reference).architecture == "s390x"


@pytest.mark.parametrize("kind", ["metadata", "fsmeta", "vmdk"])
def test_always_mends_what_another_image_left(
    server: RegistryServer, cache: ImageCache, kind: ArtifactKind
) -> None:
    """A pull that finds the image cached does not look; what needs no layer anew fetches none."""
    reference, other = server.add(ONE, tag="one"), server.add(TWO, tag="two")
    pull(cache, reference)
    pull(cache, other)
    layout = Layout(cache.home)
    paths = [
        layout.metadata(name) if kind == "metadata" else layout.artifact(kind, built.digest)
        for name, built in ((reference, ONE), (other, TWO))
    ]
    content = paths[1].read_bytes()
    wrong = content.ljust(paths[0].stat().st_size, b"\n")[: paths[0].stat().st_size]
    paths[0].write_bytes(wrong)
    pull(cache, reference)
    assert paths[0].read_bytes() == wrong
    [problem] = cache.verify().disk
    assert (problem.problem in ("other", "damaged"), problem.kind) == (True, kind)
    server.requests.clear()
    pull(cache, reference, policy="always")
    assert cache.verify().sound
    if kind != "fsmeta":
        assert not [
            digest for digest in server.requests if any(each.digest in str(digest) for each in ONE.layers)
        ]
    assert (last(cache).changed, last(cache).manifest_digest) == (False, ONE.digest)


def test_force_fetches_everything_anew(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    pull(cache, reference)
    path = Layout(cache.home).layer(SHARED.diff_id)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(NOISE[:100], bytes(100)))  # damage that no size shows
    pull(cache, reference)
    assert path.read_bytes() != whole
    server.requests.clear()
    pull(cache, reference, force=True)
    assert requested(server) == ["manifests", "blobs", "blobs", "blobs"]
    assert path.read_bytes() == whole
    assert last(cache).bytes_reused == 0


def test_force_with_a_layer_that_another_image_needs(server: RegistryServer, cache: ImageCache) -> None:
    pull(cache, server.add(ONE, tag="one"))
    two = server.add(TWO, tag="two")
    pull(cache, two)
    pull(cache, two, force=True)
    assert last(cache).bytes_reused == 0
    check_clean_home(cache)


def test_a_cached_image_of_another_platform_does_not_do(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    pull(cache, reference)
    for policy in ("missing", "always"):
        with pytest.raises(PlatformNotFoundError, match="linux/s390x"):
            pull(cache, reference, platform="linux/s390x", policy=policy)


def test_a_shared_layer_is_fetched_once(server: RegistryServer, cache: ImageCache) -> None:
    pull(cache, server.add(ONE, tag="one"))
    seen: list[LayerProgress] = []
    pull(cache, server.add(TWO, tag="two"), progress=seen.append)
    assert server.count(SHARED.digest) == 1
    assert [each.layer for each in seen if each.event == "exists"] == [SHARED.digest]
    assert (last(cache).bytes_fetched, last(cache).bytes_reused) == (
        len(TWO.layers[1].blob),
        len(SHARED.blob),
    )


def test_a_moved_tag(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    created = cache.pull(reference, options=FAST).created_at_ns
    server.add(TWO)
    assert pull(cache, reference) == ONE.digest  # the policy `missing` does not ask
    assert pull(cache, reference, policy="always") == TWO.digest
    assert (last(cache).changed, last(cache).previous_digest) == (True, ONE.digest)
    assert cache.get(reference).created_at_ns == created


def test_by_digest(server: RegistryServer, cache: ImageCache) -> None:
    name = server.add(ONE).rpartition(":")[0]
    assert pull(cache, f"{name}@{ONE.digest}") == ONE.digest
    assert pull(cache, f"{name}:1@{ONE.digest}") == ONE.digest
    server.manifest("app", ONE.manifest, digest=TWO.digest)
    with pytest.raises(InvalidImageError, match="is damaged"):
        pull(cache, f"{name}@{TWO.digest}")


def of_manifest(cache: ImageCache, reference: str, digest: str, **options: Any) -> str:
    request = PullRequest(
        reference=Reference.parse(reference),
        digest=digest,
        began_ns=time.monotonic_ns(),
        options=FAST,
        **options,
    )
    return cache._session.engine().pull(request).row.manifest_digest


def test_of_one_manifest_under_a_name(server: RegistryServer, cache: ImageCache) -> None:
    """The tag means another one by now, and shall mean this one here."""
    name = server.add(ONE)
    server.add(TWO)
    assert of_manifest(cache, name, ONE.digest) == ONE.digest
    assert [handle.reference for handle in cache.list()] == [name]
    assert last(cache).spelling is None
    asked = len(server.requests)
    assert of_manifest(cache, name, ONE.digest) == ONE.digest
    assert len(server.requests) == asked  # it is cached
    assert of_manifest(cache, name, TWO.digest) == TWO.digest  # though what is cached there is another one
    assert (last(cache).previous_digest, last(cache).changed) == (ONE.digest, True)
    assert of_manifest(cache, name, ONE.digest, force=True) == ONE.digest
    assert cache.verify().disk == []


def test_one_manifest_that_is_not_to_be_had(server: RegistryServer, cache: ImageCache) -> None:
    name = server.add(ONE)
    with pytest.raises(ImageNotFoundError, match="policy `never`"):
        of_manifest(cache, name, ONE.digest, policy="never")
    with pytest.raises(ImagePullFailedError, match="app"):
        of_manifest(cache, name, TWO.digest)
    server.manifest("app", ONE.manifest, digest=TWO.digest)
    with pytest.raises(InvalidImageError, match="is damaged"):
        of_manifest(cache, name, TWO.digest)
    several = index([ONE.descriptor])
    server.manifest("app", several, type=OCI_INDEX)
    with pytest.raises(InvalidImageError, match=r"app:1 is no image manifest but an index$"):
        of_manifest(cache, name, sha256(several))
    with pytest.raises(InvalidReferenceError):
        of_manifest(cache, name, "sha256:../../etc")
    assert cache.list() == []
    assert last(cache).spelling is None
    assert cache.events(reverse=True, limit=1)[0].subject == name


def test_a_login_is_used_and_not_recorded(cache: ImageCache) -> None:
    with RegistryServer(auth=Auth("basic", {"ada": "s3cret-word"})) as server:
        reference = server.add(ONE)
        with pytest.raises(ImagePullFailedError, match="log"):
            pull(cache, reference, credential=Credential(username="ada", password="wrong-s3cret"))
        pull(cache, reference, credential=Credential(username="ada", password="s3cret-word"))
    text = repr(cache.events()) + repr(cache.history(reference))
    assert [event.type for event in cache.events(types=["image.pull_failed"])] == ["image.pull_failed"]
    assert "s3cret" not in text


@pytest.mark.parametrize(("policy", "jobs"), [("sometimes", 3), ("always", 0)])
def test_bad_arguments(cache: ImageCache, policy: Any, jobs: int) -> None:
    with pytest.raises(InvalidConfigError):
        cache.pull("localhost:1/x", policy=policy, jobs=jobs)
    assert not cache.home.exists()


def test_never(cache: ImageCache) -> None:
    with pytest.raises(ImageNotFoundError, match="forbids"):
        cache.pull("localhost:1/x", policy="never")
    assert cache.events() == []


def test_a_first_pull_that_fails_leaves_its_record_only(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    server.on("blobs/", error(500, "UNKNOWN", "broken"), always=True)
    with pytest.raises(ImagePullFailedError):
        pull(cache, reference)
    assert last(cache).type == "image.pull_failed"
    assert sorted(os.listdir(cache.home)) == ["db"]


FAULTS = {
    "not there": (("manifests/", error(404, "MANIFEST_UNKNOWN", "unknown")), "is not in the registry"),
    "a page": (("manifests/", html()), "HTML"),
    "no JSON": (("manifests/", answer(200, b"{")), "manifest"),
    "always 500": (("blobs/", error(500, "UNKNOWN", "broken")), "500|fails"),
    "a corrupt layer": ((SHARED.digest, corrupt(1000)), "damaged"),
    "a short layer": ((SHARED.digest, truncate(1000)), "layer"),
    "an endless manifest": (("manifests/", endless()), "more than 4194304 bytes"),
    "an endless layer": ((SHARED.digest, endless(prefix=False)), "damaged"),
    "redirects in a circle": (("manifests/", redirect("/v2/app/manifests/round")), "redirects in a circle"),
    "a redirect to itself": ((SHARED.digest, redirect(f"/v2/app/blobs/{SHARED.digest}")), "redirect"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_leaves_nothing_and_is_recorded(
    server: RegistryServer, cache: ImageCache, fault: str
) -> None:
    pull(cache, server.add(image([layer([file("other", b"o")])]), "other"))
    before = files_below(cache.home / "cache", locks=True)
    reference = server.add(ONE)
    (part, action), problem = FAULTS[fault]
    server.on(part, action, always=True)
    with pytest.raises((ImagePullFailedError, InvalidImageError), match=problem) as caught:
        pull(cache, reference)
    assert "\n" not in str(caught.value)
    failed = last(cache)
    assert failed.reason == str(caught.value)
    after = files_below(cache.home / "cache", locks=True)
    assert {name for name in after if "downloads/" not in name} == set(before)
    with pytest.raises(ImageNotFoundError):
        cache.get(reference)
    assert cache.history(reference)[-1].type == "image.pull_failed"


@pytest.mark.parametrize("fault", [drop(300_000), stall(300_000), drop(300_000, resume=False)])
def test_a_broken_connection_is_gone_on_with(server: RegistryServer, cache: ImageCache, fault: Any) -> None:
    reference = server.add(ONE)
    server.on(SHARED.digest, fault)
    pull(cache, reference, options=RegistryOptions(timeout=0.5, retries=2, backoff=0.01))
    assert cache.verify().sound
    offsets = [request.offset for request in server.requests if SHARED.digest in request.path]
    assert len(offsets) == 2
    assert partials(cache) == []


def test_killed_half_way_the_next_pull_goes_on(
    server: RegistryServer, cache: ImageCache, tmp_path: Path
) -> None:
    reference = server.add(ONE)

    server.on(SHARED.digest, stall(400_000))
    status = in_a_child(cache.home, killed_after_stall(reference), tmp_path, lambda step: None)
    assert os.WIFSIGNALED(status)
    assert partials(cache) == [SHARED.digest.removeprefix("sha256:") + ".partial"]
    assert cache.list() == []
    server.requests.clear()
    pull(cache, reference)
    (offset,) = [request.offset for request in server.requests if SHARED.digest in request.path]
    assert offset > 0
    assert partials(cache) == []
    check_clean_home(cache)


def killed_after_stall(reference: str) -> Any:
    def action(cache: ImageCache, _: Path) -> None:
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        cache.pull(reference, options=RegistryOptions(timeout=30))

    return action


def check_clean_home(cache: ImageCache) -> None:
    assert cache.verify().sound
    assert cache.verify().disk == []
    assert Layout(cache.home).interrupted_operations() == []


def test_a_damaged_partial_file_is_fetched_anew(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    folder = cache.home / "cache/tmp/downloads"
    folder.mkdir(parents=True)
    damaged = folder / f"{SHARED.digest.removeprefix('sha256:')}.partial"
    damaged.write_bytes(bytes(100_000))
    pull(cache, reference)
    assert partials(cache) == []
    check_clean_home(cache)
    assert cache.events(types=["image.pull_failed"]) == []


def test_two_pulls_at_once_fetch_once(server: RegistryServer, cache: ImageCache) -> None:
    reference = server.add(ONE)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with ImageCache(cache.home) as own:
                pull(own, reference, policy="always")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert server.count(SHARED.digest) == 1
    pulls = cache.events(types=["image.pulled"])
    assert sorted(pull.data.bytes_fetched > 0 for pull in pulls) == [False, False, True]  # type: ignore[attr-defined]
    check_clean_home(cache)


def test_stale_partial_files_are_collected(server: RegistryServer, cache: ImageCache) -> None:
    folder = cache.home / "cache/tmp/downloads"
    folder.mkdir(parents=True)
    stale, fresh = folder / f"{'0' * 64}.partial", folder / f"{'1' * 64}.partial"
    for path in (stale, fresh):
        path.write_bytes(b"begun")
    old = time.time() - STALE_SECONDS - 60
    os.utime(stale, (old, old))
    pull(cache, server.add(ONE))
    assert partials(cache) == [fresh.name]


def test_a_refused_layer_does_not_wait_for_its_rest(server: RegistryServer, cache: ImageCache) -> None:
    noise = random.Random(8).randbytes(500_000)
    refused = layer([file("../up"), file("noise", noise)], "gzip")
    other = layer([file("other", noise[::-1])], "gzip")
    reference = server.add(image([other, refused]))
    for each in (other, refused):
        server.on(each.digest, stall(100_000), stall(0), always=True)
    # What is wrong is the refused layer, not that the other's and its own rest were given up because of it.
    with pytest.raises(InvalidImageError, match="points upwards"):
        pull(cache, reference, options=RegistryOptions(timeout=0.2, retries=1000, backoff=0.01))
    assert server.count(refused.digest) <= 2
    assert f"{refused.digest.removeprefix('sha256:')}.partial" not in partials(cache)


def test_many_layers_side_by_side(server: RegistryServer, cache: ImageCache) -> None:
    layers = [layer([file(f"f{number}", bytes([number]) * 2000)], "gzip") for number in range(12)]
    pull(cache, server.add(image(layers)), jobs=4)
    assert cache.get(f"{server.host}/app:1").layer_count == 12
    check_clean_home(cache)


def test_killed_at_every_step_of_a_pull(server: RegistryServer, tmp_path: Path) -> None:
    reference = server.add(ONE)

    def action(cache: ImageCache, _: Path) -> None:
        cache.pull(reference, options=FAST)

    reached: list[str] = []
    failpoints.observer = reached.append
    try:
        with ImageCache(tmp_path / "counted") as counted:
            action(counted, tmp_path)
    finally:
        failpoints.observer = None
    assert reached[0] == "pull.resolved"
    for number in range(1, len(reached) + 1):
        home = tmp_path / f"home-{number}"
        assert os.WIFSIGNALED(in_a_child(home, action, tmp_path, killing_at(number)))
        with ImageCache(home) as cache:
            action(cache, tmp_path)
            check_clean_home(cache)
            assert [handle.manifest_digest for handle in cache.list()] == [ONE.digest]
