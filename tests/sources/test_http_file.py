"""Connections to the Hub: proxies and certificates are for the Hub only, and the token goes to one origin."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import hdrs, web
from yarl import URL

from proxy.errors import Interrupted, RangesIgnored, SourceError
from proxy.ollama.client import Ollama, ollama_tls, upstream_session
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import HttpFile, Location, bearer, source_session
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.support import Client, listening, serving, settings

CONTENT = bytes(range(256)) * 64
FILE = RepositoryFile("model.safetensors", len(CONTENT))
SUCCESS = {"status": "success"}


@asynccontextmanager
async def tunnelling(targets: list[str]) -> AsyncIterator[str]:
    """An HTTP proxy: records the target of each request and forwards it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, rest = head.split(b" ", 2)
            targets.append(f"{method.decode()} {target.decode()}")
            url = URL(f"//{target.decode()}") if method == b"CONNECT" else URL(target.decode(), encoded=True)
            up_reader, up_writer = await asyncio.open_connection(url.host, url.port)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # One request each: a second one would be passed on without a look at where it goes.
                rest = rest.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                up_writer.write(b"%b %b %b" % (method, url.raw_path_qs.encode(), rest))
            await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    tasks: set[asyncio.Task[None]] = set()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(start, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


def own(**variables: str) -> dict[str, str]:
    """The environment of the proxy, with `variables`."""
    return {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], "PATH": "", **variables}


async def test_http_proxy_is_used_for_the_hub_only(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession
) -> None:
    """HTTP_PROXY carries the bytes of the Hub, and never those of Ollama. NO_PROXY is respected."""
    hub.add("acme/tiny", tiny_llama())
    targets: list[str] = []
    async with tunnelling(targets) as url:
        ends = ("--hub", hub.endpoint, "--ollama", ollama.url)
        through = own(HTTP_PROXY=url, http_proxy=url)
        async with serving(*ends, environment=through) as (_, proxy):
            assert (await Client(proxy, session).pull("hf.co/acme/tiny"))[-1] == SUCCESS
        assert any(line.startswith(f"GET {hub.endpoint}/acme/tiny/resolve/") for line in targets)
        assert any(line.startswith(f"GET {hub.cdn}/") for line in targets)
        assert not [line for line in targets if line.startswith(("GET", "POST")) and ollama.url in line]
        targets.clear()
        async with serving(*ends, environment=through | {"NO_PROXY": "127.0.0.1"}) as (_, proxy):
            assert (await Client(proxy, session).pull("hf.co/acme/tiny:q8_0"))[-1] == SUCCESS
        assert not targets


async def test_https_needs_a_trusted_certificate(
    tmp_path: Path,
) -> None:
    """Also through a proxy of the environment, which tunnels the connection."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(tls)

    async def answer(request: web.BaseRequest) -> web.Response:
        start, _, last = request.headers[hdrs.RANGE].removeprefix("bytes=").partition("-")
        headers = {hdrs.CONTENT_RANGE: f"bytes {start}-{last}/{len(CONTENT)}"}
        return web.Response(status=206, body=CONTENT[int(start) : int(last) + 1], headers=headers)

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(server, listener, ssl_context=tls).start()
    url = f"https://localhost:{listener.getsockname()[1]}/model.safetensors"
    script = tmp_path / "fetch.py"
    script.write_text(FETCH)
    targets: list[str] = []

    async def fetch(**environment: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, url, str(len(CONTENT)), env={"PATH": "", "PYTHONPATH": ".", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return (await process.communicate())[0].decode()

    trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with tunnelling(targets) as proxy:
        assert "set SSL_CERT_FILE to the certificates to trust" in await fetch()
        assert await fetch(**trusted) == "100"
        assert not targets
        assert await fetch(**trusted, https_proxy=proxy) == "100"
        assert targets == [f"CONNECT localhost:{URL(url).port}"]
    await server.cleanup()


FETCH = """
import asyncio, sys
from yarl import URL
from proxy.errors import SourceError
from proxy.sources.base import RepositoryFile
from proxy.sources.http_file import HttpFile, Location, source_session

async def main():
    async with source_session() as session:
        file = RepositoryFile("model.safetensors", int(sys.argv[2]))
        source = HttpFile(session, "a/b/model.safetensors", file, Location(URL(sys.argv[1])))
        try:
            async with source.stream(5, 105) as chunks:
                print(len(b"".join([chunk async for chunk in chunks])), end="")
        except SourceError as error:
            print(error)

