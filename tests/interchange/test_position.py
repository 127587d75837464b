"""How far it has come: a file that is whole, private and one process's, and knows its log again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.errors import BusyError, DeliveryError, InvalidConfigError
from msb_cache.interchange.position import Position, PositionFile, position_at, usual_path
from tests.logs import new_ledger, some_events

POSITION = Position("ab" * 16, 7, "cd" * 32)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "position.json"
    with PositionFile(path) as kept:
        assert kept.position is None
        kept.save(Position(None, 0, ""))
        kept.save(POSITION)
    with PositionFile(path) as kept:
        assert kept.position == POSITION
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_one_process_has_it_also_by_another_name(tmp_path: Path) -> None:
    path = tmp_path / "position.json"
    (tmp_path / "link").symlink_to(path)
    with PositionFile(path) as kept:
        kept.save(POSITION)
        with pytest.raises(BusyError, match=r"another process delivers events from .*position.json; end"):
            PositionFile(tmp_path / "link").__enter__()
    with PositionFile(tmp_path / "link") as kept:
        kept.save(Position(None, 0, ""))
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        '{"log": "a", "seq": 1, "hash": "b", "format": 2}',
        '{"log": "a", "seq": -1, "hash": "b", "format": 1}',
        '{"log": "a", "seq": 99999999999999999999, "hash": "b", "format": 1}',
        '{"log": "a", "seq": 1, "hash": "b", "format": 1, "more": 1}',
        "[" * 10_000,
        f'{{"log": "{"a" * 9000}", "seq": 1, "hash": "b", "format": 1}}',
    ],
)
def test_what_is_no_position_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "folder" / "position.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InvalidConfigError, match="holds no position that this release understands"):
        PositionFile(path).__enter__()
    assert path.read_text() == text
    assert [*path.parent.iterdir()] == [path]


def test_a_place_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "position", tmp_path):
        with pytest.raises(InvalidConfigError, match=r"cannot be (kept|read)"):
            PositionFile(path).__enter__()


def test_a_failed_write_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "position.json"
    with PositionFile(path) as kept:
        kept.save(POSITION)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", full)
            with pytest.raises(OSError, match=r"No space left.*position.json"):
                kept.save(Position("ab" * 16, 8, "ef" * 32))
        assert kept.position == POSITION
    with PositionFile(path) as kept:
        assert kept.position == POSITION
        kept.save(Position("ab" * 16, 8, "ef" * 32))  # and what the failed one left is in nobody's way
    assert [*path.parent.iterdir()] == [path]


def test_a_log_is_known_again(tmp_path: Path) -> None:
    here = new_ledger(tmp_path / "here", some_events())
    with here.read() as connection:
        assert connection is not None
        at = [position_at(connection, seq) for seq in (0, 1, 4, 7)]
        assert [(each.seq, each.log == at[1].log, len(each.hash)) for each in at] == [
            (0, True, 0),
            *((seq, True, 64) for seq in (1, 4, 7)),
        ]
        assert [each.misfit(connection) for each in (*at, Position(None, 0, ""))] == [None] * 5
        for odd, problem in (
            (replace(at[3], seq=70), "it has 7 events, and event 70 was delivered"),
            (replace(at[3], hash=at[2].hash), "has gone on: its event 7 is not the one delivered"),
            (replace(at[0], log="ab" * 16), "it is of another log"),
        ):
            assert problem in str(odd.misfit(connection))
        with PositionFile(tmp_path / "position") as kept:
            kept.check(connection)
            kept.save(at[3])
            kept.check(connection)
            kept.save(replace(at[3], seq=70))
            with pytest.raises(DeliveryError, match=r"position does not fit this log: .*delete the file"):
                kept.check(connection)


def test_a_log_that_was_begun_anew_goes_on_from_its_end(tmp_path: Path) -> None:
    new_ledger(tmp_path / "here", some_events()).close()
    with ImageCache(tmp_path / "here") as cache, PositionFile(tmp_path / "position") as kept:
        with cache._session.ledger.read() as connection:
            assert connection is not None
            end, before = position_at(connection, 7), position_at(connection, 5)
        report = cache.begin_log_anew()
        with cache._session.ledger.read() as connection:
            assert connection is not None
            for odd, problem in (
                (before, "was begun anew with another id at its event 7, and event 5 was delivered"),
                (replace(end, hash=before.hash), "and event 7 was delivered"),
                (replace(end, log="ab" * 16), "it is of another log"),
            ):
                kept.save(odd)
                with pytest.raises(DeliveryError, match=f"{problem}; delete the file"):
                    kept.check(connection)
            kept.save(end)
            kept.check(connection)
            assert position_at(connection, 7).log == report.log_id != end.log


def test_the_usual_place_is_of_a_home_and_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    url = "https://hooks.example:8443/a?token=hidden"
    path = usual_path("/a/home", url)
    assert path.parent == tmp_path / "msb-cache" / "posts"
    assert path.name.startswith("hooks-example-")
    assert "hidden" not in path.name
    assert len({path, usual_path("/another/home", url), usual_path("/a/home", f"{url}2")}) == 3
    assert usual_path("/a/../a/home", url) == path
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(InvalidConfigError, match="name a file with --position"):
        usual_path("/a/home", url)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "position.json")
    with pytest.raises(InvalidConfigError, match="is no regular file; name another --position"):
        PositionFile(tmp_path / "position.json").__enter__()
    assert not (tmp_path / "position.json.lock").exists()
