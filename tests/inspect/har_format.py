"""HAR 1.2 as types (http://www.softwareishard.com/blog/har-12-spec/), strictly: fields that the format does not
name are refused, unless their name begins with an underscore, which the format leaves to programs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

Size = Annotated[int, msgspec.Meta(ge=-1)]
"""Bytes; -1 for unknown."""
Duration = Annotated[float, msgspec.Meta(ge=0)]
"""Milliseconds of a phase that each exchange has."""
OptionalDuration = Annotated[float, msgspec.Meta(ge=-1)]
"""Milliseconds of a phase; -1 if the exchange does not have it."""
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """Base of all objects of the format."""

    comment: str = ""


class Field(Part):
    """A header field or a field of a query."""

    name: str
    value: str


class Parameter(Part):
    """A field of a form."""

    name: str
    value: str = ""
    file_name: str = ""
    content_type: str = ""


class Cookie(Field):
    path: str = ""
    domain: str = ""
    expires: Time | None = None
    http_only: bool = False
    secure: bool = False


class PostData(Part):
    mime_type: str
    params: list[Parameter]
    text: str


class Content(Part):
    size: Size
    mime_type: str
    compression: int = 0
    text: str = ""
    encoding: Literal["", "base64"] = ""


class Message(Part):
    """Fields of both requests and responses."""

    http_version: str
    cookies: list[Cookie]
    headers: list[Field]
    headers_size: Size
    body_size: Size


class Request(Message):
    method: str
    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^#]+$")]
    query_string: list[Field]
    post_data: PostData | None = None


class Response(Message):
    status: int
    status_text: str
    content: Content
    redirect_url: str = msgspec.field(name="redirectURL")


class CacheState(Part):
    last_access: Time
    e_tag: str
    hit_count: int
    expires: Time | None = None


class Cache(Part):
    before_request: CacheState | None = None
    after_request: CacheState | None = None


class Timings(Part):
    send: Duration
    wait: Duration
    receive: Duration
    blocked: OptionalDuration = -1
    dns: OptionalDuration = -1
    connect: OptionalDuration = -1
    ssl: OptionalDuration = -1

    def total(self) -> float:
        """Return the sum of the phases that the exchange had; ``ssl`` is a part of ``connect``."""
        optional = (self.blocked, self.dns, self.connect)
        return self.send + self.wait + self.receive + sum(max(0, each) for each in optional)


class Entry(Part):
    started_date_time: Time
    time: Duration
    request: Request
    response: Response
    cache: Cache
    timings: Timings
    pageref: str = ""
    server_ip_address: str = msgspec.field(default="", name="serverIPAddress")
    connection: str = ""


class Program(Part):
    name: str
    version: str


class Log(Part):
    version: Literal["1.2"]
    creator: Program
    entries: list[Entry]
    browser: Program | None = None


class Har(Part):
    log: Log


def check_har(content: str | bytes) -> dict[str, Any]:
    """Return the parsed file. Raises msgspec.ValidationError if it is not HAR 1.2, naming the place."""
    parsed: dict[str, Any] = msgspec.json.decode(content)
    har = msgspec.convert(_without_private_fields(parsed), Har)
    for number, entry in enumerate(har.log.entries):
        if abs(entry.time - entry.timings.total()) > 0.001:
            raise msgspec.ValidationError(f"entry {number}: time {entry.time} is not the sum of its timings")
    return parsed


def _without_private_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_private_fields(each) for name, each in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [_without_private_fields(each) for each in value]
    return value
