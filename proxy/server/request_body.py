"""Reads the body of a request before the proxy decides whether it answers the request itself or forwards it."""

from typing import Any

import orjson
from aiohttp import hdrs, web


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, or its beginning of `limit` bytes and slightly more; see `request.content.at_eof()`."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    while len(body) < limit and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def json_fields(body: bytes) -> dict[str, Any] | None:
    """The fields of a JSON object; None for any other body."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
