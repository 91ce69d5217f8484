"""Answers of our own, in the form of Ollama's."""

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
