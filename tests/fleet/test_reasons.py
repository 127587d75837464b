"""Why something is on hosts or gone from them, and how two differ: as the hosts themselves say it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache import ImageNotFoundError, InvalidConfigError, MicrosandboxError
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.shapes import jsonable
from tests.fleet.filled import Filled
from tests.fleet.random_lives import BEGIN, NAMES, Life, steps

NOW = BEGIN + 100 * 10**9


def without_config(value: Any) -> Any:
    """JSON without images' configurations."""
    if isinstance(value, dict):
        return {name: without_config(each) for name, each in value.items() if name != "config"}
    return [*map(without_config, value)] if isinstance(value, list) else value


@settings(max_examples=2)
@given(lives=st.lists(steps, min_size=2, max_size=2))
def test_a_host_s_reasons_are_its_own(filled: Filled, lives) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hosts = [Life(Path(folder, name), name) for name in ("one", "two")]
        for host, life in zip(hosts, lives, strict=True):
            for step in life:
                host.step(step)
        logs = [filled.add(host.home) for host in hosts]
        fleet = filled.fleet(clock=lambda: NOW)
        for host, log_id in zip(hosts, logs, strict=True):
            with host.cache() as cache:
                cache._ledger.clock = lambda: NOW  # type: ignore[method-assign]
                targets = set(NAMES)
                for event in cache.events():
                    if event.subject.startswith("sha256:"):
                        targets |= {event.subject, event.subject[7:19]}
                    if isinstance(event.data, ManifestAdded):
                        targets |= {layer.blob_digest for layer in event.data.layers}
                        targets |= {layer.diff_id for layer in event.data.layers}
                for target in sorted(targets):
                    try:
                        own = jsonable(cache.why(target))
                    except ImageNotFoundError:
                        with pytest.raises(ImageNotFoundError):
                            fleet.why(target, hosts=[log_id])
                        continue
                    [found] = fleet.why(target, hosts=[log_id])
                    assert (found.host, found.log_id) == (host.host, log_id)
                    assert without_config(jsonable(found.found)) == without_config(own)
        _differ(fleet, hosts, logs)


def _differ(fleet, hosts: list[Life], logs: list[str]) -> None:
    from msb_cache.queries.as_of import changes

    contents = []
    for host in hosts:
        with host.cache() as cache:
            contents.append(cache._session.contents(None))
    found = fleet.diff(*logs)
    assert found.changes == changes(*contents)
    assert (found.from_host, found.to_host) == ("one", "two")


def test_what_no_host_had(filled: Filled, tmp_path: Path) -> None:
    host = Life(tmp_path / "home", "lonely")
    log_id = filled.add(host.home)
    fleet = filled.fleet()
    with pytest.raises(ImageNotFoundError, match=r"no host's log has seen ap:1; did you mean app:1"):
        fleet.why("ap:1", hosts=[log_id])
    with pytest.raises(ImageNotFoundError, match="no host's log has seen a manifest or layer"):
        fleet.why("sha256:0123456789", hosts=[log_id])
    with pytest.raises(MicrosandboxError, match="not an image reference"):
        fleet.why("A B", hosts=[log_id])
    with pytest.raises(ImageNotFoundError, match="no host of the fleet is 'lonly'; did you mean lonely"):
        fleet.diff("lonly", log_id)


def test_a_name_of_several_logs(filled: Filled, tmp_path: Path) -> None:
    for number in range(2):
        filled.add(Life(tmp_path / str(number), "twins").home)
    with pytest.raises(InvalidConfigError, match="means 2 logs"):
        filled.fleet().diff("twins", "twins")
