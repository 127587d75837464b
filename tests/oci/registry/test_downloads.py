"""One layer's way from a registry: connections that break, registries that lie, and what stays on disk."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache.errors import ImagePullFailedError, InvalidImageError
from msb_cache.oci.image import SourceLayer
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.downloads import LayerProgress
from msb_cache.oci.registry.images import Registry
from msb_cache.oci.registry.options import RegistryOptions
from tests.imagebuilder import BuiltLayer, file, image, layer
from tests.registry_server import (
    Action,
    RegistryServer,
    answer,
    chunked,
    corrupt,
    drop,
    endless,
    error,
    html,
    ignore_range,
    stall,
    truncate,
    wrong_range,
)

FAST = RegistryOptions(timeout=0.4, retries=2, backoff=0.01)
BUILT = layer([file("data", random.Random(1).randbytes(3_000_000)), file("zeros", bytes(100_000))], "gzip")
SIZE = len(BUILT.blob)


class Pull:
    """A registry with one image of one large layer, and what a pull of it reports."""

    def __init__(self, server: RegistryServer, registry: Registry, partials: Path) -> None:
        self.server = server
        self.registry = registry
        self.partials = partials
        self.events: list[LayerProgress] = []

    def layer(self, built: BuiltLayer = BUILT) -> SourceLayer:
        name = Reference.parse(self.server.add(image([built])))
        found = self.registry.image(
            self.registry.resolve(name), partials=self.partials, progress=self.events.append
        )
        self.server.requests.clear()
        return found.layers[0]

    def verify(self) -> None:
        self.layer().verify_only()

    def failing(self, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message) as caught:
            self.verify()
        assert "\n" not in str(caught.value)

    @property
    def partial(self) -> Path:
        return self.partials / f"{BUILT.digest.removeprefix('sha256:')}.partial"

    @property
    def offsets(self) -> list[int]:
        return [request.offset for request in self.server.requests if "/blobs/" in request.path]

    def named(self, *names: str) -> list[str]:
        return [each.event for each in self.events if not names or each.event in names]

    def on(self, *actions: Action, always: bool = False) -> None:
        self.server.on(f"/blobs/{BUILT.digest}", *actions, always=always)

    def left(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.partials.iterdir())]


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[Pull]:
    with RegistryServer() as server, Registry(server.host, FAST) as registry:
        yield Pull(server, registry, tmp_path / "partials")


# --- good days ----------------------------------------------------------------------------------


def test_a_layer_leaves_nothing_behind(pull: Pull) -> None:
    pull.verify()
    assert pull.left() == []
    assert pull.offsets == [0]
    assert pull.named("started", "resumed", "retry", "done", "exists") == ["started", "done"]
    counted = [each.done for each in pull.events if each.event == "bytes"]
    assert counted == sorted(counted)
    assert len(counted) == 3  # 2.9 MB: after each MiB and at the end
    assert counted[-1] == SIZE
    assert {(each.layer, each.total) for each in pull.events} == {(BUILT.digest, SIZE)}


def test_chunked_bodies_are_read(pull: Pull) -> None:
    pull.on(chunked)
    pull.verify()
    assert pull.offsets == [0]


def test_connections_are_used_again(pull: Pull) -> None:
    source = pull.layer()
    for _ in range(3):
        source.verify_only()
    assert len({request.headers["host"] for request in pull.server.requests}) == 1
    assert pull.server.connections == 1


def test_the_partial_file_is_the_owners_alone(pull: Pull) -> None:
    with pull.layer().open() as stream:
        next(iter(stream.entries()))
        assert pull.partial.stat().st_mode & 0o777 == 0o600
        assert pull.partials.stat().st_mode & 0o777 == 0o700
        assert BUILT.blob.startswith(pull.partial.read_bytes())


# --- connections that break ---------------------------------------------------------------------


def test_a_dropped_connection_is_resumed(pull: Pull) -> None:
    pull.on(drop(1_000_000), drop(500_000))
    pull.verify()
    assert pull.offsets == [0, 1_000_000, 1_500_000]
    assert pull.named("started", "resumed", "retry", "done") == ["started", "retry", "retry", "done"]
    assert "broke off" in next(each.note for each in pull.events if each.event == "retry")
    assert pull.left() == []


def test_a_stalled_body_is_resumed(pull: Pull) -> None:
    pull.on(stall(700_000))
    started = time.monotonic()
    pull.verify()
    assert pull.offsets == [0, 700_000]
    assert "does not answer within 0.4 seconds" in next(e.note for e in pull.events if e.event == "retry")
    assert time.monotonic() - started < 4


def test_a_body_that_ends_early_is_resumed(pull: Pull) -> None:
    pull.on(truncate(700_000))
    pull.verify()
    assert pull.offsets == [0, 700_000]


def test_a_registry_that_ignores_ranges_starts_again(pull: Pull) -> None:
    pull.on(drop(1_000_000), ignore_range)
    pull.verify()
    assert pull.offsets == [0, 1_000_000]


@pytest.mark.parametrize(
    "action", [wrong_range, answer(206), answer(416), answer(206, Content_Range="bytes x")]
)
def test_a_wrong_range_starts_again(pull: Pull, action: Action) -> None:
    pull.on(drop(1_000_000), action)
    pull.verify()
    assert pull.offsets == [0, 1_000_000, 0]


@pytest.mark.parametrize(
    "action", [answer(429, Retry_After="0"), error(503, "X", "y"), answer(502), answer(408)]
)
def test_passing_refusals_pass(pull: Pull, action: Action) -> None:
    pull.on(action, drop(1_000_000), action)
    pull.verify()
    assert pull.offsets == [0, 0, 1_000_000, 1_000_000]


def test_retry_after_is_waited_for(pull: Pull) -> None:
    pull.on(answer(429, Retry_After="1"))
    started = time.monotonic()
    pull.verify()
    assert time.monotonic() - started > 0.9


def test_progress_renews_the_tries(pull: Pull) -> None:
    pull.on(*[drop(300_000)] * 8)
    pull.verify()
    assert len(pull.offsets) == 9


def test_crumbs_are_no_progress(pull: Pull) -> None:
    pull.on(drop(1000), always=True)
    pull.failing(ImagePullFailedError, "the connection to .* broke off; check the network and try again")
    assert len(pull.offsets) == 3
    assert pull.left() == [BUILT.blob[:3000]]


def test_dying_for_good_keeps_what_came_and_the_next_pull_goes_on(pull: Pull) -> None:
    pull.on(drop(1_000_000), *[error(503, "UNAVAILABLE", "off")] * 2)
    pull.failing(
        ImagePullFailedError, r"answers 503 Service Unavailable \('UNAVAILABLE: off'\); try again later"
    )
    assert pull.left() == [BUILT.blob[:1_000_000]]
    pull.events.clear()
    pull.verify()
    assert pull.offsets == [1_000_000]
    assert pull.events[0].event == "resumed"
    counted = [each.done for each in pull.events]
    assert counted[0] == 1_000_000
    assert counted == sorted(counted)
    assert pull.left() == []


def test_a_registry_that_always_starts_again_is_given_up(pull: Pull) -> None:
    pull.on(drop(1_000_000, resume=False), always=True)
    pull.failing(ImagePullFailedError, "broke off")
    assert pull.left() == [BUILT.blob[:1_000_000]]


def test_a_killed_process_leaves_a_beginning(pull: Pull) -> None:
    pull.on(stall(1_000_000))
    source = pull.layer()
    program = f"""
