"""Long lists of one event, split over several that each fit into the log: an event's data has a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

PART_BYTES = 3 * 1024 * 1024
"""Of the 4 MiB that one event's data may have."""

S = TypeVar("S", bound=msgspec.Struct)


def in_parts(lists: Mapping[str, Sequence[S]], room: int = PART_BYTES) -> list[dict[str, tuple[S, ...]]]:
    """Return lists, by the names of their fields, in parts of at most so many bytes; at least one part.

    What is in one part stands in the given order, and so do the parts.
    """
    parts: list[dict[str, list[S]]] = [{name: [] for name in lists}]
    left = room
    for name, items in lists.items():
        for item in items:
            size = len(msgspec.json.encode(item)) + 1
            if size > left:
                parts.append({name: [] for name in lists})
                left = room
            left -= size
            parts[-1][name].append(item)
    return [{name: tuple(items) for name, items in part.items()} for part in parts]
