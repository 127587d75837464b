"""Notes one after the other in a file: what is written, what is read, and what a crash may leave between."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidProofError
from msb_cache.proof import note_file
from msb_cache.proof.note import Note
from msb_cache.proof.note_file import append, is_several, notes_in
from tests.proof.signing import checkpoint, cosign, new_log_key, new_witness_key

KEY, WITNESS = new_log_key(), new_witness_key("zeuge.example/\u00e4")
NOTES = [checkpoint(size, bytes([size]) * 32, KEY) for size in range(1, 6)]
COSIGNED = [cosign(each, WITNESS) for each in NOTES]


class TestWritten:
    def test_one_after_the_other_with_an_empty_line_between(self, tmp_path: Path) -> None:
        path = tmp_path / "notes"
        for each in NOTES:
            append(str(path), str(each))
        assert path.read_text() == "\n".join(map(str, NOTES))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert notes_in(path.read_bytes()) == NOTES

    def test_it_stays_the_same_file_with_its_rights(self, tmp_path: Path) -> None:
        path = tmp_path / "notes"
        path.touch(mode=0o640)
        before = path.stat()
        append(str(path), str(NOTES[0]))
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        assert path.read_text() == str(NOTES[0])

    def test_each_is_one_write_that_is_durable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []
        write, fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", lambda *each: (done.append("write"), write(*each))[1])
        monkeypatch.setattr(os, "fsync", lambda each: (done.append("fsync"), fsync(each))[1])
        append(str(tmp_path / "notes"), str(NOTES[0]))
        assert done == ["write", "fsync", "fsync"]  # the second one of the folder
        append(str(tmp_path / "notes"), str(NOTES[1]))
        assert done[3:] == ["write", "fsync"]

    def test_a_file_that_may_only_be_appended_to(
        self, tmp_path: Path, require_peer: Callable[[str], str]
    ) -> None:
        path, chattr = tmp_path / "notes", require_peer("chattr")
        path.touch()
        if subprocess.run([chattr, "+a", path], capture_output=True).returncode:
            pytest.skip("no file here can be made so")
        try:
            for each in NOTES:
                append(str(path), str(each))
            with pytest.raises(OSError, match="not permitted"):
                path.write_text("")
            assert notes_in(path.read_bytes()) == NOTES
        finally:
            subprocess.run([chattr, "-a", path], check=True)

    def test_what_cannot_be_read_gets_a_line_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> bytes:
            raise PermissionError

        append(str(tmp_path / "notes"), str(NOTES[0]))
        monkeypatch.setattr(os, "pread", refuse)
        append(str(tmp_path / "notes"), str(NOTES[1]))
        assert (tmp_path / "notes").read_text() == f"{NOTES[0]}\n\n{NOTES[1]}"
        assert notes_in((tmp_path / "notes").read_bytes()) == NOTES[:2]

    def test_no_link_folder_or_pipe(self, tmp_path: Path) -> None:
        (tmp_path / "there").touch()
        (tmp_path / "link").symlink_to(tmp_path / "there")
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "pipe", "", "none/notes"):
            with pytest.raises(OSError, match=r"symbolic|No such|directory"):
                append(f"{tmp_path}/{name}", str(NOTES[0]))
        reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(OSError, match="is no file"):
            append(str(tmp_path / "pipe"), str(NOTES[0]))
        os.close(reading)
        assert (tmp_path / "there").read_bytes() == b""

    def test_what_is_not_written_as_a_whole_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, write = tmp_path / "notes", os.write
        append(str(path), str(NOTES[0]))
        monkeypatch.setattr(os, "write", lambda to, data: write(to, data[:50]))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            append(str(path), str(NOTES[1]))
        monkeypatch.setattr(os, "write", write)
        append(str(path), str(NOTES[1]))
        assert notes_in(path.read_bytes()) == NOTES[:2]

    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd")
        append(str(tmp_path / "notes"), str(NOTES[0]))
        append(str(tmp_path / "notes"), str(NOTES[1]))
        shutil.rmtree(tmp_path / "notes", ignore_errors=True)
        assert os.listdir("/proc/self/fd") == before


@given(
    st.lists(st.tuples(st.sampled_from([*NOTES, *COSIGNED]), st.booleans(), st.integers(0, 500)), max_size=5),
    st.sampled_from([*NOTES, *COSIGNED]),
)
def test_what_crashes_leave_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[Note, bool, int]], last: Note
) -> None:
    """Whole notes are read as they are, and of one that was cut at most what was signed."""
    path, whole = tmp_path_factory.mktemp("notes") / "notes", []
    path.touch()
    for each, crash, length in written:
        before = path.stat().st_size
        append(str(path), str(each))
        if crash:
            os.truncate(path, min(before + length, path.stat().st_size - 1))
        else:
            whole.append(each)
    append(str(path), str(last))
    found = notes_in(path.read_bytes())
    assert found[-1] == last
    of_them = iter(found)
    assert all(each in of_them for each in [*whole, last])  # in their order, with what was cut between
    for each in found:
        assert each in [*NOTES, *COSIGNED]
        assert each.signed_by([KEY.key, WITNESS.key])[0] == KEY.key


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no whole note in it"),
        (b"\n\n\n", "has no whole note in it"),
        (NOTES[0].text.encode(), "has no whole note in it"),
        (str(NOTES[0]).encode()[:-40], "has no whole note in it"),
        (str(NOTES[0]).replace("\n", "\r\n").encode(), "has no whole note in it"),
        (str(NOTES[0]).partition("\n\n")[2].encode(), "has signatures of no text, behind 0 whole notes"),
        (f"{NOTES[0]}\n{NOTES[1]}".encode().replace(b"2\n", b"\xff\n"), "note 2 of the file is no UTF-8"),
        (f"{NOTES[0]}\n{NOTES[1]}".encode().replace(b"2\n", b"\0\n"), "note 2 of the file has control"),
        (
            f"{COSIGNED[0]}".replace("\u2014 log", "\u2014 lo g").encode(),
            "note 1 of the file has a line below",
        ),
        ((NOTES[0].text + "\n" + "\u2014 a AAAAAAAA\n" * 200).encode(), "has more than 100 signatures"),
        (b"x" * (note_file.MAX_FILE + 1), "has more than 16,777,216 bytes"),
    ],
)
def test_what_is_no_file_of_notes_is_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(InvalidProofError, match=says):
        notes_in(data)


@given(st.binary(max_size=300))
def test_anything_is_notes_or_a_sentence(data: bytes) -> None:
    for each in (data, b"\n\n".join([str(NOTES[0]).encode(), data, str(NOTES[1]).encode()])):
        said, found = "", []
        try:
            found = notes_in(each)
        except InvalidProofError as error:
            said = str(error)
        assert bool(found) != bool(said)
        assert "\n" not in said


def test_several_are_told_from_one() -> None:
    assert not is_several(str(COSIGNED[0]).encode())
    assert not is_several(COSIGNED[0].text.encode())
    assert is_several(f"{NOTES[0]}\n{NOTES[1]}".encode())
    assert is_several(f"{NOTES[0]}\n{NOTES[1].text[:-3]}".encode())


def test_a_large_file_is_read_at_once() -> None:
    data = "\n".join([str(COSIGNED[0])] * 20_000).encode()
    assert len(notes_in(data)) == 20_000