import sys
from pathlib import Path
from msb_cache.oci.reference import Reference
from msb_cache.oci.registry.images import Registry
name = Reference.parse({pull.server.host!r} + "/app:1")
with Registry(name) as registry:
    found = registry.image(registry.resolve(name), partials=Path({str(pull.partials)!r}))
    found.layers[0].verify_only()
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 10
        while not (pull.partial.exists() and pull.partial.stat().st_size == 1_000_000):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    pull.server.requests.clear()
    source.verify_only()
    assert pull.offsets == [1_000_000]
    assert pull.left() == []


def test_closing_the_registry_ends_waits_elsewhere(pull: Pull) -> None:
    pull.on(answer(429, Retry_After="30"))
    source = pull.layer()
    failed: list[str] = []

    def read() -> None:
        try:
            source.verify_only()
        except ImagePullFailedError as problem:
            failed.append(str(problem))

    thread = threading.Thread(target=read)
    thread.start()
    while not pull.named("retry"):
        time.sleep(0.01)
    pull.registry.close()
    thread.join(2)
    assert not thread.is_alive()
    assert failed == ["the pull was stopped"]


# --- registries that lie ------------------------------------------------------------------------


@pytest.mark.parametrize("position", [20, SIZE // 2, SIZE - 1])
def test_damaged_bytes_leave_nothing_behind(pull: Pull, position: int) -> None:
    pull.on(corrupt(position))
    pull.failing(InvalidImageError, f"layer {BUILT.digest} is damaged")
    assert pull.left() == []
    pull.verify()


def test_a_diff_id_that_is_wrong_leaves_nothing_behind(pull: Pull) -> None:
    source = pull.layer()
    wrong = SourceLayer(
        "sha256:" + "0" * 64, source.blob_digest, source.media_type, source.size, source.open_blob
    )
    with pytest.raises(InvalidImageError, match="is not what its config says"):
        wrong.verify_only()
    assert pull.left() == []


@pytest.mark.parametrize("change", [-1, 1, 1 << 40])
def test_another_length_is_refused_before_the_body(pull: Pull, change: int) -> None:
    pull.on(answer(200, b"x", Content_Length=str(SIZE + change), Connection="close"))
    pull.failing(
        InvalidImageError, f"is {SIZE + change} bytes long at .*, but should be {SIZE}; push the image"
    )
    assert pull.left() == []


def test_an_endless_body_is_read_no_further_than_the_layer(pull: Pull) -> None:
    pull.on(endless())
    pull.verify()
    assert pull.left() == []
    pull.on(endless(prefix=False))
    pull.failing(InvalidImageError, "is damaged")
    assert pull.left() == []
    assert pull.server.sent < 64 << 20


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (answer(404), rf"layer {BUILT.digest} is not in the registry 127.0.0.1:\d+; check the name"),
        (error(403, "DENIED", "no"), "does not exist or needs a login"),
        (html(), "answers with an HTML page: it is not a registry"),
        (answer(400, b"no"), "answers 400 Bad Request for layer"),
    ],
)
def test_refusals_are_final(pull: Pull, action: Action, message: str) -> None:
    pull.on(drop(1_000_000), action)
    pull.failing(ImagePullFailedError, message)
    assert pull.left() == [BUILT.blob[:1_000_000]]
    assert len(pull.offsets) == 2


