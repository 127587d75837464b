"""One sample of every type of event, made of its fields' types, so that a new one needs none written here."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from msb_cache.eventstore.events import Event
from msb_cache.eventstore.store import NewEvent
from tests.logs import PYTHON, digest

OPERATION = "01934f6a-0000-7000-8000-000000000001"
LOG_ID = "0" * 31 + "1"

_BY_NAME: dict[str, Any] = {
    "manifest_digest": digest(1),
    "previous_digest": digest(2),
    "config_digest": digest(3),
    "stored_digest": digest(7),
    "diff_id": digest(4),
    "blob_digest": digest(5),
    "reference": PYTHON,
    "subject": digest(6),
    "holder": "sandbox:dev",
    "log_id": LOG_ID,
}


def sample(event: type[Event]) -> Event:
    """Return an event of this type with every field filled."""
    kind = getattr(event, "kind", None)
    made: Event = msgspec.convert(
        _filled(inspect.type_info(event), kind if isinstance(kind, str) else ""), event
    )
    return made


def new_sample(event: type[Event]) -> NewEvent:
    """Return such an event about what its type says it is about."""
    subjects = {
        "log": LOG_ID,
        "reference": PYTHON,
        "manifest": digest(1),
        "image": PYTHON,
        "layer": digest(4),
        "flat": digest(7),
        "operation": OPERATION,
        "artifact": PYTHON if getattr(sample(event), "kind", "") == "metadata" else digest(1),
    }
    return NewEvent(sample(event), subjects[event.about])


def _filled(of: inspect.Type, name: str) -> Any:
    match of:
        case inspect.StructType():
            return {field.encode_name: _filled(field.type, field.name) for field in of.fields}
        case inspect.UnionType():
            return _filled(next(each for each in of.types if not isinstance(each, inspect.NoneType)), name)
        case inspect.LiteralType():
            return of.values[-1]
        case inspect.CollectionType() | inspect.VarTupleType():
            return [_filled(of.item_type, name)]
        case inspect.DictType() | inspect.AnyType():
            return {"key": "value"}
        case inspect.StrType():
            return _BY_NAME.get(name, f"some {name}")
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1
    raise NotImplementedError(f"no sample of {of}")
