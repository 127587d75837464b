"""The metrics command: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.care.exposition import exposition
from tests.cli.support import FAILED, USAGE, Call, execute, fingerprint
from tests.msbhome import MsbHome


def lines_of(text: str) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_both_formats(home: Path, call: Call) -> None:
    before = fingerprint(home)
    modern, classic = call("metrics"), call("metrics", "--format", "prometheus")
    assert (modern.code, modern.err, classic.code, classic.err) == (0, "", 0, "")
    assert fingerprint(home) == before
    assert modern.out.endswith("# EOF\n")
    assert call("metrics", "--format", "openmetrics").out.splitlines()[:20] == modern.out.splitlines()[:20]
    assert "# TYPE msb_cache_events_total counter" in classic.out
    found = lines_of(modern.out)
    assert found["msb_cache_images"] == "3.0"
    assert found['msb_cache_events_total{type="image.pulled"}'] == "3.0"
    assert found["msb_cache_kept_by_msb"] == "0.0"
    assert found.keys() == lines_of(classic.out).keys()


def test_a_home_that_is_not_there(call: Call, own_home: Path) -> None:
    done = call("metrics")
    assert (done.code, done.err, lines_of(done.out)["msb_cache_log_position"]) == (0, "", "0.0")
    assert not own_home.exists()


def test_a_home_of_msb(msb_home: MsbHome, call: Call) -> None:
    found = lines_of(call("metrics").out)
    assert found["msb_cache_images"] == "2.0"
    assert found['msb_cache_holders{kind="sandbox"}'] == "1.0"
    assert found["msb_cache_kept_by_msb"] == "1.0"
    assert found["msb_cache_sync_failed"] == "0.0"
    assert 0 <= float(found["msb_cache_sync_age_seconds"]) < 3600


def test_a_textfile(home: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "cache.prom"
    done = call("metrics", "--textfile", path)
    assert (done.code, done.out, done.err) == (0, "", "")
    with ImageCache(home) as cache:
        now = lines_of(exposition(cache.metrics(), "prometheus"))
    assert lines_of(path.read_text()).keys() == now.keys()
    done = call("metrics", "--textfile", tmp_path / "cache.txt", "--format", "prometheus")
    assert done.code == 0
    assert done.err.startswith("note: node-exporter reads only files whose names end with .prom, and so not")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--textfile", ""), USAGE, "it is empty"),
        (("--textfile", "x.prom", "--format", "openmetrics"), USAGE, "node-exporter reads no OpenMetrics"),
        (("--format", "json"), USAGE, "'json' is not one of"),
        (("--textfile", "/nowhere/x.prom"), FAILED, "/nowhere/x.prom: No such file or directory"),
    ],
)
def test_what_is_refused(home: Path, call: Call, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = call("metrics", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_without_prometheus_client(home: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = call("metrics")
    assert (done.code, done.out) == (FAILED, "")
    assert done.err == (
        "error: `metrics` needs prometheus_client; `pip install 'msb-cache[metrics]'` installs what "
        "is missing\n"
    )


def test_as_a_program(home: Path) -> None:
    done = execute("metrics")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("# EOF\n")