# --- what lies on disk --------------------------------------------------------------------------


def leave(pull: Pull, data: bytes) -> None:
    pull.partials.mkdir()
    pull.partial.write_bytes(data)


def test_a_whole_partial_needs_no_request(pull: Pull) -> None:
    leave(pull, BUILT.blob)
    pull.verify()
    assert pull.offsets == []
    assert pull.left() == []


def test_a_partial_that_is_too_long_is_dropped(pull: Pull) -> None:
    leave(pull, BUILT.blob + b"x")
    pull.verify()
    assert pull.offsets == [0]
    assert pull.left() == []


def test_a_partial_that_is_wrong_fails_once(pull: Pull) -> None:
    leave(pull, BUILT.blob[:1000] + bytes(1000))
    pull.failing(InvalidImageError, "is damaged")
    assert pull.left() == []
    pull.verify()


def test_a_partial_that_shrinks_on_the_way_is_made_up_for(pull: Pull) -> None:
    leave(pull, BUILT.blob[:2_000_000])
    source = pull.layer()
    with source.open() as stream:
        os.truncate(pull.partial, 500_000)
        stream.verify()
    assert pull.offsets[0] >= 500_000
    assert pull.left() == []


def test_a_partial_that_somebody_else_fills_is_left_alone(pull: Pull) -> None:
    leave(pull, BUILT.blob[:1000])
    with pull.partial.open("rb") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        pull.on(drop(1_000_000))
        pull.verify()
    assert pull.offsets == [0, 1_000_000]
    assert pull.left() == [BUILT.blob[:1000]]


def test_readers_of_one_layer_do_not_disturb_each_other(pull: Pull) -> None:
    source = pull.layer()
    with source.open() as first, source.open() as second:
        second.verify()
        first.verify()
    assert pull.left() == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd"), Path.mkdir])
def test_what_is_no_file_is_not_touched(pull: Pull, make: Callable[[Path], None]) -> None:
    pull.partials.mkdir()
    make(pull.partial)
    with pytest.raises(OSError, match=r"\.partial"):
        pull.verify()
    assert pull.server.count("/blobs/" + BUILT.digest) == 0


def test_a_full_disk_is_not_taken_for_damage(pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: bytes, position: int) -> int:
        if position > 1_000_000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        pull.verify()
    monkeypatch.undo()
    (left,) = pull.left()
    assert BUILT.blob.startswith(left)


def test_a_layer_that_is_never_opened_leaves_no_trace(pull: Pull) -> None:
    pull.layer()
    assert pull.server.requests == []
    assert not pull.partials.exists()
