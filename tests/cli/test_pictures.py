"""What is drawn of long work: in every width and height, with one unit, and with what matters first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.activity import Activity
from msb_cache.cli.pictures import ASCII, UNICODE, Amounts, Doing, Layers, Picture, Row, Speed, clock
from msb_cache.oci.registry.downloads import LayerProgress
from tests.logs import digest

MIB = 1 << 20


class Time:
    """The time, which a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(picture: Picture, width: int = 80, height: int = 20) -> list[str]:
    return [text_of(row) for row in picture.rows(width, height, ASCII)]


def text_of(row: Row) -> str:
    return "".join(text for text, _ in row).rstrip()


@pytest.mark.parametrize(
    ("largest", "done", "total", "shown"),
    [
        (0, 0, 0, "0/0 B"),
        (1000, 7, 1000, "7/1000 B"),
        (4096, 1, 4096, "0.1/4.0 KiB"),
        (3 * MIB, 0, 3 * MIB, "0.0/3.0 MiB"),
        (3 * MIB, 300, 2000, "0.1/0.1 MiB"),
        (5000 * MIB, 3 * MIB, 5000 * MIB, "3.0/5,000.0 MiB"),
        (20 << 30, 1 << 30, 20 << 30, "1.0/20.0 GiB"),
        (3 * MIB, 3 * MIB, None, "3.0 MiB"),
    ],
)
def test_amounts_have_the_unit_of_the_largest(largest: int, done: int, total: int | None, shown: str) -> None:
    assert Amounts(largest).of(done, total) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (3723, "1:02:03")]
)
def test_times(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_the_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.at(0) == 0
    for now in range(10):
        speed.add(now, 0)
    for now in range(10, 30):
        speed.add(now, (now - 10) * 50)
    assert speed.at(29) == pytest.approx(50)
    assert speed.at(129) < 10  # it stands still since then


class TestActivity:
    def test_what_counts_nothing_says_for_how_long_it_has_gone_on(self) -> None:
        time = Time()
        doing = Doing(Activity("asking registry.example"), time)
        time.now += 7
        assert drawn(doing)[0][1:] == " asking registry.example  0:07"

    def test_counts_and_a_bar(self) -> None:
        doing = Doing(Activity("checking the log", "events", 0, 2000), Time())
        doing.tell(Activity("checking the log", "events", 1500, 2000))
        (line,) = drawn(doing)
        assert "checking the log  ######" in line
        assert "1,500 of 2,000 events" in line

    def test_counts_with_the_time_that_is_left(self) -> None:
        time = Time()
        doing = Doing(Activity("deleting"), time)
        for second in range(5):
            time.now = 100.0 + second
            doing.tell(Activity("deleting", None, second * 100, 1000))
        assert drawn(doing)[0].endswith("  400 of 1,000  0:06 left")
        doing.tell(Activity("deleting", None, 1000, 1000))
        assert drawn(doing)[0].endswith("  1,000 of 1,000  0:04")

    def test_bytes_with_speed_and_the_time_that_is_left(self) -> None:
        time = Time()
        doing = Doing(Activity("reading the archive", "bytes", 0, 20 * MIB), time)
        for second in range(5):
            time.now = 100.0 + second
            doing.tell(Activity("reading the archive", "bytes", second * MIB, 20 * MIB))
        assert drawn(doing)[0].endswith("  4.0/20.0 MiB  1.0 MiB/s  0:16 left")

    def test_bytes_of_which_the_total_is_not_known(self) -> None:
        time = Time()
        doing = Doing(Activity("reading the archive", "bytes"), time)
        for second in range(5):
            time.now = 100.0 + second
            doing.tell(Activity("reading the archive", "bytes", second * MIB))
        (line,) = drawn(doing)
        assert line[1:] == " reading the archive  4.0 MiB  1.0 MiB/s  0:04"

    def test_what_comes_from_outside_drives_no_terminal(self) -> None:
        assert "\x1b" not in drawn(Doing(Activity("asking \x1b[2J"), Time()))[0]


def three_layers(time: Time | None = None) -> Layers:
    layers = Layers(time or Time())
    for number, size in enumerate((8 * MIB, 4 * MIB, 2 * MIB)):
        layers.tell(LayerProgress(digest(number), "queued", 0, size))
    return layers


class TestLayers:
    def test_all_are_there_at_once_those_that_wait_as_queued(self) -> None:
        layers = three_layers()
        layers.tell(LayerProgress(digest(0), "started", 0, 8 * MIB))
        layers.tell(LayerProgress(digest(0), "bytes", 2 * MIB, 8 * MIB))
        first, second, third, total = drawn(layers)
        assert digest(0)[:19] in first
        assert first.endswith("2.0/8.0 MiB")
        assert second.endswith("0.0/4.0 MiB  queued")
        assert third.endswith("queued")
        assert "0/3 layers" in total
        assert "2.0/14.0 MiB" in total

    def test_speed_and_time_count_what_is_fetched_now(self) -> None:
        time = Time()
        layers = three_layers(time)
        layers.tell(LayerProgress(digest(2), "exists", 2 * MIB, 2 * MIB))
        layers.tell(LayerProgress(digest(1), "resumed", 3 * MIB, 4 * MIB))
        layers.tell(LayerProgress(digest(0), "started", 0, 8 * MIB))
        time.now += 4
        layers.tell(LayerProgress(digest(0), "bytes", 4 * MIB, 8 * MIB))
        assert drawn(layers)[-1].endswith("9.0/14.0 MiB  1.0 MiB/s  0:05 left")

    @pytest.mark.parametrize(
        ("step", "shown"),
        [
            (LayerProgress(digest(0), "resumed", MIB, 8 * MIB), "1.0/8.0 MiB  going on"),
            (LayerProgress(digest(0), "bytes", 8 * MIB, 8 * MIB), "8.0/8.0 MiB  unpacking"),
            (LayerProgress(digest(0), "done", 8 * MIB, 8 * MIB), "8.0/8.0 MiB  done"),
            (LayerProgress(digest(0), "exists", 8 * MIB, 8 * MIB), "8.0/8.0 MiB  already here"),
            (LayerProgress(digest(0), "retry", 0, 8 * MIB, "a\x1b"), "trying again: a\\x1b"),
        ],
    )
    def test_states(self, step: LayerProgress, shown: str) -> None:
        layers = three_layers()
        layers.tell(step)
        assert drawn(layers)[0].endswith(shown)

    def test_when_all_are_here_the_image_is_put_together(self) -> None:
        layers = three_layers()
        for number, size in enumerate((8 * MIB, 4 * MIB, 2 * MIB)):
            layers.tell(LayerProgress(digest(number), "done", size, size))
        assert "putting the image together" in drawn(layers)[-1]

    def test_another_image_takes_the_place_of_one_that_is_here(self) -> None:
        layers = Layers(Time())
        layers.tell(LayerProgress(digest(1), "exists", 1, 1))
        layers.tell(LayerProgress(digest(2), "queued", 0, 1))
        assert len(drawn(layers)) == 2

    def test_of_msb_amounts_and_no_bars(self) -> None:
        layers = Layers(Time())
        layers.tell(LayerProgress(digest(0), "started", 0, None))
        layers.tell(LayerProgress(digest(0), "bytes", 3 * MIB, None))
        layers.tell(LayerProgress(digest(1), "fetched", MIB, MIB))
        layers.tell(LayerProgress(digest(2), "queued", 0, None))
        assert [line[line.index("  ", 3) :].strip() for line in drawn(layers)] == [
            "3.0 MiB",
            "1.0 MiB  fetched",
            "queued",
            "4.0 MiB  0:00",
        ]

    def test_where_lines_are_few_those_that_are_here_go_first(self) -> None:
        layers = Layers(Time())
        for number in range(40):
            layers.tell(LayerProgress(digest(number), "queued", 0, MIB))
        for number in range(30):
            layers.tell(LayerProgress(digest(number), "done", MIB, MIB))
        layers.tell(LayerProgress(digest(35), "bytes", 5, MIB))
        lines = drawn(layers, height=8)
        assert len(lines) == 8
        assert digest(35)[:19] in "".join(lines)
        assert lines[-2] == "  ... and 34 more layers: 30 here, 4 queued"


events = st.sampled_from(["queued", "started", "resumed", "bytes", "retry", "fetched", "done", "exists"])
steps = st.lists(
    st.builds(
        LayerProgress,
        st.integers(0, 60).map(digest),
        events,
        st.integers(0, 1 << 45),
        st.none() | st.integers(0, 1 << 45),
        st.text(max_size=200),
    ),
    min_size=1,
    max_size=80,
)


@given(steps, st.integers(20, 200), st.integers(3, 50))
def test_layers_are_never_higher_than_there_is_room(
    told: list[LayerProgress], width: int, height: int
) -> None:
    layers = Layers(Time())
    for step in told:
        layers.tell(step)
    rows = layers.rows(width, height, UNICODE)
    assert len(rows) <= height
    if width >= 59 and max(step.total or step.done for step in told) < 1 << 33:
        assert all(len(text_of(row)) <= width for row in rows)


@given(
    st.builds(
        Activity,
        st.text(max_size=100),
        st.none() | st.sampled_from(["bytes", "events"]),
        st.integers(0, 1 << 40),
        st.none() | st.integers(0, 1 << 40),
    ),
    st.integers(40, 200),
)
def test_an_activity_is_never_wider_than_there_is_room(activity: Activity, width: int) -> None:
    time = Time()
    doing = Doing(activity, time)
    doing.tell(activity)
    time.now += 5000
    (row,) = doing.rows(width, 1, UNICODE)
    assert len(text_of(row)) <= width
