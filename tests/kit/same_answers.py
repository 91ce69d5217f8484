"""Sends requests to Ollama directly and through the proxy, and compares the answers."""

import gzip
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

import orjson
from yarl import URL

from tests.kit.support import digest_of

MODEL = "hf.co/acme/tiny:q4_K_M"
SECONDS = 60

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date"}
# These values differ between two calls of the same server.
VOLATILE = re.compile(r".*(duration|_at|modified|expires.*)|created|id|item_id|request_id|call_id|logprobs")


@dataclass(frozen=True)
class Case:
    """One request. `{host}` stands for the address of its server.

    `before` are earlier requests, sent directly to Ollama. `proxied` replaces a request that cannot be sent twice.
    """

    name: str
    request: bytes
    before: tuple[bytes, ...] = ()
    proxied: bytes | None = None


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: Any


def ask(
    method: str,
    target: str,
    body: object = None,
    *,
    headers: Iterable[str] = (),
    version: str = "1.1",
) -> bytes:
    """A request as bytes. A `body` that is neither bytes nor None becomes JSON."""
    content = body if isinstance(body, bytes | None) else orjson.dumps(body)
    lines = [f"{method} {target} HTTP/{version}", *headers]
    if not any(line.lower().startswith("host:") for line in lines):
        lines.insert(1, "Host: {host}")
    if content is not None:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + (content or b"")


def send(url: str, request: bytes) -> Answer:
    address = URL(url)
    assert address.host is not None
    with socket.create_connection((address.host, address.port or 80), SECONDS) as connection:
        connection.sendall(request.replace(b"{host}", address.authority.encode()))
        response = HTTPResponse(connection, method=request.partition(b" ")[0].decode())
        try:
            response.begin()
            raw = response.read()
        except (OSError, HTTPException) as error:
            return Answer(0, repr(error), [], None)
    body = _steady(raw)
    headers = sorted(
        (name, value.replace(address.authority, "{host}"))
        for name, value in response.getheaders()
        if name.lower() not in HOP_BY_HOP and (body == raw or name.lower() != "content-length")
    )
    return Answer(response.status, response.reason, headers, body)


def differences(direct: str, proxied: str, cases: Iterable[Case]) -> list[str]:
    differences = []
    for case in cases:
        answers = []
        for url, request in ((direct, case.request), (proxied, case.proxied or case.request)):
            for earlier in case.before:
                send(direct, earlier)
            answers.append(send(url, request))
        if answers[0] != answers[1]:
            differences.append(f"{case.name}:\n  direct  {answers[0]}\n  proxied {answers[1]}")
    return differences


def _steady(body: bytes) -> Any:
    """A body without its volatile values. It can be JSON, lines of JSON or server-sent events of JSON."""
    lines = []
    for line in body.split(b"\n"):
        prefix, text = (b"data: ", line[6:]) if line.startswith(b"data: ") else (b"", line)
        try:
            lines.append((prefix, _without_volatile(orjson.loads(text))))
        except orjson.JSONDecodeError:
            lines.append((prefix, text))
    if all(isinstance(text, bytes) for _, text in lines):
        return body
    return lines


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(item) for key, item in value.items() if not VOLATILE.fullmatch(key)}
    if not isinstance(value, list):
        return value
    # Ollama lists models of the same second in any order.
    items = [_without_volatile(item) for item in value]
    are_models = all(isinstance(item, dict) and ("model" in item or item.get("object") == "model") for item in items)
    return sorted(items, key=str) if are_models else items


def _chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _upload(content: bytes, *headers: str) -> bytes:
    chunked = CHUNKED in headers
    request = ask("POST", f"/api/blobs/{digest_of(content)}", None if chunked else content, headers=headers)
    return request + _chunked(content[:1], content[1:]) if chunked else request


CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"
JSON = "Content-Type: application/json"
STEADY = {"seed": 1, "temperature": 0, "num_predict": 6, "num_ctx": 256}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "options": STEADY}
PROMPT = {"model": MODEL, "prompt": "hello", "options": STEADY}
OPENAI = {"model": MODEL, "messages": CHAT["messages"], "seed": 1, "temperature": 0, "max_tokens": 6}
BLOB = b"some bytes of a blob" * 1000
COPY = ask("POST", "/api/copy", {"source": MODEL, "destination": "copied"})
LOAD = ask("POST", "/api/generate", {"model": MODEL, "stream": False, "options": {"num_ctx": 256}})

