"""One member of a crowd: runs commands by chance on a home that others work on, until its time is over.

Prints one JSON object: how many commands, how many of each documented error, and every other error.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msb_cache import BusyError, ImageCache, ImageInUseError, ImageNotFoundError
from msb_cache.errors import ImagePullFailedError

DOCUMENTED = (ImageNotFoundError, ImageInUseError, BusyError)
"""What a command may meet because of what others do: it has gone or is held, or they took too long."""

NAMES = ("one", "two", "moved", "lone")
REFERENCES = ("one:1", "two:1", "lone:1")


def act(cache: ImageCache, chance: random.Random, me: str, archives: Path, remote: str) -> str:
    """Run one command by chance; return its name."""
    command = chance.choice(
        ["load"] * 3
        + ["pull"] * 2
        + [
            "use",
            "list",
            "hold",
            "hold",
            "release",
            "prune",
            "prune",
            "remove",
            "rebuild",
            "verify",
            "history",
        ]
    )
    reference = chance.choice(REFERENCES)
    if command == "load":
        cache.load(archives / f"{chance.choice(NAMES)}.tar")
    elif command == "pull":
        cache.pull(remote, policy=chance.choice(["missing", "always"]), force=chance.random() < 0.2)
    elif command == "use":
        cache.use(reference)
    elif command == "list":
        cache.list()
    elif command == "hold":
        keep(cache, reference, f"sandbox:{me}")
    elif command == "release":
        cache.release(f"sandbox:{me}")
    elif command == "prune":
        cache.prune(orphans=chance.random() < 0.3)
    elif command == "remove":
        cache.remove(reference, force=chance.random() < 0.3)
    elif command == "rebuild":
        assert cache.rebuild() == [], "the index was not its fold"
    elif command == "verify":
        found = cache.verify()
        assert not found.differences, found.differences
        assert hasattr(found.chain, "events"), found.chain
    else:
        cache.history(reference)
    return command


def keep(cache: ImageCache, reference: str, holder: str) -> None:
    """Hold an image and look whether every file of it stays for as long as it is held."""
    digest = cache.hold(reference, holder).manifest_digest
    assert digest is not None
    layout = cache._layout
    with cache._ledger.read() as connection:
        assert connection is not None
        query = "SELECT diff_id FROM manifest_layer WHERE manifest_digest = ?"
        layers = [layout.layer(diff_id) for (diff_id,) in connection.execute(query, (digest,))]
    for _ in range(5):
        for path in (layout.fsmeta(digest), layout.vmdk(digest), *layers):
            assert path.exists(), f"{path} of the held {reference} is gone"
        time.sleep(0.002)


class Record:
    """What one member did, which documented errors it met, and every other error."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.others: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of an error in the block."""
        try:
            yield
        except DOCUMENTED as error:
            self.met[type(error).__name__] += 1
        except ImagePullFailedError as error:
            self.others.append(str(error))
        except Exception:
            self.others.append(traceback.format_exc())


def share(cache: ImageCache, archives: Path, remote: str, me: str, seconds: float) -> Record:
    """Run commands by chance on a cache that other threads use as well, until the time is over."""
    chance, record = random.Random(me), Record()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with record.watched():
            record.done[act(cache, chance, me, archives, remote)] += 1
        if chance.random() < 0.05:
            cache.close()
    return record


def main(home: Path, archives: Path, remote: str, me: str, seconds: float) -> None:
    chance, record = random.Random(me), Record()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with record.watched(), ImageCache(home) as cache:
            for _ in range(chance.randrange(1, 6)):
                record.done[act(cache, chance, me, archives, remote)] += 1
    print(json.dumps(vars(record)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))
