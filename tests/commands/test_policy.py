"""The first policy file, and what the rules of one make of an image."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from msb_cache.queries import policy_file
from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy, Watermarks
from tests.cli.support import APP, TOOL, written

DAY = 86400 * 10**9


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder without configuration."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    """A home with app:1 and app:latest of ten days ago, and a tool of today."""
    home = tmp_path / "home"
    with ImageCache(home, clock=lambda: time.time_ns() - 10 * DAY) as earlier:
        earlier.load(written(tmp_path / "app.tar", APP))
    found = ImageCache(home)
    found.load(written(tmp_path / "tool.tar", TOOL))
    return found


def policy(*rules: PrunePolicy, **given: object) -> CachePolicy:
    named = tuple(NamedRule(name=f"r{number}", rule=rule) for number, rule in enumerate(rules))
    return CachePolicy(rules=named, **given)  # type: ignore[arg-type]


def test_the_first_policy_is_of_the_owner_alone_and_stays(tmp_path: Path, user: Path) -> None:
    with ImageCache(tmp_path / "fresh") as cache:
        assert cache.policy() is None
        path = cache.begin_policy()
        assert path == tmp_path / "fresh/cache-policy.toml"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert cache.policy() == policy_file.read(str(path))
        path.write_text("# mine\n")
        with pytest.raises(InvalidConfigError, match="is there already, and stays as it is"):
            cache.begin_policy()
        assert path.read_text() == "# mine\n"
        assert cache.begin_policy(user=True) == user / ".config/msb-cache/policy.toml"
        found = cache.policy()
        assert found is not None
        assert found.source == str(path)


def test_mistakes_are_no_error_of_a_check(tmp_path: Path, user: Path) -> None:
    with ImageCache(tmp_path / "home") as cache:
        with pytest.raises(InvalidConfigError, match="has no policy"):
            cache.check_policy()
        path = cache.begin_policy()
        assert cache.check_policy() == (str(path), [])
        path.write_text("a = 1\n")
        checked, mistakes = cache.check_policy()
        assert (checked, [each.line for each in mistakes]) == (str(path), [1])
        with pytest.raises(InvalidConfigError, match="line 1: a: there is no such key"):
            cache.policy()
        assert cache.check_policy(cache.begin_policy(user=True))[1] == []


def test_what_each_rule_makes_of_an_image_until_one_takes_it(cache: ImageCache) -> None:
    several = policy(
        PrunePolicy(filter=("reference=example.org/*",)),
        PrunePolicy(unused_for="30d"),
        PrunePolicy(unused_for="5d"),
        PrunePolicy(older_than="1d"),
        watermarks=Watermarks(high=1, low=0),
    )
    found = [
        (each.rule, each.goes, each.verdict and each.verdict.rule)
        for each in cache.test_policy("app:1", several)
    ]
    assert found == [("r0", False, None), ("r1", False, "unused-for"), ("r2", True, "due")]
    found = [
        (each.rule, each.goes, each.verdict and each.verdict.rule)
        for each in cache.test_policy("example.org/team/tool:2", several)
    ]
    assert [each[0] for each in found] == ["r0", "r1", "r2", "r3", "watermarks"]
    assert {each[2] for each in found} == {"grace"}
    cache.close()


def test_a_manifest_without_a_reference_is_tried_by_its_digest(cache: ImageCache) -> None:
    cache.hold("app:1", "sandbox:dev")
    cache.remove(["app:1", "app:latest"], force=True)
    dangling = policy(PrunePolicy(filter=("dangling",), grace="0s"))
    (held,) = cache.test_policy(APP.digest[:19], dangling)
    assert held.verdict is not None
    assert (held.goes, held.verdict.rule) == (False, "held")
    cache.release("sandbox:dev")
    assert [each.goes for each in cache.test_policy(APP.digest, dangling)] == [True]
    with pytest.raises(ImageNotFoundError):
        cache.test_policy("app:1", dangling)
    cache.close()


def test_of_an_empty_home_there_is_no_image(tmp_path: Path, user: Path) -> None:
    with ImageCache(tmp_path / "home") as cache:
        with pytest.raises(InvalidConfigError, match="has no policy"):
            cache.test_policy("app:1")
        with pytest.raises(ImageNotFoundError, match="'app:1' is not in the cache"):
            cache.test_policy("app:1", policy())


def test_a_prune_by_a_file_is_recorded_with_the_rules_names(cache: ImageCache) -> None:
    asked = policy(PrunePolicy(unused_for="5d"), keep=("label=none",), source="/x.toml", digest="sha256:1")
    report = cache.prune(asked)
    assert report.image_refs_removed == 2
    assert report.operation is not None
    deletion = cache.prune_report(report.operation)
    assert deletion.policy == {
        "rule": "policy",
        "file": "/x.toml",
        "digest": "sha256:1",
        "rules": [{"name": "r0", "unused_for": "5d", "grace": "1h"}],
        "keep": ["label=none"],
        "max_delete": "90%",
    }
    assert {each.policy_rule for each in deletion.going} == {"r0"}
    assert {each.policy_rule for each in deletion.kept} == {"r0"}
    cache.close()
