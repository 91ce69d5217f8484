"""Helpers for tests of `/-/pulls` and of metrics."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import orjson

from tests.kit.support import PATIENCE, Client

NAME = "hf.co/acme/tiny:f16"
SUCCESS = {"status": "success"}
SLOW = 500_000
"""Bytes a second of `hub.line`: the transfer of a tiny model lasts 7 seconds, or until the line is opened."""

FIELDS = {
    "id": str,
    "name": str,
    "state": str,
    "total": int,
    "completed": int,
    "rate": int,
    "eta": int | None,
    "clients": int,
    "retries": int,
    "error": str | None,
    "started": str,
    "ended": str | None,
}


async def pulls(client: Client) -> list[dict[str, Any]]:
    status, body = await client.get("/-/pulls")
    assert status == 200
    pulls: list[dict[str, Any]] = orjson.loads(body)
    for pull in pulls:
        assert list(pull) == list(FIELDS)
        assert all(isinstance(pull[field], value_type) for field, value_type in FIELDS.items())
    return pulls


async def wait_for_bytes(client: Client, least: int = 1) -> dict[str, Any]:
    """Return the newest pull as soon as `least` of its bytes have reached Ollama."""
    async with asyncio.timeout(PATIENCE):
        while not (jobs := await pulls(client)) or jobs[0]["completed"] < least:
            await asyncio.sleep(0.01)
    assert jobs[0]["state"] == "transferring"
    return jobs[0]


def moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    assert time.utcoffset() == timedelta(0)
    return time


async def cancel(client: Client, number: str, **options: Any) -> tuple[int, Any]:
    async with client.session.delete(f"{client.url}/-/pulls/{number}", **options) as response:
        return response.status, orjson.loads(await response.read())
