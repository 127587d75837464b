"""JSON Schema of what the API answers, made of the classes of the results.

A result that says its own shape has that declared here, beside the others; the tests hold each real answer
against it. What has no fixed shape, such as the data of an event, is said to have none.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from inspect import cleandoc
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from msb_cache.care.disk_usage import DiskCategory, DiskUsage, ImageUsage, LogUsage, PolicyUsage
from msb_cache.eventstore.store import Actor, StoredEvent
from msb_cache.models import ImageDetail, ImageHandle
from msb_cache.projections.history import HistoryEvent
from msb_cache.queries.as_of import Changes
from msb_cache.queries.deletions import DeletionReport, DeletionSummary
from msb_cache.queries.info import HomeInfo
from msb_cache.queries.last_used import IdleImage
from msb_cache.queries.pins import Pin
from msb_cache.queries.why import Fate, ImageReasons, LayerReasons, Loss, ManifestReasons, UnderPolicy
from msb_cache.shapes import names_of

Schema = dict[str, Any]

TIME: Schema = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC, with nine digits."}
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object", "description": "It has no fixed shape."}
EVENT_DATA: Schema = {
    "type": "object",
    "description": "By the event's type and version; docs/event-log.md has the catalogue.",
}
JUDGED: Schema = {
    "type": "object",
    "description": "An image that a rule decided about, and what that rule looked at.",
    "properties": {"subject": TEXT, "rule": TEXT, "because": {"type": ["string", "null"]}},
    "required": ["subject", "rule", "because"],
    "additionalProperties": True,
}

_PLAIN: dict[object, Schema] = {
    str: TEXT,
    int: NUMBER,
    bool: FLAG,
    float: {"type": "number"},
    bytes: {"type": "string", "description": "Hexadecimal."},
    type(None): {"type": "null"},
    Any: {},
}

_AS_THEY_ARE = (DiskUsage, DiskCategory, ImageUsage, LogUsage, PolicyUsage)
"""Classes whose fields keep their names in JSON, as ``df`` prints them."""


def or_none(schema: Schema) -> Schema:
    """Return a schema that null fits as well."""
    if set(schema) == {"type"}:
        return {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def items(schema: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": schema}


def object_of(properties: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """Return the schema of an object; what is not optional is always there."""
    return {
        "type": "object",
        "properties": {**properties},
        "required": [name for name in properties if name not in optional],
    }


class Schemas:
    """The schemas of classes, each by its name in ``components``, as they are asked for."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type: a reference to a component, of a class that has fields."""
        if kind in _PLAIN:
            return _PLAIN[kind]
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._of_union(arguments)
        if origin is Literal:
            return {"enum": [*arguments]}
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return items(self.of(arguments[0]))
        if origin is tuple:
            parts = [self.of(each) for each in arguments]
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(origin, type) and issubclass(origin, Sequence | AbstractSet):
            return items(self.of(arguments[0]))
        return self._of_class(kind)

    def _of_union(self, kinds: Sequence[Any]) -> Schema:
        others = [self.of(each) for each in kinds if each is not type(None)]
        one = others[0] if len(others) == 1 else {"anyOf": others}
        if len(others) == len(kinds):
            return one
        return or_none(one) if len(others) == 1 else {"anyOf": [*others, {"type": "null"}]}

    def _of_class(self, kind: type) -> Schema:
        if issubclass(kind, PathLike):
            return TEXT
        if issubclass(kind, Enum):
            return {"enum": [each.value for each in kind]}
        name = kind.__name__
        if name not in self.components:
            self.components[name] = {}  # it can have itself in it
            declared = _DECLARED.get(kind)
            schema = object_of(self.fields(kind)) if declared is None else declared(self)
            self.components[name] = {"description": _summary(kind), **schema}
        return {"$ref": f"#/components/schemas/{name}"}

    def fields(self, kind: type, *, without: Sequence[str] = ()) -> dict[str, Schema]:
        """Return the schemas of the fields of a class by the names that they have outside."""
        found: dict[str, Schema] = {}
        hints = get_type_hints(kind)
        for name, printed, is_time in names_of(kind):
            if name in without:
                continue
            if kind in _AS_THEY_ARE:
                found[name] = self.of(hints[name])
            elif is_time:
                found[printed] = or_none(TIME) if type(None) in get_args(hints[name]) else TIME
            else:
                found[printed] = self.of(hints[name])
        return found


def _summary(kind: type) -> str:
    return cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def _actor(of: Schemas) -> Schema:
    found = of.fields(Actor)
    return object_of(
        found, optional=[name for name in found if name not in ("user", "uid", "host", "program")]
    )


def _event(kind: type) -> Callable[[Schemas], Schema]:
    return lambda of: object_of(of.fields(kind, without=("data",)) | {"data": EVENT_DATA})


def _handle(of: Schemas) -> dict[str, Schema]:
    return of.fields(ImageHandle, without=("origin",))


def image_in_list(of: Schemas) -> Schema:
    """Return the schema of an image in the list of images."""
    return object_of({**_handle(of), "damaged": FLAG})


