"""`reclaim`: what pulls left behind, removed from the command line."""

from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from msgspec.structs import replace

from proxy.app import App
from proxy.config import Config
from proxy.errors import ProxyError
from proxy.pull.journal import Locked
from proxy.reasons import reason


async def reclaim(config: Config, *, dry_run: bool) -> dict[str, Any]:
    """Have the running proxy remove what pulls left behind, or do it where none runs; the answer of `/-/reclaim`."""
    if not config.ollama.advertise_url:
        # Only Ollama has to find it, and is told where.
        config = replace(config, server=replace(config.server, listen=f"{config.server.address.host}:0"))
    try:
        async with App(config) as app:
            return (await app.reclaim.sweep(dry_run=dry_run)).to_json()
    except Locked as locked:
        if not locked.url:
            raise
        return await _ask_for_reclaim(locked.url, config.server.api_keys, dry_run=dry_run)


async def _ask_for_reclaim(url: str, keys: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if keys:
        headers["Authorization"] = f"Bearer {keys[0]}"
    body = orjson.dumps({"dry_run": dry_run})
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/-/reclaim", data=body, headers=headers) as response,
        ):
            answer: dict[str, Any] = orjson.loads(await response.read())
    except aiohttp.ClientError as error:
        raise ProxyError(f"the running proxy at {url} does not answer ({reason(error)}); see its log") from error
    if "error" in answer:
        raise ProxyError(str(answer["error"]))
    return answer
