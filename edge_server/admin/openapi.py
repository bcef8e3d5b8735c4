"""OpenAPI 3.1 description of the API, built from its table of operations and the types of its responses."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from edge_server.admin.operations import OPERATIONS, PREFIX, Operation, Parameter
from edge_server.admin.responses import ProblemDetails
from quictunnel.shared.version import VERSION

PATH: Final = f"{PREFIX}/openapi.json"
_REF: Final = "#/components/schemas/{name}"
_PROBLEMS: Final = {
    "401": "The token is missing or wrong.",
    "403": "The request comes from another origin.",
    "421": "The request is for another host.",
    "429": "Too many wrong tokens from this address.",
}


def document() -> dict[str, Any]:
    """Return the whole document."""
    with_body = [operation for operation in OPERATIONS if operation.body is not None]
    types = [ProblemDetails, *(each.answers for each in OPERATIONS), *(each.body for each in with_body)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    problem, answers = schemas[0], schemas[1 : len(OPERATIONS) + 1]
    bodies = {each.name: schema for each, schema in zip(with_body, schemas[len(OPERATIONS) + 1 :], strict=True)}
    paths: dict[str, Any] = {}
    for operation, schema in zip(OPERATIONS, answers, strict=True):
        described = _operation(operation, schema, problem)
        if operation.name in bodies:
            content = {"application/json": {"schema": bodies[operation.name]}}
            described["requestBody"] = {"required": True, "content": content}
        paths.setdefault(PREFIX + operation.path, {})[operation.method] = described
    paths[PATH] = {
        "get": {
            "operationId": "openapi",
            "summary": "This description",
            "security": [],
            "responses": {"200": _response("OpenAPI 3.1.", {"type": "object"})},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quictunnel edge",
            "version": VERSION,
            "description": "State of a running edge, and actions of its operator (`--admin`).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The content of admin.token in the state directory.",
                }
            },
        },
    }


def _operation(operation: Operation, schema: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": _response(operation.summary + ".", schema, operation.media)}
    refused = dict(_PROBLEMS)
    if operation.parameters:
        refused["400"] = "A query parameter is invalid."
    if operation.body is not None:
        refused["400"] = "The body is invalid; the message says what is."
        refused["413"] = "The body is too large."
    if operation.is_stored:
        refused["503"] = "A database of the state directory cannot be used."
    if "{id}" in operation.path or operation.name == "release_name":
        refused["404"] = "No such object exists (any more)."
    if operation.refusal:
        refused["409"] = operation.refusal
    if operation.name == "events":
        refused["503"] = "Too many streams are open."
    responses |= {status: _response(words, problem) for status, words in sorted(refused.items())}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": responses,
    }
    parameters = [_parameter(parameter) for parameter in operation.parameters]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    if parameters:
        described["parameters"] = parameters
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "maxLength": parameter.longest}
    if parameter.choices:
        schema = {"type": "string", "enum": list(parameter.choices)}
    if parameter.most is not None:
        limits = {"minimum": parameter.least, "maximum": parameter.most}
        schema = {"type": "integer", **limits, "default": parameter.default}
    return {
        "name": parameter.name,
        "in": "query",
        "required": False,
        "description": parameter.description,
        "schema": schema,
    }


def _response(words: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"description": words, "content": {media: {"schema": schema}}}
