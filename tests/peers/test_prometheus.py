"""Metrics, judged by others: promtool lints them, node-exporter and Prometheus read what was found."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from msb_cache import CacheMetrics, ImageCache
from msb_cache.care.exposition import exposition, write_textfile
from tests.cli.support import APP, TOOL, written

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SECONDS = 60
"""How long is waited for a program on a busy machine."""

Samples = dict[tuple[tuple[str, str], ...], float]
"""Values by labels, the name among them; without those that Prometheus adds."""


@pytest.fixture
def metrics(tmp_path: Path) -> CacheMetrics:
    """Those of a home in which something is held, something was pruned, and something is damaged."""
    with ImageCache(tmp_path / "cache-home") as cache:
        for number, each in enumerate((APP, TOOL)):
            cache.load(written(tmp_path / f"{number}.tar", each))
        cache.hold("app:1", "sandbox:dev")
        cache.prune()
        found = cache.metrics()
    assert found.last_prune is not None
    return replace(found, damaged_images=1)


def lint(promtool: str, text: str) -> tuple[int, str]:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.peer
def test_promtool_finds_nothing_to_say(metrics: CacheMetrics, require_peer: Callable[[str], str]) -> None:
    promtool = require_peer("promtool")
    assert lint(promtool, exposition(metrics, "prometheus")) == (0, "")
    empty = CacheMetrics(disk_free_bytes=1, disk_size_bytes=2, kept_by_msb=False, log_bytes=0)
    assert lint(promtool, exposition(empty, "prometheus")) == (0, "")
    # It lints the classic format only; when it comes to know this one, the document is to say so.
    code, said = lint(promtool, exposition(metrics))
    assert (code, 'unknown metric type "info"' in said) == (1, True)


def documented() -> tuple[str, str]:
    """The documented part of prometheus.yml, and the rules."""
    scrape, rules = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return scrape, rules


@pytest.mark.peer
def test_promtool_takes_the_documented_configuration(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    scrape, rules = documented()
    (tmp_path / "prometheus.yml").write_text(scrape)
    (tmp_path / "msb-cache.rules.yml").write_text(rules)
    done = subprocess.run(
        [require_peer("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rules.count('alert:')} rules found" in done.stdout


@pytest.mark.peer
@pytest.mark.slow
def test_prometheus_reads_what_was_found(
    metrics: CacheMetrics, tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    """From node-exporter's textfile collector, and OpenMetrics from a server."""
    prometheus, exporter = require_peer("prometheus"), require_peer("prometheus-node-exporter")
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    write_textfile(metrics, textfiles / "msb-cache.prom")
    (tmp_path / "msb-cache.rules.yml").write_text(documented()[1])
    with contextlib.ExitStack() as running:
        exporter_port, port = free_port(), free_port()
        served = running.enter_context(serving(exposition(metrics)))
        options = ["--collector.disable-defaults", "--collector.textfile"]
        options += [f"--collector.textfile.directory={textfiles}"]
        options += [f"--web.listen-address=127.0.0.1:{exporter_port}"]
        running.enter_context(program(tmp_path / "exporter.log", exporter, *options))
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
            f"rule_files: [{tmp_path}/msb-cache.rules.yml]\n"
            "scrape_configs:\n"
            f"  - {{job_name: node, static_configs: [{{targets: ['127.0.0.1:{exporter_port}']}}]}}\n"
            f"  - {{job_name: served, static_configs: [{{targets: ['127.0.0.1:{served}']}}]}}\n"
        )
        options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        options += [f"--web.listen-address=127.0.0.1:{port}"]
        running.enter_context(program(tmp_path / "prometheus.log", prometheus, *options))

        found = {job: wait_for(lambda job=job: stored(port, job)) for job in ("node", "served")}
        assert found["node"] == expected(exposition(metrics, "prometheus"))
        assert found["served"] == found["node"]
        (age,) = asked(port, "query", query="time() - node_textfile_mtime_seconds")["result"]
        assert age["metric"]["file"] == str(textfiles / "msb-cache.prom")
        assert 0 <= float(age["value"][1]) < SECONDS

        rules = wait_for(lambda: evaluated(port))
        assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        assert firing == {"MsbCacheHasDamagedImages"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def program(log: Path, *command: str) -> Iterator[None]:
    """Run a program until the end of the block; what it says is shown if the block fails."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, log.read_text()
    except BaseException:
        print(log.read_text()[-4000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def serving(text: str) -> Iterator[int]:
    """Serve OpenMetrics on a port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def wait_for(look: Callable[[], Any]) -> Any:
    """Return what is found as soon as something is."""
    until = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        assert time.monotonic() < until, "Prometheus has not found it"
        time.sleep(0.1)


def asked(port: int, what: str, **question: str) -> Any:
    """Return Prometheus's answer."""
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(question)}"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.load(answer)["data"]


def stored(port: int, job: str) -> Samples:
    """Return the samples of ours that Prometheus has of a job."""
    query = f'{{__name__=~"msb_cache_.*", job="{job}"}}'
    found = {}
    for each in asked(port, "query", query=query)["result"]:
        labels = {name: text for name, text in each["metric"].items() if name not in ("job", "instance")}
        found[known(labels)] = float(each["value"][1])
    return found


def evaluated(port: int) -> list[dict[str, Any]]:
    """Return the rules as soon as all were evaluated, after one of them has found something."""
    rules: list[dict[str, Any]] = [
        rule for group in asked(port, "rules")["groups"] for rule in group["rules"]
    ]
    done = all(rule["health"] != "unknown" for rule in rules)
    return rules if done and any(rule["state"] == "firing" for rule in rules) else []


def expected(text: str) -> Samples:
    return {
        known({"__name__": sample.name, **sample.labels}): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def known(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    # Node-exporter writes 3600 for 3600.0.
    return tuple(sorted((name, str(float(text)) if name == "le" else text) for name, text in labels.items()))
