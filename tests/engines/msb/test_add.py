"""Pulling and loading in a home that the fake msb keeps: msb adds, and the log says that we asked for it."""

from __future__ import annotations

import gzip
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import (
    Activity,
    Credential,
    HomeOwnedByMicrosandboxError,
    ImageCache,
    ImageNotFoundError,
    ImagePullFailedError,
    InvalidConfigError,
    InvalidImageError,
    InvalidReferenceError,
    MsbProgramError,
    RegistryOptions,
)
from msb_cache.engines.engine import PullRequest
from msb_cache.eventstore import events as ev
from msb_cache.oci.layer.zstd import zstd
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.downloads import LayerProgress
from tests.engines.msb.support import check, files_of, forked
from tests.fakemsb import FakeMsb
from tests.fakemsb_program import in_its_own_form
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer, oci_archive
from tests.peers.realmsb import BASE, IMAGES

NEXT = IMAGES["next"]
REMOTE = "registry.example/team/app:1"


class Pulled(BuiltImage):
    """An image whose manifest is in msb's own form already: what msb keeps of it has its digest."""

    @property
    def manifest(self) -> bytes:
        return in_its_own_form(super().manifest.decode()).encode()


def remote(content: bytes) -> Pulled:
    built = image([BASE, layer([file("remote", content * 500)])])
    return Pulled(built.config, built.layers)


