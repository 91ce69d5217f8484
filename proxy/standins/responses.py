"""Ollama's responses: JSON, streams of JSON lines, and errors before and inside a stream."""

import json
from typing import Any

import orjson
from aiohttp import web

from proxy.standins.listener import LOGGED

REMEMBERED_BODY = 1 << 20


class ErrorAnswer(Exception):
    """An error for the client: an HTTP status before the first line of a stream, else a line."""

    def __init__(self, text: str, status: int = 500) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def answer(value: object, status: int = 200) -> web.Response:
    body = orjson.dumps(value)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def error(text: str, status: int) -> web.Response:
    return answer({"error": text}, status)


class Lines:
    """A response in lines: a stream of all of them, or with `stream: false` only the last one."""

    def __init__(self, request: web.Request, *, streaming: bool) -> None:
        self._request = request
        self._streaming = streaming
        self._response: web.StreamResponse | None = None
        self._last: dict[str, Any] = {}

    async def send(self, line: dict[str, Any]) -> None:
        self._last = line
        if not self._streaming:
            return
        if self._response is None:
            self._response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await self._response.prepare(self._request)
        data = orjson.dumps(line) + b"\n"
        await self._response.write(data)
        self._request[LOGGED].body_bytes += len(data)

    async def status(self, text: str) -> None:
        await self.send({"status": text})

    async def fail(self, refusal: ErrorAnswer) -> web.StreamResponse:
        if self._response is None:
            body = orjson.dumps({"error": refusal.text})
            return web.Response(body=body, status=refusal.status, content_type="application/json")
        await self.send({"error": refusal.text})
        return self._response

    def end(self) -> web.StreamResponse:
        return self._response or web.Response(body=orjson.dumps(self._last), content_type="application/json")


async def read_json(request: web.Request, go_struct: str) -> dict[str, Any]:
    """The body, checked as Go checks it when it decodes it into `go_struct`, with Go's error texts."""
    data = await request.read()
    if len(data) <= REMEMBERED_BODY:
        request[LOGGED].body = data
    text = data.decode(errors="replace").lstrip()
    if not text:
        raise ErrorAnswer("missing request body", 400)
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as problem:
        rest = text[problem.pos :].strip()
        if not rest:
            raise ErrorAnswer("unexpected EOF", 400) from None
        raise ErrorAnswer(f"invalid character {rest[0]!r} looking for beginning of value", 400) from None
    if not isinstance(value, dict):
        raise ErrorAnswer(f"json: cannot unmarshal {_json_type(value)} into Go value of type api.{go_struct}", 400)
    for name, python_type, go_type in _FIELDS:
        content = value.get(name)
        if content is not None and not isinstance(content, python_type):
            field = f"{go_struct}.{name} of type {go_type}"
            raise ErrorAnswer(f"json: cannot unmarshal {_json_type(content)} into Go struct field {field}", 400)
    return value


_FIELDS: tuple[tuple[str, type, str], ...] = (
    *((name, str, "string") for name in ("model", "name", "from", "quantize", "template", "system", "prompt")),
    *((name, bool, "bool") for name in ("stream", "insecure")),
    ("files", dict, "map[string]string"),
    ("adapters", dict, "map[string]string"),
    ("parameters", dict, "map[string]interface {}"),
)


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    types: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return types.get(type(value), "null")
