"""What is offered for a word that names nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import HomeNotFoundError, ImageCache, ImageNotFoundError, OperationNotFoundError
from msb_cache.queries.near import image_meant, meant, path_meant
from tests.examples import ONE, TWO, archive

KNOWN = ["python:3.12", "python:3.11", "ghcr.io/acme/python:3.12", "redis:7", "ghcr.io/acme/tool:2", "node"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pyton:3.12", "; did you mean python:3.12 or python:3.11?"),
        ("docker.io/library/redsi:7", "; did you mean redis:7?"),
        # The right name, however far the rest is.
        ("tool:2", "; did you mean ghcr.io/acme/tool:2?"),
        ("quay.io/else/tool:9", "; did you mean ghcr.io/acme/tool:2?"),
        ("redis", "; did you mean redis:7?"),
        ("redis:7", ""),
        ("python:3.12", "; did you mean python:3.11 or ghcr.io/acme/python:3.12?"),
        ("postgres:16", ""),
        ("", ""),
        ("Python:3.12", "; did you mean python:3.12 or python:3.11?"),
        ("x" * 5000, ""),
    ],
)
def test_an_image(typed: str, offered: str) -> None:
    assert image_meant(typed, KNOWN) == offered


@given(st.text(max_size=400), st.lists(st.text(max_size=40), max_size=8))
def test_any_text_and_any_names_give_one_question_or_none(typed: str, known: list[str]) -> None:
    for found in (image_meant(typed, known), meant(typed, known)):
        assert found == "" or (found.startswith("; did you mean ") and found.endswith("?"))


def test_one_word_of_several() -> None:
    types = ["image.removed", "image.released", "image.used"]
    assert meant("image.remove", types) == "; did you mean image.removed?"
    assert meant("zzz", types) == ""


def test_errors_about_images_offer_what_is_there(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    for ask in (cache.get, cache.inspect, cache.why, cache.history, cache.holders, cache.remove, cache.use):
        with pytest.raises(ImageNotFoundError, match=r"onw:1; did you mean one:1\?$"):
            ask("onw:1")
    # Only the log knows what is gone.
    cache.remove("two:1")
    with pytest.raises(ImageNotFoundError, match=r"image not found: tow:1$"):
        cache.get("tow:1")
    with pytest.raises(ImageNotFoundError, match=r"tow:1; did you mean two:1\?$"):
        cache.history("tow:1")


def test_errors_about_operations_offer_one_that_begins_almost_so(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.remove("one:1")
    (deletion,) = cache.prunes()
    digit = "0" if deletion.operation[6] != "0" else "1"
    typed = deletion.operation[:6] + digit + deletion.operation[7:13]
    for ask in (cache.prune_report, lambda prefix: cache.events(operation=prefix)):
        with pytest.raises(OperationNotFoundError, match=f"did you mean {deletion.operation[:13]}"):
            ask(typed)
    (loaded, *_) = cache.events(types=["image.pulled"])
    with pytest.raises(OperationNotFoundError, match="deleted nothing; `msb-cache events --operation"):
        cache.prune_report(loaded.operation)


def test_a_home_beside_it(tmp_path: Path) -> None:
    (tmp_path / "homes" / "db").mkdir(parents=True)
    (tmp_path / "home").mkdir(exist_ok=True)  # which has no database
    assert path_meant(str(tmp_path / "homs")) == f"; did you mean {tmp_path}/homes?"
    assert path_meant(str(tmp_path / "else")) == ""
    assert path_meant(str(tmp_path / "none" / "home")) == ""


def test_a_missing_home_is_an_empty_cache_that_cannot_be_verified(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "none") as cache:
        assert (cache.list(), cache.events(), cache.prunes(), cache.holds(), cache.pins()) == ([],) * 5
        assert (cache.last_used(), cache.uses(), cache.damage(), cache.doctor()) == ([],) * 4
        assert cache.prune().image_refs_removed == 0
        with pytest.raises(HomeNotFoundError, match="does not exist, so nothing can be verified"):
            cache.verify()
    assert not (tmp_path / "none").exists()
