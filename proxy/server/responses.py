"""Responses of our own in the form of Ollama's, and what aiohttp gets where a response went past it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web


def json_response(
    value: Mapping[str, Any] | Sequence[Any],
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    response = web.Response(status=status, body=orjson.dumps(value), headers=headers)
    response.headers[hdrs.CONTENT_TYPE] = "application/json; charset=utf-8"
    return response


def error_response(text: str, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> web.Response:
    return json_response({"error": text}, status, headers)


class AlreadyWritten(web.StreamResponse):
    """Tells aiohttp that the request has been answered: the bytes were written past it."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - aiohttp's signature
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


KEPT_ALIVE = AlreadyWritten(keep_alive=True)
CLOSED = AlreadyWritten(keep_alive=False)
