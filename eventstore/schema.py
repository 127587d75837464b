"""The JSON Schemas of events, one for every type and version, as files that strangers can check events with.

``python -m msb_cache.eventstore.schema`` writes those of the newest versions anew, from the structs. A schema
of an older version is what its struct said then: nothing writes it again. Each file is all that a validator
needs: of the event as ``events --format json`` prints it and CloudEvents carry it, and, as its
``$defs/data``, of the text in the log's column ``data``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.events import EVENT_TYPES, Event
from msb_cache.eventstore.store import Actor
from msb_cache.wording import as_text

ENVELOPE = "event"
"""The name of the schema that an event of any type fits."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VERSIONS = {kind.type: kind.version for kind in EVENT_TYPES}
_TEXT: dict[str, Any] = {"type": "string"}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time", "description": "UTC, with nine digits"}
_FIELDS: dict[str, Any] = {
    "seq": {"type": "integer", "minimum": 1, "description": "the position in the log"},
    "id": {"type": "string", "format": "uuid"},
    "type": _TEXT,
    "version": {"type": "integer", "minimum": 1, "description": "in which it is stored"},
    "subject": {"type": "string", "description": "what it is about"},
    "operation": {"type": "string", "description": "all events of one command have the same"},
    "occurred_at": _TIME,
    "recorded_at": _TIME,
    "actor": {"$ref": "#/$defs/Actor"},
    "data": {"type": "object"},
    "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}


def versions() -> dict[str, int]:
    """Return the newest version of every type of event; all from 1 on have a schema."""
    return dict(_VERSIONS)


def event_schema(type: str = ENVELOPE, version: int | None = None) -> dict[str, Any]:
    """Return a JSON Schema (2020-12) as plain data.

    It is that of the event as ``events --format json`` prints it; its ``$defs/data`` is that of the text in
    the log. What is printed is lifted to the newest version, so with an older one only the latter is of use.

    Args:
        type: of events, such as ``image.pulled``; ``event``: what any event fits.
        version: of the type; None: the newest.

    Raises:
        InvalidConfigError: there is no such type or version.
    """
    if type == ENVELOPE and version in (None, 1):
        return _read(f"{ENVELOPE}.json")
    newest = 1 if type == ENVELOPE else _VERSIONS.get(type)
    if newest is None:
        raise InvalidConfigError(f"{as_text(type[:100])!r} is no event type; `msb-cache schema` lists them")
    if version is not None and not 1 <= version <= newest:
        there = "version 1" if newest == 1 else f"versions 1 to {newest}"
        raise InvalidConfigError(f"{type} has {there}, and no {version}")
    return _read(_name(type, version or newest))


def made() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file's name and the schema of everything that the structs say: the newest versions."""
    yield f"{ENVELOPE}.json", envelope()
    for kind in EVENT_TYPES:
        yield _name(kind.type, kind.version), schema_of(kind)


def envelope() -> dict[str, Any]:
    """Return the schema that an event of any type fits."""
    return _schema("msb-cache:event", "An event of msb-cache, of any type.", _FIELDS, _components(Actor))


def schema_of(kind: type[Event]) -> dict[str, Any]:
    """Return the schema of the newest version of a type."""
    components = _components(kind)
    data = components.pop(kind.__name__)
    fields = {**_FIELDS, "type": {"const": kind.type}, "data": {"$ref": "#/$defs/data"}}
    return _schema(
        f"msb-cache:event/{kind.type}/{kind.version}",
        f"{kind.type}, version {kind.version}",
        fields,
        {"data": data, **components, **_components(Actor)},
    )


def _schema(id_: str, title: str, fields: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "$id": id_,
        "title": title,
        "type": "object",
        "properties": fields,
        "required": [*fields],
        "$defs": components,
    }


def _components(kind: type[msgspec.Struct]) -> dict[str, Any]:
    _, found = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    for each in found.values():
        if "description" in each:  # as Python 3.13 and later have it themselves
            each["description"] = cleandoc(each["description"])
    return found


def _name(type_: str, version: int) -> str:
    return f"{type_}.v{version}.json"


def _read(name: str) -> dict[str, Any]:
    text = files(__package__).joinpath("schemas", name).read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def text_of(schema: dict[str, Any]) -> str:
    """Return a schema as the file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write the schemas of the newest versions."""
    for name, schema in made():
        (folder / name).write_text(text_of(schema), "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "schemas")
