"""On a terminal (a pty of 80 columns): colours, questions, and what Ctrl-C does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.locks import Lock
from msb_cache.cli import output
from tests.cli.conftest import Call
from tests.cli.support import (
    APP,
    APP_NEXT,
    ESCAPE,
    Done,
    execute,
    fingerprint,
    on_terminal,
    sentence,
    written,
)

ASKED = "Delete these? [y/N]: "
SHOWS = ["list", "inspect app:1", "history app:1", "events", "prunes", "verify", "prune -n", "use app:1"]


class TestColour:
    @pytest.mark.parametrize("command", ["list", "history app:1", "events", "verify", "use app:1"])
    def test_on_a_terminal(self, home: Path, command: str) -> None:
        talk = on_terminal(command.split())
        assert talk.code == 0
        assert ESCAPE in talk.said

    def test_errors_too(self, home: Path) -> None:
        assert f"{ESCAPE}31m" in on_terminal(["inspect", "nothing:1"]).said

    @pytest.mark.parametrize("command", [*SHOWS, "inspect nothing:1", "rm nothing:1 nothing:2", "bogus"])
    def test_not_with_no_color(self, home: Path, command: str) -> None:
        assert ESCAPE not in on_terminal(command.split(), NO_COLOR="1").said

    def test_an_empty_no_color_says_nothing(self, home: Path) -> None:
        assert ESCAPE in on_terminal(["list"], NO_COLOR="").said

    @pytest.mark.parametrize("command", SHOWS)
    def test_not_into_a_pipe(self, home: Path, command: str) -> None:
        done = execute(*command.split())
        assert ESCAPE not in done.out + done.err

    def test_only_the_stream_that_is_a_terminal(self, home: Path) -> None:
        talk = on_terminal(["list"], stdout_too=False)
        assert talk.stdout is not None
        assert ESCAPE not in talk.stdout
        assert "app:1" in talk.stdout

    def test_json_has_none(self, home: Path) -> None:
        talk = on_terminal(["list", "--format", "json"])
        assert json.loads(talk.said)[0]["reference"] == "example.org/team/tool:2"


class TestPruneAsks:
    def test_yes(self, home: Path, call: Call) -> None:
        talk = on_terminal(["prune"], [(ASKED, b"y\n")])
        assert talk.code == 0
        shown, _, report = talk.said.partition(ASKED)
        assert "example.org/team/tool:2" in shown
        assert "3 references, 2 manifests, 3 layers" in shown
        assert "Image refs:  3" in report
        assert call("list", "--format", "json").json == []

    @pytest.mark.parametrize("answer", [b"n\n", b"\n", b"no\n"])
    def test_no(self, home: Path, answer: bytes) -> None:
        before = fingerprint(home)
        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert talk.code in (0, 1)
        assert "Nothing was pruned." in talk.said
        assert fingerprint(home) == before

    def test_asks_again(self, home: Path) -> None:
        talk = on_terminal(["prune"], [(ASKED, b"perhaps\n"), ("invalid input", b"n\n")])
        assert "Nothing was pruned." in talk.said

    @pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
    def test_stopped(self, home: Path, call: Call, key: bytes) -> None:
        before = fingerprint(home)
        talk = on_terminal(["prune"], [(ASKED, key)])
        assert talk.code == 130
        assert "Traceback" not in talk.said
        assert talk.said.splitlines()[-1] == "stopped"
        assert fingerprint(home) == before
        # Nothing stays locked behind it.
        assert call("prune", "-y").code == 0

    def test_nothing_to_ask_about(self, own_home: Path) -> None:
        talk = on_terminal(["prune"])
        assert talk.code == 0
        assert ASKED not in talk.said

    def test_yes_does_not_ask(self, home: Path) -> None:
        assert ASKED not in on_terminal(["prune", "-y"]).said

    def test_the_json_of_a_confirmed_prune_is_only_json(self, home: Path) -> None:
        talk = on_terminal(["prune", "--format", "json"], [(ASKED, b"y\n")], stdout_too=False)
        assert talk.stdout is not None
        assert json.loads(talk.stdout)["image_refs_removed"] == 3
        # What is asked about must be where the question is, not in the file.
        assert "example.org/team/tool:2" in talk.said

    def test_what_is_held_meanwhile_stays(self, home: Path, call: Call) -> None:
        """The answer is to what was shown; what somebody holds since then is dropped from it."""

        def answer() -> bytes:
            assert call("hold", "app:1", "sandbox:dev").code == 0
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert "Image refs:  1" in talk.said
        assert call("list", "-q").lines == ["app:latest", "app:1"]
        assert call("verify").code == 0

    def test_what_is_added_meanwhile_stays(self, home: Path, call: Call, tmp_path: Path) -> None:
        def answer() -> bytes:
            assert call("load", "-q", "-i", written(tmp_path / "next.tar", APP_NEXT), "-t", "new:1").code == 0
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert talk.code == 0
        # app:1 points at another image than was shown.
        assert sorted(call("list", "-q").lines) == ["app:1", "new:1"]
        assert call("verify").code == 0

    def test_a_question_keeps_nobody_from_deleting(self, home: Path, call: Call) -> None:
        second: list[Done] = []

        def answer() -> bytes:
            second.append(call("rm", "app:1"))
            return b"y\n"

        talk = on_terminal(["prune"], [(ASKED, answer)])
        assert second[0].code == 0
        assert talk.code == 0
        assert call("rm", "app:1").code == 3

    def test_only_one_deletion_at_a_time(
        self, home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("msb_cache.engines.decision._PRUNE_WAIT", 0.1)
        with Lock(home / "db" / "prune.lock") as lock:
            lock.acquire()
            lock.write("01a208de-7af1-7b41-9b6b-151e9b4ceb8a")
            refused = call("rm", "-q", "app:1")
        assert refused.code == 1
        assert "another deletion runs" in sentence(refused.err)
        assert "01a208de-7af1-7b41-9b6b-151e9b4ceb8a" in sentence(refused.err)
        assert call("rm", "app:1").code == 0


class TestBinary:
    def test_save_does_not_garble_a_terminal(self, home: Path) -> None:
        talk = on_terminal(["save", "app:1"])
        assert talk.code == 2
        assert "-o FILE" in sentence(talk.said)

    def test_load_does_not_wait_for_typing(self, home: Path) -> None:
        talk = on_terminal(["load"])
        assert talk.code == 2
        assert "name an archive" in sentence(talk.said)


def test_lines_of_the_usual_commands_fit_80_columns_or_are_tables(home: Path) -> None:
    """Only tables and digests may be wider than a terminal."""
    for command in ("inspect app:1", "prune -n", "verify"):
        for line in on_terminal(command.split(), NO_COLOR="1").said.splitlines():
            assert len(line) <= 80 or APP.digest in line or "MEDIA TYPE" in line or "application/" in line


def test_what_follows_ends_its_line(home: Path) -> None:
    talk = on_terminal(["events", "--follow"], [("image.pulled", b"\x03")])
    assert (talk.code, talk.said[-1:]) == (0, "\n")
    assert talk.said.splitlines()[-1].strip("^C") == ""


MINUTE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


def test_on_80_columns_a_table_leaves_times_ids_and_digests_whole(home: Path) -> None:
    def rows(*command: str) -> list[str]:
        _, *found = on_terminal(command, NO_COLOR="1").said.splitlines()
        assert found
        assert all(len(line) <= 80 for line in found)
        return found

    digest = APP.digest.removeprefix("sha256:")[:12]
    assert any(
        re.fullmatch(rf"app:latest +{digest}  +[\d.]+ KiB  {MINUTE}  {MINUTE}", line) for line in rows("list")
    )
    with ImageCache(home) as cache:
        cache.remove("app:latest")
        (deletion,) = cache.deletions()
    assert re.match(
        rf"{deletion.operation[:13]}  {MINUTE}|{deletion.operation[:13]}  \S{{10}} ", *rows("prunes")
    )
    for line in rows("events", "--type", "image.pulled", "--type", "image.removed"):
        assert re.search(rf"{MINUTE}  image\.(pulled|removed) ", line)


def test_on_80_columns_a_history_leaves_what_happened_whole(home: Path) -> None:
    with ImageCache(home) as cache:
        cache.hold("app:1", "snapshot:" + "nightly-of-everything-" * 4)
        cache.release("snapshot:" + "nightly-of-everything-" * 4)
    found = on_terminal(["history", "app:1"], NO_COLOR="1").said.splitlines()
    assert all(len(line) <= 80 for line in found)
    digest = APP.digest.removeprefix("sha256:")[:12]
    assert any(re.search(rf"  held +{digest}  by snap", line) for line in found)


def test_a_narrow_table_still_shows_the_beginning_of_a_digest() -> None:
    cut = output._middle_out(10)
    assert cut(f"sha256:{'0123456789abcdef' * 4}") == "0123456789"
    assert cut("example.org/team/tool:2") == "examp…ol:2"
    assert cut("x:1") == "x:1"
