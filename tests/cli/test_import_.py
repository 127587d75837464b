"""An exported log taken in, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.support import Call, execute, fingerprint, sentence


class TestImport:
    def test_text_and_json(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        done = call("--home", tmp_path / "one", "import", exported)
        assert (done.code, done.raw) == (0, b"")
        assert "Imported" in done.err
        assert "10 of the 10 files that the log names are not in" in done.err
        found = call("--home", tmp_path / "two", "import", exported, "--format", "json").json
        chain = call("verify", "--format", "json").json["chain"]
        assert found == {
            "log_id": chain["log_id"],
            "events": 16,
            "head": chain["head"],
            "files": 10,
            "files_missing": 10,
        }
        assert call("--home", tmp_path / "one", "list", "-q").lines == call("list", "-q").lines
        assert call("--home", tmp_path / "one", "rebuild").code == 0
        assert call("--home", tmp_path / "one", "verify").code == 1

    def test_from_stdin(self, home: Path, exported: Path, tmp_path: Path) -> None:
        done = execute("--home", tmp_path / "one", "import", "-", stdin=exported.read_bytes())
        assert done.code == 0
        done = execute("--home", tmp_path / "two", "import", "-")
        assert done.code == 1
        assert "no event in it" in sentence(done.err)
        assert not (tmp_path / "two").exists()

    def test_where_there_is_a_log(self, home: Path, call: Call, exported: Path) -> None:
        before = fingerprint(home)
        done = call("import", exported)
        assert (done.code, done.raw) == (1, b"")
        assert "has a log already; import into another --home" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        "content", [b"", b"hello\n", b"{}\n", b"\x00" * 100, b"SQLite format 3\0" + bytes(84)]
    )
    def test_what_is_no_export(self, own_home: Path, call: Call, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "log").write_bytes(content)
        done = call("import", tmp_path / "log")
        assert (done.code, done.raw) == (1, b"")
        sentence(done.err)
        assert not own_home.exists()

    def test_no_such_file(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere", tmp_path):
            done = call("import", path)
            assert (done.code, done.raw) == (1, b"")
            assert str(path) in sentence(done.err)
        assert not own_home.exists()

    def test_a_later_release(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        exported.write_bytes(
            exported.read_bytes().replace(b'"image.pulled","version":2', b'"image.pulled","version":7')
        )
        done = call("--home", tmp_path / "one", "import", exported)
        assert done.code == 1
        assert "does not verify" in sentence(done.err)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_where_nothing_can_be_written(self, call: Call, exported: Path, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        done = call("--home", folder / "home", "import", exported)
        assert (done.code, done.raw) == (1, b"")
        assert "Permission denied" in sentence(done.err)
