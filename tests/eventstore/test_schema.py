"""The published schemas: those of the structs, old ones as they were, and every event fits its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator, ValidationError

from msb_cache import event_schema
from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore import schema
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import jsonable
from tests.cli.support import stored
from tests.logs import PYTHON, digest, pulled
from tests.samples import new_sample

FOLDER = Path(schema.__file__).parent / "schemas"
EVERY = pytest.mark.parametrize("kind", ev.EVENT_TYPES, ids=lambda kind: str(kind.type))

FROZEN = "f22d815257cf3d1da9eebc535ba17cf930a3e8e6e09e0b7b56a854ead06b9d09"
"""SHA-256 of the schemas of older versions: what was published of them stays as it is."""


def of_data(found: dict[str, Any]) -> Draft202012Validator:
    """What checks the text in the log's column."""
    return Draft202012Validator({"$defs": found["$defs"], "$ref": "#/$defs/data"})


def test_the_newest_are_those_of_the_structs() -> None:
    for name, found in schema.made():
        published = FOLDER / name
        assert published.exists(), f"run python -m msb_cache.eventstore.schema, which writes {name}"
        assert published.read_text("utf-8") == schema.text_of(found), (
            f"{name} is not what its struct says: run python -m msb_cache.eventstore.schema"
        )


def test_older_ones_stay_as_they_were() -> None:
    old = [f"{kind.type}.v{number}.json" for kind in ev.EVENT_TYPES for number in range(1, kind.version)]
    newest = [name for name, _ in schema.made()]
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*old, *newest])
    found = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in sorted(old))).hexdigest()
    assert found == FROZEN


def test_each_is_a_schema_with_a_name_of_its_own() -> None:
    names = set()
    for path in FOLDER.iterdir():
        found = json.loads(path.read_bytes())
        Draft202012Validator.check_schema(found)
        names.add(found["$id"])
    assert len(names) == len([*FOLDER.iterdir()])


@EVERY
def test_every_event_fits_its_own(kind: type[ev.Event]) -> None:
    new = new_sample(kind)
    event = stored(new.event, new.subject)
    found = event_schema(kind.type)
    assert found["$id"] == f"msb-cache:event/{kind.type}/{kind.version}"
    whole = Draft202012Validator(found, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for privacy in (Privacy(config=True), Privacy(people=False)):
        told = jsonable(privacy.of(event))
        whole.validate(told)
        Draft202012Validator(event_schema()).validate(told)
    of_data(found).validate(json.loads(msgspec.json.encode(new.event)))
    for name, wrong in (("type", "image.odd"), ("seq", 0), ("hash", "x"), ("actor", None), ("data", [])):
        with pytest.raises(ValidationError):
            whole.validate(told | {name: wrong})
        assert name in found["required"]
    for name in found["$defs"]["data"].get("required", ()):
        with pytest.raises(ValidationError):
            whole.validate(told | {"data": told["data"] | {name: 12.5}})


OLD: dict[str, dict[str, Any]] = {
    "manifest.added": {
        "media_type": "",
        "config_digest": "",
        "architecture": "amd64",
        "os": "linux",
        "config": {"env": ["A=1"], "labels": {"a": "b"}},
        "layers": [{"diff_id": "sha256:1", "blob_digest": "sha256:2", "media_type": "", "size": 0}],
    },
    "image.pulled": {
        "manifest_digest": "sha256:1",
        "changed": True,
        "source": {"kind": "registry", "name": "a"},
    },
    "image.pull_failed": {"reason": "so"},
    "image.used": {"manifest_digest": "sha256:1", "holder": "sandbox:a"},
    "image.removed": {"manifest_digest": "sha256:1", "cause": "remove"},
    "artifact.kept": {"kind": "layer", "reason": "busy"},
}
"""Events as the first version wrote them."""


def test_old_events_fit_the_schema_of_their_version() -> None:
    assert {*OLD} == {kind.type for kind in ev.EVENT_TYPES if kind.version > 1}
    for type_, data in OLD.items():
        check = of_data(event_schema(type_, 1))
        check.validate(data)
        with pytest.raises(ValidationError):
            check.validate({})
        lifted = CATALOGUE.decode(type_, 1, json.dumps(data))
        of_data(event_schema(type_)).validate(json.loads(msgspec.json.encode(lifted)))
    with pytest.raises(ValidationError):  # a word that the first version did not have
        of_data(event_schema("artifact.kept", 1)).validate({"kind": "layer", "reason": "spelled"})


@pytest.mark.parametrize(
    ("type_", "version", "message"),
    [
        ("image.odd", None, "'image.odd' is no event type"),
        ("../event", 1, "is no event type"),
        ("image.pulled", 3, "has versions 1 to 2, and no 3"),
        ("log.created", 0, "has version 1, and no 0"),
        ("event", 2, "has version 1, and no 2"),
    ],
)
def test_what_there_is_no_schema_of(type_: str, version: int | None, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        event_schema(type_, version)


def test_they_are_written_anew(tmp_path: Path) -> None:
    schema.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {name for name, _ in schema.made()}


def test_a_told_pull_is_not_another_type() -> None:
    told = jsonable(stored(pulled(digest(1)), PYTHON))
    with pytest.raises(ValidationError):
        Draft202012Validator(event_schema("image.used")).validate(told)
