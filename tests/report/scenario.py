"""A home with a life: images come, are used, held, pinned and moved, go alone and by a prune, come back."""

from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache, PrunePolicy
from msb_cache.eventstore.store import Actor
from tests.cli.support import APP, APP_NEXT, TOOL, written
from tests.imagebuilder import file, image, layer

HOUR = 3600 * 10**9
BEGIN = 1_700_000_000_000_000_000
BIG = image([layer([file("big", bytes(range(256)) * 1200)])], "big:1")
ALICE = Actor(user="alice-user", uid=1000, host="laptop-host", program="msb-cache", reason="a-reason")
BOB = Actor(user="root", uid=0, host="build-host", program="ci-program", login="bob-login", login_uid=7)


def lived(folder: Path) -> Path:
    """Return a home in which that happened within six hours.

    Alice loads app (two names) and tool and pins tool; bob loads big twice, uses and holds it; alice removes
    app:latest, app:1 moves on, bob prunes (big is held, tool pinned: app:1 and what was left of it go), and
    alice restores app:1 by loading it again.
    """
    home, now = folder / "home", [BEGIN]

    def read() -> int:
        now[0] += 10**9
        return now[0]

    def later(hours: int) -> None:
        now[0] += hours * HOUR

    app, tool, big, following = (
        written(folder / f"{number}.tar", each) for number, each in enumerate((APP, TOOL, BIG, APP_NEXT))
    )
    with ImageCache(home, actor=ALICE, clock=read) as alice, ImageCache(home, actor=BOB, clock=read) as bob:
        alice.load(app)
        later(1)
        alice.load(tool)
        alice.pin("example.org/team/tool:2", until="2 days")
        later(1)
        bob.load(big)
        bob.load(big)
        bob.use("big:1")
        bob.hold("big:1", "sandbox:dev")
        later(1)
        alice.remove("app:latest")
        later(1)
        bob.load(following)
        later(1)
        bob.prune(PrunePolicy())
        later(1)
        alice.load(app)
    return home
