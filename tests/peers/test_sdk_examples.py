"""Programs as a user of microsandbox's Python SDK writes them, with nothing but the import changed.

Each runs as a program of its own. Where the real SDK is installed beside msb, it runs the same program,
and both must print the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.imagebuilder import docker_archive, sample

pytestmark = pytest.mark.peer

PROGRAMS = {
    "get and list": """
        from SDK import Image

        loaded = await Image.load(input_path=ARCHIVE, tag="app:local")
        print(sorted(image.reference.removeprefix("docker.io/library/") for image in loaded))
        handle = await Image.get("python:3.12")
        print(handle.reference, handle.layer_count, handle.size_bytes, handle.architecture, handle.os)
        for image in sorted(await Image.list(), key=lambda image: image.reference):
            print(image.reference, image.size_bytes, image.layer_count)
    """,
    "inspect": """
        from SDK import Image

        await Image.load(ARCHIVE)
        detail = await Image.inspect("python:3.12")
        print(detail.handle.reference)
        if detail.config is not None:
            print(detail.config.env, detail.config.cmd, detail.config.entrypoint)
            print(detail.config.working_dir, detail.config.user, detail.config.labels)
        for layer in detail.layers:
            print(layer.position, layer.diff_id)
        handle = await Image.get("python:3.12")
        print(len((await handle.inspect()).layers))
    """,
    "remove": """
        from SDK import Image, ImageNotFoundError, MicrosandboxError

        await Image.load(ARCHIVE)
        await Image.load(OTHER)
        await Image.remove("python:3.12")
        try:
            await Image.get("python:3.12")
        except ImageNotFoundError as error:
            print(error.code, isinstance(error, MicrosandboxError))
        handle = await Image.get("other:1")
        await handle.remove(force=True)
        print(await Image.list())
        try:
            await Image.remove("other:1", force=True)
        except MicrosandboxError as error:
            print(error.code)
    """,
    "prune": """
        from SDK import Image

        await Image.load(ARCHIVE)
        await Image.load(OTHER)
        await Image.remove("other:1")
        for _ in range(2):
            report = await Image.prune()
            print(report.image_refs_removed, report.manifests_removed, report.layers_removed)
            print(report.fsmeta_removed, report.vmdk_removed)
        print(await Image.list())
    """,
    "save": """
        from SDK import Image, ImageArchiveFormat

        await Image.load(ARCHIVE)
        await Image.load(OTHER)
        await Image.save("python:3.12", output_path="python.tar")
        await Image.save("python:3.12", output_path="python-oci.tar", format=ImageArchiveFormat.OCI)
        await Image.save(["python:3.12", "other:1"], output_path="bundle.tar")
        await Image.prune()
        await Image.load("bundle.tar")
        print(sorted((image.reference, image.layer_count) for image in await Image.list()))
        try:
            await Image.save([], output_path="none.tar")
        except ValueError as error:
            print(error)
    """,
    "errors": """
        from SDK import Image, MicrosandboxError

        await Image.load(ARCHIVE)
        for reference in ("", " ", "UPPER", "a b", "x:1:2:3", "a@sha256:zz", "none:1"):
            for call in (Image.get, Image.inspect, Image.remove):
                try:
                    await call(reference)
                except MicrosandboxError as error:
                    print(type(error).__name__, error.code)
        for path in ("none/here.tar", "."):
            try:
                await Image.save("python:3.12", output_path=path)
            except MicrosandboxError as error:
                print(type(error).__name__, error.code)
        try:
            await Image.save("python:3.12", output_path="out.tar", format="docker")
        except TypeError as error:
            print(error)
    """,
    "handles under the cloud": """
        from SDK import BackendKind, Image, UnsupportedError, backend_scope

        await Image.load(ARCHIVE)
        handle = await Image.get("python:3.12")
        with backend_scope(BackendKind.CLOUD, api_key="key"):
            for call in (handle.inspect, handle.remove):
                try:
                    await call()
                except UnsupportedError as error:
                    print(error.code)
        print((await handle.inspect()).handle.layer_count)
    """,
    "the cloud has no image cache": """
        from SDK import BackendKind, Image, UnsupportedError, default_backend_kind, set_default_backend

        print(default_backend_kind() == BackendKind.LOCAL)
        set_default_backend(BackendKind.CLOUD, api_key="key")
        print(default_backend_kind())
        for call in (Image.list, Image.prune, lambda: Image.get("x"), lambda: Image.remove("x", force=True)):
            try:
                await call()
            except UnsupportedError as error:
                print(error.code)
    """,
    "a scope": """
        from SDK import BackendKind, Image, UnsupportedError, backend_scope, default_backend_kind

        with backend_scope(BackendKind.CLOUD, api_key="key"):
            print(default_backend_kind())
            try:
                await Image.inspect("python:3.12")
            except UnsupportedError as error:
                print(error.code)
        print(default_backend_kind(), await Image.list())
    """,
}


def run(python: str, module: str, program: str, folder: Path, archives: dict[str, Path]) -> str:
    lines = textwrap.dedent(program).strip().replace("SDK", module)
    constants = "\n".join(f"{name} = {str(path)!r}" for name, path in archives.items())
    imports = [line for line in lines.splitlines() if line.startswith("from ")]
    body = textwrap.indent("\n".join(line for line in lines.splitlines() if line not in imports), "    ")
    folder.mkdir()
    script = folder / "program.py"
    script.write_text(
        "\n".join(
            ["import asyncio", *imports, constants, "async def main():", body, "asyncio.run(main())", ""]
        )
    )
    environment = {**os.environ, "HOME": str(folder), "MSB_HOME": str(folder / "msb-home")}
    done = subprocess.run(
        [python, script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def archives(tmp_path: Path) -> dict[str, Path]:
    found = {"ARCHIVE": tmp_path / "python.tar", "OTHER": tmp_path / "other.tar"}
    config = {
        "Env": ["PATH=/bin", "A=b"],
        "Cmd": ["/bin/run"],
        "Entrypoint": ["/bin/sh"],
        "WorkingDir": "/srv",
        "User": "app",
        "Labels": {"k": "v"},
    }
    found["ARCHIVE"].write_bytes(docker_archive(sample("python:3.12", seed="python", config=config)))
    found["OTHER"].write_bytes(docker_archive(sample("other:1", seed="other")))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_runs(name: str, tmp_path: Path, archives: dict[str, Path]) -> None:
    assert run(sys.executable, "msb_cache", PROGRAMS[name], tmp_path / "ours", archives)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_prints_what_the_sdk_prints(
    name: str, tmp_path: Path, archives: dict[str, Path], sdk_python: Path
) -> None:
    theirs = run(str(sdk_python), "microsandbox", PROGRAMS[name], tmp_path / "theirs", archives)
    assert run(sys.executable, "msb_cache", PROGRAMS[name], tmp_path / "ours", archives) == theirs
