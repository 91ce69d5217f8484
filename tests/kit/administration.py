"""Calls of the administration API under `/-/`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from tests.kit.support import PATIENCE, Client

NAME = "hf.co/acme/tiny:f16"
SLOW = 300_000


async def call(client: Client, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with client.session.request(method, f"{client.url}/-/{path}", **options) as response:
        return response.status, orjson.loads(await response.read())


async def start(client: Client, name: str) -> dict[str, Any]:
    status, job = await call(client, "POST", "pulls", json={"name": name})
    assert status == 202, job
    assert isinstance(job, dict)
    return job


async def wait_for_pull(client: Client, **fields: Any) -> dict[str, Any]:
    """Return the newest pull as soon as its fields have these values."""
    async with asyncio.timeout(PATIENCE):
        while True:
            pulls = (await call(client, "GET", "pulls"))[1]
            if pulls and all(pulls[0][field] == value for field, value in fields.items()):
                return dict(pulls[0])
            await asyncio.sleep(0.01)


class EventStream:
    """The events that a browser's EventSource receives."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[str] = []
        self.comments: list[str] = []

    async def next(self) -> tuple[str, list[dict[str, Any]]]:
        """The name and the data of the next event."""
        while True:
            name, data = "message", []
            while line := (await self.response.content.readline()).decode().rstrip("\n"):
                field, _, value = line.partition(":")
                if not field:
                    self.comments.append(value)
                elif field == "event":
                    name = value.strip()
                elif field == "data":
                    data.append(value.strip())
                else:
                    assert line == "retry: 1000"
            if data:
                self.events.append(name)
                return name, orjson.loads("\n".join(data))
            assert not self.response.content.at_eof(), "the stream has ended"

    async def until(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Wait for an event of this name whose first pull has these fields, and return its pulls."""
        async with asyncio.timeout(PATIENCE):
            while True:
                event, pulls = await self.next()
                if event == name and pulls and all(pulls[0][field] == value for field, value in fields.items()):
                    return pulls


@asynccontextmanager
async def event_stream(client: Client) -> AsyncIterator[EventStream]:
    async with client.session.get(f"{client.url}/-/events") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield EventStream(response)
