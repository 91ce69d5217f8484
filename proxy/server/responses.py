"""Responses of the proxy itself, in the form of Ollama's, and a placeholder for responses that bypass aiohttp."""

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
    """A placeholder for aiohttp: the proxy has written the response to the transport itself."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps_connection = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps_connection

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002 - aiohttp's signature
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


KEPT_ALIVE = AlreadyWritten(keep_alive=True)
CLOSED = AlreadyWritten(keep_alive=False)