ONE, TWO = remote(b"one"), remote(b"two")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return an archive of another app:1."""
    path = tmp_path / "next.tar"
    path.write_bytes(docker_archive(NEXT))
    return path


def pulls(cache: ImageCache, after: int) -> list[tuple[str, ev.ImagePulled]]:
    """Return the pulls since a position that the log says are ours; they are one operation."""
    found = [event for event in cache.events(after=after, types=["image.pulled"]) if not event.actor.observed]
    assert len({event.operation for event in found}) <= 1
    return [(event.subject, event.data) for event in found]  # type: ignore[misc]


# -- pull -------------------------------------------------------------------------------------------------


def test_pull(fake: FakeMsb, cache: ImageCache) -> None:
    fake.offer(REMOTE, ONE)
    position = len(cache.events())
    handle = cache.pull(REMOTE)
    assert fake.calls == [["pull", "--quiet", "--", REMOTE]]
    assert handle.manifest_digest == ONE.digest
    ((subject, pulled),) = pulls(cache, position)
    assert (subject, pulled.manifest_digest, pulled.changed) == (REMOTE, ONE.digest, True)
    assert pulled.source == ev.Source(kind="registry", name="registry.example")
    assert (pulled.bytes_fetched, pulled.bytes_reused) == (len(ONE.layers[1].blob), len(BASE.blob))
    assert pulled.duration_ns
    (added,) = cache.events(after=position, types=["manifest.added"])
    assert (added.subject, added.actor.observed) == (ONE.digest, False)
    check(cache, fake)


def test_layers_are_told_of_as_they_come(fake: FakeMsb, cache: ImageCache) -> None:
    fake.offer(REMOTE, ONE)
    fake.hangs("pull", at="blobs")
    seen: list[LayerProgress] = []

    def progress(step: LayerProgress) -> None:
        seen.append(step)
        fake.release()

    cache.pull(REMOTE, progress=progress)
    blob = ONE.layers[1]
    assert seen[0] == LayerProgress(blob.digest, "started", len(blob.blob), None)
    check(cache, fake)


def test_a_load_tells_how_much_msb_has_been_given(fake: FakeMsb) -> None:
    told: list[Activity] = []
    packed = gzip.compress(docker_archive(NEXT))
    with ImageCache(fake.home, progress=told.append) as cache:
        cache.load(io.BytesIO(packed))
    loading = [each for each in told if each.what == "msb loads the archive"]
    assert loading[0].done == 0
    assert max(each.done for each in loading) == len(packed)
    assert loading[-1].over


def test_pull_of_what_is_cached(fake: FakeMsb, cache: ImageCache) -> None:
    fake.offer(REMOTE, ONE)
    cache.pull(REMOTE)
    fake.offer(REMOTE, TWO)  # which nothing asks for
    used = cache.get(REMOTE).last_used_at_ns or 0
    for policy in ("missing", "never"):
        position = len(cache.events())
        fake.calls  # noqa: B018 - forgets them
        assert cache.pull(REMOTE, policy=policy).manifest_digest == ONE.digest
        assert len(fake.calls) == (policy == "missing")
        ((_, pulled),) = pulls(cache, position)
        assert (pulled.changed, pulled.bytes_fetched, pulled.previous_digest) == (False, 0, None)
        assert pulled.bytes_reused == cache.get(REMOTE).size_bytes
        assert len(cache.events()) == position + 1  # no use beside it
        used, before = cache.get(REMOTE).last_used_at_ns or 0, used
        assert used > before
    check(cache, fake)


@pytest.mark.parametrize("how", [{"policy": "always"}, {"force": True}])
def test_pull_of_what_has_moved(fake: FakeMsb, cache: ImageCache, how: dict[str, object]) -> None:
    fake.offer(REMOTE, ONE)
    cache.pull(REMOTE)
    fake.offer(REMOTE, TWO)
    position = len(cache.events())
    fake.calls  # noqa: B018 - forgets them
    assert cache.pull(REMOTE, **how).manifest_digest == TWO.digest  # type: ignore[arg-type]
    assert fake.calls == [["pull", "--quiet", "--force", "--", REMOTE]]
    ((_, pulled),) = pulls(cache, position)
    assert (pulled.changed, pulled.previous_digest) == (True, ONE.digest)
    check(cache, fake)


@pytest.mark.parametrize(
    ("reference", "options", "flags"),
    [
        (REMOTE, RegistryOptions(insecure=True), ["--insecure"]),
        ("localhost:5000/app:1", RegistryOptions(), ["--insecure"]),
        ("127.0.0.1:5000/app:1", RegistryOptions(), ["--insecure"]),
        (REMOTE, RegistryOptions(ca_certs=Path("/etc/own.pem")), ["--ca-certs", "/etc/own.pem"]),
    ],
)
def test_how_the_registry_is_reached(
    fake: FakeMsb, cache: ImageCache, reference: str, options: RegistryOptions, flags: list[str]
) -> None:
    fake.offer(reference, ONE)
    cache.pull(reference, options=options)
    assert fake.calls == [["pull", "--quiet", *flags, "--", reference]]


def test_pull_names_an_image_as_it_is_typed(fake: FakeMsb, cache: ImageCache) -> None:
    fake.offer("docker.io/library/new:latest", TWO)
    typed = ["new", "docker.io/library/new"]
    assert [cache.pull(name).reference for name in typed] == typed
    assert fake.calls == [["pull", "--quiet", "--", name] for name in typed]
    assert {*typed} <= fake.references()
    assert {image.reference for image in cache.list("new*")} == {*typed}
    assert {event.subject for event in cache.history("new:latest")} >= {"docker.io/library/new:latest"}
    check(cache, fake)


def test_a_failed_pull_is_recorded(fake: FakeMsb, cache: ImageCache) -> None:
    position = len(cache.events())
    with pytest.raises(ImagePullFailedError, match=f"^msb could not pull {REMOTE}: registry error: "):
        cache.pull(REMOTE)
    (failed,) = cache.events(after=position)
    assert (failed.subject, failed.actor.observed) == (REMOTE, False)
    assert isinstance(failed.data, ev.ImagePullFailed)
    assert failed.data.source == ev.Source(kind="registry", name="registry.example")
    assert failed.data.reason.startswith("registry error:")
    check(cache, fake)


def test_a_failure_tells_no_secret(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("pull", "error: https://me:hunter2@registry.example/v2/x?sig=hunter2 says 403")
    with pytest.raises(ImagePullFailedError, match=r"https://registry.example/v2/x says 403$"):
        cache.pull(REMOTE)
    assert "hunter2" not in str(cache.events())


@pytest.mark.parametrize("step", ["begin", "files", "rows"])
def test_msb_is_killed_while_it_pulls(fake: FakeMsb, cache: ImageCache, step: str) -> None:
    fake.offer(REMOTE, ONE)
    fake.dies("pull", step)
    with pytest.raises(ImagePullFailedError, match=r"exit code -9$"):
        cache.pull(REMOTE)
    # What it did before stands: it is seen, and not ours.
    assert (REMOTE in {handle.reference for handle in cache.list()}) == (step == "rows")
    pulled = [event for event in cache.events(types=["image.pulled"]) if event.subject == REMOTE]
    assert [event.actor.observed for event in pulled] == [True] * (step == "rows")
    assert cache.pull(REMOTE).manifest_digest == ONE.digest
    check(cache, fake)


def test_what_others_load_meanwhile_is_theirs(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    fake.offer(REMOTE, ONE)
    fake.meanwhile("pull", ["load", "-q", "-i", str(archive)], at="end")
    position = len(cache.events())
    cache.pull(REMOTE)
    assert [subject for subject, _ in pulls(cache, position)] == [REMOTE]
    found = {
        (event.type, event.subject): event.actor.observed
        for event in cache.events(after=position, types=["image.pulled", "manifest.added"])
    }
    assert found == {
        ("manifest.added", ONE.digest): False,
        ("manifest.added", NEXT.digest): True,
        ("image.pulled", REMOTE): False,
        ("image.pulled", "docker.io/library/app:1"): True,
    }
    check(cache, fake)


def test_another_process_sees_the_pull_first(fake: FakeMsb, cache: ImageCache) -> None:
    fake.offer(REMOTE, ONE)
    fake.hangs("pull", "end")
    position = len(cache.events())

    def run() -> None:
        with ImageCache(fake.home) as other:
            other.pull(REMOTE)

    child = forked(run)
    fake.wait_until_it_hangs()
    cache.sync()
    fake.release()
    assert os.waitpid(child, 0)[1] == 0
    # That the image came was seen and by whom not; the pull that asked for it is told all the same.
    seen, asked = cache.events(after=position, types=["image.pulled"])
    assert isinstance(seen.data, ev.ImagePulled)
    assert isinstance(asked.data, ev.ImagePulled)
    assert (seen.actor.observed, seen.data.changed, seen.data.source.kind) == (True, True, "microsandbox")
    assert (asked.actor.observed, asked.data.changed, asked.data.source.kind) == (False, False, "registry")
    check(cache, fake)


def test_what_a_pull_refuses(fake: FakeMsb, cache: ImageCache) -> None:
    position = len(cache.events())
    with pytest.raises(ImageNotFoundError, match=r"nothing:1, and the policy `never` forbids to pull it$"):
        cache.pull("nothing:1", policy="never")
    with pytest.raises(InvalidConfigError, match=r"use `msb registry login registry.example`$"):
        cache.pull(REMOTE, credential=Credential(username="me", password="hunter2"))
    with pytest.raises(InvalidConfigError, match=r"pulls for .* only; use another --home for linux/riscv64$"):
        cache.pull(REMOTE, platform="linux/riscv64")
    with pytest.raises(InvalidReferenceError):
        cache.pull("BAD::x")
    one = PullRequest(
        reference=Reference.parse(REMOTE), digest="sha256:" + 64 * "0", began_ns=0, options=RegistryOptions()
    )
    with pytest.raises(InvalidConfigError, match=r"team/app@sha256:0+, or use another --home$"):
        cache._session.engine().pull(one)
    assert fake.calls == []
    assert len(cache.events()) == position
    assert "hunter2" not in str(cache.events())


def test_no_msb(
    fake: FakeMsb, cache: ImageCache, archive: Path, monkeypatch: pytest.MonkeyPatch, no_msb: None
) -> None:
    monkeypatch.delenv("MSB_PATH")
    position = len(cache.events())
    commands: list[Callable[[], object]] = [lambda: cache.pull(REMOTE), lambda: cache.load(archive)]
    for command in commands:
        with pytest.raises(HomeOwnedByMicrosandboxError, match="not installed here, so it is only read"):
            command()
    assert len(cache.events()) == position
    monkeypatch.setenv("MSB_PATH", str(fake.home / "nothing"))
    with pytest.raises(MsbProgramError, match="MSB_PATH names no program"):
        cache.pull(REMOTE)


# -- load -------------------------------------------------------------------------------------------------


def test_load(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    position = len(cache.events())
    handles = cache.load(archive, tag="newer")
    assert fake.calls == [["load", "--tag", "newer", "--input", str(archive)]]
    assert [handle.reference for handle in handles] == ["app:1", "newer"]
    assert {handle.manifest_digest for handle in handles} == {NEXT.digest}
    found = dict(pulls(cache, position))
    assert {subject: pulled.previous_digest for subject, pulled in found.items()} == {
        "docker.io/library/app:1": IMAGES["app"].digest,
        "docker.io/library/newer:latest": None,
    }
    for pulled in found.values():
        assert pulled.source == ev.Source(kind="archive", name=str(archive))
    # The layer that app:1 had is reused, and the other one counts once.
    assert sum(pulled.bytes_fetched or 0 for pulled in found.values()) == len(NEXT.layers[1].blob)
    position = len(cache.events())
    assert cache.load(archive)[0].manifest_digest == NEXT.digest
    ((_, again),) = pulls(cache, position)
    assert (again.changed, again.bytes_fetched) == (False, 0)
    check(cache, fake)


def test_load_of_many_images(fake: FakeMsb, cache: ImageCache, tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    named = [image(built.layers, name) for built, name in ((ONE, "one:1"), (TWO, "two:1"))]
    path.write_bytes(oci_archive(*named))
    assert [handle.reference for handle in cache.load(path)] == ["one:1", "two:1"]
    check(cache, fake)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
@pytest.mark.parametrize("way", ["path", "stream"])
def test_load_of_what_msb_cannot_open(
    fake: FakeMsb, cache: ImageCache, archive: Path, pack: Callable[[bytes], bytes], way: str
) -> None:
    data = pack(archive.read_bytes())
    archive.write_bytes(data)
    position = len(cache.events())
    (handle,) = cache.load(archive if way == "path" else io.BytesIO(data))
    assert (handle.reference, handle.manifest_digest) == ("app:1", NEXT.digest)
    if way == "path" and pack is bytes:
        assert fake.calls == [["load", "--input", str(archive)]]
    else:
        assert fake.calls == [["load"]]  # it gets the bytes behind the compression
    ((_, pulled),) = pulls(cache, position)
    assert pulled.source == ev.Source(kind="archive", name=str(archive) if way == "path" else "-")
    check(cache, fake)


def test_a_stream_that_comes_in_small_pieces(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 3 if self.tell() < 20 else 5000))

    (handle,) = cache.load(Slow(gzip.compress(archive.read_bytes())))
    assert handle.manifest_digest == NEXT.digest
    check(cache, fake)


def test_a_pipe_with_a_name(fake: FakeMsb, cache: ImageCache, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    child = forked(lambda: path.write_bytes(archive.read_bytes()))
    (handle,) = cache.load(path)
    assert os.waitpid(child, 0)[1] == 0
    assert (handle.manifest_digest, fake.calls) == (NEXT.digest, [["load"]])
    check(cache, fake)


@pytest.mark.parametrize("data", [b"", b"junk", b"junk" * 3000, docker_archive(NEXT)[:9000]])
def test_a_bad_archive_changes_nothing(fake: FakeMsb, cache: ImageCache, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    before, position = files_of(fake.home), len(cache.events())
    with pytest.raises(InvalidImageError, match=f"^msb could not load archive {path}: "):
        cache.load(path)
    with pytest.raises(InvalidImageError, match=r"^msb could not load the archive: "):
        cache.load(io.BytesIO(data))
    assert (files_of(fake.home), len(cache.events())) == (before, position)


def test_a_cut_compressed_archive_ends_msb(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    data = gzip.compress(archive.read_bytes())
    archive.write_bytes(data[: len(data) // 2])
    position = len(cache.events())
    with pytest.raises(InvalidImageError, match=str(archive)):
        cache.load(archive)
    assert len(cache.events()) == position


def test_a_stream_that_fails_ends_msb(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 3000:
                raise OSError(5, "Input/output error")
            return super().read(min(size or 1, 1000))

    position = len(cache.events())
    with pytest.raises(OSError, match="Input/output error"):
        cache.load(Failing(archive.read_bytes()))
    assert len(cache.events()) == position
    assert fake.references() >= {"app:1", "alone:1"}


def test_msb_ends_before_it_has_read_everything(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    fake.fails("load", "error: enough", at="read")
    with pytest.raises(InvalidImageError, match=r"^msb could not load the archive: enough$"):
        cache.load(io.BytesIO(archive.read_bytes() + bytes(1 << 20)))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "msb found no image in the archive"),
        (["  ✓ Loaded              BAD::x"], "msb found no image in the archive"),
        (["  ✓ Loaded"], "msb found no image in the archive"),
        (["an unknown word"], "msb found no image in the archive"),
    ],
)
def test_msb_names_nothing(
    fake: FakeMsb, cache: ImageCache, archive: Path, said: list[str], problem: str
) -> None:
    fake.fails("load", *said, code=0)
    with pytest.raises(InvalidImageError, match=f"^{problem}$"):
        cache.load(io.BytesIO(archive.read_bytes()))


def test_a_name_that_is_no_reference_is_left_out(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    fake.says("load", "  ✓ Loaded              BAD::x", "  ✓ Loaded              gone:1")
    assert [handle.reference for handle in cache.load(archive)] == ["app:1"]
    check(cache, fake)


def test_what_is_loaded_and_removed_at_once(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    fake.meanwhile("load", ["image", "rm", "newer"], at="end")
    assert [handle.reference for handle in cache.load(archive, tag="newer")] == ["app:1"]
    check(cache, fake)


def test_what_a_load_refuses(fake: FakeMsb, cache: ImageCache, archive: Path, tmp_path: Path) -> None:
    position = len(cache.events())
    with pytest.raises(InvalidImageError, match=r"is a folder, and msb loads tar files: pack it with tar$"):
        cache.load(tmp_path)
    with pytest.raises(
        InvalidImageError, match=r"nothing.tar cannot be opened: No such file or directory; check the path$"
    ):
        cache.load(tmp_path / "nothing.tar")
    with pytest.raises(InvalidConfigError, match=r"loads for .* only; use another --home for linux/riscv64$"):
        cache.load(archive, platform="linux/riscv64")
    with pytest.raises(InvalidReferenceError):
        cache.load(archive, tag="BAD::x")
    assert fake.calls == []
    assert len(cache.events()) == position


def test_the_machines_own_platform_can_be_asked_for(fake: FakeMsb, cache: ImageCache, archive: Path) -> None:
    host = cache.get("app:1")
    assert cache.load(archive, platform=f"{host.os}/{host.architecture}")[0].reference == "app:1"


# -- cut short --------------------------------------------------------------------------------------------


COMMANDS: dict[str, Callable[[ImageCache, Path], object]] = {
    "pull": lambda cache, archive: cache.pull(REMOTE),
    "load": lambda cache, archive: cache.load(archive),
}


@pytest.mark.parametrize("step", ["sync.locked", "sync.committing", "log.committing", "log.committed"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_when_msb_is_done(
    fake: FakeMsb, cache: ImageCache, archive: Path, name: str, step: str
) -> None:
    fake.offer(REMOTE, ONE)
    digest = ONE.digest if name == "pull" else NEXT.digest
    position = len(cache.events())

    def kill(reached: str) -> None:
        if reached == step and fake.calls:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with ImageCache(fake.home) as other:
            COMMANDS[name](other, archive)

    assert os.waitpid(forked(run, kill), 0)[1] == signal.SIGKILL
    # The image is there, and the log has it: as asked for by the killed process, or as seen by the next one.
    assert digest in {handle.manifest_digest for handle in cache.list()}
    (pulled,) = cache.events(after=position, types=["image.pulled"])
    assert pulled.actor.observed == (step != "log.committed")
    COMMANDS[name](cache, archive)
    check(cache, fake)
