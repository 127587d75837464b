"""An AMD64 host, and archives that are closed after the test."""

from pathlib import Path

import pytest

from msb_cache.oci.archive.open import Archive, open_archive
from msb_cache.oci.documents.platform import Platform
from tests.oci.opening import Opener

AMD64 = Platform("linux", "amd64")


@pytest.fixture
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host be linux/amd64, whatever it is."""
    monkeypatch.setattr(Platform, "host", classmethod(lambda cls: AMD64))


@pytest.fixture
def opened(on_amd64: None, tmp_path: Path, request: pytest.FixtureRequest) -> Opener:
    """Opens an archive from bytes, as a file, and closes it after the test."""

    def open_bytes(data: bytes, platform: str | None = None) -> Archive:
        path = tmp_path / "archive.tar"
        path.write_bytes(data)
        archive = open_archive(path, tmp_path / "spool", Platform.parse(platform) if platform else None)
        request.addfinalizer(archive.close)
        return archive

    return open_bytes
