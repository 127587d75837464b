"""The asynchronous Image API, over the real cache: every call of the specification, and where it runs."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import msb_cache.cache
from msb_cache import (
    CloudBackend,
    Image,
    ImageArchiveFormat,
    ImageCache,
    ImageHandle,
    ImageInUseError,
    ImageNotFoundError,
    ImagePruneReport,
    LocalBackend,
    MicrosandboxError,
    PullPolicy,
    UnsupportedError,
    with_backend,
)
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import docker_archive, sample
from tests.registry_server import RegistryServer

run = asyncio.run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "sample.tar"
    path.write_bytes(
        docker_archive(
            sample(
                "app:1",
                seed="one",
                config={"Env": ["A=1"], "Cmd": ["/run"], "Labels": {"k": "v"}, "StopSignal": "SIGINT"},
            )
        )
    )
    return path


@pytest.fixture
def other_archive(tmp_path: Path) -> Path:
    path = tmp_path / "other.tar"
    path.write_bytes(docker_archive(sample("app:2", seed="two")))
    return path


def test_load_get_list(archive: Path, other_archive: Path, own_home: Path) -> None:
    async def main() -> None:
        assert await Image.list() == []
        before = datetime.now(UTC)
        first = await Image.load(str(archive), tag="extra:9")
        second = await Image.load(input_path=other_archive)
        after = datetime.now(UTC)
        assert {handle.reference for handle in first} == {"app:1", "extra:9"}
        handle = await Image.get("docker.io/library/app:1")
        assert handle in first
        assert handle.layer_count == 2
        assert (handle.architecture, handle.os) == ("amd64", "linux")
        assert handle.home == own_home
        assert handle.created_at is not None
        assert handle.last_used_at is not None
        assert before <= handle.created_at <= handle.last_used_at <= after
        listed = await Image.list()
        assert listed[0] == second[0]
        assert {each.reference for each in listed} == {"app:1", "app:2", "extra:9"}

    run(main())


def test_inspect(archive: Path) -> None:
    async def main() -> None:
        (handle,) = await Image.load(archive)
        detail = await Image.inspect("app:1")
        assert detail == await handle.inspect()
        assert detail.handle == handle
        assert detail.config is not None
        assert detail.config.env == ["A=1"]
        assert detail.config.cmd == ["/run"]
        assert detail.config.labels == {"k": "v"}
        assert detail.config.stop_signal == "SIGINT"
        assert [layer.position for layer in detail.layers] == [0, 1]
        assert all(layer.diff_id.startswith("sha256:") and layer.erofs_size_bytes for layer in detail.layers)

    run(main())


def test_remove_and_prune(archive: Path, other_archive: Path) -> None:
    async def main() -> None:
        await Image.load(archive)
        (other,) = await Image.load(other_archive)
        assert await Image.remove("app:1") is None
        with pytest.raises(ImageNotFoundError):
            await Image.get("app:1")
        with pytest.raises(ImageNotFoundError):
            await Image.remove("app:1", force=True)
        report = await Image.prune()
        assert isinstance(report, ImagePruneReport)
        assert report.image_refs_removed == 1
        assert report.bytes_reclaimed
        assert await Image.list() == []
        with pytest.raises(ImageNotFoundError):
            await other.inspect()

    run(main())


@pytest.mark.parametrize("spelling", ["positional", "keyword", "handle", "handle keyword"])
def test_force_is_what_removes_a_held_image(archive: Path, own_home: Path, spelling: str) -> None:
    async def main() -> None:
        (handle,) = await Image.load(archive)
        with ImageCache(own_home) as cache:
            cache.hold("app:1", "sandbox:dev")
        with pytest.raises(ImageInUseError):
            await Image.remove("app:1")
        with pytest.raises(ImageInUseError):
            await handle.remove()
        if spelling == "positional":
            await Image.remove("app:1", True)
        elif spelling == "keyword":
            await Image.remove("app:1", force=True)
        elif spelling == "handle":
            await handle.remove(True)
        else:
            await handle.remove(force=True)
        assert await Image.list() == []

    run(main())


@pytest.mark.parametrize("format", ImageArchiveFormat)
def test_save(archive: Path, tmp_path: Path, format: ImageArchiveFormat) -> None:
    async def main() -> None:
        (handle,) = await Image.load(archive)
        out = tmp_path / "out.tar"
        await Image.save("app:1", output_path=str(out), format=format)
        elsewhere = LocalBackend(home=tmp_path / "elsewhere")
        (copy,) = await Image.load_local(elsewhere, out)
        assert (copy.reference, copy.layer_count) == (handle.reference, handle.layer_count)
        before = [layer.diff_id for layer in (await handle.inspect()).layers]
        assert len((await copy.inspect()).layers) == len(before)

    run(main())


def test_save_to_where_no_file_can_be(archive: Path, tmp_path: Path) -> None:
    run(Image.load(archive))
    for path in (tmp_path / "none" / "app.tar", tmp_path):
        with pytest.raises(MicrosandboxError, match="cannot be written: ") as caught:
            run(Image.save("app:1", output_path=path))
        assert caught.value.code == "microsandbox-error"


def test_save_refuses(tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    with pytest.raises(ValueError, match="at least one image reference"):
        run(Image.save([], output_path=out))
    with pytest.raises(TypeError, match="expected ImageArchiveFormat, got str"):
        run(Image.save("app:1", output_path=out, format="docker"))  # type: ignore[arg-type]
    with pytest.raises(ImageNotFoundError):
        run(Image.save(["app:1"], output_path=out))
    assert not out.exists()


def test_load_from_standard_input(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(archive.read_bytes())))
    (handle,) = run(Image.load("-"))
    assert handle.reference == "app:1"


CALLS = {
    "get": ("app:1",),
    "list": (),
    "inspect": ("app:1",),
    "remove": ("app:1",),
    "prune": (),
    "load": ("x.tar",),
    "save": ("app:1",),
}


def ambient(name: str) -> Coroutine[Any, Any, Any]:
    more = {"output_path": "x.tar"} if name == "save" else {}
    return getattr(Image, name)(*CALLS[name], **more)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CALLS)
def test_the_cloud_is_unsupported(name: str) -> None:
    async def main() -> None:
        async with with_backend(CloudBackend(api_key="k")):
            with pytest.raises(UnsupportedError, match=rf"Image\.{name}\(\) is not supported"):
                await ambient(name)

    run(main())


@pytest.mark.parametrize("name", CALLS)
def test_an_incomplete_cloud_touches_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.setenv("MSB_BACKEND", "cloud")
    with pytest.raises(
        UnsupportedError, match=rf"Image\.{name}\(\) needs a local backend: MSB_BACKEND=cloud"
    ):
        run(ambient(name))
    assert not own_home.exists()


def test_handles_of_the_default_backend_are_not_supported_by_the_cloud(archive: Path) -> None:
    async def main() -> None:
        (handle,) = await Image.load(archive)
        detail = await Image.inspect("app:1")
        for each in (handle, *await Image.list(), detail.handle):
            with with_backend(CloudBackend(api_key="k")):
                with pytest.raises(UnsupportedError):
                    await each.inspect()
                with pytest.raises(UnsupportedError):
                    await each.remove()
            again = (await each.inspect()).handle
        with with_backend(CloudBackend(api_key="k")), pytest.raises(UnsupportedError):
            await again.inspect()
        await again.remove()
        assert await Image.list() == []

    run(main())


@pytest.mark.parametrize("reference", ["", " ", "UPPER", "a b", "x:1:2:3", "a@sha256:zz"])
def test_what_is_no_reference_is_not_found(reference: str) -> None:
    async def main() -> None:
        for call in (Image.get, Image.inspect, Image.remove):
            with pytest.raises(ImageNotFoundError) as caught:
                await call(reference)
            assert type(caught.value) is ImageNotFoundError
            assert caught.value.code == "image-not-found"

    run(main())


def test_several_tags_come_first(archive: Path) -> None:
    loaded = run(Image.load(archive, tag=["b:1", "a:1", "b:1"]))
    assert [handle.reference for handle in loaded] == ["b:1", "a:1", "app:1"]


@pytest.mark.parametrize("policy", PullPolicy)
def test_the_sdks_pull_policies(policy: PullPolicy, archive: Path) -> None:
    with RegistryServer() as server:
        name = server.add(sample())
        if policy == PullPolicy.NEVER:
            with pytest.raises(ImageNotFoundError):
                run(Image.pull(name, policy=policy))
        run(Image.pull(name, policy="missing"))
        before = server.count("/manifests/")
        run(Image.pull(name, policy=policy))
        assert (server.count("/manifests/") > before) == (policy == PullPolicy.ALWAYS)


def test_image_sources_are_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [lambda: Image.oci("a:1"), lambda: Image.bind("/a"), lambda: Image.disk("a.qcow2")]
    monkeypatch.setitem(sys.modules, "microsandbox", None)
    for call in calls:
        with pytest.raises(ImportError, match="pip install microsandbox"):
            call()

    class Theirs:
        oci = bind = disk = staticmethod(lambda *arguments, **options: (arguments, options))

    monkeypatch.setitem(sys.modules, "microsandbox", SimpleNamespace(Image=Theirs))
    assert Image.oci("a:1", root_disk=8192) == (("a:1",), {"root_disk": 8192})
    assert Image.bind("/a") == (("/a",), {})
    assert Image.disk("a.img", fstype="ext4") == (("a.img",), {"fstype": "ext4"})


def test_local_calls_never_look_at_ambient_state(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.setenv("MSB_BACKEND", "mars")
    monkeypatch.setenv("MSB_PROFILE", "nowhere")

    async def main() -> None:
        backend = await LocalBackend.builder().home(tmp_path / "mine").build()
        async with with_backend(CloudBackend(api_key="k")):
            (handle,) = await Image.load_local(backend, archive)
            assert await Image.list_local(backend) == [handle]
            assert await Image.get_local(backend, "app:1") == handle
            assert (await Image.inspect_local(backend, "app:1")).handle == handle
            assert (await handle.inspect()).handle == handle
            await Image.save_local(backend, ["app:1"], output_path=tmp_path / "copy.tar")
            await Image.remove_local(backend, "app:1", force=False)
            assert (await Image.prune_local(backend)).image_refs_removed == 0
            with pytest.raises(TypeError, match="LocalBackend"):
                await Image.list_local(CloudBackend(api_key="k"))  # type: ignore[arg-type]

    run(main())
    assert not own_home.exists()


def test_a_default_is_taken_when_called(archive: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with with_backend(LocalBackend(home=tmp_path / "one")):
            await Image.load(archive)
            assert len(await Image.list()) == 1
        assert await Image.list() == []

    run(main())


def test_work_happens_on_another_thread_and_the_cache_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    class Recording(ImageCache):
        def list(self) -> Any:
            seen.append(("list", threading.get_ident()))
            raise ImageNotFoundError("for the test")

        def __exit__(self, *error: Any) -> None:
            seen.append(("close", threading.get_ident()))
            super().__exit__(*error)

    monkeypatch.setattr(msb_cache.cache, "ImageCache", Recording)
    with pytest.raises(ImageNotFoundError):
        run(Image.list())
    assert [what for what, _ in seen] == ["list", "close"]
    assert {thread for _, thread in seen}.isdisjoint({threading.get_ident()})
    assert len({thread for _, thread in seen}) == 1


def test_calls_run_side_by_side(archive: Path, other_archive: Path) -> None:
    async def main() -> None:
        await asyncio.gather(
            Image.load(archive), Image.load(other_archive), *(Image.list() for _ in range(8))
        )
        assert {handle.reference for handle in await Image.list()} == {"app:1", "app:2"}

    run(main())


# --- models -------------------------------------------------------------------------------------


def test_pull(tmp_path: Path) -> None:
    options = RegistryOptions(timeout=5, retries=1, backoff=0.01)
    seen: list[str] = []
    with RegistryServer() as server:
        reference = server.add(sample())
        backend = LocalBackend(home=tmp_path / "pulled")

        async def program() -> ImageHandle:
            await Image.pull_local(
                backend, reference, options=options, progress=lambda e: seen.append(e.event)
            )
            with with_backend(backend):
                return await Image.pull(reference, policy="never")

        assert run(program()).manifest_digest == sample().digest
    assert "done" in seen


def test_pull_in_the_cloud_is_not_supported() -> None:
    async def program() -> None:
        with with_backend(CloudBackend(url="https://cloud.example", api_key="k")):
            await Image.pull("python")

    with pytest.raises(UnsupportedError):
        run(program())