def image_in_full(of: Schemas) -> Schema:
    """Return the schema of an image with its configuration, layers, holders and pins."""
    detail = of.fields(ImageDetail, without=("handle",))
    return object_of({**_handle(of), "holders": items(TEXT), "pins": items(of.of(Pin)), **detail})


def reasons(of: Schemas) -> Schema:
    """Return the schema of why something is here or gone."""
    kinds = [of.of(each) for each in (ImageReasons, ManifestReasons, LayerReasons)]
    return {"anyOf": kinds}


def _of_deletion(of: Schemas) -> dict[str, Schema]:
    counters = (
        *("image_refs_removed", "manifests_removed", "layers_removed", "fsmeta_removed", "vmdk_removed"),
        *("bytes_reclaimed", "flat_removed", "flat_bytes_reclaimed"),
    )
    return {
        "operation": TEXT,
        "kind": {"enum": ["remove", "prune", "external"]},
        "engine": or_none(TEXT),
        "policy": ANYTHING,
        "actor": of.of(Actor),
        "started_at": TIME,
        "finished_at": or_none(TIME),
        "outcome": or_none(TEXT),
        "recovered": FLAG,
        **{name: or_none(NUMBER) if name == "bytes_reclaimed" else NUMBER for name in counters},
    }


def _deletion(of: Schemas) -> Schema:
    removed = {"reference": TEXT, "digest": TEXT, "forced": FLAG}
    restored = {
        "operation": TEXT,
        "started_at": TIME,
        "finished_at": or_none(TIME),
        "outcome": or_none(TEXT),
        "images_wanted": NUMBER,
        "images_restored": NUMBER,
    }
    return object_of(
        {
            **_of_deletion(of),
            "images": items(object_of(removed)),
            "restores": items(object_of(restored)),
            "artifacts": of.of(get_type_hints(DeletionReport)["artifacts"]),
            "kept": items(JUDGED),
            "going": items(JUDGED),
        }
    )


def _idle_image(of: Schemas) -> Schema:
    return object_of(of.fields(IdleImage, without=("last_used_ns",)) | {"last_used_at": TIME})


def _info(of: Schemas) -> Schema:
    times = ("began_at", "known_since", "synced_at", "restored_at")
    return object_of(of.fields(HomeInfo) | dict.fromkeys(times, or_none(TIME)))


def _changes(of: Schemas) -> Schema:
    found = of.fields(Changes, without=("from_position", "to_position"))
    changed = items(object_of({"reference": TEXT, "digest": TEXT}))
    more = {"from_seq": NUMBER, "to_seq": NUMBER, "added": changed, "removed": changed}
    return object_of(found | more | {"bytes_changed": NUMBER})


def _fate(of: Schemas) -> Schema:
    return object_of({"deletes": FLAG, "rule": TEXT, "by": items(TEXT)})


def _under_policy(of: Schemas) -> Schema:
    return object_of(
        {
            "rules": ANYTHING,
            "deletes": FLAG,
            "rule": or_none(TEXT),
            "because": or_none(TEXT),
            "goes_at": or_none(TIME),
        }
    )


def _loss(of: Schemas) -> Schema:
    return object_of(
        {
            "event": of.of(StoredEvent),
            "operation": or_none(TEXT),
            "kind": or_none(TEXT),
            "policy": or_none(ANYTHING),
            "actor": of.of(Actor | None),
            "because": or_none(TEXT),
            "bytes_freed": or_none(NUMBER),
            "layers_kept": NUMBER,
        }
    )


_ENDS = ("fate", "loss", "policy")


def _reasons(kind: type, name: str, renamed: Mapping[str, str]) -> Callable[[Schemas], Schema]:
    """Return what declares one of the answers to why.

    Args:
        kind: its class.
        name: how it calls itself.
        renamed: fields by the names that they have outside.
    """

    def schema(of: Schemas) -> Schema:
        fields = of.fields(kind, without=_ENDS)
        named = {renamed.get(each, each): found for each, found in fields.items()}
        ends = {"prune": of.of(Fate | None), "gone": of.of(Loss | None)}
        if kind is LayerReasons:
            return object_of({"kind": {"const": name}, **named, **ends})
        return object_of(
            {"kind": {"const": name}, **named, **ends, "policy": of.of(UnderPolicy)}, optional=("policy",)
        )

    return schema


_DECLARED: dict[type, Callable[[Schemas], Schema]] = {
    Actor: _actor,
    StoredEvent: _event(StoredEvent),
    HistoryEvent: _event(HistoryEvent),
    DeletionSummary: lambda of: object_of(_of_deletion(of)),
    DeletionReport: _deletion,
    IdleImage: _idle_image,
    HomeInfo: _info,
    Changes: _changes,
    Fate: _fate,
    UnderPolicy: _under_policy,
    Loss: _loss,
    ImageReasons: _reasons(ImageReasons, "image", {"failure": "pull_failed"}),
    ManifestReasons: _reasons(
        ManifestReasons, "manifest", {"added": "arrived", "earlier": "earlier_references"}
    ),
    LayerReasons: _reasons(LayerReasons, "layer", {}),
}
"""The shapes that results say themselves."""
