"""Writes `docs/api.json`, the control API as OpenAPI 3.1, from `schema` alone.

The paths come from the table in the schema's docstring, the shapes from its types and the
descriptions of members from the strings below them. Run `python -m weavepy.client.document`
after a change of the schema; a test compares the file with what this would write.
"""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

import weavepy
from weavepy.client import schema

DEFAULT_FILE = Path(__file__).parents[2] / "docs" / "api.json"

_ROW = re.compile(r"^\| (GET|POST) +(/\S+) +\| (\w*) *\| (\w+) *\|$", re.MULTILINE)

BINARY = {"Pcapng": "application/x-pcapng", "PolicyDrops": "application/x-ndjson"}
"""Answers that are not one JSON object, and what they are."""

_FAILURE = (
    "400 asked wrongly, 404 there is no such thing, 409 conflicts with what is, 503 not now,"
    " 504 waited in vain."
)


def endpoints() -> list[tuple[str, str, str, str]]:
    """Return (method, path, request type or "", answer type) for each row of the table."""
    assert schema.__doc__ is not None
    return _ROW.findall(schema.__doc__)


def document() -> dict[str, Any]:
    described = _member_descriptions()
    components: dict[str, Any] = {}
    _, shapes = msgspec.json.schema_components(_types(), ref_template="#/components/schemas/{name}")
    for name, shape in sorted(shapes.items()):
        for member, member_shape in shape.get("properties", {}).items():
            if (name, member) in described:
                member_shape["description"] = described[name, member]
        components[name] = shape

    paths: dict[str, Any] = {}
    for method, path, request, answer in endpoints():
        paths.setdefault(path, {})[method.lower()] = _operation(path, request, answer)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "weavepy control API",
            "version": "1",
            "description": "HTTP over the UNIX socket weavepy.sock in the run directory.",
        },
        "paths": paths,
        "components": {
            "responses": {"Failure": {"description": _FAILURE, "content": _content("Failure")}},
            "schemas": components,
        },
    }


def render() -> str:
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def _types() -> list[type]:
    found = inspect.getmembers(schema, inspect.isclass)
    return [
        kind
        for name, kind in found
        if issubclass(kind, schema.Struct) and kind != schema.Struct and name not in BINARY
    ]


def _operation(path: str, request: str, answer: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "responses": {
            "200": {"description": "Done.", "content": _content(answer)},
            "default": {"$ref": "#/components/responses/Failure"},
        },
    }
    if request:
        operation["requestBody"] = {"required": True, "content": _content(request)}
    return operation


def _content(type_name: str) -> dict[str, Any]:
    if type_name in BINARY:
        return {BINARY[type_name]: {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{type_name}"}}}


def _member_descriptions() -> dict[tuple[str, str], str]:
    """Map (type, member) to the string that follows the member in the source."""
    described = {}
    for kind in _types():
        (node,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(node, ast.ClassDef)
        for member, following in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(member, ast.AnnAssign)
                and isinstance(member.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                text = " ".join(following.value.value.split())
                described[node.name, member.target.id] = text
    return described


def main() -> None:
    DEFAULT_FILE.write_text(render(), encoding="utf-8")
    print(f"weavepy {weavepy.__version__}: wrote {DEFAULT_FILE}")


if __name__ == "__main__":
    main()