CASES = [
    *(
        Case(f"{method} {path}", ask(method, path))
        for method in ("GET", "HEAD")
        for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/unknown", "/api/status")
    ),
    *(
        Case(f"{method} /api/version", ask(method, "/api/version"))
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE")
    ),
    Case("a model of /v1", ask("GET", f"/v1/models/{MODEL.replace('/', '%2F')}")),
    Case("show", ask("POST", "/api/show", {"model": MODEL}, headers=[JSON])),
    Case("show of a missing model", ask("POST", "/api/show", {"model": "missing"})),
    Case("bad JSON", ask("POST", "/api/show", b"{nonsense", headers=[JSON])),
    Case("no body", ask("POST", "/api/show")),
    Case("an empty body", ask("POST", "/api/chat", b"")),
    Case("JSON of another type", ask("POST", "/api/chat", b"[1, 2]")),
    Case("copy", COPY),
    Case("copy of a missing model", ask("POST", "/api/copy", {"source": "missing", "destination": "x"})),
    Case("delete with a body", ask("DELETE", "/api/delete", {"model": "copied"}), (COPY,)),
    Case(
        "delete with a chunked body",
        ask("DELETE", "/api/delete", headers=[CHUNKED]) + _chunked(b'{"model":', b'"copied"}'),
        (COPY,),
    ),
    Case("delete of a missing model", ask("DELETE", "/api/delete", {"model": "missing"})),
    Case("delete without a body", ask("DELETE", "/api/delete")),
    Case("load", LOAD),
    Case("loaded models", ask("GET", "/api/ps"), (LOAD,)),
    Case("generate, streamed", ask("POST", "/api/generate", PROMPT)),
    Case("generate, whole", ask("POST", "/api/generate", PROMPT | {"stream": False})),
    Case("unload", ask("POST", "/api/generate", {"model": MODEL, "keep_alive": 0}), (LOAD,)),
    Case("generate with a missing model", ask("POST", "/api/generate", PROMPT | {"model": "missing"})),
    Case("chat, streamed", ask("POST", "/api/chat", CHAT)),
    Case("chat, whole", ask("POST", "/api/chat", CHAT | {"stream": False})),
    Case(
        "chat, in chunks",
        ask("POST", "/api/chat", headers=[CHUNKED]) + _chunked(orjson.dumps(CHAT)[:20], orjson.dumps(CHAT)[20:]),
    ),
    Case("embed", ask("POST", "/api/embed", {"model": "missing", "input": "hello"})),
    Case("embeddings", ask("POST", "/api/embeddings", {"model": "missing", "prompt": "hello"})),
    Case("a blob that is not there", ask("HEAD", f"/api/blobs/{digest_of(b'none')}")),
    Case("a blob with an invalid digest", ask("HEAD", "/api/blobs/nonsense")),
    Case(
        "a blob that is there",
        ask("HEAD", f"/api/blobs/{digest_of(BLOB)}"),
        (_upload(BLOB),),
    ),
    Case(
        "upload of a blob that is there",
        _upload(BLOB),
        (_upload(BLOB),),
    ),
    Case("upload", _upload(b"one"), proxied=_upload(b"two")),
    Case("upload in chunks", _upload(b"tic", CHUNKED), proxied=_upload(b"tac", CHUNKED)),
    Case("upload with Expect", _upload(b"may", EXPECT), proxied=_upload(b"can", EXPECT)),
    Case("upload with a wrong digest", ask("POST", f"/api/blobs/{digest_of(b'x')}", b"y")),
    Case("an unknown expectation", ask("POST", "/api/show", {"model": MODEL}, headers=["Expect: the-unexpected"])),
    Case("create without files", ask("POST", "/api/create", {"model": "new"})),
    Case("create with an invalid name", ask("POST", "/api/create", {"model": "///"})),
    Case("pull without a name", ask("POST", "/api/pull", {"model": ""})),
    Case("pull of a bad name", ask("POST", "/api/pull", {"model": "example.com/a b/c"})),
    Case("pull of bad JSON", ask("POST", "/api/pull", b"{")),
    Case("pull without a body", ask("POST", "/api/pull")),
    Case(
        "pull of a Hub name by a foreign page",
        ask("POST", "/api/pull", {"model": MODEL}, headers=["Origin: https://evil.example"]),
    ),
    Case("push of a missing model", ask("POST", "/api/push", {"model": "missing", "stream": False})),
    Case("/v1 chat, streamed", ask("POST", "/v1/chat/completions", OPENAI | {"stream": True}, headers=[JSON])),
    Case("/v1 chat, whole", ask("POST", "/v1/chat/completions", OPENAI, headers=[JSON])),
    Case(
        "/v1 completions, streamed",
        ask(
            "POST",
            "/v1/completions",
            {"model": MODEL, "prompt": "hi", "stream": True, "seed": 1, "temperature": 0, "max_tokens": 6},
        ),
    ),
    Case("/v1 responses", ask("POST", "/v1/responses", {"model": "missing", "input": "hi"})),
    Case(
        "/v1 messages", ask("POST", "/v1/messages", {"model": "missing", "max_tokens": 4, "messages": CHAT["messages"]})
    ),
    Case("/v1 embeddings", ask("POST", "/v1/embeddings", {"model": "missing", "input": "hi"})),
    Case(
        "a gzip body",
        ask(
            "POST",
            "/v1/chat/completions",
            gzip.compress(orjson.dumps(OPENAI), mtime=0),
            headers=["Content-Encoding: gzip"],
        ),
    ),
    Case(
        "a zstd body",
        ask("POST", "/v1/responses", b"(\xb5/\xfd\x04X!\x00\x00{}\x92\x1f\xaf ", headers=["Content-Encoding: zstd"]),
    ),
    Case("answers may be compressed", ask("GET", "/api/tags", headers=["Accept-Encoding: gzip, zstd"])),
    *(Case(f"OPTIONS {path}", ask("OPTIONS", path)) for path in ("/", "/api/pull", "/unknown", "*")),
    Case(
        "a page's preflight",
        ask("OPTIONS", "/api/chat", headers=["Origin: http://localhost:3000", "Access-Control-Request-Method: POST"]),
    ),
    Case(
        "a foreign page's preflight",
        ask("OPTIONS", "/api/chat", headers=["Origin: https://evil.example", "Access-Control-Request-Method: POST"]),
    ),
    Case("a page's request", ask("GET", "/api/version", headers=["Origin: http://localhost:3000"])),
    Case("a page of this server", ask("GET", "/api/version", headers=["Origin: http://{host}"])),
    Case("a page of this server by https", ask("GET", "/api/version", headers=["Origin: https://{host}"])),
    Case("a foreign page's request", ask("GET", "/api/version", headers=["Origin: https://evil.example"])),
    Case("the origin null", ask("GET", "/api/version", headers=["Origin: null"])),
    Case("an empty origin", ask("GET", "/api/version", headers=["Origin:"])),
    Case(
        "two origins", ask("GET", "/api/version", headers=["Origin: http://localhost:1", "Origin: http://localhost:2"])
    ),
    *(
        Case(f"path {path}", ask("GET", path))
        for path in (
            "/api/tags/",
            "//api/tags",
            "/api/../api/tags",
            "/api/%74ags",
            "/api/tags%2F",
            "/api/tags?",
            "/api//tags",
            "/api/tags;x",
            "/%",
            "/%zz",
            "/a%00b",
            "/a+b?c=%20&d=+",
            "/debug/pprof/cmdline",
        )
    ),
    Case("trailing slash and POST", ask("POST", "/api/chat/", CHAT)),
    Case("a signed query", ask("GET", "/api/tags?ts=1763842182&nonce=a%2Bb+c==")),
    Case("a long query", ask("GET", f"/api/version?q={'x' * 20_000}")),
    Case("30 KB in a header", ask("GET", "/api/version", headers=[f"X-Large: {'y' * 30_000}"])),
    Case("300 headers", ask("GET", "/api/version", headers=[f"X-{number}: {number}" for number in range(300)])),
    Case("repeated headers", ask("GET", "/api/version", headers=["Accept: a", "Accept: b", "accept: c"])),
    Case("a target with a host", ask("GET", "http://{host}/api/version")),
    Case("HTTP/1.0", ask("GET", "/api/version", version="1.0")),
    Case("HTTP/1.0 without a host", b"GET /api/version HTTP/1.0\r\n\r\n"),
    Case("HTTP/1.0, streamed", ask("POST", "/api/chat", CHAT, version="1.0")),
    Case("the last request of a connection", ask("GET", "/api/version", headers=["Connection: close"])),
    Case(
        "headers for the next hop",
        ask("GET", "/api/version", headers=["Connection: keep-alive, X-Hop", "X-Hop: 1", "TE: trailers"]),
    ),
    Case(
        "an upgrade",
        ask(
            "GET",
            "/api/version",
            headers=[
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: eA==",
            ],
        ),
    ),
    Case(
        "an upgrade with a body",
        ask("POST", "/api/show", {"model": MODEL}, headers=["Connection: Upgrade", "Upgrade: h2c"]),
    ),
    Case("a GET with a body", ask("GET", "/api/version", b"unexpected")),
    Case("a local name", ask("GET", "/api/version", headers=["Host: ollama.localhost"])),
]
