"""Parsing of requests to the API: query parameters and bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_server.admin.lists import ListQuery

if TYPE_CHECKING:
    from starlette.requests import Request

    from edge_server.admin.operations import Operation, Parameter

JSON: Final = "application/json"


class RequestError(Exception):
    """A request that is invalid; the message describes valid values."""

    def __init__(self, error: str, message: str) -> None:
        """``error``: a stable identifier for programs."""
        super().__init__(message)
        self.error = error


def parse_query(operation: Operation, request: Request) -> dict[str, str | int]:
    """Return the values of the query parameters. Raises RequestError."""
    query = request.query_params
    known = {parameter.name for parameter in operation.parameters}
    for name in query:
        if name not in known:
            raise RequestError(
                "wrong-parameter", f"Unknown parameter; known are: {', '.join(sorted(known)) or 'none'}."
            )
    return {each.name: _value(each, query.get(each.name, "")) for each in operation.parameters}


def _value(parameter: Parameter, text: str) -> str | int:
    most, name = parameter.most, parameter.name
    if most is None:
        if len(text) > parameter.longest:
            raise RequestError("wrong-parameter", f"{name} should have at most {parameter.longest} characters.")
        if text and parameter.choices and text not in parameter.choices:
            raise RequestError("wrong-parameter", f"{name} should be one of {', '.join(parameter.choices)}.")
        return text
    if not text:
        return parameter.default
    if text.isascii() and text.isdigit() and len(text) < 6 and parameter.least <= int(text) <= most:
        return int(text)
    raise RequestError("wrong-parameter", f"{name} should be a number from {parameter.least} to {most}.")


async def parse_body(operation: Operation, request: Request) -> Any:
    """Return the body as the type of the operation. Raises RequestError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise RequestError("wrong-body", f"The body should be {JSON}.")
    try:
        return msgspec.json.decode(await request.body(), type=operation.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("wrong-body", f"The body is wrong: {error}.") from None


def list_query(parameters: dict[str, Any]) -> ListQuery:
    """Return the part of a list that the parameters of a request ask for."""
    names = ("limit", "after", "offset", "search", "sort")
    return ListQuery(**{name: parameters[name] for name in names if name in parameters})
