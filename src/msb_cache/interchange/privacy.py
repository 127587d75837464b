"""What of a home is told to strangers: no values of environments and labels, and on request no people.

Images of one's own carry tokens there. It works on the library's values, so that words and JSON that are made
of them say no more than they do.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from dataclasses import replace as replaced
from typing import Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, StoredEvent
from msb_cache.models import ImageConfigDetail
from msb_cache.queries.as_of import Hold

T = TypeVar("T")

LEFT_OUT = "…"
"""Stands where a text was left out."""


class Privacy(Struct, frozen=True):
    """What is told.

    Attributes:
        config: the values of environments and of labels, of images and of sandboxes. Else an environment is
            empty, and a label's value is ``LEFT_OUT``.
        people: users, machines, and the reasons that people gave. Else an actor is no more than its program.
    """

    config: bool = False
    people: bool = True

    def of(self, value: T) -> T:
        """Return a value of the library, whatever stands in it, without what is not told."""
        if self.config and self.people:
            return value
        return cast("T", self._of(value))

    def _of(self, value: Any) -> Any:
        match value:
            case str() | int() | float() | bytes() | None:
                return value
            case Actor():
                return value if self.people else Actor(user="", uid=-1, host="", program=value.program)
            case ev.ImageConfig() | ImageConfigDetail():
                return (
                    value
                    if self.config
                    else replace(value, env=type(value.env)(), labels=_hidden(value.labels))
                )
            case ev.ImageHeld():
                return value if self.config else replace(value, labels=_hidden(value.labels))
            case Hold():
                return value if self.config else replaced(value, labels=_hidden(value.labels) or {})
            case StoredEvent() | Struct():
                return self._struct(value)
            case list() | tuple():
                return type(value)(map(self._of, value)) if type(value) in (list, tuple) else value
            case dict():
                return {name: self._of(each) for name, each in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in fields(value) if field.init]
            return replaced(value, **{name: self._of(getattr(value, name)) for name in names})
        return value

    def _struct(self, value: Struct) -> Struct:
        found = {name: self._of(getattr(value, name)) for name in value.__struct_fields__}
        return replace(value, **found)


def _hidden(labels: Any) -> Any:
    if isinstance(labels, dict):
        return dict.fromkeys(labels, LEFT_OUT)
    return None if labels is None else LEFT_OUT
