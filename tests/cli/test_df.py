"""What the cache takes of the disk, as tables and as JSON."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.care.disk_usage import MONTH_NS, DiskUsage, LogUsage
from msb_cache.cli import df, output
from tests.cli.support import APP, TOOL, USAGE, Call, execute, fingerprint, on_terminal, sentence
from tests.flatroots import add
from tests.logs import digest
from tests.msbhome import MsbHome

BOUND = 5
DAY = MONTH_NS // 30


def du(home: Path) -> int:
    done = subprocess.run(["du", "-sDB1", home / "cache"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def cells(line: str) -> list[str]:
    return [cell for cell in line.split("   ") if cell.strip()]


def test_the_tables(home: Path, call: Call) -> None:
    call("hold", "example.org/team/tool:2", "sandbox:dev")
    add(home, APP.digest)
    Layout(home).layer(digest("none")).write_bytes(b"x" * 5000)
    before = fingerprint(home)
    done = call("df")
    assert (done.code, done.err) == (0, "")
    assert fingerprint(home) == before
    images, categories, totals = (part.splitlines() for part in done.out.split("\n\n"))
    assert images[0].split() == ["IMAGE", "SIZE", "UNIQUE", "SHARED", "FLAT", "RECLAIMABLE", "IN", "USE"]
    rows = {cells(line)[0].strip(): [cell.strip() for cell in cells(line)[1:]] for line in images[1:]}
    assert rows.keys() == {"app:1", "app:latest", "example.org/team/tool:2"}
    assert rows["example.org/team/tool:2"][3:] == ["-", "0 B", "1 holder"]
    assert rows["app:1"][1] == rows["app:1"][4]
    assert rows["app:1"][5] == "-"
    assert rows["app:1"][3].endswith("KiB")
    assert categories[0].split() == ["WHAT", "FILES", "LOGICAL", "ALLOCATED", "RECLAIMABLE"]
    names = [cells(line)[0].strip() for line in categories[1:]]
    assert names[:5] == ["layers", "fsmeta", "vmdk", "flat roots", "metadata"]
    assert "cache/ in all" in names
    assert not {"partial downloads", "msb's database (db/msb.db)", "other"} & {*names}
    (total,) = (cells(line) for line in categories if line.startswith("cache/ in all"))
    assert output.size(du(home)) == total[3].strip()
    assert totals[0].startswith("Log:          ")
    assert totals[0].endswith(" events; it is too young to say how it grows")
    assert totals[1].startswith("Reclaimable:  ")
    assert totals[1].endswith("by `msb-cache prune`, 8.0 KiB more with `--orphans`")


def test_bars_on_a_terminal(home: Path) -> None:
    add(home, APP.digest)
    shown = on_terminal(["df"], COLUMNS="130", NO_COLOR="1", PYTHONUTF8="1").said
    images, categories, totals = (part.splitlines() for part in shown.split("\n\n"))
    assert images[0].endswith("█ UNIQUE ▒ SHARED ▓ FLAT")
    at = images[0].index("█")
    drawn = {line.split()[0]: line[at:] for line in images[1:]}
    assert {*drawn["app:1"]} == {*drawn["app:latest"]} == {*"█▒▓"}
    assert {*drawn["example.org/team/tool:2"]} == {*"█▒"}
    assert len(drawn["app:1"]) == max(map(len, drawn.values())) >= len("█ UNIQUE ▒ SHARED ▓ FLAT")
    assert categories[0].endswith("RECLAIMABLE   █ STAYS ▒ FREED")
    assert re.fullmatch(r"Disk:         █▒+·* +[\d,.]+ [KMGTP]iB", totals[0])
    assert re.fullmatch(r" {14}█ .+ this home, ▒ .+ others, · .+ free", totals[1])


def test_a_narrow_terminal_has_no_bars_of_images(home: Path) -> None:
    shown = on_terminal(["df"], COLUMNS="60", NO_COLOR="1", PYTHONUTF8="1").said
    assert "█" not in shown.split("Disk:")[0]
    assert "FLAT" not in shown  # there is none


def test_a_terminal_that_shows_lines_only_has_what_a_pipe_has(home: Path, call: Call) -> None:
    assert on_terminal(["df"], COLUMNS="130", TERM="dumb").said == call("df").out


def test_a_terminal_without_utf_8(home: Path) -> None:
    shown = on_terminal(["df"], COLUMNS="130", NO_COLOR="1", PYTHONIOENCODING="ascii").said
    assert shown.isascii()
    assert "# UNIQUE - SHARED" in shown
    assert "\\u2" not in shown


def test_an_unreferenced_manifest_has_its_digest(home: Path, call: Call) -> None:
    call("hold", "example.org/team/tool:2", "sandbox:dev")
    call("remove", "-f", "example.org/team/tool:2")
    assert any(line.startswith(f"{TOOL.digest}  ") for line in call("df").lines)
    (found,) = (each for each in call("df", "--format", "json").json["images"] if each["reference"] is None)
    assert (found["manifest_digest"], found["holders"]) == (TOOL.digest, ["sandbox:dev"])


def test_json_adds_up(home: Path, call: Call) -> None:
    found = call("df", "--format", "json").json
    assert {*found} == {*DiskUsage.__struct_fields__}
    assert found["cache_total"]["allocated_bytes"] == du(home)
    for name in ("files", "logical_bytes", "allocated_bytes", "reclaimable_bytes"):
        assert found["cache_total"][name] == sum(each[name] for each in found["cache"])
    for image in found["images"]:
        assert image["allocated_bytes"] == image["unique_bytes"] + image["shared_bytes"]
    assert found["cache_total"]["reclaimable_bytes"] == found["prune_bytes"] + found["orphans_bytes"]
    assert (found["log"]["events"], found["notes"]) == (16, [])


def test_an_empty_home(own_home: Path, call: Call) -> None:
    done = call("df")
    assert (done.code, done.raw, done.err) == (0, b"", "Nothing of this home is on the disk yet.\n")
    assert call("df", "--format", "json").json["images"] == []
    assert not own_home.exists()


def test_a_home_without_images(home: Path, call: Call) -> None:
    call("prune", "--yes")
    done = call("df")
    assert done.lines[0].startswith("WHAT ")
    assert done.lines[-1] == "Reclaimable:  0 B by `msb-cache prune`"


def test_a_home_that_msb_keeps(msb_home: MsbHome, call: Call, no_msb: None) -> None:
    done = call("df")
    assert done.code == 0
    assert any(line.startswith("msb's database (db/msb.db) ") for line in done.lines)
    (app,) = (line for line in done.lines if line.startswith("app:1 "))
    assert app.endswith("1 holder")


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (LogUsage(4096, 10, 10, 0, None), "4.0 KiB, 10 events; it is too young to say how it grows"),
        (LogUsage(4096, 10, 10, 12 * DAY, 10240), "10.0 KiB a month, as in the 12 days since it began"),
        (LogUsage(4096, 10, 1, 30 * DAY, 409), "409 B a month, as in the last 30 days (1 event)"),
    ],
)
def test_how_the_log_grows(log: LogUsage, told: str) -> None:
    assert df._log(log).endswith(told)


def test_what_cannot_be_read_is_a_note(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    really, folder = os.open, str(Layout(home).staging_root)

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path == folder:
            raise PermissionError(13, "Permission denied", path)
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    done = call("df")
    assert done.code == 0
    assert done.err == (f"note: {folder} cannot be read, so what is in it is left out: Permission denied\n")
    assert call("df", "--format", "json").json["notes"] == [done.err[6:-1]]


def test_the_program_itself(home: Path) -> None:
    (home / "cache").rename(home.parent / "elsewhere")
    (home / "cache").symlink_to(home.parent / "elsewhere")
    shutil.copy(Layout(home).vmdk(APP.digest), home.parent / "elsewhere" / "stray")
    found = execute("df", "--format", "json").json
    assert found["cache_total"]["allocated_bytes"] == du(home)
    done = execute("df")
    assert (done.code, done.err) == (0, "")
    assert "other " in done.out


def test_what_the_policy_would_free(home: Path, call: Call) -> None:
    missing = call("df", "--check")
    assert (missing.code, missing.out) == (USAGE, "")
    assert sentence(missing.err).endswith("has no policy; `msb-cache policy init` writes one to begin with")
    path = home / "cache-policy.toml"

    def said(text: str, code: int) -> tuple[str, str]:
        path.write_text(text)
        before = fingerprint(home)
        done = call("df", "--check")
        assert done.code == code
        assert call("df").code == 0
        assert fingerprint(home) == before
        return done.lines[-1], done.err

    all_of_it = '[[rule]]\nname = "all"\nfilter = "reference=*"\ngrace = "0s"\n'
    last, err = said(all_of_it, 0)
    assert re.fullmatch(rf"By policy:    [\d.]+ KiB of 3 images \({path}\)", last)
    assert err == ""
    last, err = said(f'max-delete = "50%"\n{all_of_it}', BOUND)
    assert last == "By policy:    nothing, because more images would go than it lets go at once"
    assert sentence(err).startswith("3 of 3 images would go, and at most 50 % may: app:1,")
    call("hold", "app:1", "sandbox:dev")
    last, err = said('[[rule]]\nname = "size"\nmax-size = 1\ngrace = "0s"', BOUND)
    assert re.fullmatch(rf"By policy:    [\d.]+ KiB of 1 image, [\d.]+ KiB too little \({path}\)", last)
    assert re.fullmatch(
        r"the bound of 'size' in the policy cannot be kept: all that may go frees [\d.]+ KiB too little",
        sentence(err),
    )
    found = call("df", "--format", "json").json["policy"]
    assert (found["file"], found["images"], found["missing_for"]) == (str(path), 1, "size")
    path.write_text("no = 1")
    broken = call("df")
    assert broken.code == 0
    assert "note: what the policy would do is left out: " in broken.err
    assert call("df", "--check").code == USAGE
