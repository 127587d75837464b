"""A user's project beside an editable install type-checks, and its mistakes are found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RIGHT = """
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

import msb_cache
from msb_cache import (
    ArtifactDeleted,
    AsyncImageCache,
    IdleImage,
    Image,
    ImageCache,
    ImageHandle,
    ImageNotFoundError,
    ImagePulled,
    ImageRemoved,
    PulledImage,
    RegistryOptions,
    Source,
    StoredEvent,
)


def names(home: Path) -> list[str]:
    with ImageCache(home) as cache:
        handles: list[ImageHandle] = cache.list("python:*")
        return [handle.reference for handle in handles]


def pull(cache: ImageCache) -> PulledImage:
    try:
        return cache.pull("python:3.12", options=RegistryOptions(retries=1))
    except ImageNotFoundError as error:
        raise SystemExit(error.code) from None


async def sizes() -> list[int]:
    return [handle.size_bytes or 0 for handle in await Image.list()]


async def used() -> list[str | None]:
    found: list[str | None] = []
    async with AsyncImageCache(workers=2) as cache:
        handles: list[ImageHandle] = await cache.list("python:*")
        async for event in cache.follow(handles[0].reference, since="yesterday", limit=3):
            found.append(event.subject)
    return found


def by(event: StoredEvent) -> str | None:
    match event.data:
        case ImageRemoved(cause="prune") as removed:
            assert_type(removed, ImageRemoved)
            return removed.manifest_digest
        case ImagePulled(source=source):
            assert_type(source, Source)
            return source.name
        case ArtifactDeleted(bytes=size):
            assert_type(size, int | None)
    return None


def gone(cache: ImageCache) -> IdleImage:
    cache.remove("python:3.12", reason="it is old", context={"ticket": "OPS-12"})
    cache.pull("python:3.12", max_age=timedelta(days=1), reason="a test")
    columns: dict[str, Any] = cache.prunes(limit=1)[0].to_dict()
    assert_type(columns, dict[str, Any])
    return cache.last_used(at_least="30 days")[0]


def log(cache: ImageCache) -> list[msb_cache.StoredEvent]:
    return cache.events(types=["image.pulled"], since="yesterday", limit=3)
"""
WRONG = """
from msb_cache import AsyncImageCache, ImageCache, ImageRemoved

with ImageCache() as cache:
    name: int = cache.get("python:3.12").reference
    cache.events(sinc="yesterday")
    match cache.events()[0].data:
        case ImageRemoved() as removed:
            print(removed.source)
    cache.use("python:3.12", reasons="a test")


async def wrong(cache: AsyncImageCache) -> str:
    await cache.list(asof=3)
    return (await cache.get("python:3.12")).reference + 1
"""


LIBRARY = Path(__file__).resolve().parent.parent / "docs" / "library.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    section = LIBRARY.read_text().partition("\n## Six programs\n")[2].partition("\n## ")[0]
    programs = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(programs) == 6
    for number, program in enumerate(programs):
        (tmp_path / f"program_{number}.py").write_text(program)
    return tmp_path


def programs(project: Path) -> list[str]:
    return sorted(path.name for path in project.glob("program_*.py"))


def check(project: Path, *command: str | Path) -> tuple[int, str]:
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_mypy_follows_an_editable_install(project: Path) -> None:
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", project / "cache", "--no-error-summary"]
    assert check(project, *mypy, "right.py", *programs(project)) == (0, "")
    code, said = check(project, *mypy, "wrong.py")
    assert code == 1
    assert 'has type "str", variable has type "int"' in said
    assert 'Unexpected keyword argument "sinc"' in said
    assert 'Unexpected keyword argument "asof"' in said
    assert "Unsupported operand types for +" in said
    assert 'Unexpected keyword argument "reasons"' in said
    assert '"ImageRemoved" has no attribute "source"' in said
    assert "import-untyped" not in said


@pytest.mark.peer
def test_pyright_follows_an_editable_install(project: Path, require_peer: Callable[[str], str]) -> None:
    # basedpyright is pyright as wheels, with its Node.js; "standard" is what pyright checks by default.
    pyright = require_peer("basedpyright")
    (project / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    python = ("--pythonpath", sys.executable)
    code, said = check(project, pyright, *python, "right.py", *programs(project))
    assert code == 0, said
    code, said = check(project, pyright, *python, "wrong.py")
    assert code == 1
    assert '"str" is not assignable to "int"' in said
    assert 'No parameter named "sinc"' in said
    assert 'No parameter named "asof"' in said
    assert 'No parameter named "reasons"' in said
    assert 'Cannot access attribute "source" for class "ImageRemoved"' in said
