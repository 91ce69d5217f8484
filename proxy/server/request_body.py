"""The body of a request that is looked at before it is decided who answers."""

from typing import Any

import orjson
from aiohttp import hdrs, web


async def read_body(request: web.BaseRequest, most: int) -> bytes:
    """All of it, or as much as `most` bytes and little more: `request.content.at_eof()` tells."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    while len(body) < most and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def json_fields(body: bytes) -> dict[str, Any] | None:
    """None for what is no JSON object."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
