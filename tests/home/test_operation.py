"""Operations: what others are told of those that run, and what is left of one that ends."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from msb_cache.artifacts.durable import make_folder
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import FolderLease, is_free
from msb_cache.errors import BusyError
from msb_cache.home.operation import Operation, others
from msb_cache.oci.reference import Reference


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "home")


def references(*names: str) -> list[Reference]:
    return [Reference.parse(name) for name in names]


def test_others_are_those_that_run_and_not_oneself(layout: Layout) -> None:
    with Operation(layout) as own:
        assert [*others(layout, own)] == []
        with Operation(layout) as first, Operation(layout) as second:
            second.tell(references("python:3.12", "example.org/team/tool:2"))
            own.tell(references("own:1"))
            assert dict(others(layout, own)) == {
                first.id: [],
                second.id: ["python:3.12", "example.org/team/tool:2"],
            }
            first.tell(references("a:1"))
            first.tell(references("b:1"))
            assert dict(others(layout, own))[first.id] == ["b:1"]
        assert [*others(layout, own)] == []


def test_one_that_was_cut_short_is_no_longer_running(layout: Layout) -> None:
    layout.operations.mkdir(parents=True)
    cut_short = layout.operation_lock("0190a0a0-0000-7000-8000-000000000000")
    cut_short.write_text("docker.io/library/python:3.12")
    with Operation(layout) as own:
        assert cut_short.exists()
        assert [*others(layout, own)] == []


def test_of_many_references_those_are_told_for_which_there_is_room(layout: Layout) -> None:
    told = [f"example.org/{'x' * 80}/{number:03}:1" for number in range(100)]
    with Operation(layout) as own, Operation(layout) as other:
        other.tell(references(*told))
        ((_, names),) = others(layout, own)
        assert names == told[: len(names)]
        assert 30 < len(names) < 50
        assert len(layout.operation_lock(other.id).read_bytes()) <= 4096


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", []),
        (b"docker.io/library/a:1\nNo Reference\ndocker.io/library/b:1\n", ["a:1"]),
        (b"docker.io/library/a:1\ndocker.io/library/python:3", ["a:1"]),
        (b"\xff\xfe\n", []),
        (b"docker.io/library/a:1\n\x1b[31m\n", ["a:1"]),
    ],
)
def test_only_references_are_shown(layout: Layout, content: bytes, names: list[str]) -> None:
    with Operation(layout) as own, Operation(layout) as other:
        layout.operation_lock(other.id).write_bytes(content)
        assert [*others(layout, own)] == [(other.id, names)]


def test_a_link_in_place_of_a_lock_says_nothing(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("docker.io/library/secret:1")
    with Operation(layout) as own, Operation(layout) as other:
        lock = layout.operation_lock(other.id)
        lock.unlink()
        lock.symlink_to(tmp_path / "secret")
        assert [*others(layout, own)] == [(other.id, [])]


def test_what_is_left_of_an_operation(layout: Layout) -> None:
    with Operation(layout) as operation:
        lock = layout.operation_lock(operation.id)
        assert not is_free(lock)
        folders = [operation.staging(), operation.building()]
        assert folders == [operation.staging(), operation.building()]
        for folder in folders:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "file").touch()
    assert not any(path.exists() for path in (lock, *folders))


def test_an_operation_begins_when_folders_are_taken_away_no_more(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(layout.operations)
    tidying = FolderLease(layout.db)
    assert tidying.acquire(alone=True)

    def sleep(seconds: float) -> None:
        layout.operations.rmdir()
        layout.db.rmdir()
        tidying.release()

    monkeypatch.setattr("time.sleep", sleep)
    with Operation(layout) as operation:
        assert layout.operation_lock(operation.id).exists()
        assert not tidying.acquire(alone=True)
    assert tidying.acquire(alone=True)
    tidying.release()


def test_an_operation_does_not_wait_for_ever(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.home.operation.SAY_AFTER", 0.05)
    make_folder(layout.db)
    tidying = FolderLease(layout.db)
    assert tidying.acquire(alone=True)
    with pytest.raises(BusyError, match="another process takes away the folders"):
        Operation(layout)
    tidying.release()
    with Operation(layout):
        pass


@pytest.mark.parametrize("undone", [False, True])
def test_what_is_left_to_recovery(layout: Layout, undone: bool) -> None:
    with Operation(layout) as operation:
        folder = operation.staging()
        operation.leave_to_recovery()
        if undone:
            operation.undone()
    lock = layout.operation_lock(operation.id)
    assert folder.exists() is lock.exists() is not undone
    assert is_free(lock)


def test_what_one_of_several_additions_staged_goes_with_it(layout: Layout) -> None:
    with Operation(layout) as operation:
        for _ in range(2):
            with operation.part() as part:
                assert part is operation
                assert not layout.staging(operation.id).exists()
                (part.staging() / "file").touch()
                (part.building() / "file").touch()
            assert not layout.staging(operation.id).exists()
            assert not layout.building(operation.id).exists()
            assert not is_free(layout.operation_lock(operation.id))
    assert layout.interrupted_operations() == []


def test_nothing_is_added_beside_what_is_to_be_recovered(layout: Layout) -> None:
    with Operation(layout) as operation:
        with operation.part():
            (operation.staging() / "journal.json").touch()
            operation.leave_to_recovery()
        assert (layout.staging(operation.id) / "journal.json").exists()
        with pytest.raises(BusyError, match="could not be taken back yet"), operation.part():
            raise AssertionError("it began")
    assert (layout.staging(operation.id) / "journal.json").exists()
    assert is_free(layout.operation_lock(operation.id))


def test_what_is_staged_once_more(layout: Layout) -> None:
    with Operation(layout) as operation:
        (operation.staging() / "file").touch()
        operation.begin_again()
        assert [*operation.staging().iterdir()] == []
        (operation.staging() / "journal.json").touch()
        operation.leave_to_recovery()
        with pytest.raises(BusyError, match="could not be taken back yet"):
            operation.begin_again()
        assert (operation.staging() / "journal.json").exists()
