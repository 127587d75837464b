"""The description of the API in OpenAPI 3.1, made of the endpoints and of the classes of what they answer."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from msb_cache.web.api import ENDPOINTS, Endpoint
from msb_cache.web.asked import LONGEST, Parameter
from msb_cache.web.problems import MEDIA_TYPE
from msb_cache.web.schemas import NUMBER, TEXT, Schema, Schemas, object_of

_PROBLEM = object_of({"type": TEXT, "title": TEXT, "status": NUMBER, "detail": TEXT, "code": TEXT})
_LINK: Schema = {
    "description": 'The next page, as `<?…>; rel="next"`, where there is one.',
    "schema": TEXT,
}


def description() -> dict[str, Any]:
    """Return the description."""
    schemas = Schemas()
    paths = {f"/api{each.path}": {"get": _operation(each, schemas)} for each in ENDPOINTS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "msb-cache",
            "version": version("msb-cache"),
            "description": "The image cache of microsandbox, and all that ever happened to it. Read-only.",
        },
        # Wherever the server is mounted: paths are relative to where this description was found.
        "servers": [{"url": ".."}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.components, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "problem": {
                    "description": "One sentence that says why not (RFC 9457).",
                    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
        },
        "security": [{"token": []}, {}],
    }


def _operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": endpoint.summary,
        "content": {"application/json": {"schema": endpoint.schema(schemas)}},
    }
    if any(each.name == "reverse" for each in endpoint.parameters):
        answer["headers"] = {"Link": _LINK}
    parameters = [_in_query(each) for each in endpoint.all_parameters]
    if endpoint.in_path is not None:
        name, words = endpoint.in_path
        words += " It may have slashes."
        parameters.append(
            {"name": name, "in": "path", "required": True, "description": words, "schema": TEXT}
        )
    return {
        "operationId": endpoint.path.split("/{")[0].strip("/") + ("-one" if endpoint.in_path else ""),
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {"200": answer, "default": {"$ref": "#/components/responses/problem"}},
    }


def _in_query(parameter: Parameter) -> dict[str, Any]:
    schema: Schema
    match parameter.kind:
        case "number":
            schema = {"type": "integer", "minimum": 0, "maximum": parameter.most}
        case "flag":
            schema = {"type": "boolean"}
        case "text":
            schema = {"type": "string", "maxLength": LONGEST}
    if parameter.default is not None:
        schema["default"] = parameter.default
    if parameter.many:
        schema = {"type": "array", "items": schema}
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.words,
        "required": parameter.needed,
        "schema": schema,
    }
