"""`GET /-/events`: all pulls as Server-Sent Events."""

import asyncio
import socket
import time
from typing import Any

import aiohttp
import pytest
from yarl import URL

from proxy.admin import events
from proxy.app import App
from proxy.standins.hub import StandInHub
from proxy.standins.ollama import StandInOllama
from proxy.standins.tiny_llama import tiny_llama
from tests.kit.administration import NAME, SLOW, call, event_stream, start, wait_for_pull
from tests.kit.proxying import proxying
from tests.kit.support import PATIENCE, Client, eventually, settled


async def test_the_stream_begins_with_all_pulls(client: Client, files: dict[str, bytes]) -> None:
    await client.pull_at_once("hf.co/acme/none")
    await client.pull(NAME)
    async with event_stream(client) as stream:
        assert await stream.next() == ("running", [])
        name, ended = await stream.next()
    assert name == "ended"
    listed = (await call(client, "GET", "pulls"))[1]
    assert [{key: pull[key] for key in listed[0]} for pull in ended] == listed


async def test_the_stream_shows_a_pull_from_begin_to_end(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    hub.line = SLOW
    async with event_stream(client) as stream:
        await start(client, NAME)
        [pull] = await stream.until("running", state="transferring")
        while not pull["files"]["moving"]:
            [pull] = await stream.until("running")
        assert pull["cancelled"] is False
        assert (pull["files"]["count"], pull["files"]["done"]) == (3, 0)
        [part, *_] = pull["files"]["moving"]
        assert part["total"] == len(files[part["path"]])
        assert 0 < part["completed"] < part["total"]
        hub.line = None
        [pull] = await stream.until("ended", state="done")
        assert (pull["files"], pull["status"]) == ({"count": 3, "done": 3, "moving": []}, "writing manifest")


async def test_the_stream_shows_a_quantization_and_a_cancel(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    async with event_stream(client) as stream:
        await start(client, "hf.co/acme/tiny:q8_0")
        [done] = await stream.until("ended", state="done")
        assert done["completed"] == done["total"] > 0
        hub.line = SLOW
        hub.add("acme/other", tiny_llama(seed=1))
        await start(client, "hf.co/acme/other")
        await stream.until("running", state="transferring")
        await call(client, "DELETE", "pulls/2", json={})
        [failed, _] = await stream.until("ended", state="failed")
        assert failed["cancelled"] is True


async def test_the_stream_writes_at_most_four_times_a_second(
    client: Client, hub: StandInHub, files: dict[str, bytes]
) -> None:
    assert events.PAUSE_SECONDS == 0.25
    hub.line = SLOW
    began = time.monotonic()  # before the first event: events may wait here for any time before they are read
    async with event_stream(client) as stream:
        await start(client, NAME)
        await stream.until("running", state="transferring")
        for _ in range(6):
            assert (await stream.next())[0] == "running"
        pauses = stream.events.count("running") - 1
        # uvloop counts whole milliseconds: each pause may be one shorter.
        assert time.monotonic() - began > pauses * (0.25 - 0.002)
    hub.line = None


async def test_a_silent_stream_sends_keep_alives(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events.SILENCE_SECONDS == 15
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(events, "SILENCE_SECONDS", 0.05)
    began = time.monotonic()  # before the stream can be silent
    async with event_stream(client) as stream:
        assert [await stream.next(), await stream.next()] == [("running", []), ("ended", [])]
        waiting = asyncio.create_task(stream.next())
        await eventually(lambda: len(stream.comments) >= 3)
        assert len(stream.comments) <= (time.monotonic() - began) / 0.05 + 1
        assert not waiting.done()
        waiting.cancel()


async def test_a_slow_reader_gets_the_newest_state(
    client: Client, app: App, hub: StandInHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no backlog."""
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.0)
    hub.line = SLOW
    await start(client, NAME)
    [job] = app.jobs.all()
    await wait_for_pull(client, state="transferring")
    address = URL(client.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (str(address.host), address.port))
        await loop.sock_sendall(connection, b"GET /-/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        count = 0

        def next_details() -> dict[str, Any]:
            nonlocal count
            count += 1
            return {"number": count, "filler": "x" * 50_000}

        monkeypatch.setattr(job, "details", next_details)
        stuck_at = await settled(lambda: min(count, 2000))  # nothing more fits between the two
        assert stuck_at < 2000
        monkeypatch.setattr(job, "details", lambda: {"newest": True})
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b'"newest":true' not in received[-1000:]:
                received += await loop.sock_recv(connection, 1 << 20)
        assert len(received) < (stuck_at + 2) * 51_000
    hub.line = None


async def test_a_stream_ends_with_the_proxy_at_once(
    hub: StandInHub, ollama: StandInOllama, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.app.SHUTDOWN_SECONDS", 3600)
    async with asyncio.timeout(PATIENCE), proxying(hub, ollama, session) as (_, client):
        response = await session.get(f"{client.url}/-/events")
        assert await response.content.readline() == b"retry: 1000\n"
    await response.read()


async def test_a_head_request_of_the_stream_ends(client: Client) -> None:
    async with client.session.head(f"{client.url}/-/events") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.read() == b""
