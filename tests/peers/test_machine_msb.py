"""The real msb and msb-cache change one home in turn: after each step both say the same.

What msb says is read from its own JSON, and from its database and the disk as ``reading`` reads them. A
sandbox's boot fails here after seconds of work; it is cut short. MSB_CACHE_TEST_STEPS says how many steps are
made, in homes of at most 50 each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from msb_cache import ImageCache, ImageInUseError, ImagePruneReport
from tests.imagebuilder import docker_archive, file, image, layer
from tests.peers.agreement import OURS, Agreement, counters
from tests.peers.reading import Reading, read
from tests.peers.realmsb import BASE, Msb, short_home
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.peer, pytest.mark.slow]

STEPS = int(os.environ.get("MSB_CACHE_TEST_STEPS", "150"))
IN_A_HOME = 50
LOOK_CLOSELY = 20  # steps between two looks at all that is derived

SHARED = layer([file("shared", b"shared" * 3000)])
CONTENTS = [
    image([BASE, *more, layer([file("own", name.encode() * 3000)])], "x:1", config={"Env": [f"NAME={name}"]})
    for name, more in (("red", []), ("green", [SHARED]), ("blue", [SHARED]), ("grey", []))
]
NAMES = ("app:1", "docker.io/library/app:1", "app:2", "team/tool", "team/tool:latest", "quay.io/other/app:1")
REPOSITORIES = ("one", "two")
SANDBOXES = ("dev", "ops", "ci")

contents = st.integers(0, len(CONTENTS) - 1)
names = st.sampled_from(NAMES)
sandboxes = st.sampled_from(SANDBOXES)
some = st.integers(0, 11)


@dataclass
class World:
    """What all homes have in common."""

    program: str
    archives: Path
    registry: RegistryServer
    steps: int = 0
    did: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def world(msb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("MSB_PATH", msb)
    for number, built in enumerate(CONTENTS):
        (tmp_path / f"{number}.tar").write_bytes(docker_archive(built))
    with RegistryServer() as registry:
        for repository in REPOSITORIES:
            registry.add(CONTENTS[0], repository)
        yield World(msb, tmp_path, registry)


class Home(RuleBasedStateMachine):
    """One home, from the moment at which msb made it."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        with ExitStack() as stack:
            home = stack.enter_context(short_home())
            self.real = Msb(self.world.program, home, self.world.archives)
            self.real("image", "ls")
            self.agreement = Agreement(self.real, stack.enter_context(ImageCache(home)))
            self.kept = stack.pop_all()
        self.report: ImagePruneReport | None = None

    def teardown(self) -> None:
        try:
            self.agreement.look_closely()
        finally:
            self.kept.close()

    @property
    def cache(self) -> ImageCache:
        return self.agreement.cache

    @property
    def seen(self) -> Reading:
        return self.agreement.seen

    @rule()
    def a_usual_day(self) -> None:
        """What the simplest example, which comes first, does again and again: something of everything."""
        name, *arguments = DAY[len(self.did) % len(DAY)]
        if name in NEED_A_SANDBOX and not self.seen.sandboxes:
            self.msb_creates(0, "dev", "flat:256M") if self.seen.refs else self.msb_loads(0, "app:1")
        elif name == "msb_removes_a_snapshot" and not self.seen.snapshots:
            self.we_release("dev")
        elif name in NEED_AN_IMAGE and not self.seen.refs:
            self.msb_loads(0, "app:1")
        else:
            getattr(self, name)(*arguments)

    # -- msb ---------------------------------------------------------------------------------------------

    @rule(content=contents, name=names)
    def msb_loads(self, content: int, name: str) -> None:
        self.step("msb load", content, name)
        self.load(content, name)

    @rule(
        repository=st.sampled_from(REPOSITORIES),
        content=contents,
        force=st.booleans(),
        made=st.sampled_from(["layered", "flat", "all"]),
    )
    def msb_pulls(self, repository: str, content: int, force: bool, made: str) -> None:
        self.step("msb pull", repository, content, force, made)
        self.world.registry.add(CONTENTS[content], repository)
        options = ("-q", "--insecure", "--materialize", made, *(("--force",) if force else ()))
        self.real("pull", *options, f"{self.world.registry.host}/{repository}:1")

    @precondition(lambda self: self.seen.refs)
    @rule(which=some, sandbox=sandboxes, root=st.sampled_from(["256M", "flat:256M"]))
    def msb_creates(self, which: int, sandbox: str, root: str) -> None:
        name = self.reference(which)
        self.step("msb create", name, sandbox, root)
        self.create(name, sandbox, root)

    @precondition(lambda self: self.seen.sandboxes)
    @rule(which=some)
    def msb_starts(self, which: int) -> None:
        sandbox = self.sandbox(which)
        self.step("msb start", sandbox)
        self.real.boot("start", sandbox, sandbox=sandbox)

    @precondition(lambda self: self.seen.sandboxes)
    @rule(which=some)
    def msb_removes_a_sandbox(self, which: int) -> None:
        sandbox = self.sandbox(which)
        self.step("msb rm", sandbox)
        self.real("rm", sandbox)

    @precondition(lambda self: self.seen.sandboxes)
    @rule(which=some, name=st.sampled_from(["one", "two"]))
    def msb_takes_a_snapshot(self, which: int, name: str) -> None:
        sandbox = self.sandbox(which)
        self.step("msb snapshot create", sandbox, name)
        self.real("snapshot", "create", name, "--sandbox", sandbox, fails=True)  # the name may be taken

    @precondition(lambda self: self.seen.snapshots)
    @rule(which=some)
    def msb_removes_a_snapshot(self, which: int) -> None:
        path = sorted(self.seen.snapshots)[which % len(self.seen.snapshots)]
        self.step("msb snapshot rm", path)
        self.real("snapshot", "rm", path, fails=True)  # it may be the one that the next builds on

    @precondition(lambda self: self.seen.refs)
    @rule(which=some, force=st.booleans())
    def msb_removes_an_image(self, which: int, force: bool) -> None:
        name = self.reference(which)
        self.step("msb image rm", name, force)
        self.real("image", "rm", *(("--force",) if force else ()), name, fails=True)

    @rule(quiet=st.booleans())
    def msb_prunes(self, quiet: bool) -> None:
        self.step("msb image prune", quiet)
        self.real("image", "prune", "--yes", *(("--quiet",) if quiet else ()))

    @rule(
        content=contents,
        name=names,
        then=st.lists(
            st.tuples(st.sampled_from(["load", "remove", "create", "drop", "prune"]), contents, names)
        ),
    )
    def msb_does_more_than_one_thing_unseen(
        self, content: int, name: str, then: list[tuple[str, int, str]]
    ) -> None:
        self.step("msb unseen", content, name, then)
        self.load(content, name)
        actions: dict[str, Callable[[int, str], object]] = {
            "load": self.load,
            "remove": lambda _, name: self.real("image", "rm", name, fails=True),
            "create": lambda number, name: self.create(name, SANDBOXES[number % 3]),
            "drop": lambda number, _: self.real("rm", SANDBOXES[number % 3], fails=True),
            "prune": lambda *_: self.real("image", "prune", "--yes"),
        }
        for action, number, about in then:
            actions[action](number, about)

    # -- msb-cache ---------------------------------------------------------------------------------------

    @rule(content=contents, name=names)
    def we_load(self, content: int, name: str) -> None:
        self.step("load", content, name)
        self.cache.load(self.world.archives / f"{content}.tar", tag=name)

    @rule(
        repository=st.sampled_from(REPOSITORIES),
        content=contents,
        policy=st.sampled_from(["missing", "always"]),
    )
    def we_pull(self, repository: str, content: int, policy: Any) -> None:
        self.step("pull", repository, content, policy)
        self.world.registry.add(CONTENTS[content], repository)
        self.cache.pull(f"{self.world.registry.host}/{repository}:1", policy=policy)

    @precondition(lambda self: self.seen.refs)
    @rule(which=some, force=st.booleans())
    def we_remove(self, which: int, force: bool) -> None:
        name = self.reference(which)
        self.step("remove", name, force)
        digest = self.seen.refs[name].digest
        theirs = self.seen.holders(digest)
        ours = [holder for holder, held in self.agreement.held.items() if held == digest]
        try:
            self.report = self.cache.remove(name, force=force)
            assert not ours or theirs
            assert force or not theirs
        except ImageInUseError:
            # msb does not know our holds, and would delete what we would only take the name from.
            assert (theirs and not force) or (ours and not theirs)

    @rule(dry_run=st.booleans())
    def we_prune(self, dry_run: bool) -> None:
        self.step("prune", dry_run)
        preview = self.cache.prune(dry_run=True)
        if not dry_run:
            self.report = self.cache.prune()
            # msb deletes a manifest that no reference points at only where its prune takes nothing of ours.
            assert self.agreement.held or counters(self.report) == counters(preview)

    @precondition(lambda self: self.seen.refs)
    @rule(which=some, sandbox=sandboxes)
    def we_hold(self, which: int, sandbox: str) -> None:
        name = self.reference(which)
        self.step("hold", name, sandbox)
        holder = f"{OURS}{sandbox}"
        self.cache.release(holder)
        self.cache.hold(name, holder)
        self.agreement.held[holder] = self.seen.refs[name].digest

    @rule(sandbox=sandboxes)
    def we_release(self, sandbox: str) -> None:
        self.step("release", sandbox)
        self.cache.release(f"{OURS}{sandbox}")
        self.agreement.held.pop(f"{OURS}{sandbox}", None)

    @precondition(lambda self: self.seen.refs)
    @rule(which=some)
    def we_use(self, which: int) -> None:
        name = self.reference(which)
        self.step("use", name)
        self.cache.use(name)
        (used,) = self.cache.events(types=["image.used"], limit=1, reverse=True)
        self.agreement.used[self.seen.refs[name].row] = used.occurred_at_ns

    @rule(number=st.integers(1, 3))
    def we_begin_anew(self, number: int) -> None:
        self.step("another process", number)
        self.cache.close()
        self.agreement.cache = self.kept.enter_context(ImageCache(self.real.home))
        for _ in range(number):
            self.cache.sync(force=True)

    # -- how -----------------------------------------------------------------------------------------------

    def step(self, *words: object) -> None:
        self.report = None
        self.did.append(" ".join(map(str, words)))
        self.world.did[str(words[0])] += 1
        self.world.steps += 1

    def reference(self, which: int) -> str:
        return sorted(self.seen.refs)[which % len(self.seen.refs)]

    def sandbox(self, which: int) -> str:
        return sorted(self.seen.sandboxes)[which % len(self.seen.sandboxes)]

    def load(self, content: int, name: str) -> None:
        self.real("load", "-q", "-i", str(self.world.archives / f"{content}.tar"), "-t", name)

    def create(self, name: str, sandbox: str, root: str = "256M") -> None:
        now = read(self.real.home)
        if name in now.refs and sandbox not in now.sandboxes:  # else it would be pulled
            self.real.create(name, sandbox, "--memory", "64M", "--root-disk", root)

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def both_say_the_same(self) -> None:
        try:
            self.agreement.compare(self.report)
            if len(self.did) % LOOK_CLOSELY == 0:
                self.agreement.look_closely()
        except AssertionError as error:
            error.add_note("after: " + "\n       ".join(self.did))
            raise


