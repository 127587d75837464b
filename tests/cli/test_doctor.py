"""What is wrong, for people and for programs; what is said of what was mended; the exit codes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.cli.doctor import _about
from tests.cli.support import APP, FAILED, TOOL, USAGE, Call, written
from tests.logs import digest


def home_with(folder: Path) -> Layout:
    with ImageCache(folder / "home") as cache:
        cache.load(written(folder / "app.tar", APP))
        cache.load(written(folder / "tool.tar", TOOL))
    return Layout(folder / "home")


def test_nothing_is_wrong(call: Call, tmp_path: Path) -> None:
    layout = home_with(tmp_path)
    done = call("--home", layout.home, "doctor")
    assert (done.code, done.out, done.err) == (0, "Nothing is wrong.\n", "")
    fields = json.loads(call("--home", layout.home, "doctor", "--format", "json").out)
    assert fields == {"home": layout.home, "sound": True, "findings": []}


def test_no_home(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("--home", tmp_path / "none", "doctor").code == 3
    monkeypatch.setenv("MSB_HOME", str(tmp_path / "none"))
    done = call("doctor")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[1] == "Nothing of this home is on the disk yet, so nothing is wrong with it."
    assert call("doctor", "--fix").code == 0
    assert not (tmp_path / "none").exists()


def test_what_is_wrong_and_mended(call: Call, tmp_path: Path) -> None:
    layout = home_with(tmp_path)
    layout.vmdk(APP.digest).unlink()
    orphan = layout.layer(digest("orphan"))
    orphan.write_bytes(b"x" * 2048)
    done = call("--home", layout.home, "doctor")
    assert done.code == FAILED
    name = f"cache/vmdk/sha256_{APP.digest[7:]}.vmdk"
    assert f"  ✗ file-missing  {name}  app:latest and 1 more\n" in done.out
    assert f"its image does not start\n      `msb-cache --home {layout.home} doctor --fix`\n" in done.out
    assert done.err == f"2 things are wrong; `msb-cache --home {layout.home} doctor --fix` mends 1.\n"
    done = call("--home", layout.home, "doctor", "--fix")
    assert (done.code, done.err) == (FAILED, "1 thing is still wrong.\n")
    assert f"  ✓ file-missing  {name}  app:latest and 1 more\n      mended\n" in done.out
    assert "✗ orphan" in done.out
    orphan.unlink()
    done = call("--home", layout.home, "doctor", "--fix")
    assert (done.code, done.out) == (0, "Nothing is wrong.\n")


def test_fields(call: Call, tmp_path: Path) -> None:
    layout = home_with(tmp_path)
    layout.vmdk(APP.digest).unlink()
    found = json.loads(call("--home", layout.home, "doctor", "--format", "json").out)
    (finding,) = found["findings"]
    assert finding == {
        "kind": "file-missing",
        "meaning": "the VMDK is missing, and its image does not start",
        "path": str(layout.vmdk(APP.digest)),
        "artifact": "vmdk",
        "subject": APP.digest,
        "images": ["app:latest", "app:1"],
        "command": f"msb-cache --home {layout.home} doctor --fix",
        "fixable": True,
        "needs_pull": False,
    }
    done = call("--home", layout.home, "doctor", "--fix", "--format", "json")
    fixed = json.loads(done.out)
    assert (done.code, fixed["sound"], fixed["findings"]) == (0, True, [])
    assert fixed["mended"] == [{**finding, "differs": False}]


def test_why_not(call: Call, tmp_path: Path) -> None:
    layout = home_with(tmp_path)
    path = layout.layer(TOOL.layers[1].diff_id)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    layout.fsmeta(TOOL.digest).unlink()
    done = call("--home", layout.home, "doctor", "--fix")
    assert f"not mended: its layer {TOOL.layers[1].diff_id[:19]} is damaged\n" in done.out
    lines = call("--home", layout.home, "doctor", "--fix", "-q").lines
    assert lines == [f"file-missing {layout.fsmeta(TOOL.digest).relative_to(layout.home)}"]


def test_what_is_refused(call: Call, tmp_path: Path) -> None:
    for options in (["--pull"], ["--insecure"], ["--fix", "--ca-certs", str(tmp_path)]):
        assert call("--home", tmp_path, "doctor", *options).code == USAGE
    done = call("--home", tmp_path, "doctor", "--fix", "--pull", "--ca-certs", tmp_path / "none")
    assert done.code == USAGE


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("msb-cache doctor --fix", "msb-cache --home '/a b' doctor --fix"),
        ("msb image prune", "MSB_HOME='/a b' msb image prune"),
        ("rm /x; msb load -i /y.tar", "export MSB_HOME='/a b'; rm /x; msb load -i /y.tar"),
        ("chown -h root /x", "chown -h root /x"),
        (None, None),
    ],
)
def test_commands_are_about_the_home_that_was_named(command: str | None, typed: str | None) -> None:
    assert _about("/a b", command) == typed


def test_a_disk_that_refuses_is_said_in_words(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = home_with(tmp_path)
    layout.vmdk(APP.digest).unlink()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/home/lock")

    monkeypatch.setattr("msb_cache.engines.own.engine.OwnEngine.mend", refuse)
    done = call("--home", layout.home, "doctor", "--fix")
    assert "      not mended: /home/lock: Read-only file system\n" in done.out
