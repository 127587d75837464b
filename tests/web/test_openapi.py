"""The description of the API is one, and says of each path what it takes."""

from __future__ import annotations

import re

from openapi_spec_validator import validate

from msb_cache.web.api import ENDPOINTS
from msb_cache.web.openapi import description
from tests.web.client import Client


def test_it_is_openapi(client: Client) -> None:
    answer = client.get("/api/openapi.json")
    validate(answer.json())
    assert answer.json() == description()


def test_every_path_says_what_it_takes() -> None:
    found = description()
    assert found["paths"].keys() == {f"/api{each.path}" for each in ENDPOINTS}
    operations = [each["get"] for each in found["paths"].values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for path, methods in found["paths"].items():
        assert methods.keys() == {"get"}
        named = {each["name"] for each in methods["get"]["parameters"] if each["in"] == "path"}
        assert named == {*re.findall(r"{(\w+)}", path)}
        assert all(each["description"].endswith((".", "`")) for each in methods["get"]["parameters"])


def test_every_class_says_what_it_is() -> None:
    for name, schema in description()["components"]["schemas"].items():
        assert name == "Problem" or len(schema["description"]) > 10, name