asyncio.run(main())
"""


async def test_ollamas_certificate_is_checked_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE and HTTP_PROXY are for the Hub only."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ollama_tls("https://ollama.example")
    assert context is not None
    names = [dict(pair[0] for pair in entry["subject"]) for entry in context.get_ca_certs()]  # type: ignore[misc]
    assert not [name for name in names if name.get("organizationName", "").startswith("trustme")]
    assert ollama_tls("http://127.0.0.1:11434") is None
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with upstream_session() as session:
        assert not session.trust_env
        assert Ollama("http://127.0.0.1:9", session).url


async def test_the_token_goes_to_its_own_origin_only() -> None:
    """A redirect to another origin does not get it; a redirect back to the first origin does."""
    seen: dict[str, str | None] = {}
    elsewhere: list[str] = []

    async def stranger(request: web.BaseRequest) -> web.Response:
        seen[f"stranger{request.path}"] = request.headers.get(hdrs.AUTHORIZATION)
        return web.Response(status=302, headers={hdrs.LOCATION: f"{elsewhere[0]}/again"})

    async def endpoint(request: web.BaseRequest) -> web.Response:
        seen[request.path] = request.headers.get(hdrs.AUTHORIZATION)
        if request.path == "/again":
            return web.Response(body=CONTENT)
        return web.Response(status=302, headers={hdrs.LOCATION: f"{elsewhere[1]}/far"})

    async with listening(endpoint) as own, listening(stranger) as other, source_session() as session:
        elsewhere += [own, other]
        file = HttpFile(session, "a/b/f", FILE, Location(URL(f"{own}/file"), bearer("hf_secret")))
        async with file.stream(0, None) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == CONTENT
    assert seen == {"/file": "Bearer hf_secret", "stranger/far": None, "/again": "Bearer hf_secret"}


async def test_redirects_without_an_end_are_an_error() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={hdrs.LOCATION: f"{request.path}x"})

    async with listening(answer) as url, source_session() as session:
        with pytest.raises(SourceError, match="redirects without an end"):
            async with HttpFile(session, "a/b/f", FILE, Location(URL(url))).stream(0, None):
                pass


@pytest.mark.parametrize("sent", ["bytes 6-105/16384", "bytes 0-16383/16384", "bytes 5-104/9", ""])
async def test_a_200_is_a_range_only_with_the_right_content_range(sent: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=CONTENT, headers={hdrs.CONTENT_RANGE: sent} if sent else {})

    async with listening(answer) as url, source_session() as session:
        file = HttpFile(session, "a/b/f", FILE, Location(URL(url)))
        with pytest.raises(RangesIgnored, match="127.0.0.1 sends no ranges"):
            async with file.stream(5, 105):
                pass


@pytest.mark.parametrize(
    ("sent", "error", "message"),
    [
        ("bytes 0-99/16384", Interrupted, "sent bytes 0-99/16384 when asked for bytes 5-104/16384"),
        ("", Interrupted, "sent no Content-Range"),
        ("bytes 5-104/9", SourceError, "its size is now 9 bytes, not 16384"),
    ],
)
async def test_a_range_that_was_not_asked_for_is_never_taken(sent: str, error: type[Exception], message: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=206, body=b"x" * 100, headers={hdrs.CONTENT_RANGE: sent} if sent else {})

    async with listening(answer) as url, source_session() as session:
        file = HttpFile(session, "a/b/f", FILE, Location(URL(f"{url}/f")))
        with pytest.raises(error, match=message):
            async with file.stream(5, 105):
                pass


async def test_the_token_is_never_shown(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in logs, not in errors, not in the list of processes."""
    from proxy.app import App

    caplog.set_level("DEBUG")
    hub.token = "hf_othersecret"
    hub.add("acme/tiny", tiny_llama(), private=True)
    async with App(settings(hub.endpoint, ollama.url, hub={"token": "hf_mysecret"})) as app:
        lines = await Client(app.address.url, session).pull("hf.co/acme/tiny")
    assert "error" in lines[-1]
    assert "hf_mysecret" not in str(lines) + caplog.text
    ends = ("--hub", hub.endpoint, "--ollama", ollama.url)
    async with serving(*ends, environment=own(HF_TOKEN="hf_mysecret")) as (process, url):
        assert "error" in (await Client(url, session).pull("hf.co/acme/tiny"))[-1]
        assert b"hf_mysecret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
