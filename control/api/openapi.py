"""The OpenAPI 3.1 document of a table of operations.

Invariant: made from the very types that requests are decoded with, so it cannot say something else.
Neighbours: operation.py (the table), server.py (serves the document).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from control.api.operation import Nothing, Operation

COMMON_ERRORS = {
    400: "The request cannot be read: the message says what and where.",
    401: "No token, or one that nobody has.",
    403: "The token's role is not enough.",
    405: "Another method is served at this path.",
    429: "Too many wrong tokens from this address; `Retry-After` says how long.",
}
MORE_ERRORS = {
    404: "There is none of that name or number.",
    409: "It has changed meanwhile, or is not possible now; `detail` says what is there.",
    412: "`If-Match` is not the state's ETag.",
    413: "The body is larger than a document may be.",
    422: "Well-formed, and wrong: `detail` lists the problems.",
    503: "The store takes no changes now; what is in force stays so.",
}
_PATH_FIELD = re.compile(r"\{(\w+)\}")


class ErrorBody(Struct, frozen=True, kw_only=True):
    """Why there was no success."""

    code: str
    """A word that programs can tell it by."""
    message: str
    """What is wrong, where, and what to do."""
    detail: Any = None


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """Every answer that is no success."""

    error: ErrorBody


def openapi(operations: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """The document."""
    kinds = [ErrorAnswer, *_kinds(operations)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fairlead control",
            "version": version,
            "description": "Policy versions, the fleet and the routers of one control process.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _kinds(operations: Iterable[Operation]) -> list[Any]:
    found: dict[int, Any] = {}
    for operation in operations:
        for kind in (operation.answer, operation.body):
            if kind is not None:
                found[id(kind)] = kind
    return list(found.values())


def _described(operation: Operation, by_kind: dict[int, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Role: {operation.role}.",
        "tags": [operation.tag],
        "responses": _responses(operation, by_kind),
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": operation.path_fields[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in _PATH_FIELD.findall(operation.path)
    ]
    if operation.query is not Nothing:
        parameters += _query_parameters(operation.query)
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_kind[id(operation.body)]}},
        }
    return described


def _query_parameters(kind: type[Struct]) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    shape = components[kind.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in shape.get("required", ()),
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in shape["properties"].items()
    ]


def _responses(operation: Operation, by_kind: dict[int, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done."}
    if operation.answer is not None:
        success["content"] = {"application/json": {"schema": by_kind[id(operation.answer)]}}
    error = {"application/json": {"schema": by_kind[id(ErrorAnswer)]}}
    wanted = COMMON_ERRORS | {status: MORE_ERRORS[status] for status in operation.errors}
    if operation.body is not None:
        wanted[413] = MORE_ERRORS[413]
    return {str(operation.status): success} | {
        str(status): {"description": wanted[status], "content": error} for status in sorted(wanted)
    }