DAY: Sequence[tuple[Any, ...]] = (
    ("msb_loads", 0, "app:1"),
    ("msb_creates", 0, "dev", "256M"),
    ("msb_loads", 1, "app:1"),
    ("msb_starts", 0),
    ("msb_takes_a_snapshot", 0, "one"),
    ("we_load", 2, "app:2"),
    ("we_hold", 1, "ops"),
    ("msb_pulls", "one", 3, False, "flat"),
    ("msb_pulls", "two", 2, True, "all"),
    ("we_pull", "one", 2, "always"),
    ("we_prune", False),
    ("msb_removes_an_image", 0, True),
    ("we_use", 0),
    ("msb_removes_a_sandbox", 0),
    ("we_prune", False),
    ("msb_removes_a_snapshot", 0),
    ("we_release", "ops"),
    ("we_remove", 0, False),
    ("msb_does_more_than_one_thing_unseen", 0, "app:2", [("create", 0, "app:2"), ("load", 1, "app:2")]),
    ("msb_prunes", False),
    ("we_begin_anew", 1),
    ("we_prune", True),
    ("msb_does_more_than_one_thing_unseen", 1, "app:1", [("remove", 0, "app:1"), ("load", 2, "app:1")]),
    ("msb_removes_a_sandbox", 0),
    ("we_remove", 0, True),
    ("msb_prunes", False),
)
NEED_A_SANDBOX = ("msb_starts", "msb_takes_a_snapshot", "msb_removes_a_sandbox")
NEED_AN_IMAGE = ("msb_creates", "msb_removes_an_image", "we_hold", "we_use", "we_remove")


def test_msb_and_msb_cache_change_a_home_in_turn(world: World) -> None:
    class OfThisWorld(Home):
        pass

    OfThisWorld.world = world
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OfThisWorld,
        settings=settings(
            max_examples=-(-STEPS // IN_A_HOME),
            stateful_step_count=min(STEPS, IN_A_HOME),
            phases=[Phase.generate],  # shrinking would run msb thousands of times
            deadline=None,
            database=None,
            # The suite takes the same steps each time; a longer run takes others.
            derandomize="MSB_CACHE_TEST_STEPS" not in os.environ,
            print_blob=True,
            suppress_health_check=[*HealthCheck],
        ),
    )
    print(world.steps, world.did)
