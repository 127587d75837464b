"""An archive's files have the events just as they were stored, whatever stands in them."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.chain import Checker
from msb_cache.fleet import archive_files
from msb_cache.fleet.archive_files import Stretch, checked, leading_to, listed, place_of, rows_of, write
from tests.fleet.sent import chained

LOG_ID = "0123456789abcdef" * 2
OTHER = "f" * 32
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_NUMBER = st.integers(-(2**63), 2**63 - 1)
_EVENT = st.tuples(_TEXT, _TEXT, _NUMBER, _TEXT, _TEXT, _NUMBER, st.integers(0, 2**63 - 1), _TEXT, _TEXT)
AWKWARD = ["", "\\u0000", '"', "\n\t\r", "null", "1e400", "\ufeff", "\U0001f4a9", '{"a": 1}', "x" * 70_000]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "archive"
    made.mkdir()
    return made


def log(*texts, log_id=LOG_ID):
    """Return a log of these texts: the rows that the archive takes."""
    first = (log_id, 1, "id", "log.created", 1, log_id, "operation", 0, 0, "{}", "{}", b"")
    rows = [first]
    for seq, text in enumerate(texts, 2):
        rows.append((log_id, seq, text, "image.used", 1, text, text, -1, seq, text, text, b""))
    return [(row[1:-1], row[-1]) for row in chained(rows)]


def stretch_of(folder, first, last, log_id=LOG_ID):
    return Stretch(place_of(Path(folder), log_id, first, last), log_id, first, last)


def test_texts_are_kept(folder):
    rows = log(*AWKWARD)
    stretch = stretch_of(folder, 1, len(rows))
    write(stretch, iter(rows), Checker)
    assert [*rows_of(stretch)] == rows
    assert os.listdir(folder) == [f"{LOG_ID}-000000000001-{len(rows):012}.parquet"]
    assert listed(folder) == {LOG_ID: [stretch]}


@settings(max_examples=6, deadline=None)
@given(st.lists(_EVENT, min_size=1, max_size=8))
def test_any_events_are_kept(events):
    made = [(LOG_ID, 1, "id", "log.created", 1, LOG_ID, "operation", 0, 0, "{}", "{}", b"")]
    at = 0
    for seq, (id_, kind, version, subject, operation, occurred, recorded, actor, data) in enumerate(
        events, 2
    ):
        at = max(at, recorded)
        kind = "image.used" if kind == "log.created" else kind
        made.append((LOG_ID, seq, id_, kind, version, subject, operation, occurred, at, actor, data, b""))
    rows = [(row[1:-1], row[-1]) for row in chained(made)]
    with TemporaryDirectory() as folder:
        stretch = stretch_of(folder, 1, len(rows))
        write(stretch, iter(rows), Checker)
        assert [*rows_of(stretch)] == rows


def test_what_a_name_says_must_be_in_the_file(tmp_path):
    rows = log("a", "b", "c")
    whole = stretch_of(tmp_path, 1, 4)
    write(whole, iter(rows), Checker)
    shorter = stretch_of(tmp_path, 1, 5)
    os.link(whole.path, shorter.path)
    with pytest.raises(CorruptLogError, match="ends at event 4"):
        [*checked(shorter, Checker())]
    other = stretch_of(tmp_path, 1, 4, OTHER)
    os.link(whole.path, other.path)
    with pytest.raises(CorruptLogError, match="of another log"):
        [*checked(other, Checker())]
    (tmp_path / "notes.txt").write_text("")
    assert {name: len(found) for name, found in listed(tmp_path).items()} == {LOG_ID: 2, OTHER: 1}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"a,b\n"])
def test_a_file_that_is_none_says_so(tmp_path, content):
    stretch = stretch_of(tmp_path, 1, 4)
    stretch.path.write_bytes(content)
    with pytest.raises(CorruptLogError, match="no file of an archive, or damaged"):
        [*rows_of(stretch)]


def test_a_file_with_other_columns_says_so(tmp_path):
    import duckdb

    stretch = stretch_of(tmp_path, 1, 4)
    duckdb.sql("SELECT 1 AS seq").write_parquet(str(stretch.path))
    with pytest.raises(CorruptLogError, match="no file of an archive"):
        [*rows_of(stretch)]


def test_nothing_is_written_of_rows_that_fail(folder):
    def failing():
        yield log("a")[0]
        raise CorruptLogError("event 2 is missing")

    with pytest.raises(CorruptLogError, match="event 2"):
        write(stretch_of(folder, 1, 2), failing(), Checker)
    assert os.listdir(folder) == []


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(LogError, match="cannot write the archive"):
        write(stretch_of(tmp_path / "none", 1, 2), iter(log("a")), Checker)


def test_one_run_at_a_time_writes_into_a_folder(tmp_path):
    left = tmp_path / ".msb-cache-archive-left"
    left.mkdir()
    with archive_files.working_in(tmp_path):
        assert not left.exists()
        with pytest.raises(LogError, match="another run"), archive_files.working_in(tmp_path):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="cannot write"), archive_files.working_in(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("files", "last", "found"),
    [
        ([(1, 5), (6, 9)], 9, [(1, 5), (6, 9)]),
        ([(1, 5), (1, 7), (6, 9)], 9, [(1, 5), (6, 9)]),  # one was left by a run that was stopped
        ([(1, 5), (1, 9), (6, 7)], 9, [(1, 9)]),
        ([(1, 5), (6, 9), (10, 12)], 9, [(1, 5), (6, 9)]),
        ([(6, 9)], 9, None),
        ([(1, 5)], 9, None),
        ([], 9, None),
    ],
)
def test_files_lead_to_an_anchor(files, last, found):
    stretches = [archive_files.Stretch(Path(f"{a}-{b}"), "x", a, b) for a, b in files]
    if found is None:
        with pytest.raises(CorruptLogError):
            leading_to(stretches, last)
    else:
        assert [(each.first, each.last) for each in leading_to(stretches, last)] == found
