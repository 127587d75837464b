"""Schemas of classes: each kind of type, names as they are outside, and null where nothing can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from msb_cache.web.schemas import TIME, Schemas


class Colour(StrEnum):
    RED = "red"


@dataclass
class Node:
    """A node of a tree.

    And more.
    """

    manifest_digest: str
    seen_at_ns: int
    until_ns: int | None
    took_ns: int
    below: tuple[Node, ...] = ()


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (Path, {"type": "string"}),
        (Colour, {"enum": ["red"]}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (int | None, {"type": ["integer", "null"]}),
        (str | int, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (str | int | None, {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (
            tuple[str, int],
            {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "integer"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Node | None, {"anyOf": [{"$ref": "#/components/schemas/Node"}, {"type": "null"}]}),
    ],
)
def test_a_type_has_its_schema(kind: Any, schema: object) -> None:
    assert Schemas().of(kind) == schema


def test_a_class_has_its_fields_by_the_names_that_they_have_outside() -> None:
    of = Schemas()
    of.of(Node)
    assert of.components == {
        "Node": {
            "description": "A node of a tree.",
            "type": "object",
            "properties": {
                "digest": {"type": "string"},
                "seen_at": TIME,
                "until": {"anyOf": [TIME, {"type": "null"}]},
                "took_ns": {"type": "integer"},
                "below": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}},
            },
            "required": ["digest", "seen_at", "until", "took_ns", "below"],
        }
    }
